"""Answers to the exercises of the chapter on attention."""

import torch
from torch import Tensor


def in_steps(q: Tensor, k: Tensor) -> Tensor:
    scores = torch.einsum("bnd,bmd->bnm", q, k) * q.shape[-1] ** -0.5
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def overflows(q: Tensor, k: Tensor) -> Tensor:
    e = (q @ k.mT / q.shape[-1] ** 0.5).exp()
    return e / e.sum(-1, keepdim=True)


RIGHT = {"attention-weights": [in_steps]}
WRONG = {
    "attention-weights": {
        "no scale": lambda q, k: (q @ k.mT).softmax(-1),
        "scale by the width": lambda q, k: (q @ k.mT / q.shape[-1]).softmax(-1),
        "scale by the keys": lambda q, k: (q @ k.mT / k.shape[1] ** 0.5).softmax(-1),
        "over the queries": lambda q, k: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-2),
        "over everything": lambda q, k: (q @ k.mT / q.shape[-1] ** 0.5).flatten(1).softmax(-1).view(len(q), 3, -1),
        "scores alone": lambda q, k: q @ k.mT / q.shape[-1] ** 0.5,
        "transposed": lambda q, k: (k @ q.mT / q.shape[-1] ** 0.5).softmax(-1),
        "no maximum taken off": overflows,
    }
}
