"""Weights of CeiT as the official code names them."""

from torch import Tensor, nn

from .rules import Rules, published

BLOCK = r"blocks\.(\d+)\."


@published("CeiT", "official")
def from_official(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """coeusguo/ceit, `ceit_model.py`. Its layer-wise attention has the queries' rows of `qkv` first, as all of it."""
    leff = {"conv1": "expand.0", "bn1": "expand.1", "conv2": "local.0", "bn2": "local.1", "conv3": "project.0"}
    leff["bn3"] = "project.1"
    return state, [
        (r"cls_token", "cls"),
        (r"pos_embed", "positions"),
        (r"pos_layer_embed", "attend_layers.layers"),
        (r"i2t\.backbone\.conv\.(.*)", r"patches.0.0.\1"),
        (r"i2t\.backbone\.bn\.(.*)", r"patches.0.1.\1"),
        (r"i2t\.proj\.(.*)", r"patches.2.conv.\1"),
        (BLOCK + r"norm1\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (BLOCK + r"norm2\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (BLOCK + r"attn\.qkv\.(.*)", r"blocks.\1.mixer.fn.{q,k,v}.\2"),
        (BLOCK + r"attn\.proj\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        *((BLOCK + rf"leff\.{theirs}\.(.*)", rf"blocks.\1.mlp.fn.{ours}.\2") for theirs, ours in leff.items()),
        (r"lca\.norm1\.(.*)", r"attend_layers.norm.\1"),
        (r"lca\.norm2\.(.*)", r"attend_layers.mlp.norm.\1"),
        (r"lca\.attn\.qkv\.(.*)", r"attend_layers.attn.{q,k,v}.\1"),
        (r"lca\.attn\.proj\.(.*)", r"attend_layers.attn.out.\1"),
        (r"lca\.feedforward\.fc1\.(.*)", r"attend_layers.mlp.fn.0.\1"),
        (r"lca\.feedforward\.fc2\.(.*)", r"attend_layers.mlp.fn.3.\1"),
        (r"(norm|head)\.(.*)", r"\1.\2"),
    ]
