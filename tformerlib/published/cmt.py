"""Weights of CMT as the official code names them."""

from torch import Tensor

from ..models.cmt import CMT
from .rules import Rules, published


@published("CMT", "official")
def from_official(model: CMT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`CMT` of ggjy/CMT.pytorch. Its stages are called a, b, c and d."""
    rules: Rules = [
        (r"_fc\.(.*)", r"widen.0.\1"),
        (r"_bn\.(.*)", r"widen.1.\1"),
        (r"head\.(.*)", r"head.\1"),
        *((rf"stem_conv{i + 1}\.(.*)", rf"stem.{3 * i}.\1") for i in range(3)),
        *((rf"stem_norm{i + 1}\.(.*)", rf"stem.{3 * i + 2}.\1") for i in range(3)),
    ]
    for s, letter in enumerate("abcd"):
        block, ours = rf"blocks_{letter}\.(\d+)\.", rf"stages.{s}.\1."
        rules = [
            *rules,
            (rf"patch_embed_{letter}\.proj\.(.*)", rf"embed.{s}.conv.\1"),
            (rf"patch_embed_{letter}\.norm\.(.*)", rf"embed.{s}.norm.\1"),
            (rf"relative_pos_{letter}", f"positions.{s}"),
            (block + r"proj\.(.*)", ours + r"perception.conv.\2"),
            (block + r"norm1\.(.*)", ours + r"attn.norm.\2"),
            (block + r"attn\.([qkv])\.(.*)", ours + r"attn.fn.attn.\2.\3"),
            (block + r"attn\.proj\.(.*)", ours + r"attn.fn.attn.out.\2"),
            (block + r"attn\.sr\.(.*)", ours + r"attn.fn.reduce.\2"),
            (block + r"norm2\.(.*)", ours + r"mlp.norm.\2"),
            (block + r"mlp\.conv1\.([02]\..*)", ours + r"mlp.fn.widen.\2"),
            (block + r"mlp\.proj\.(.*)", ours + r"mlp.fn.mix.conv.\2"),
            (block + r"mlp\.proj_bn\.(.*)", ours + r"mlp.fn.narrow.1.\2"),
            (block + r"mlp\.conv2\.0\.(.*)", ours + r"mlp.fn.narrow.2.\2"),
            (block + r"mlp\.conv2\.1\.(.*)", ours + r"mlp.fn.narrow.3.\2"),
        ]
    return state, rules
