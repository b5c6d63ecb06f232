"""Scores and softmax weights, written out: what fast paths compute tile by tile and never store."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def attention_weights(
    q: Tensor, k: Tensor, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """The (B, H, N, M) weights of attention.

    Args:
        q: (B, H, N, D).  k: (B, G, M, D), H a multiple of G.
        mask: bool (True: may attend) or float (added to the scores), broadcastable to (B, H, N, M).
        causal: query n sees keys 0 .. n + M - N, as `attention` has it.
        scale: factor on q @ k^T; 1 / sqrt(D) by default.

    Returns:
        Rows that sum to one, or to zero for a query that may attend to no key.
    """
    if causal:
        n, m = q.shape[-2], k.shape[-2]
        below = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
        if mask is None or mask.dtype == torch.bool:
            mask = below if mask is None else mask & below
        else:
            mask = mask.masked_fill(~below, float("-inf"))
    boolean = mask is not None and mask.dtype == torch.bool
    scores = attention_scores(q, k, None if boolean else mask, mask if boolean else None, scale, None)
    return softmax(scores).to(q.dtype)


def attention_scores(
    q: Tensor, k: Tensor, bias: Tensor | None, mask: Tensor | None, scale: float | None, softcap: float | None
) -> Tensor:
    """(B, H, N, M) logits in at least float32: softcap * tanh(scale * q k^T / softcap) + bias, -inf where masked.

    Under autocast too, which would otherwise round the product.
    """
    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    wide = torch.promote_types(q.dtype, torch.float32)
    with exact(q):
        scores = (q.to(wide) @ k.to(wide).mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if bias is not None:
        scores = scores + bias
    return scores if mask is None else scores.masked_fill(~mask, float("-inf"))


def exact(x: Tensor) -> AbstractContextManager[object]:
    """Autocast off on the device of x, so that products have the precision of what they multiply."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis; zeros where all of it is -inf."""
    nothing = scores.isneginf().all(-1, keepdim=True)  # filled before the softmax, or its gradient is NaN
    return scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)


def log_sum_exp(scores: Tensor) -> Tensor:
    """Over the last axis; -inf where all of it is -inf, with a gradient of zero."""
    nothing = scores.isneginf().all(-1)
    return scores.masked_fill(nothing[..., None], 0.0).logsumexp(-1).masked_fill(nothing, float("-inf"))
