"""Answers to the exercises of the chapter on what ViTs see."""

import torch
from torch import Tensor


def by_einsum(x: Tensor) -> Tensor:
    flat = x.reshape(len(x), -1)
    return torch.einsum("ic,jc->ij", flat, flat) * (1 - torch.eye(len(x)))


def spoils_its_input(x: Tensor) -> Tensor:
    x -= x.mean(0)
    flat = x.flatten(1)
    return (flat @ flat.T).fill_diagonal_(0)


def in_a_loop(weights: Tensor, places: Tensor) -> Tensor:
    far = (places[:, None] - places).square().sum(-1).sqrt()
    return torch.stack([(head * far).sum() / len(far) for head in weights])


def apart(places: Tensor) -> Tensor:
    return torch.cdist(places, places)


RIGHT = {"see-gram": [by_einsum], "see-distance": [in_a_loop]}
WRONG = {
    "see-gram": {
        "the diagonal stays": lambda x: x.flatten(1) @ x.flatten(1).T,
        "features with features": lambda x: (x.flatten(1).T @ x.flatten(1)).fill_diagonal_(0),
        "the last axis alone": lambda x: (x[..., 0] @ x[..., 0].T if x.ndim == 3 else x @ x.T).fill_diagonal_(0),
        "centered in place": spoils_its_input,
        "distances": lambda x: torch.cdist(x.flatten(1), x.flatten(1)),
        "cosines": lambda x: torch.nn.functional.normalize(x.flatten(1)).mm(
            torch.nn.functional.normalize(x.flatten(1)).T).fill_diagonal_(0),
    },
    "see-distance": {
        "squared distances": lambda w, p: (w * apart(p) ** 2).sum(-1).mean(-1),
        "mean over keys": lambda w, p: (w * apart(p)).mean((-1, -2)),
        "sum over queries": lambda w, p: (w * apart(p)).sum((-1, -2)),
        "mean over heads": lambda w, p: (w * apart(p)).sum(-1).mean(),
        "of the largest weight alone": lambda w, p: apart(p)[torch.arange(3), w.argmax(-1)].mean(-1),
        "city blocks": lambda w, p: (w * (p[:, None] - p).abs().sum(-1)).sum(-1).mean(-1),
    },
}  # fmt: skip
