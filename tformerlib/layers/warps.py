"""Warps of an image, and the sampler that carries them out, both with gradients (Jaderberg et al. 2015).

Shape letters: B batch, C channels, H x W pixels, K numbers that a warp is made of.

A warp says for each pixel of the output where in the input to look. Places are (x, y) in -1 .. 1 from edge to edge of
the image, torch's default; the paper does not say whether edges or the middles of the outer pixels are meant.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def centers(height: int, width: int) -> Tensor:
    """The middles of the pixels as (x, y), row after row: (H * W, 2). Two pixels in a row stand at -0.5 and 0.5."""
    y, x = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], -1)


def sample(image: Tensor, places: Tensor) -> Tensor:
    """Images (B, C, H, W) at places (B, height, width, 2): (B, C, height, width). Zero outside the image."""
    if places.ndim != 4 or places.shape[0] != image.shape[0] or places.shape[-1] != 2:
        raise ValueError(f"places {tuple(places.shape)} for images {tuple(image.shape)}: not (B, height, width, 2)")
    return F.grid_sample(image, places, mode="bilinear", padding_mode="zeros", align_corners=False)


class Warp(nn.Module):
    """Numbers (B, K) to places (B, height, width, 2) in the input, one for each pixel of the output.

    `identity` (K,) are the numbers that change nothing. Places are linear in `basis`, (H * W, n): the paper's T = M B.
    """

    identity: Tensor
    basis: Tensor

    def __init__(self, size: tuple[int, int], identity: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("identity", identity.flatten(), persistent=False)
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, theta: Tensor) -> Tensor:
        if theta.ndim != 2 or theta.shape[1] != len(self.identity):
            raise ValueError(f"theta {tuple(theta.shape)}: {type(self).__name__} takes (B, {len(self.identity)})")
        return self.places(theta).unflatten(1, self.size)

    def places(self, theta: Tensor) -> Tensor:
        """(B, K) to (B, H * W, 2): the numbers of x, then those of y, times the basis."""
        return self.basis @ theta.unflatten(1, (2, -1)).mT


class Affine(Warp):
    """Six numbers: a matrix that takes (x, y, 1) of an output pixel to its place in the input (eq. 1)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size, torch.eye(2, 3), F.pad(centers(*size), (0, 1), value=1.0))


class Projective(Warp):
    """Eight numbers of a 3 x 3 matrix whose last is 1; its first two rows are divided by the third."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size, torch.eye(3).flatten()[:8], F.pad(centers(*size), (0, 1), value=1.0))

    def places(self, theta: Tensor) -> Tensor:
        above = self.basis @ F.pad(theta, (0, 1), value=1.0).unflatten(1, (3, 3)).mT  # x, y and what divides them
        divisor = above[..., 2:]
        return above[..., :2] / torch.where(divisor.abs() < 1e-6, 1e-6, divisor)  # the horizon is far, and not NaN


class ThinPlate(Warp):
    """Where each of side x side control points of the output looks; between them as smooth as can be.

    A thin plate spline is linear in these numbers (all x, then all y), so its basis is solved for once.
    """

    def __init__(self, size: tuple[int, int], side: int = 4) -> None:
        if side < 2:
            raise ValueError(f"side={side}: a spline needs at least two control points a side")
        line = torch.linspace(-1, 1, side, dtype=torch.float64)
        control, pixels = torch.cartesian_prod(line, line).flip(-1), centers(*size).double()
        system = F.pad(_terms(control, control), (0, 0, 0, 3))
        system[len(control) :, : len(control)] = system[: len(control), len(control) :].T  # bends pull and turn nothing
        basis = torch.linalg.solve(system, _terms(pixels, control), left=False)[:, : len(control)]
        super().__init__(size, control.T.float(), basis.float())


def _terms(points: Tensor, control: Tensor) -> Tensor:
    """What a spline is a sum of, at points: r^2 log r for the distance r to each control point, then x, y and 1."""
    squared = (points[:, None] - control).square().sum(-1)
    return torch.cat([torch.special.xlogy(squared, squared) / 2, F.pad(points, (0, 1), value=1.0)], -1)
