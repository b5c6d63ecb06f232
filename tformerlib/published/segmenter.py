"""Weights that the official code of Segmenter holds."""

from torch import Tensor

from ..models.segmenter import Segmenter
from .rules import Rules, published
from .vit import from_timm


@published("Segmenter", "official")
def from_official(model: Segmenter, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`checkpoint.pth` of rstrudel/segmenter, mask and linear; its encoder has timm's names.

    Not taken, because no output depends on it: the encoder's head (or two) for the 1000 classes of ImageNet.
    """
    inner = {k.removeprefix("encoder."): x for k, x in state.items() if k.startswith("encoder.")}
    inner = {k: x for k, x in inner.items() if not k.startswith("head")}
    encoder, rules = from_timm(model.encoder, inner)
    decoder = {k: x for k, x in state.items() if not k.startswith("encoder.")}
    block = r"decoder\.blocks\.(\d+)\."
    return {f"encoder.{k}": x for k, x in encoder.items()} | decoder, [
        (r"encoder\.(?:prefix|positions)", r"\g<0>"),
        *[(rf"encoder\.(?:{old})", f"encoder.{new}") for old, new in rules if new],
        (r"decoder\.proj_dec\.(.*)", r"decoder.project.\1"),
        (r"decoder\.cls_emb", "decoder.classes"),
        (r"decoder\.proj_patch", "decoder.of_patches"),
        (r"decoder\.proj_classes", "decoder.of_classes"),
        (r"decoder\.decoder_norm\.(.*)", r"decoder.norm.\1"),
        (r"decoder\.mask_norm\.(.*)", r"decoder.mask_norm.\1"),
        (r"decoder\.head\.(.*)", r"decoder.\1"),
        (block + r"norm1\.(.*)", r"decoder.blocks.\1.mixer.norm.\2"),
        (block + r"norm2\.(.*)", r"decoder.blocks.\1.mlp.norm.\2"),
        (block + r"attn\.qkv\.(.*)", r"decoder.blocks.\1.mixer.fn.{q,k,v}.\2"),
        (block + r"attn\.proj\.(.*)", r"decoder.blocks.\1.mixer.fn.out.\2"),
        (block + r"mlp\.fc1\.(.*)", r"decoder.blocks.\1.mlp.fn.0.\2"),
        (block + r"mlp\.fc2\.(.*)", r"decoder.blocks.\1.mlp.fn.3.\2"),
    ]
