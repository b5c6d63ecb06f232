"""Scenes and blood cells with a box around every object: a set that needs no download, and BCCD.

Both return images (P, 3, H, W) of bytes, classes (P, N) and boxes (P, N, 4), where N is the most objects that an image
has. Boxes are (center x, center y, width, height) as shares of the image's sides. An image with fewer objects fills up
with class NOTHING and boxes of zeros, which `as_targets` leaves out.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..detection.boxes import Target
from ..extras import needs
from .hub import load
from .images import _bytes

NOTHING = -1  # class of a row that holds no object
FIGURES = ("disc", "square", "triangle")
CELLS = ("red cell", "white cell", "platelets")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image
TRIES = 12  # places tried for an object before the scene goes without it
GAP = 1  # pixels, at least, between two objects


class Detection(NamedTuple):
    """Images with their objects, row by row; a tuple of tensors, as `training.fit` takes it."""

    images: Tensor
    classes: Tensor
    boxes: Tensor


def as_targets(classes: Tensor, boxes: Tensor) -> list[Target]:
    """Classes (B, N) and boxes (B, N, 4) as losses and metrics want them: each image's objects alone."""
    return [{"labels": c[c != NOTHING], "boxes": b[c != NOTHING]} for c, b in zip(classes, boxes, strict=True)]


def scenes(
    count: int, *, side: int = 48, most: int = 4, smallest: float = 0.12, largest: float = 0.5,
    contrast: float = 0.5, noise: float = 0.02, split: str = "train", seed: int = 0,
) -> Detection:  # fmt: skip
    """One to `most` figures on a crop of a photograph, none touching another; boxes are tight around drawn pixels.

    Figures are of the classes FIGURES and of one color each, and their sides vary between the two shares of the image's
    side, small ones as often as large ones. Training and test scenes lie on different halves of the photographs. Where
    no place is left for a figure, the scene has one less; the first one always fits.

    Args:
        most: figures in a scene.  smallest, largest: their sides.
        contrast: of the photograph, from 0 (a gray plane) to 1.  noise: standard deviation, where white is 1.
        split: "train" or "test".

    Raises:
        ValueError: no scenes, no figures, or sizes that do not fit the image or shrink to fewer than 5 pixels.
    """
    if count < 1 or most < 1:
        raise ValueError(f"count={count}, most={most}: nothing to draw")
    if not 5 <= round(smallest * side) <= round(largest * side) <= side:
        raise ValueError(f"figures of {smallest} to {largest} of side={side} pixels: 5 pixels to {side} are possible")
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))
    images = _grounds(count, side, contrast, split, generator)
    wanted = torch.randint(1, most + 1, (count,), generator=generator)
    sizes = _sizes(count, most, side, smallest, largest, generator)
    corners, placed = _places(sizes, wanted, side, generator)
    classes = torch.randint(len(FIGURES), (count, most), generator=generator).where(placed, NOTHING)
    hues = torch.rand(count, most, 1, generator=generator) + torch.tensor([0.0, 1 / 3, 2 / 3])
    colors = 0.5 + 0.5 * torch.cos(2 * torch.pi * hues)  # vivid: a full turn through red, green and blue
    boxes = torch.zeros(count, most, 4)
    for n in range(most):
        drawn = _figure(classes[:, n], corners[:, n], sizes[:, n], side) & placed[:, n, None, None]
        images = torch.where(drawn[:, None], colors[:, n, :, None, None], images)
        boxes[:, n] = _tight(drawn) / side
    images = images + noise * torch.randn(images.shape, generator=generator)
    return Detection(_bytes(images), classes, boxes)


@cache
def _photograph(name: str) -> Tensor:
    with needs("data"):
        import skimage.data

    return torch.from_numpy(getattr(skimage.data, name)()[..., :3].copy()).permute(2, 0, 1).float() / 255


def _grounds(count: int, side: int, contrast: float, split: str, generator: torch.Generator) -> Tensor:
    """Crops (count, 3, side, side) of twice that size, halved; from the left halves of the photographs, or the right"""
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is neither 'train' nor 'test'")
    crops = []
    for photograph, draws in zip(PHOTOGRAPHS, torch.arange(count).tensor_split(len(PHOTOGRAPHS)), strict=True):
        whole = _photograph(photograph)
        half = whole.shape[2] // 2
        part = whole[:, :, :half] if split == "train" else whole[:, :, half:]
        if min(part.shape[1:]) < 2 * side:
            raise ValueError(f"side={side}: half a photograph of {tuple(part.shape[1:])} pixels has no crop twice that")
        small = F.avg_pool2d(part[None], 2)[0]
        windows = small.unfold(1, side, 1).unfold(2, side, 1)  # every crop there is, as a view
        rows = torch.randint(windows.shape[1], (len(draws),), generator=generator)
        columns = torch.randint(windows.shape[2], (len(draws),), generator=generator)
        crops.append(windows[:, rows, columns].transpose(0, 1))
    order = torch.randperm(count, generator=generator)
    return (0.5 + contrast * (torch.cat(crops)[order] - 0.5)).contiguous()


