"""Ray-cast rooms: images whose depth and labels are known for every pixel, as many as are wanted, without a download.

A camera at the origin looks along z; x points right, y down, z away from it. A pixel of column u and row v, counted
from the middle of the image in units of its half side, looks along (u / FOCAL, v / FOCAL, 1): at depth z it sees the
point (u z / FOCAL, v z / FOCAL, z). Depth is z, not the length of the ray.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .images import _bytes

LABELS = ("wall", "floor", "sphere", "box")
FOCAL = 1.2  # in half sides of the image: a field of view of 80 degrees
CHUNK = 250  # scenes drawn at a time


class Rooms(NamedTuple):
    """Images (P, 3, S, S) of bytes, depth (P, S, S) along z, labels (P, S, S) of LABELS."""

    images: Tensor
    depth: Tensor
    labels: Tensor


def rooms(count: int, *, side: int = 64, most: int = 4, noise: float = 0.02, seed: int = 0) -> Rooms:
    """Rooms with one to `most` spheres and boxes on a floor before a wall, each plane and thing of one random color.

    Distances are known up to a factor alone: a room twice as large, seen from twice as high, gives the same image. So
    the camera's height is a random number, and no network can know it. Other seeds draw other rooms.

    Args:
        side: of the images in pixels.  noise: standard deviation, where white is 1.

    Raises:
        ValueError: no rooms or no things to draw, or images of fewer than 8 pixels.
    """
    if count < 1 or most < 1 or side < 8:
        raise ValueError(f"count={count}, most={most}, side={side}: nothing to draw")
    generator = torch.Generator().manual_seed(seed)
    parts = [_draw(min(CHUNK, count - at), side, most, noise, generator) for at in range(0, count, CHUNK)]
    return Rooms(*(torch.cat(each) for each in zip(*parts, strict=True)))


def points(depth: Tensor) -> Tensor:
    """Depth (..., S, S) to the points (..., S, S, 3) that the pixels see, as (x, y, z)."""
    rays = _rays(depth.shape[-1]).to(depth)
    return rays * depth[..., None]


def _rays(side: int) -> Tensor:
    """(side, side, 3) directions with z = 1, through the middles of the pixels."""
    at = (2 * torch.arange(side) + 1) / side - 1
    v, u = torch.meshgrid(at / FOCAL, at / FOCAL, indexing="ij")
    return torch.stack([u, v, torch.ones_like(u)], -1)


def _draw(count: int, side: int, most: int, noise: float, generator: torch.Generator) -> Rooms:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    ray = _rays(side)  # (S, S, 3)
    height, wall = uniform(0.9, 1.4), uniform(4.5, 7.0)
    scale = uniform(0.5, 2.0)  # of the whole room: changes depth and not the image
    light = F.normalize(torch.stack([uniform(-1, 1), uniform(-1.5, -0.5), uniform(-1.2, -0.4)], -1), dim=-1)

    floor = height[:, None, None] / ray[..., 1].clamp(min=1e-6)
    depth = torch.minimum(floor, wall[:, None, None])
    labels = (floor < wall[:, None, None]).long()
    normal = torch.where(labels[..., None] == 1, torch.tensor([0.0, -1, 0]), torch.tensor([0.0, 0, -1]))
    colors = uniform(0.25, 1.0, most + 2, 3)
    color = torch.where(labels[..., None] == 1, colors[:, None, None, 0], colors[:, None, None, 1])

    things, is_box = torch.randint(1, most + 1, (count,), generator=generator), uniform(0, 1, most) < 0.5
    size = uniform(0.4, 0.8, most)
    z = uniform(1.8, 3.6, most)
    x = uniform(-0.8, 0.8, most) * z / FOCAL
    stretch = uniform(0.7, 1.4, most, 3)
    for n in range(most):
        middle = torch.stack([x[:, n], height - size[:, n], z[:, n]], -1)  # (P, 3), on the floor
        sphere = _sphere(ray, middle, size[:, n])
        half = size[:, n, None] * stretch[:, n]
        box = _box(ray, torch.stack([x[:, n], height - half[:, 1], z[:, n]], -1), half)
        at, facing = (torch.where(is_box[:, n].view(-1, 1, 1, *[1] * (b.ndim - 3)), b, s)
                      for s, b in zip(sphere, box, strict=True))  # fmt: skip
        seen = (at < depth) & (n < things)[:, None, None]
        depth = torch.where(seen, at, depth)
        labels = torch.where(seen, (2 + is_box[:, n].long())[:, None, None], labels)
        normal = torch.where(seen[..., None], facing, normal)
        color = torch.where(seen[..., None], colors[:, None, None, n + 2], color)
    shade = 0.35 + 0.65 * (normal * light[:, None, None]).sum(-1).clamp(min=0)
    images = (color * shade[..., None]).movedim(-1, 1)
    images = images + noise * torch.randn(images.shape, generator=generator)
    return Rooms(_bytes(images), depth * scale[:, None, None], labels)


def _sphere(ray: Tensor, middle: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Depth (P, S, S) at which rays first meet spheres, infinite where they do not, and the normals there."""
    a = ray.square().sum(-1)
    b = (ray * middle[:, None, None]).sum(-1)
    c = (middle.square().sum(-1) - radius.square())[:, None, None]
    root = b.square() - a * c
    at = torch.where(root > 0, (b - root.clamp(min=0).sqrt()) / a, torch.inf)
    hit = ray * at.nan_to_num(posinf=0)[..., None]
    return at, F.normalize(hit - middle[:, None, None], dim=-1)


def _box(ray: Tensor, middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """The same for boxes along the axes with half sides (P, 3): the last of the near planes before the first far."""
    slope = torch.where(ray.abs() < 1e-6, 1e-6, ray)
    one, two = ((middle + sign * half)[:, None, None] / slope for sign in (-1, 1))
    near, which = torch.minimum(one, two).max(-1)
    far = torch.maximum(one, two).amin(-1)
    at = torch.where((near < far) & (near > 0), near, torch.inf)
    return at, -F.one_hot(which, 3) * ray.sign()
