"""Heads of detectors, and how they start."""

import math

from torch import nn


def two_layers(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))


def box_head(dim: int) -> nn.Sequential:
    """Three layers to the four numbers of a box, before the sigmoid."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))


def start_at_reference(locate: nn.Sequential) -> nn.Sequential:
    """At first every box is where its query points."""
    for parameter in locate[-1].parameters():
        nn.init.zeros_(parameter)
    return locate


def rare_class_prior(classify: nn.Linear) -> nn.Linear:
    """At first each class of each query has probability 0.01, or the many noes would drown the loss (Lin et al. 2017,
    sec. 3.3)."""
    nn.init.constant_(classify.bias, -math.log(99))
    return classify
