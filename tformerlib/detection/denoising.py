"""Denoising: true objects with noise as extra queries, whose answers are known without matching (Li et al. 2022).

Training only. With `apart` the queries that are matched never see them, so they answer as they would alone.

Shape letters: B images, N matched queries, K noised objects of a whole batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .boxes import Target, check_targets
from .loss import losses, set_loss
from .matching import Matches, Predictions, Scoring, Weights


class Noised(NamedTuple):
    """Noised objects as queries, `groups` times the objects of the fullest image for each image, (B, extra, ...).

    labels (B, extra) and boxes (B, extra, 4), as centers; real (B, extra) is False at the padding of emptier images;
    objects (B, extra) is each one's row among all targets one after another.
    """

    labels: Tensor
    boxes: Tensor
    real: Tensor
    objects: Tensor
    groups: int

    def apart(self, queries: int) -> Tensor:
        """Bool (B, 1, N + extra, N + extra), True where a query may see another, the N matched ones coming first.

        Matched queries see each other alone, or the truth would leak into them. A noised one sees them and its own
        group, in which no object stands twice, but neither other groups nor padding (which the official code shows).
        """
        extra, device = self.labels.shape[1], self.labels.device
        group = torch.arange(extra, device=device) // max(extra // self.groups, 1)
        sees = torch.zeros(len(self.labels), queries + extra, queries + extra, dtype=torch.bool, device=device)
        sees[:, :, :queries] = True
        sees[:, queries:, queries:] = (group[:, None] == group) & self.real[:, None]
        return sees[:, None]

    def split(self, predictions: Predictions) -> tuple[Predictions, Predictions, Matches]:
        """Predictions of N + extra queries to those of the matched ones, and those of the K real noised ones as if of
        one image (layers, 1, K, ...), with their known matches."""
        queries = predictions.logits.shape[2] - self.labels.shape[1]
        matched = Predictions(*(x[:, :, :queries] for x in predictions))
        noised = Predictions(*(x[:, :, queries:][:, self.real][:, None] for x in predictions))
        objects = self.objects[self.real].expand(len(predictions.logits), -1)
        place = torch.arange(objects.shape[1], device=objects.device).expand_as(objects)
        return matched, noised, Matches(torch.zeros_like(place), place, objects)


def noise(
    targets: Sequence[Target], *, classes: int, groups: int = 5, flip: float = 0.2, shake: float = 0.4,
    generator: torch.Generator | None = None,
) -> Noised:  # fmt: skip
    """Copies of every object, `groups` times, with other labels and boxes.

    Args:
        flip: probability of a random label, which may be the true one.
        shake: a center moves by up to this share of half a side, so that below 1 it stays inside the object; sides grow
            or shrink by up to this share. What would leave the image is cut to 0 .. 1.
        generator: where the draws come from, on the targets' device; torch's own by default.

    Raises:
        ValueError: groups, flip or shake that mean nothing; targets that `check_targets` refuses.
    """
    if groups < 1 or not 0 <= flip <= 1 or not 0 <= shake < 1:
        raise ValueError(f"groups={groups} has to be positive, flip={flip} in 0 .. 1 and shake={shake} in [0, 1)")
    counts = [len(target["labels"]) for target in targets]
    if not counts:
        empty = torch.zeros(0, 0, dtype=torch.long)
        return Noised(empty, torch.zeros(0, 0, 4), empty.bool(), empty, groups)
    check_targets(targets, images=len(targets), classes=classes, queries=max(counts))
    labels, boxes = (torch.cat([target[key] for target in targets]) for key in ("labels", "boxes"))
    device, most = labels.device, max(counts)
    place = torch.arange(most, device=device)
    start = torch.tensor(counts, device=device).cumsum(0) - torch.tensor(counts, device=device)
    real = (place < torch.tensor(counts, device=device)[:, None]).repeat(1, groups)
    objects = torch.where(real, (start[:, None] + place).repeat(1, groups), 0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    if not len(labels):
        return Noised(objects, boxes.new_zeros(*objects.shape, 4), real, objects, groups)
    strangers = (draw(*objects.shape) * classes).long()
    shown = torch.where(draw(*objects.shape) < flip, strangers, labels[objects])
    true = boxes[objects]
    reach = torch.cat([true[..., 2:] / 2, true[..., 2:]], -1) * shake
    moved = (true + (2 * draw(*true.shape) - 1).to(true) * reach).clamp(0, 1)
    return Noised(shown, moved, real, objects, groups)


def denoising_loss(
    predictions: Predictions, targets: Sequence[Target], noised: Noised, scoring: Scoring, *,
    weights: Weights | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """`set_loss` of the matched queries, and the same three parts, with the same weights, for the noised ones.

    Returns:
        The sum over all layers; and of the last layer the parts of `set_loss`, and of the noised queries
        "denoised class", "denoised l1" and "denoised giou".
    """
    matched, extra, matches = noised.split(predictions)
    weights = weights or scoring.weights
    loss, parts = set_loss(matched, targets, scoring, weights=weights)
    if not matches.objects.shape[1]:
        return loss, parts
    known = losses(extra, targets, scoring, matches)
    loss = loss + sum(weight * part.sum() for weight, part in zip(weights, known.values(), strict=True))
    return loss, parts | {f"denoised {name}": part[-1].detach() for name, part in known.items()}
