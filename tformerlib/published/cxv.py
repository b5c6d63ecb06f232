"""Weights as the official code of CXV names them: one set of rules for CPV, CLTV and CNV."""

from torch import Tensor

from ..models.cxv import CXV
from .rules import Rules, published


@published("CXV", "official")
def from_official(model: CXV, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """Its norms have (1, C, 1, 1), its 1 x 1 convolutions (out, in, 1, 1) where ours are (C,) and (out, in)."""
    for key, x in state.items():
        if key.endswith((".g", ".b")):
            state[key] = x.flatten()
        elif ".layers.0.1.net." in key and x.ndim == 4:
            state[key] = x.flatten(1)
    mixer = r"layers\.(\d+)\.2\.layers\.0\.0\."
    return state, [
        (r"conv\.([01])\.(.*)", r"stem.\1.\2"),
        (r"layers\.(\d+)\.0\.(.*)", r"layers.\1.conv.0.\2"),
        (r"layers\.(\d+)\.1\.g", r"layers.\1.norm.weight"),
        (r"layers\.(\d+)\.1\.b", r"layers.\1.norm.bias"),
        (mixer + r"to_qkv\.(.*)", r"layers.\1.mixer.{q,k,v}.\2"),
        (mixer + r"to_([qkv])\.(.*)", r"layers.\1.mixer.\2.\3"),
        (mixer + r"to_out\.(?:0\.)?(.*)", r"layers.\1.mixer.out.\2"),
        (mixer + r"res_conv\.(.*)", r"layers.\1.mixer.attend.conv.\2"),
        (mixer + r"fast_attention\.projection_matrix", r"layers.\1.mixer.attend.directions"),
        (r"layers\.(\d+)\.2\.layers\.0\.1\.net\.([03])\.(.*)", r"layers.\1.mlp.\2.\3"),
        (r"head\.2\.(.*)", r"head.\1"),
    ]
