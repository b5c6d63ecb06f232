"""Token maps: tensors (B, H, W, C), channels last, so Linear and LayerNorm apply unchanged.

A contiguous (B, H, W, C) map seen as (B, C, H, W) is in torch.channels_last format already: convolutions copy nothing.
"""

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn


class ChannelsFirst(nn.Sequential):
    """Runs image layers (Conv2d, BatchNorm2d, pooling), which want (B, C, H, W), on a (B, H, W, C) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class PatchEmbed(nn.Module):
    """Image (B, channels, H, W) to map (B, H/stride, W/stride, dim) by one strided convolution, then a norm.

    Raises:
        ValueError: without padding, an image whose sides the patch does not divide: pixels would be dropped.
    """

    def __init__(
        self,
        dim: int,
        patch: int,
        *,
        stride: int | None = None,
        padding: int = 0,
        channels: int = 3,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, patch, stride or patch, padding)
        self.norm = norm(dim)
        self.whole = patch if stride in (None, patch) and padding == 0 else 1

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2] % self.whole or image.shape[-1] % self.whole:
            raise ValueError(f"patch={self.whole} does not divide the image {tuple(image.shape[-2:])}")
        return self.norm(self.conv(image).movedim(1, -1))


def to_windows(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) to (B * windows, size * size, C); windows in reading order. size must divide H and W."""
    if x.shape[1] % size or x.shape[2] % size:
        raise ValueError(f"window size={size} does not divide the map {tuple(x.shape[1:3])}")
    return rearrange(x, "b (h p) (w q) c -> (b h w) (p q) c", p=size, q=size)


def from_windows(x: Tensor, size: int, h: int, w: int) -> Tensor:
    """Inverse of to_windows for a map of h x w tokens."""
    return rearrange(x, "(b h w) (p q) c -> b (h p) (w q) c", h=h // size, w=w // size, p=size)
