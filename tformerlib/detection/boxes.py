"""Boxes: how they are written, how much two of them overlap, and what detectors are taught with.

Models and targets have boxes as centers, (x, y, width, height); geometry and metrics have them as corners,
(left, top, right, bottom). Both are shares of the image's sides, from 0 to 1, until `detect` makes pixels of them.
"""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor


class Target(TypedDict):
    """The objects of one image, n of them, which may be none: labels (n,), integers, and boxes (n, 4) as centers."""

    labels: Tensor
    boxes: Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) boxes (x, y, width, height) to (left, top, right, bottom), in at least float32."""
    boxes = precise(boxes)
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


def to_centers(boxes: Tensor) -> Tensor:
    """(..., 4) boxes (left, top, right, bottom) to (x, y, width, height), in at least float32."""
    boxes = precise(boxes)
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(first + last) / 2, last - first], -1)


def precise(boxes: Tensor) -> Tensor:
    """Boxes in at least float32: in half numbers a pixel of a large image is lost, and areas overflow.

    Raises:
        TypeError: boxes that are whole numbers, in which half a side can't be written.
    """
    if not boxes.is_floating_point():
        raise TypeError(f"boxes are {boxes.dtype}; they are floating point")
    return boxes.to(torch.promote_types(boxes.dtype, torch.float32))


def area(corners: Tensor) -> Tensor:
    """(..., 4) boxes as corners to (...); a box whose right is left of its left, or bottom above its top, has none."""
    return (corners[..., 2:] - corners[..., :2]).clamp(min=0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes as corners: box by box, (..., 4) and (..., 4) to (...).

    Leading axes broadcast: all pairs of n and m boxes are iou(a[:, None], b), (n, m). Two boxes without area have 0.
    """
    return _overlap(precise(a), precise(b))[0]


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the share of the smallest box around both that neither covers (Rezatofighi et al. 2019): -1 to 1.

    Unlike IoU it has a gradient where boxes do not touch: it says in which direction the other one is.
    """
    a, b = precise(a), precise(b)
    overlap, union = _overlap(a, b)
    around = area(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1))
    return overlap - (around - union) / around.clamp(min=torch.finfo(around.dtype).tiny)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shared = area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    union = area(a) + area(b) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny), union


def check_targets(targets: Sequence[Target], *, images: int, classes: int, queries: int) -> None:
    """Refuses targets that cannot be learned from.

    Raises:
        ValueError: targets of another number of images, more objects than queries, labels outside 0 .. classes - 1,
            boxes that are not finite, reach over the image's border or have no width or height.
        TypeError: labels that are not integers, or boxes that are not floating point.
    """
    if len(targets) != images:
        raise ValueError(f"{len(targets)} targets for {images} images")
    for i, target in enumerate(targets):
        labels, boxes = target["labels"], target["boxes"]
        if labels.is_floating_point() or not boxes.is_floating_point():
            raise TypeError(f"image {i}: labels are {labels.dtype} and boxes {boxes.dtype}, not integers and floats")
        if labels.ndim != 1 or boxes.shape != (len(labels), 4):
            raise ValueError(
                f"image {i}: labels {tuple(labels.shape)} and boxes {tuple(boxes.shape)}, not (n,), (n, 4)"
            )
        if len(labels) > queries:
            raise ValueError(f"image {i} has {len(labels)} objects, but the model asks for {queries} only")
    if not targets:
        return
    every, owner = (
        torch.cat([target["boxes"] for target in targets]),
        [i for i, t in enumerate(targets) for _ in t["labels"]],
    )
    labels, corners = torch.cat([target["labels"] for target in targets]), to_corners(every)
    for wrong, what in (
        ((labels < 0) | (labels >= classes), f"has a label outside 0 .. {classes - 1}"),
        (~every.isfinite().all(-1), "has a box that is not finite"),
        ((every[:, 2:] <= 0).any(-1), "has a box without width or height"),
        ((corners < -SLACK).any(-1) | (corners > 1 + SLACK).any(-1), "has a box that reaches over the border (0 .. 1)"),
    ):
        if wrong.any():
            k = int(wrong.nonzero()[0])
            raise ValueError(f"image {owner[k]} {what}: label {labels[k].item()}, (x, y, w, h) = {every[k].tolist()}")


SLACK = 1e-4  # for the rounding of boxes that touch the border
