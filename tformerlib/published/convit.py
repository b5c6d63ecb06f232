"""Weights of ConViT as timm names them, and the official code, of which timm's is a copy."""

from torch import Tensor

from ..models.convit import ConViT
from .rules import Rules, published


@published("ConViT", "official")
@published("ConViT", "timm")
def from_timm(model: ConViT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """timm's `convit_*`."""
    block, ours = r"blocks\.(\d+)\.", r"blocks.\1."
    return state, [
        ("pos_embed", "positions"),
        ("cls_token", "cls"),
        (r"patch_embed\.proj\.(.*)", r"patches.conv.\1"),
        (block + r"attn\.(qk|v)\.(.*)", ours + r"mixer.fn.\2.\3"),
        (block + r"attn\.gating_param", ours + "mixer.fn.gate"),
        (block + r"attn\.pos_proj\.(.*)", ours + r"mixer.fn.place.\2"),
        (block + r"attn\.qkv\.(.*)", ours + r"mixer.fn.{q,k,v}.\2"),
        (block + r"attn\.proj\.(.*)", ours + r"mixer.fn.out.\2"),
        (block + r"norm1\.(.*)", ours + r"mixer.norm.\2"),
        (block + r"norm2\.(.*)", ours + r"mlp.norm.\2"),
        (block + r"mlp\.fc1\.(.*)", ours + r"mlp.fn.0.\2"),
        (block + r"mlp\.fc2\.(.*)", ours + r"mlp.fn.3.\2"),
        (r"(norm|head)\.(.*)", r"\1.\2"),
    ]
