"""Where a token stands: absolute sinusoids, rotations, learned relative biases, and tables for other grid sizes."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .derived import Derived


def sinusoids(length: int, dim: int, base: float = 10000.0) -> Tensor:
    """(length, dim) positions as sines and cosines: PE(pos, 2i) = sin(pos / base^(2i / dim)), PE(pos, 2i + 1) = cos
    of the same (Vaswani et al. 2017, sec. 3.5). Sines and cosines alternate, as printed there; Tensor2Tensor and
    MarianMT put all sines first.

    Raises:
        ValueError: an odd dim, which leaves a sine without its cosine.
    """
    if dim % 2:
        raise ValueError(f"dim={dim} is odd: sines and cosines come in pairs")
    position, channel = (torch.arange(0, *each, dtype=torch.float64) for each in ((length,), (dim, 2)))
    angle = position[:, None] / base ** (channel / dim)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).float()


def waves(x: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """(...) angles to (..., dim) sines and cosines, alternating: `sinusoids` between the whole numbers, too."""
    if dim % 2:
        raise ValueError(f"dim={dim} is odd: sines and cosines come in pairs")
    angle = x[..., None] / base ** (torch.arange(0, dim, 2, device=x.device) / dim)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2).to(x.dtype)


def map_sinusoids(mask: Tensor, dim: int, base: float = 10000.0, shift: float = 0.0) -> Tensor:
    """Bool (B, H, W), False at padding, to positions (B, H, W, dim): half the channels for y, then half for x.

    Along each side, places are angles up to 2 pi, whatever its length (Carion et al. 2020, A.4 and the official code);
    with a `shift` of half a place, they are those of centers (Deformable DETR).
    """
    counts = [mask.cumsum(axis).float() for axis in (1, 2)]
    y, x = ((n - shift) / (n.narrow(axis, -1, 1) + 1e-6) * 2 * torch.pi for axis, n in enumerate(counts, 1))
    return torch.cat([waves(y, dim // 2, base), waves(x, dim // 2, base)], -1)


def learned(length: int, dim: int) -> nn.Parameter:
    """(length, dim) positions that training finds (Vaswani et al. 2017, table 3 E); at first of variance 1 / dim."""
    return nn.Parameter(torch.randn(length, dim) * dim**-0.5)


class Rotary(nn.Module):
    """Rotates pairs of channels of q and k by an angle proportional to the position (Su et al. 2021, eq. 34).

    For `Attention(on_heads=Rotary(head_dim))`: the score of tokens n and m then depends on n - m alone.
    """

    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"head_dim={head_dim} is odd: rotations act on pairs of channels")
        self.head_dim, self.base = head_dim, base

    def forward(self, q: Tensor, k: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        return self.rotate(q, start), self.rotate(k, start)

    def rotate(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotates (..., N, head_dim) tokens at positions start .. start + N - 1.

        Angles are float32 in any model: in half precision position 1000 would lie between others'. Rounded at the end.
        """
        rate = self.base ** -(torch.arange(0, self.head_dim, 2, device=x.device) / self.head_dim)
        angle = torch.arange(start, start + x.shape[-2], device=x.device)[:, None] * rate
        wide = torch.promote_types(x.dtype, torch.float32)
        cos, sin = angle.cos().to(wide), angle.sin().to(wide)
        even, odd = x[..., 0::2].to(wide), x[..., 1::2].to(wide)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


class RelativeBias(Derived):
    """One learned number per head and offset (dy, dx) between two tokens of an h x w grid. Returns (heads, N, N)."""

    def __init__(self, heads: int, h: int, w: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * h - 1) * (2 * w - 1), heads))
        self.derive("index", partial(offset_index, h, w))
        self.index: Tensor

    def forward(self) -> Tensor:
        return by_offset(self.table, self.index)


def offset_index(h: int, w: int) -> Tensor:
    """(N, N) for the tokens of an h x w grid: the row of a table that belongs to the offset query - key.

    The table's rows are the offsets (dy, dx) in reading order, from (1 - h, 1 - w) to (h - 1, w - 1).
    """
    yx = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).view(-1, 2)
    dy, dx = (yx[:, None] - yx[None, :]).unbind(-1)
    return (dy + h - 1) * (2 * w - 1) + dx + w - 1


def by_offset(table: Tensor, index: Tensor) -> Tensor:
    """(offsets, heads) to (heads, N, N), one number for each two tokens."""
    return table.T[:, index.flatten()].unflatten(1, index.shape)


def resize_grid(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(h * w, C) values on a grid, bicubically resampled from old = (h, w) to new: position tables for other images."""
    if table.shape[0] != old[0] * old[1]:
        raise ValueError(f"a table of {table.shape[0]} rows is not a grid of {old[0]} x {old[1]}")
    if old == new:
        return table
    grid = table.T.reshape(1, -1, *old)
    return F.interpolate(grid, size=new, mode="bicubic", antialias=True).flatten(2)[0].T
