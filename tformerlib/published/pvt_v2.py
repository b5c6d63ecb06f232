"""Weights of PVT v2 as timm names them."""

from torch import Tensor, nn

from .rules import Rules, published


@published("PVTv2", "timm")
def from_timm(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`pvt_v2_*`. Keys and values share a matrix there; the reduction is called `sr` in both kinds of attention."""
    for key in [key for key in state if ".attn.kv." in key]:
        tensor = state.pop(key)
        for name, half in zip("kv", tensor.chunk(2), strict=True):
            state[key.replace(".attn.kv.", f".attn.{name}.")] = half
    block, ours = r"stages\.(\d)\.blocks\.(\d+)\.", r"stages.\1.blocks.\2."
    reduce = (r"mixer.fn.mix.\3", r"mixer.fn.norm.\3")
    if not any(key.endswith("mixer.fn.mix.weight") for key in model.state_dict()):
        reduce = (r"mixer.fn.reduce.conv.\3", r"mixer.fn.reduce.norm.\3")
    return state, [
        (r"patch_embed\.proj\.(.*)", r"stages.0.embed.conv.\1"),
        (r"patch_embed\.norm\.(.*)", r"stages.0.embed.norm.\1"),
        (r"stages\.(\d)\.downsample\.proj\.(.*)", r"stages.\1.embed.conv.\2"),
        (r"stages\.(\d)\.downsample\.norm\.(.*)", r"stages.\1.embed.norm.\2"),
        (r"stages\.(\d)\.norm\.(.*)", r"stages.\1.norm.\2"),
        (block + r"attn\.([qkv])\.(.*)", ours + r"mixer.fn.attn.\3.\4"),
        (block + r"attn\.proj\.(.*)", ours + r"mixer.fn.attn.out.\3"),
        (block + r"attn\.sr\.(.*)", ours + reduce[0]),
        (block + r"attn\.norm\.(.*)", ours + reduce[1]),
        (block + r"norm1\.(.*)", ours + r"mixer.norm.\3"),
        (block + r"norm2\.(.*)", ours + r"mlp.norm.\3"),
        (block + r"mlp\.fc1\.(.*)", ours + r"mlp.fn.widen.\3"),
        (block + r"mlp\.dwconv\.(.*)", ours + r"mlp.fn.conv.\3"),
        (block + r"mlp\.fc2\.(.*)", ours + r"mlp.fn.narrow.\3"),
        (r"head\.(.*)", r"head.\1"),
    ]
