"""Weights of UniFormer as the official code names them."""

import re

from torch import Tensor

from ..models.uniformer import UniFormer
from .rules import Rules, published


@published("UniFormer", "official")
def from_official(model: UniFormer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`UniFormer` of Sense-X/UniFormer, image classification. Local blocks have 1 x 1 convolutions as linear layers."""
    state = {key: x.flatten(1) if re.search(r"mlp\.fc\d\.weight", key) else x for key, x in state.items()}
    rules: Rules = [(r"(norm|head)\.(.*)", r"\1.\2")]
    for s in range(len(model.stages)):
        block, ours = rf"blocks{s + 1}\.(\d+)\.", rf"stages.{s}.\1."
        norm = "norm.0." if f"blocks{s + 1}.0.conv1.weight" in state else "norm."
        rules = [
            *rules,
            (rf"patch_embed{s + 1}\.proj\.(weight|bias)", rf"embed.{s}.conv.\1"),
            (rf"patch_embed{s + 1}\.proj\.(\d\..*)", rf"embed.{s}.\1"),
            (rf"patch_embed{s + 1}\.norm\.(.*)", rf"embed.{s}.norm.\1"),
            (block + r"pos_embed\.(.*)", ours + r"position.conv.\2"),
            (block + r"norm1\.(.*)", ours + rf"mixer.{norm}\2"),
            (block + r"norm2\.(.*)", ours + rf"mlp.{norm}\2"),
            (block + r"conv1\.(.*)", ours + r"mixer.fn.0.\2"),
            (block + r"attn\.(weight|bias)", ours + r"mixer.fn.1.\2"),
            (block + r"conv2\.(.*)", ours + r"mixer.fn.2.\2"),
            (block + r"attn\.qkv\.(.*)", ours + r"mixer.fn.attn.{q,k,v}.\2"),
            (block + r"attn\.proj\.(.*)", ours + r"mixer.fn.attn.out.\2"),
            (block + r"gamma_1", ours + "mixer.gamma"),
            (block + r"gamma_2", ours + "mlp.gamma"),
            (block + r"mlp\.fc1\.(.*)", ours + r"mlp.fn.0.\2"),
            (block + r"mlp\.fc2\.(.*)", ours + r"mlp.fn.3.\2"),
        ]
    return state, rules
