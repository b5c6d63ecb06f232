"""Answers to the exercises of the chapter on CLIP."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tformerlib.objectives.pairing import pair_loss


def scores(x: Tensor, y: Tensor, tau: float) -> Tensor:
    return F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).mT / tau


def rows(x: Tensor) -> Tensor:
    return F.cross_entropy(x, torch.arange(len(x)))


def by_logsumexp(x: Tensor, y: Tensor, tau: float) -> Tensor:
    e = scores(x, y, tau)
    return ((e.logsumexp(0) + e.logsumexp(1)) / 2 - e.diagonal()).mean()


def pair_by_pair(e: Tensor, own: Tensor) -> Tensor:
    terms = [e[i].logsumexp(0) + e[:, i].logsumexp(0) - 2 * e[i, i] for i in own.tolist()]
    return torch.stack(terms).sum() / (2 * len(e))


def sum_of_directions(vectors: Tensor) -> Tensor:
    total = (vectors / vectors.norm(dim=-1, keepdim=True)).sum(0)
    return total / total.norm(dim=-1, keepdim=True)


RIGHT = {
    "multimodal-loss": [by_logsumexp],
    "multimodal-classifier": [sum_of_directions],
    "multimodal-share": [pair_by_pair],
}
WRONG = {
    "multimodal-loss": {
        "not normalized": lambda x, y, tau: pair_loss(x @ y.mT / tau),
        "times tau": lambda x, y, tau: pair_loss(scores(x, y, 1 / tau)),
        "rows only": lambda x, y, tau: rows(scores(x, y, tau)),
        "sum instead of mean": lambda x, y, tau: 2 * pair_loss(scores(x, y, tau)),
        "no temperature": lambda x, y, tau: pair_loss(scores(x, y, 1.0)),
        "rows twice": lambda x, y, tau: (rows(scores(x, y, tau)) + rows(scores(y, x, tau).mT)) / 2,
        "a loss for each pair": lambda x, y, tau: scores(x, y, tau).log_softmax(1).diagonal(),
    },
    "multimodal-classifier": {
        "mean of what comes": lambda v: F.normalize(v.mean(0), dim=-1),
        "too short": lambda v: F.normalize(v, dim=-1).mean(0),
        "over the classes": lambda v: F.normalize(F.normalize(v, dim=-1).mean(1), dim=-1),
        "the first prompt": lambda v: F.normalize(v[0], dim=-1),
        "along the prompts": lambda v: F.normalize(F.normalize(v, dim=0).mean(0), dim=-1),
    },
    "multimodal-share": {
        "own square": lambda e, own: pair_loss(e[own][:, own]) * len(own) / len(e),
        "a mean of means": lambda e, own: (F.cross_entropy(e[own], own) + F.cross_entropy(e.mT[own], own)) / 2,
        "rows only": lambda e, own: F.cross_entropy(e[own], own, reduction="sum") / len(e),
        "everybody's": lambda e, own: pair_loss(e) * len(own) / len(e),
        "places in the device": lambda e, own: (rows(e[own]) + rows(e.mT[own])) * len(own) / (2 * len(e)),
    },
}
