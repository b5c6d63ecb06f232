"""Answers to the exercises of the chapter on efficient mixing."""

import math

import torch
from torch import Tensor


def in_halves(x: Tensor, w: Tensor) -> Tensor:
    """exp(w x) exp(-|x|^2 / 2) / sqrt(F), written another way."""
    return torch.exp((2 * x @ w.T - (x * x).sum(-1, keepdim=True)) / 2 - math.log(len(w)) / 2)


def by_hand(x: Tensor, w: Tensor, norm: float = 0.5, share: float = 0.5) -> Tensor:
    return torch.exp(x @ w.mT - norm * x.square().sum(-1, keepdim=True)) / len(w) ** share


def of_cosines(x: Tensor, w: Tensor) -> Tensor:
    turned = x @ w.mT
    return torch.cat([turned.cos(), turned.sin()], -1) * torch.exp(x.square().sum(-1, keepdim=True) / 2) / len(w) ** 0.5


def one_by_one(f_q: Tensor, f_k: Tensor, v: Tensor) -> Tensor:
    out = torch.empty_like(v)
    for row in range(len(v)):
        state, total = torch.zeros(f_q.shape[-1], v.shape[-1]), torch.zeros(f_q.shape[-1])
        for n in range(v.shape[1]):
            state, total = state + f_k[row, n, :, None] * v[row, n], total + f_k[row, n]
            out[row, n] = f_q[row, n] @ state / (f_q[row, n] @ total)
    return out


def cumulative(f_q: Tensor, f_k: Tensor, v: Tensor, late: bool = False, whole: bool = False) -> Tensor:
    state, total = (f_k[..., None] * v[..., None, :]).cumsum(1), f_k.cumsum(1)
    if late:  # each token's own key is missing
        state, total = state - f_k[..., None] * v[..., None, :], total - f_k + 1e-9
    if whole:  # the sum below the fraction is over all keys
        total = total[:, -1:].expand_as(total)
    return torch.einsum("bnf,bnfe->bne", f_q, state) / (f_q * total).sum(-1, keepdim=True)


def table(n: int, sign: float = 1.0) -> Tensor:
    return torch.tensor([[sign * math.cos(2 * math.pi * i * j / n) for j in range(n)] for i in range(n)])


def outer(n: int, turn: float = 2 * math.pi) -> Tensor:
    return torch.cos(turn / n * torch.outer(torch.arange(n), torch.arange(n)))


RIGHT = {
    "efficient-mixing-features": [in_halves],
    "efficient-mixing-prefix-sums": [one_by_one],
    "efficient-mixing-fourier": [table],
}
WRONG = {
    "efficient-mixing-features": {
        "no norm": lambda x, w: by_hand(x, w, norm=0.0),
        "the whole norm": lambda x, w: by_hand(x, w, norm=1.0),
        "divided by F": lambda x, w: by_hand(x, w, share=1.0),
        "not divided": lambda x, w: by_hand(x, w, share=0.0),
        "cosines": of_cosines,
        "cosines alone": lambda x, w: of_cosines(x, w)[..., : len(w)],
        "logarithms": lambda x, w: x @ w.mT - x.square().sum(-1, keepdim=True) / 2,
        "ReLU": lambda x, w: (x @ w.mT).relu() / len(w) ** 0.5,
    },
    "efficient-mixing-prefix-sums": {
        "both ways": lambda q, k, v: q @ (k.mT @ v) / (q @ k.mT).sum(-1, keepdim=True),
        "not divided": lambda q, k, v: (q @ k.mT).tril() @ v,
        "divided by all keys": lambda q, k, v: cumulative(q, k, v, whole=True),
        "a token too late": lambda q, k, v: cumulative(q, k, v, late=True),
        "the upper triangle": lambda q, k, v: (q @ k.mT).triu() @ v / (q @ k.mT).triu().sum(-1, keepdim=True),
        "a plain mean": lambda q, k, v: v.cumsum(1) / torch.arange(1, v.shape[1] + 1)[:, None],
    },
    "efficient-mixing-fourier": {
        "half a turn": lambda n: outer(n, math.pi),
        "sines": lambda n: torch.sin(2 * math.pi / n * torch.outer(torch.arange(n), torch.arange(n))),
        "a sign": lambda n: table(n, -1.0),
        "divided by the root": lambda n: outer(n) / n**0.5,
        "the identity": lambda n: torch.eye(n),
        "counted from one": lambda n: torch.cos(
            2 * math.pi / n * torch.outer(torch.arange(1, n + 1), torch.arange(1, n + 1))
        ),
        "complex": lambda n: torch.fft.fft(torch.eye(n)),
    },
}
