"""Answers to the exercises of the chapter on dense prediction."""

import torch
import torch.nn.functional as F
from torch import Tensor


def iou(
    predicted: Tensor, labels: Tensor, classes: int, ignore: int | None = 255, absent: float | None = None
) -> float:
    valid = labels != ignore if ignore is not None else torch.ones_like(labels, dtype=torch.bool)
    shares = []
    for k in range(classes):
        a, b = (predicted == k) & valid, (labels == k) & valid
        union = (a | b).sum().item()
        if union or absent is not None:
            shares.append((a & b).sum().item() / union if union else absent)
    return sum(x for x in shares if x is not None) / len(shares)


def image_by_image(predicted: Tensor, labels: Tensor, classes: int) -> float:
    return sum(iou(p[None], y[None], classes) for p, y in zip(predicted, labels, strict=True)) / len(labels)


def dice(predicted: Tensor, labels: Tensor, classes: int) -> float:
    valid, shares = labels != 255, []
    for k in range(classes):
        a, b = (predicted == k) & valid, (labels == k) & valid
        if (a | b).any():
            shares.append((2 * (a & b).sum() / (a.sum() + b.sum())).item())
    return sum(shares) / len(shares)


def accuracy(predicted: Tensor, labels: Tensor, classes: int) -> float:
    valid = labels != 255
    return (predicted[valid] == labels[valid]).float().mean().item()


def by_lstsq(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    pairs = []
    for a, b, m in zip(x, y, mask, strict=True):
        columns = torch.stack([a[m], torch.ones_like(a[m])], 1)
        pairs.append(torch.linalg.lstsq(columns, b[m], driver="gelsd").solution)
    return torch.stack(pairs)[:, 0], torch.stack(pairs)[:, 1]


def align(x: Tensor, y: Tensor, mask: Tensor, safe: float = 1e-12) -> tuple[Tensor, Tensor]:
    w = mask.float()
    n = w.sum((1, 2))
    mx, my = (torch.where(mask, z, 0.0).sum((1, 2)) / n for z in (x, y))
    dx, dy = torch.where(mask, x - mx[:, None, None], 0.0), torch.where(mask, y - my[:, None, None], 0.0)
    s = (dx * dy).sum((1, 2)) / (dx.square().sum((1, 2)) + safe)
    return s, my - s * mx


def by_median(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.stack([(b[m].median() / a[m].median()) for a, b, m in zip(x, y, mask, strict=True)])
    return s, torch.zeros_like(s)


def whole_batch(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    s, t = align(x.reshape(1, 1, -1), y.reshape(1, 1, -1), mask.reshape(1, 1, -1))
    return s.repeat(len(x)), t.repeat(len(x))


def cosines(patches: Tensor, classes: Tensor) -> Tensor:
    return torch.cosine_similarity(patches[:, :, None], classes[:, None], dim=-1)


def in_steps(patches: Tensor, classes: Tensor) -> Tensor:
    scores = cosines(patches, classes)
    centered = scores - scores.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def normed(scores: Tensor) -> Tensor:
    return F.layer_norm(scores, scores.shape[-1:])


RIGHT = {"dense-iou": [iou], "dense-align": [by_lstsq], "dense-masks": [in_steps]}
WRONG = {
    "dense-iou": {
        "the mean of images": image_by_image,
        "Dice": dice,
        "accuracy": accuracy,
        "255 counts": lambda p, y, k: iou(p, y, k, ignore=None),
        "absent classes count as nothing": lambda p, y, k: iou(p, y, k, absent=0.0),
        "absent classes count as right": lambda p, y, k: iou(p, y, k + 1, absent=1.0),
    },
    "dense-align": {
        "of y instead of x": lambda x, y, m: align(y, x, m),
        "without the mask": lambda x, y, m: align(x, y, torch.ones_like(m)),
        "a scale alone": by_median,
        "one for the batch": whole_batch,
        "NaN for a constant": lambda x, y, m: align(x, y, m, safe=0.0),
        "zeros where unknown": lambda x, y, m: align(torch.where(m, x, 0), torch.where(m, y, 0), torch.ones_like(m)),
    },
    "dense-masks": {
        "no norm over the classes": cosines,
        "products instead of cosines": lambda p, c: normed(p @ c.mT),
        "only patches are of length 1": lambda p, c: normed(F.normalize(p, dim=-1) @ c.mT),
        "over the patches": lambda p, c: F.layer_norm(cosines(p, c).mT, (p.shape[1],)).mT,
        "the softmax of the cosines": lambda p, c: cosines(p, c).softmax(-1),
        "transposed": lambda p, c: normed(cosines(p, c).mT),
    },
}