def _sizes(
    count: int, most: int, side: int, smallest: float, largest: float, generator: torch.Generator
) -> Tensor:  # fmt: skip
    """Widths and heights (count, most, 2) in whole pixels; logarithms uniform, sides up to a factor of 1.5 apart."""
    share, stretch = torch.rand(2, count, most, generator=generator)
    size = smallest * side * (largest / smallest) ** share
    stretch = 1.5 ** (stretch - 0.5)
    sides = torch.stack([size * stretch, size / stretch], -1).round()
    return sides.clamp(round(smallest * side), round(largest * side)).long()


def _places(sizes: Tensor, wanted: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Left upper corners (count, most, 2) at which figures keep GAP, and which of the wanted ones found a place."""
    count, most = sizes.shape[:2]
    corners = torch.zeros_like(sizes)
    placed = torch.zeros(count, most, dtype=torch.bool)
    for n in range(most):
        room = side - sizes[:, n, None] + 1
        tried = (torch.rand(count, TRIES, 2, generator=generator) * room).long()  # (count, TRIES, 2)
        free = torch.ones(count, TRIES, dtype=torch.bool)
        for m in range(n):
            apart = (tried >= (corners[:, m] + sizes[:, m] + GAP)[:, None]) | (
                corners[:, m, None] >= tried + sizes[:, n, None] + GAP
            )
            free &= apart.any(-1) | ~placed[:, m, None]
        first = free.int().argmax(1)
        corners[:, n] = tried[torch.arange(count), first]
        placed[:, n] = free.any(1) & (n < wanted)
    return corners, placed


def _figure(classes: Tensor, corner: Tensor, size: Tensor, side: int) -> Tensor:
    """Which pixels (count, side, side) belong to the figure that fills a box (corner, size)."""
    at = torch.arange(side) + 0.5
    x, y = (2 * (at - corner[:, i, None]) / size[:, i, None] - 1 for i in range(2))  # -1 .. 1 inside the box
    x, y = x[:, None, :], y[:, :, None]
    inside = (x.abs() < 1) & (y.abs() < 1)
    disc = x.square() + y.square() < 1
    triangle = inside & (x.abs() <= (y + 1) / 2 + 1 / size[:, :1, None])  # at least a pixel wide at its tip
    return torch.stack([disc, inside, triangle])[classes.clamp(min=0), torch.arange(len(classes))]


def _tight(drawn: Tensor) -> Tensor:
    """Boxes (count, 4) around the pixels that are set, in pixels; zeros where none is."""
    sides = []
    for axis in (1, 2):
        hit = drawn.any(axis).int()  # which columns, then which rows
        first, last = hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)
        sides.append((first, torch.where(hit.any(1), last, first)))
    (left, right), (top, bottom) = sides
    return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], -1) * 1.0


@dataclass(frozen=True)
class Refused:
    """Boxes of a set that are no boxes of an image, by the reason; what could be cut to the image is kept."""

    empty: int  # without width or height, or outside the image altogether
    cut: int  # reached over the border


def blood_cells(split: str, *, side: int = 96) -> tuple[Detection, Refused]:
    """BCCD through `load`: microscope images of blood cells with boxes of the classes CELLS, resized to a square.

    Some boxes of the set leave their image and some have no area. The former are cut at the border, the latter left
    out, and both are counted. Raises what `load` raises, where the set is out of reach.
    """
    import numpy as np

    table = load("bccd", split)
    images, rows, empty, cut = [], [], 0, 0
    for row in table:
        small = row["image"].convert("RGB").resize((side, side))
        images.append(torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1))
        extent = torch.tensor([row["width"], row["height"]] * 2)
        classes = torch.tensor([cell["category"] for cell in row["objects"]], dtype=torch.long)
        x, y, w, h = torch.tensor([cell["bbox"] for cell in row["objects"]]).view(-1, 4).unbind(-1)
        whole = torch.stack([x, y, x + w, y + h], -1) / extent
        inside = whole.clamp(0, 1)
        kept = (inside[:, 2:] > inside[:, :2]).all(-1)
        empty += int((~kept).sum())
        cut += int((whole != inside).any(-1)[kept].sum())
        low, high = inside[kept, :2], inside[kept, 2:]
        rows.append((classes[kept], torch.cat([(low + high) / 2, high - low], -1)))
    most = max(len(c) for c, _ in rows)
    classes, boxes = torch.full((len(rows), most), NOTHING), torch.zeros(len(rows), most, 4)
    for i, (c, b) in enumerate(rows):
        classes[i, : len(c)], boxes[i, : len(c)] = c, b
    return Detection(torch.stack(images), classes, boxes), Refused(empty, cut)
