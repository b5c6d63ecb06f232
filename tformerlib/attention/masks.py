"""What a query may see, as one boolean mask: for paths that know no other kind."""

import torch
from torch import Tensor


def merge_masks(
    q: Tensor, k: Tensor, mask: Tensor | None, key_mask: Tensor | None, causal: bool, window: int | None
) -> Tensor | None:
    """bool, broadcastable to (B, H, N, M), of attention's arguments of these names; None if nothing is masked."""
    if key_mask is not None:
        mask = key_mask[:, None, None] if mask is None else mask & key_mask[:, None, None]
    if not causal and window is None:
        return mask
    n, m = q.shape[-2], k.shape[-2]
    ahead = torch.arange(m, device=q.device) - torch.arange(m - n, m, device=q.device)[:, None]  # of a query's place
    seen = ahead <= 0 if window is None else ahead.abs() < window
    if causal and window is not None:
        seen = seen & (ahead <= 0)
    return seen if mask is None else mask & seen
