"""Which query answers for which object: the assignment of least cost (Carion et al. 2020, sec. 3.1).

Shape letters: B images, N queries. Predictions are those of every decoder layer, and each layer is matched by itself.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..extras import needs
from .boxes import Target, generalized_iou, to_corners


class Predictions(NamedTuple):
    """What a detector says after each decoder layer, the last one last.

    logits (layers, B, N, classes), or one more than the classes where the last stands for "no object" (`Softmax`);
    boxes (layers, B, N, 4) as centers, each a share of its image's own sides, padding left out.
    """

    logits: Tensor
    boxes: Tensor


class Weights(NamedTuple):
    """Factors of the three parts of a cost or a loss."""

    classes: float = 1.0
    l1: float = 5.0
    giou: float = 2.0


class Scoring(Protocol):
    """What logits mean: `Softmax` or `Focal`.

    `extra` logits beside those of the classes; `weights`, its paper's, of the cost; `scores`, (..., classes) in 0 .. 1;
    `costs`, (..., classes), of answering for an object of each class; `loss`, (layers,), for the labels
    (layers, B, N) that each query should have found, the number of classes standing for "no object".
    """

    extra: int
    weights: Weights

    def scores(self, logits: Tensor) -> Tensor: ...
    def costs(self, logits: Tensor) -> Tensor: ...
    def loss(self, logits: Tensor, labels: Tensor, objects: int) -> Tensor: ...


class Softmax:
    """One of the classes, or no object, which is the last logit and the fate of most queries (DETR).

    Args:
        empty: weight of queries without an object in the cross-entropy, the official code's `eos_coef`.
    """

    extra, weights = 1, Weights()

    def __init__(self, empty: float = 0.1) -> None:
        self.empty = empty

    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[..., :-1]

    def costs(self, logits: Tensor) -> Tensor:
        """Probabilities, not their logarithms: so they are of the size of the boxes' costs (sec. 3.1)."""
        return -self.scores(logits)

    def loss(self, logits: Tensor, labels: Tensor, objects: int) -> Tensor:
        """Weighted mean over the queries; the number of objects does not enter."""
        weight = logits.new_ones(logits.shape[-1])
        weight[-1] = self.empty
        each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight, reduction="none")
        return each.view(len(logits), -1).sum(-1) / weight[labels].flatten(1).sum(-1)


class Focal:
    """Each class by itself, yes or no; what is easy already counts for little (Lin et al. 2017; Deformable DETR).

    Args:
        alpha: weight of a yes, 1 - alpha that of a no.  gamma: how fast easy answers fade.
    """

    extra, weights = 0, Weights(classes=2.0)

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha, self.gamma = alpha, gamma

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def costs(self, logits: Tensor) -> Tensor:
        return self._terms(logits, True) - self._terms(logits, False)

    def loss(self, logits: Tensor, labels: Tensor, objects: int) -> Tensor:
        """Sum over queries and classes, divided by the number of objects."""
        truth = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].bool()
        each = torch.where(truth, self._terms(logits, True), self._terms(logits, False))
        return each.flatten(1).sum(-1) / objects

    def _terms(self, logits: Tensor, yes: bool) -> Tensor:
        """The loss of every logit if the truth were yes, or no."""
        share, signed = (self.alpha, logits) if yes else (1 - self.alpha, -logits)
        return -share * torch.sigmoid(-signed) ** self.gamma * F.logsigmoid(signed)


class Matches(NamedTuple):
    """Pairs of a query and its object, each a tensor (layers, objects): image, query, and the object's row among all
    targets one after another."""

    images: Tensor
    queries: Tensor
    objects: Tensor


def assign(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Costs (N, n) to queries (n,), objects (n,): the one-to-one assignment whose costs sum to the least; n <= N.

    Raises:
        FloatingPointError: a cost that is not finite: the model's outputs are not.
    """
    with needs("train"):
        from scipy.optimize import linear_sum_assignment  # here, as models are imported without it

    if not costs.isfinite().all():
        raise FloatingPointError("a matching cost is NaN or infinite: the model's logits or boxes are")
    rows, columns = linear_sum_assignment(costs.T.cpu().numpy())
    return torch.as_tensor(columns, device=costs.device), torch.as_tensor(rows, device=costs.device)


def pairwise_costs(
    predictions: Predictions, labels: Tensor, boxes: Tensor, scoring: Scoring, weights: Weights
) -> Tensor:
    """(layers, B, N, n): of each query for each object, by class, L1 distance and generalized IoU (eq. 2, A.2).

    labels (B, n) and boxes (B, n, 4) are the objects of each image.
    """
    logits, found = predictions
    index = labels[None, :, None].expand(*logits.shape[:3], -1)
    by_class = scoring.costs(logits).gather(-1, index)
    l1 = torch.cdist(found, boxes.expand(len(found), -1, -1, -1), p=1)
    overlap = generalized_iou(to_corners(found)[..., None, :], to_corners(boxes)[:, None])
    return weights.classes * by_class + weights.l1 * l1 - weights.giou * overlap


@torch.no_grad()
def hungarian(
    predictions: Predictions, targets: Sequence[Target], scoring: Scoring, weights: Weights | None = None
) -> Matches:
    """The assignment of least cost, for each layer and image; `weights` of the costs are the scoring's by default."""
    precise = torch.promote_types(predictions.boxes.dtype, torch.float32)
    logits, boxes = (x.to(precise) for x in predictions)
    counts, device = [len(target["labels"]) for target in targets], logits.device
    if not counts:
        return Matches(*(torch.zeros(len(logits), 0, dtype=torch.long, device=device) for _ in range(3)))
    padded = {"labels": torch.zeros(len(targets), max(counts), dtype=torch.long, device=device),
              "boxes": boxes.new_zeros(len(targets), max(counts), 4)}  # fmt: skip
    for i, target in enumerate(targets):
        padded["labels"][i, : counts[i]], padded["boxes"][i, : counts[i]] = target["labels"], target["boxes"]
    costs = pairwise_costs(Predictions(logits, boxes), **padded, scoring=scoring, weights=weights or scoring.weights)
    found = [[assign(c[i, :, :n]) for i, n in enumerate(counts)] for c in costs.cpu()]
    return _matches(found, counts, device)


def in_order(predictions: Predictions, targets: Sequence[Target]) -> Matches:
    """Object i of each image is query i's: what a detector without matching would have to learn."""
    counts = [len(target["labels"]) for target in targets]
    layer = [(torch.arange(n), torch.arange(n)) for n in counts]
    return _matches([layer] * len(predictions.logits), counts, predictions.logits.device)


def _matches(found: list[list[tuple[Tensor, Tensor]]], counts: list[int], device: torch.device) -> Matches:
    images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    starts = torch.tensor(counts).cumsum(0) - torch.tensor(counts)
    queries = torch.stack([torch.cat([q for q, _ in layer]) for layer in found])
    objects = torch.stack([torch.cat([o for _, o in layer]) for layer in found]) + starts[images]
    return Matches(images.expand_as(queries).to(device), queries.to(device), objects.to(device))
