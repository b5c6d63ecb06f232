"""Detection as the prediction of a set (Carion et al. 2020, sec. 3.1): what it costs, and what it says in the end.

predictions = model(images, mask)                          # Predictions, of all decoder layers
loss, parts = set_loss(predictions, targets, model.scoring)
found = detect(predictions, model.scoring, sizes=[(480, 640)])  # a Detections for each image
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import Target, check_targets, generalized_iou, precise, to_corners
from .matching import Matches, Predictions, Scoring, Weights, hungarian


def set_loss(
    predictions: Predictions, targets: Sequence[Target], scoring: Scoring, *, weights: Weights | None = None,
    matches: Matches | None = None, auxiliary: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Classes, L1 distances and generalized IoUs of matched queries, summed over the decoder layers.

    Boxes' losses, and the class's if focal, are divided by the number of objects in the batch (of this process).

    Args:
        scoring: what the logits mean; a model has it as `model.scoring`.
        weights: of the three parts; by default the scoring's, as papers have the same for cost and loss.
        matches: who answers for what; by default the assignment of least cost, for each layer by itself.
        auxiliary: whether all layers learn (sec. 3.2), or the last alone.

    Returns:
        The weighted sum, and the parts "class", "l1" and "giou" of the last layer without their weights.

    Raises:
        ValueError, TypeError: targets that `check_targets` refuses; the message names image and value.
        FloatingPointError: predictions that are not finite.
    """
    weights = weights or scoring.weights
    _, images, queries, classes = predictions.logits.shape
    check_targets(targets, images=images, classes=classes - scoring.extra, queries=queries)
    if not auxiliary:
        predictions = Predictions(*(x[-1:] for x in predictions))
        matches = None if matches is None else Matches(*(x[-1:] for x in matches))
    if matches is None:
        matches = hungarian(predictions, targets, scoring)
    parts = losses(predictions, targets, scoring, matches)
    total = sum(weight * part.sum() for weight, part in zip(weights, parts.values(), strict=True))
    return torch.as_tensor(total), {name: part[-1].detach() for name, part in parts.items()}


def losses(
    predictions: Predictions, targets: Sequence[Target], scoring: Scoring, matches: Matches
) -> dict[str, Tensor]:
    """The three parts, (layers,) each, for a given matching."""
    logits, boxes = predictions.logits, precise(predictions.boxes)
    if not targets:
        return {name: boxes.sum((1, 2, 3)) + 0.0 * logits.float().sum((1, 2, 3)) for name in ("class", "l1", "giou")}
    at = torch.arange(len(logits), device=logits.device)[:, None], matches.images, matches.queries
    labels = torch.full(logits.shape[:-1], logits.shape[-1] - scoring.extra, device=logits.device)
    labels[at] = torch.cat([target["labels"] for target in targets])[matches.objects].to(labels)
    found, true = boxes[at], torch.cat([target["boxes"] for target in targets])[matches.objects].to(boxes)
    objects = max(matches.objects.shape[1], 1)
    overlap = generalized_iou(to_corners(found), to_corners(true))
    return {
        "class": scoring.loss(logits, labels, objects),
        "l1": (found - true).abs().sum((-1, -2)) / objects,
        "giou": (1 - overlap).sum(-1) / objects,
    }


class Detections(NamedTuple):
    """Of one image, likeliest first: scores (n,), labels (n,), and boxes (n, 4) as corners."""

    scores: Tensor
    labels: Tensor
    boxes: Tensor


@torch.no_grad()
def detect(
    predictions: Predictions, scoring: Scoring, *, sizes: Sequence[tuple[int, int]] | Tensor | None = None,
    layer: int = -1, threshold: float = 0.0, top: int = 100,
) -> list[Detections]:  # fmt: skip
    """What the model found in each image. Nothing is suppressed: a query answers for an object, or for none.

    A query gives its likeliest class where the classes exclude each other; by focal scoring it may give several, and
    the `top` pairs of query and class are kept, as the official codes have it.

    Args:
        sizes: height and width of each image in pixels, without padding; without them boxes stay shares, 0 .. 1.
        layer: of the decoder.  threshold: the least score that is kept.  top: the most detections for an image.
    """
    scores, boxes = scoring.scores(predictions.logits[layer].float()), to_corners(predictions.boxes[layer])
    if sizes is not None:
        if len(sizes) != len(boxes):
            raise ValueError(f"{len(sizes)} sizes for {len(boxes)} images")
        boxes = boxes * torch.as_tensor(sizes, device=boxes.device).flip(-1).repeat(1, 2)[:, None]
    classes = scores.shape[-1]
    if not len(scores):
        return []
    if not scores.isfinite().all():
        raise FloatingPointError("a score is NaN or infinite: the model's logits are")
    if scoring.extra:  # classes exclude each other: a query has one, of equals the first
        likeliest = F.one_hot(scores.argmax(-1), classes).bool()
        scores = scores.masked_fill(~likeliest, -1.0)
    best, pairs = scores.flatten(1).topk(min(top, scores[0].numel()))
    kept = best >= max(threshold, 0.0)
    return [
        Detections(score[keep], pair[keep] % classes, box[pair[keep] // classes])
        for score, pair, box, keep in zip(best, pairs, boxes, kept, strict=True)
    ]
