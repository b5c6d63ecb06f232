"""Training: one loop, the schedules and the loss of the Transformer paper, averages of weights."""

from ..objectives.smoothing import label_smoothed_cross_entropy
from .averaging import average_checkpoints
from .checkpoints import CheckpointError
from .history import History
from .loop import fit
from .schedules import constant, cosine, noam, parse

__all__ = [
    "CheckpointError",
    "History",
    "average_checkpoints",
    "constant",
    "cosine",
    "fit",
    "label_smoothed_cross_entropy",
    "noam",
    "parse",
]
