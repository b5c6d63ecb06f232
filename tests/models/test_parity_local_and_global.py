"""EfficientFormer equals timm's; Focal and HRFormer the official code, by recorded numbers."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import tformerlib as tf
from tformerlib.peers.parity import assert_parity, assert_same

NARROW: dict[str, Any] = {"dims": (16, 24, 40, 48), "depths": (2, 1, 2, 3), "classes": 7}


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


# EfficientFormer


@pytest.mark.parametrize("number", [1, 2, 3])
def test_efficientformer_equals_timm_with_any_number_of_global_blocks(number):
    """timm has none with less than one or with more than the last stage holds."""
    theirs = timm.models.efficientformer.EfficientFormer(
        depths=NARROW["depths"], embed_dims=NARROW["dims"], num_classes=7, num_vit=number
    )
    ours = tf.create_model("efficientformer_l1", global_blocks=number, **NARROW)
    assert_parity(ours, theirs, "timm", images(224))


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformer_l3"])
def test_efficientformer_equals_timm(name):
    """In float64, as sums over 56 x 56 places round. Of a single image timm's norms get wrong gradients from torch."""
    theirs = timm.create_model(name)
    assert_parity(tf.create_model(name), theirs, "timm", images(224), double=True)
    maps = theirs.forward_intermediates(images(224).double(), intermediates_only=True)
    ours = tf.load_published(tf.create_model(name).double(), theirs.state_dict(), source="timm").eval()
    for s, (a, b) in enumerate(zip(ours.features(images(224).double()), maps, strict=True)):
        assert_same(a, b.movedim(1, -1), f"map of stage {s + 1}")


def test_both_heads_of_efficientformer_are_timms():
    theirs = timm.create_model("efficientformer_l1").eval()
    torch.nn.init.normal_(theirs.head_dist.weight)
    ours = tf.load_published(tf.create_model("efficientformer_l1"), theirs.state_dict(), source="timm").train()
    theirs.set_distilled_training(True)
    for a, b in zip(ours(images(224)), theirs.train()(images(224)), strict=True):
        assert_same(a, b)
