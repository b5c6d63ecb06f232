"""A map of tokens in shifted windows, by copies: roll, cut, mask; and back (Liu et al. 2021, sec. 3.2, fig. 4)."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor


class Roll(torch.autograd.Function):
    """Rolls a map (B, H, W, ...) down and right by `shift`, in one copy where `Tensor.roll` makes one for each axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: int) -> Tensor:
        ctx.shift = shift
        out, (down, right) = torch.empty_like(x), (shift % x.shape[1], shift % x.shape[2])
        for above, below in ((slice(down), slice(-down, None)), (slice(down, None), slice(-down))):
            for left, opposite in ((slice(right), slice(-right, None)), (slice(right, None), slice(-right))):
                out[:, above, left] = x[:, below, opposite]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return Roll.apply(gradients[0], -ctx.shift), None


def fold_windows(qkv: Tensor, window: int, shift: int) -> Tensor:
    """(B, H, W, 3, heads, D) to q, k and v (3, B, windows * heads, window^2, D): a window's heads are heads."""
    rolled = roll(qkv, -shift) if shift else qkv
    return rearrange(rolled, "b (y p) (x q) s h d -> s b (y x h) (p q) d", p=window, q=window)


def unfold_windows(x: Tensor, window: int, shift: int, height: int, width: int) -> Tensor:
    """(B, windows * heads, window^2, D) to (B, H, W, heads, D): the inverse of fold_windows for one of q, k, v."""
    down, across = height // window, width // window
    x = rearrange(x, "b (y x h) (p q) d -> b (y p) (x q) h d", y=down, x=across, p=window)
    return roll(x, shift) if shift else x


def roll(x: Tensor, shift: int) -> Tensor:
    """(B, H, W, ...) moved down and right by `shift`; what leaves comes back at the opposite side."""
    return Roll.apply(x, shift) if shift % x.shape[1] and shift % x.shape[2] else x.roll((shift, shift), (1, 2))


def region_mask(
    window: int, shift: int, height: int, width: int, device: torch.device, size: tuple[int, int] | None = None
) -> Tensor:
    """bool (windows, window^2, window^2): whether two tokens of a window were neighbors before the map was rolled.

    Rolling brings opposite borders together in the last windows of each axis. Regions along an axis: 0, whole
    windows; 1, the last window's part that stayed; 2, the part that came from the other border. What lies beyond
    `size`, the rows and columns that are tokens and not padding, is one more region.
    """

    def regions(length: int, real: int) -> tuple[Tensor, Tensor]:
        i = torch.arange(length, device=device)
        return (i >= length - window).int() + (i >= length - shift).int(), (i + shift) % length < real

    (rows, real_rows), (columns, real_columns) = map(regions, (height, width), size or (height, width))
    region = torch.where(real_rows[:, None] & real_columns, 3 * rows[:, None] + columns, -1)
    region = rearrange(region, "(y p) (x q) -> (y x) (p q)", p=window, q=window)
    return region[:, :, None] == region[:, None, :]
