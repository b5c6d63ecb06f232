"""Losses that more than one chapter trains with."""

import torch.nn.functional as F
from torch import Tensor


def label_smoothed_cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.1, ignore: int = 0) -> Tensor:
    """Cross-entropy against the true token with weight 1 - smoothing and all V tokens with smoothing / V each.

    Szegedy et al. (2016, sec. 7), used by Vaswani et al. (2017, sec. 5.4). Logits (..., V), target (...) of ids.
    Returns the mean over the targets that are not `ignore` (padding): a scalar, NaN when there is none.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing} must lie in [0, 1)")
    flat = logits.flatten(0, -2)
    return F.cross_entropy(flat, target.flatten(), ignore_index=ignore, label_smoothing=smoothing)
