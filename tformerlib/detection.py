"""What a detector is worth: average precision by COCO's own program, and the suppression that DETR does without."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL, LARGE = 0.2, 0.35  # sides of a square, as shares of the image's: COCO's 32 and 96 pixels in smaller images
_PIXELS = 1000.0  # the unit square in the pixels that COCO's program counts in; only areas depend on it


@dataclass(frozen=True)
class Found:
    """What a detector says about one image: scores (N,), classes (N,) and boxes (N, 4), centers and sides in 0 .. 1."""

    scores: Tensor
    classes: Tensor
    boxes: Tensor

    def __getitem__(self, rows: Tensor) -> "Found":
        return Found(self.scores[rows], self.classes[rows], self.boxes[rows])


def corners(boxes: Tensor) -> Tensor:
    """(center x, center y, width, height) to (left, top, right, bottom)."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], -1)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes (N, 4) with boxes (M, 4); 0 where both have no area."""
    p, q = corners(a)[:, None], corners(b)[None]
    sides = (torch.minimum(p[..., 2:], q[..., 2:]) - torch.maximum(p[..., :2], q[..., :2])).clamp(min=0)
    common = sides.prod(-1)
    union = a[:, None, 2:].prod(-1) + b[None, :, 2:].prod(-1) - common
    return torch.where(union > 0, common / union.clamp(min=1e-12), 0.0)


def suppress(found: Found, threshold: float = 0.5) -> Found:
    """Greedy non-maximum suppression: a box falls if one of its class with a higher score overlaps it by more.

    Boxes come back by falling score. Raises ValueError for a threshold outside 0 .. 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is not an overlap in 0 .. 1")
    found = found[found.scores.argsort(descending=True, stable=True)]
    rivals = (overlaps(found.boxes, found.boxes) > threshold) & (found.classes[:, None] == found.classes)
    kept = torch.ones(len(found.scores), dtype=torch.bool)
    for i in range(len(kept)):
        if kept[i]:
            kept[i + 1 :] &= ~rivals[i, i + 1 :]
    return found[kept]


def average_precision(
    found: Sequence[Found], truth: Sequence[tuple[Tensor, Tensor]], *, small: float = SMALL, large: float = LARGE
) -> dict[str, float]:
    """COCO's average precision over images, by pycocotools: AP, AP50, AP75, and AP_S, AP_M, AP_L by size, in 0 .. 1.

    AP is the mean over overlaps of 0.5 to 0.95 that a box must have with an object to count as found, and over classes.
    A size without any object has the value NaN.

    Args:
        truth: classes (N,) and boxes (N, 4) of each image's objects.
        small, large: an object is small, or large, if its area is below, or above, that of a square of this side.

    Raises:
        ValueError: as many images found as true ones there are not, no objects at all, or a box that is no box.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if len(found) != len(truth):
        raise ValueError(f"{len(found)} images were looked at, {len(truth)} have objects")
    objects = _rows(truth)
    if not objects:
        raise ValueError("no image has an object: there is no precision to measure")
    said = _rows([(f.classes, f.boxes) for f in found], [f.scores for f in found])
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(truth))],
            "categories": [{"id": c} for c in sorted({row["category_id"] for row in objects})],
            "annotations": objects,
        }
        coco.createIndex()
        if not said:
            return dict.fromkeys(_MEASURES, 0.0)
        judged = COCOeval(coco, coco.loadRes(said), "bbox")
        low, high = ((share * _PIXELS) ** 2 for share in (small, large))
        judged.params.areaRng = [[0, 1e10], [0, low], [low, high], [high, 1e10]]
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return {name: float(judged.stats[i]) if judged.stats[i] >= 0 else float("nan") for name, i in _MEASURES.items()}


_MEASURES: Mapping[str, int] = {"AP": 0, "AP50": 1, "AP75": 2, "AP_S": 3, "AP_M": 4, "AP_L": 5}


def _rows(images: Sequence[tuple[Tensor, Tensor]], scores: Sequence[Tensor] | None = None) -> list[dict[str, object]]:
    """Objects as COCO writes them: (left, top, width, height), with an id for each."""
    rows: list[dict[str, object]] = []
    for i, (classes, boxes) in enumerate(images):
        if not torch.isfinite(boxes).all() or (boxes[:, 2:] < 0).any():
            raise ValueError(f"image {i} has boxes that are none: {boxes.tolist()}")
        for n, (category, box) in enumerate(zip(classes.tolist(), (boxes * _PIXELS).tolist(), strict=True)):
            x, y, w, h = box
            row = {"id": len(rows) + 1, "image_id": i, "category_id": category, "bbox": [x - w / 2, y - h / 2, w, h]}
            row |= {"area": w * h, "iscrowd": 0} if scores is None else {"score": float(scores[i][n])}
            rows.append(row)
    return rows
