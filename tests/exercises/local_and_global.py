"""Answers to the exercises of the chapter on attention near and far."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ring_by_distance(window: int, expand: int) -> set[tuple[int, int]]:
    def outside(n: int) -> int:
        return max(-n, n - window + 1, 0)

    span = range(-expand, window + expand)
    return {(y, x) for y in span for x in span if 0 < max(outside(y), outside(x)) <= expand}


def pool_by_convolution(x: Tensor) -> Tensor:
    ones = torch.ones(1, 1, 3, 3)
    total, count = (F.conv2d(t[None, None], ones, padding=1)[0, 0] for t in (x, torch.ones_like(x)))
    return total / count - x


def zero_padded(x: Tensor) -> Tensor:
    return F.avg_pool2d(x[None], 3, 1, 1)[0] - x


def with_bias(conv: nn.Conv2d) -> nn.Conv2d:
    one = copy.deepcopy(conv)
    if one.bias is None:
        one.bias = nn.Parameter(torch.zeros(one.out_channels))
    return one


def fold_by_probing(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    assert norm.running_var is not None and norm.running_mean is not None
    one = with_bias(conv)
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    start = 0 if conv.bias is None else conv.bias
    with torch.no_grad():
        one.weight.copy_(conv.weight * factor.view(-1, 1, 1, 1))
        assert one.bias is not None
        one.bias.copy_((start - norm.running_mean) * factor + norm.bias)
    return one


def fold_wrongly(conv: nn.Conv2d, norm: nn.BatchNorm2d, *, eps: float, mean: bool, scale_bias: bool) -> nn.Conv2d:
    assert norm.running_var is not None and norm.running_mean is not None
    one = with_bias(conv)
    factor = norm.weight / (norm.running_var + eps).sqrt()
    start = torch.zeros(len(factor)) if conv.bias is None else conv.bias
    shift = norm.running_mean if mean else 0
    with torch.no_grad():
        one.weight.copy_(conv.weight * factor.view(-1, 1, 1, 1))
        assert one.bias is not None
        one.bias.copy_((start - shift) * (factor if scale_bias else 1) + norm.bias)
    return one


def fold_in_place(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    right = fold_by_probing(conv, norm)
    conv.weight.data, conv.bias = right.weight.data, right.bias
    return conv


RIGHT = {"local-ring": [ring_by_distance], "local-pool": [pool_by_convolution], "local-fold": [fold_by_probing]}
WRONG = {
    "local-ring": {
        "a list": lambda w, e: sorted(ring_by_distance(w, e)),
        "with the window": lambda w, e: {(y, x) for y in range(-e, w + e) for x in range(-e, w + e)},
        "without corners": lambda w, e: {p for p in ring_by_distance(w, e) if 0 <= p[0] < w or 0 <= p[1] < w},
        "moved by one": lambda w, e: {(y + 1, x) for y, x in ring_by_distance(w, e)},
    },
    "local-pool": {
        "counts the padding": zero_padded,
        "keeps x": lambda x: pool_by_convolution(x) + x,
        "the other sign": lambda x: -pool_by_convolution(x),
        "wraps around": lambda x: sum(x.roll((i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9 - x,
        "repeats the border": lambda x: F.avg_pool2d(F.pad(x[None, None], (1, 1, 1, 1), "replicate"), 3, 1)[0, 0] - x,
    },
    "local-fold": {
        "no epsilon": lambda c, n: fold_wrongly(c, n, eps=0.0, mean=True, scale_bias=True),
        "no mean": lambda c, n: fold_wrongly(c, n, eps=n.eps, mean=False, scale_bias=True),
        "bias not scaled": lambda c, n: fold_wrongly(c, n, eps=n.eps, mean=True, scale_bias=False),
        "stride forgotten": lambda c, n: fold_wrongly(
            nn.Conv2d(3, 5, 3, 1, 1), copy.deepcopy(n), eps=n.eps, mean=True, scale_bias=True
        ),
        "changes what was given": fold_in_place,
        "both in a row": lambda c, n: nn.Sequential(c, n),
    },
}
