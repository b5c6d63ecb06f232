"""Weights of Conviformer as the official code names them: ConViT's, and the convolutions in front."""

from torch import Tensor

from ..models.conviformer import Conviformer
from .convit import from_timm
from .rules import Rules, published


@published("Conviformer", "official")
def from_official(model: Conviformer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    state, rules = from_timm(model.convit, state)
    return state, [
        (r"patch_embed\.conv\.(\d)\.(.*)", r"stem.0.\1.\2"),
        (r"patch_embed\.conv_block2\.(\d)\.(.*)", r"stem.1.\1.\2"),
        (r"patch_embed\.conv_block3\.(\d)\.(.*)", r"stem.2.\1.\2"),
        *[(pattern, ours and f"convit.{ours}") for pattern, ours in rules],
    ]
