"""Losses that more than one chapter trains with."""

from torch import Tensor


def label_smoothed_cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.1, ignore: int = 0) -> Tensor:
    """Cross-entropy against the true token with weight 1 - smoothing and all V tokens with smoothing / V each.

    Szegedy et al. (2016, sec. 7), used by Vaswani et al. (2017, sec. 5.4). Logits (..., V), target (...) of ids.
    Returns the mean over the targets that are not `ignore` (padding): a scalar, NaN when there is none.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing} must lie in [0, 1)")
    log_probabilities = logits.log_softmax(-1)
    true = log_probabilities.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    smoothed = (1 - smoothing) * true + smoothing * log_probabilities.mean(-1)
    kept = target != ignore
    return -(smoothed * kept).sum() / kept.sum()
