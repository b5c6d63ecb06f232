"""The oracle: attention written from its definition, one query at a time, in float64. Slow on purpose."""

from typing import Literal, overload

import torch
from torch import Tensor


@overload
def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, mask: Tensor | None = None, causal: bool = False,
    scale: float | None = None, key_mask: Tensor | None = None, window: int | None = None,
    softcap: float | None = None, return_lse: Literal[False] = False,
) -> Tensor: ...  # fmt: skip
@overload
def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, mask: Tensor | None = None, causal: bool = False,
    scale: float | None = None, key_mask: Tensor | None = None, window: int | None = None,
    softcap: float | None = None, return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Same arguments and meaning as `attention`; shares no code with it. Returns float64, differentiable.

    For tests: each query is summed over an explicit list of the keys that it may see.
    """
    q, k, v = q.double(), k.double(), v.double()
    (batch, heads, n, width), (groups, m) = q.shape, k.shape[1:3]
    scale = width**-0.5 if scale is None else scale
    bias = None if bias is None else bias.double().expand(batch, heads, n, m)
    mask = None if mask is None else mask.expand(batch, heads, n, m)
    rows, sums = [], []
    for b in range(batch):
        for h in range(heads):
            keys, values = k[b, h * groups // heads], v[b, h * groups // heads]
            for i in range(n):
                place = i + m - n  # of the query among the keys: the last stands beside the last
                seen = [
                    j
                    for j in range(m)
                    if (mask is None or mask[b, h, i, j])
                    and (key_mask is None or key_mask[b, j])
                    and (not causal or j <= place)
                    and (window is None or abs(j - place) < window)
                ]
                if not seen:
                    rows.append(0.0 * values.nan_to_num().sum(0))  # zeros that stay in the graph
                    sums.append(q.new_tensor(float("-inf")))
                    continue
                scores = torch.stack([scale * torch.dot(q[b, h, i], keys[j]) for j in seen])
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if bias is not None:
                    scores = scores + bias[b, h, i, seen]
                weights = (scores - scores.max()).exp()
                rows.append((weights[:, None] * values[seen]).sum(0) / weights.sum())
                sums.append(scores.max() + weights.sum().log())
    out = torch.stack(rows).view(batch, heads, n, v.shape[-1])
    return (out, torch.stack(sums).view(batch, heads, n)) if return_lse else out
