"""What a detector is worth: average precision by COCO's own program, and the suppression that DETR does without."""

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..extras import needs
from .boxes import Target, iou, to_centers
from .loss import Detections

SMALL, LARGE = 0.2, 0.35  # sides of a square, as shares of the image's: COCO's 32 and 96 pixels in smaller images
MEASURES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")  # in the order of COCO's program
_PIXELS = 1000.0  # COCO's program takes boxes in pixels; how large they are changes nothing


def suppress(found: Detections, threshold: float = 0.5) -> Detections:
    """Greedy non-maximum suppression: a box falls to a kept one of its class, if that scores higher and overlaps more.

    Boxes come back by falling score. Raises ValueError for a threshold outside 0 .. 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is not an overlap in 0 .. 1")
    scores, labels, boxes = (x[found.scores.argsort(descending=True, stable=True)] for x in found)
    rivals = (iou(boxes[:, None], boxes) > threshold) & (labels[:, None] == labels)
    kept = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    for i in range(len(kept)):
        if kept[i]:
            kept[i + 1 :] &= ~rivals[i, i + 1 :]
    return Detections(scores[kept], labels[kept], boxes[kept])


def average_precision(
    found: Sequence[Detections], truth: Sequence[Target], *, small: float = SMALL, large: float = LARGE
) -> dict[str, float]:
    """COCO's average precision over images, by pycocotools: AP, AP50, AP75, and AP_S, AP_M, AP_L by size, in 0 .. 1.

    AP is the mean over classes, and over the overlaps of 0.5 to 0.95 with an object from which on a box has found it.
    What has no object to find, a size for instance, has the value NaN.

    Args:
        found: of each image, with boxes as shares of its sides, as `detect` returns them without sizes.
        small, large: an object is small, or large, if its area is below, or above, that of a square of this side.

    Raises:
        ValueError: not one of `found` for each of `truth`, no object at all, or a box that is not finite.
    """
    with needs("data"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    if len(found) != len(truth):
        raise ValueError(f"detections of {len(found)} images, objects of {len(truth)}")
    objects = [
        _row(i, label, box) | {"area": box[2] * box[3] * _PIXELS**2, "iscrowd": 0}
        for i, target in enumerate(truth)
        for label, box in zip(target["labels"].tolist(), _finite(i, target["boxes"]), strict=True)
    ]
    if not objects:
        raise ValueError("no image has an object: there is no precision to measure")
    said = [
        _row(i, label, box) | {"score": score}
        for i, (scores, labels, boxes) in enumerate(found)
        for score, label, box in zip(_scores(i, scores), labels.tolist(), _finite(i, to_centers(boxes)), strict=True)
    ]
    images, classes = [{"id": i} for i in range(len(truth))], {row["category_id"] for row in objects}
    if not said:  # nothing found of objects that are there is 0, of sizes that are not there NaN, as with a wrong box
        said = [_row(0, objects[0]["category_id"], [0.5, 0.5, 1e-6, 1e-6]) | {"score": 0.0}]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        coco = COCO()
        numbered = [row | {"id": n} for n, row in enumerate(objects, 1)]
        coco.dataset = {"images": images, "categories": [{"id": c} for c in sorted(classes)], "annotations": numbered}
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(said), "bbox")
        low, high = ((share * _PIXELS) ** 2 for share in (small, large))
        judged.params.areaRng = [[0, 1e10], [0, low], [low, high], [high, 1e10]]
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return {name: float(value) if value >= 0 else math.nan for name, value in zip(MEASURES, judged.stats, strict=False)}


def _scores(image: int, scores: Tensor) -> list[float]:
    if not scores.isfinite().all():
        raise ValueError(f"image {image} has a score that is not finite: {scores.tolist()}")
    return scores.tolist()


def _finite(image: int, boxes: Tensor) -> list[list[float]]:
    if not boxes.isfinite().all():
        raise ValueError(f"image {image} has a box that is not finite: {boxes.tolist()}")
    return boxes.tolist()


def _row(image: int, label: int, box: list[float]) -> dict[str, Any]:
    """An object or a detection as COCO's program takes it: (left, top, width, height) in pixels."""
    x, y, w, h = (_PIXELS * side for side in box)
    return {"image_id": image, "category_id": label, "bbox": [x - w / 2, y - h / 2, w, h]}
