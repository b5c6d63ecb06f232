"""Weights that other implementations of ConvMixer hold."""

from torch import Tensor

from ..models.convmixer import ConvMixer
from .rules import Rules, published


@published("ConvMixer", "timm")
def from_timm(model: ConvMixer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """timm's `convmixer_*`, in which the channels' layers stand beside the places' branch as numbers 1 to 3."""
    block = r"blocks\.(\d+)\."
    return state, [
        (r"stem\.([02])\.(.*)", r"patches.\1.\2"),
        (block + r"0\.fn\.([02])\.(.*)", r"blocks.\1.places.\2.\3"),
        (block + r"1\.(.*)", r"blocks.\1.channels.0.\2"),
        (block + r"3\.(.*)", r"blocks.\1.channels.2.\2"),
        (r"head\.(.*)", r"head.\1"),
    ]


@published("ConvMixer", "official")
def from_official(model: ConvMixer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """The authors' nn.Sequential: stem 0 .. 2, a block at each number from 3 on, the head at the last number."""
    depth = len(model.blocks)
    head = depth + 5  # after the pooling and the flattening
    return from_timm(model, {_shift(key, depth): x for key, x in state.items()})[0], [
        (rf"{head}\.(.*)", r"head.\1"),
        *from_timm(model, {})[1],
    ]


def _shift(key: str, depth: int) -> str:
    """Official numbers as timm's names."""
    number, _, rest = key.partition(".")
    if int(number) < 3:
        return f"stem.{key}"
    return f"blocks.{int(number) - 3}.{rest}" if int(number) < 3 + depth else key
