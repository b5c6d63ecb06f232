"""The softmax weights, written out."""

import torch
from torch import Tensor


def attention_weights(
    q: Tensor, k: Tensor, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """The (B, H, N, M) weights of attention: what fast paths compute tile by tile and never store.

    Args:
        q: (B, H, N, D).  k: (B, G, M, D), H a multiple of G.
        mask: bool (True: may attend) or float (added to the scores), broadcastable to (B, H, N, M).
        causal: query n sees keys 0 .. n, as in torch; needs as many keys as queries.
        scale: factor on q @ k^T; 1 / sqrt(D) by default.

    Returns:
        Rows that sum to one, or to zero for a query that may attend to no key.
    """
    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) @ k.to(wide).mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        below = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~below, float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    nothing = scores.isneginf().all(-1, keepdim=True)  # filled before the softmax, or its gradient is NaN
    return scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0).to(q.dtype)
