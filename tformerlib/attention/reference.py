"""The oracle: attention written from its definition, one query at a time, in float64. Slow on purpose."""

import torch
from torch import Tensor


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Same arguments and meaning as `attention`; shares no code with it. Returns float64, differentiable.

    For tests: each query is summed over an explicit list of the keys that it may see.
    """
    q, k, v = q.double(), k.double(), v.double()
    (batch, heads, n, width), (groups, m) = q.shape, k.shape[1:3]
    scale = width**-0.5 if scale is None else scale
    bias = None if bias is None else bias.double().expand(batch, heads, n, m)
    mask = None if mask is None else mask.expand(batch, heads, n, m)
    rows = []
    for b in range(batch):
        for h in range(heads):
            keys, values = k[b, h * groups // heads], v[b, h * groups // heads]
            for i in range(n):
                seen = [
                    j for j in range(m) if (mask is None or mask[b, h, i, j]) and (not causal or j <= i + m - n)
                ]
                if not seen:
                    rows.append(0.0 * values.sum(0))  # zeros that stay in the graph
                    continue
                scores = torch.stack([scale * torch.dot(q[b, h, i], keys[j]) for j in seen])
                if bias is not None:
                    scores = scores + bias[b, h, i, seen]
                weights = (scores - scores.max()).exp()
                rows.append((weights[:, None] * values[seen]).sum(0) / weights.sum())
    return torch.stack(rows).view(batch, heads, n, v.shape[-1])
