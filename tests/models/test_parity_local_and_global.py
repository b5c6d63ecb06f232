"""EfficientFormer equals timm's; Focal and HRFormer the official code, by recorded numbers."""

import json
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import tformerlib as tf
from tests.models.golden.local_and_global import FILE
from tformerlib.peers.golden import assert_equal, rebuilt, uniform
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


# Focal and HRFormer: official code, by recorded numbers


CASES = {name: case for each in json.loads(FILE.read_text("utf-8")).values() for name, case in each["cases"].items()}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_official_code(name):
    assert_equal(CASES[name])


def off(case: dict[str, Any], model: Any) -> float:
    """How far the logits of a changed model are from the recorded ones."""
    images = 2 * uniform("images", (3, 3, case["side"], case["side"]))
    with torch.no_grad():
        return (model(images) - torch.tensor(case["logits"], dtype=torch.float64)).abs().max().item()


def test_a_wrong_focal_model_is_noticed():
    """No way around the border, pooled keys of another order, a pooled token that every query sees."""
    case = CASES["focal"]
    assert off(case, rebuilt(case)) < 1e-8
    assert off(case, rebuilt(case | {"size": case["size"] | {"wrap": False}})) > 1e-3
    model: Any = rebuilt(case)
    attend = model.stages[0][0].mixer.fn
    attend.far = attend.far.flip(0)
    assert off(case, model) > 1e-3
    model = rebuilt(case)
    attend = model.stages[0][0].mixer.fn
    keys = attend.keys
    attend.keys = lambda h, w: (*keys(h, w)[:2], torch.ones_like(keys(h, w)[2]))
    assert off(case, model) > 1e-3


def test_a_wrong_hrformer_is_noticed():
    """Windows padded at one side, an activation too many on the way up, none at the end of the network."""
    for change in ("padding", "relu", "gelu"):
        case = CASES["hrformer"]
        model: Any = rebuilt(case)
        if change == "padding":
            for module in model.modules():
                if type(module).__name__ == "CenteredWindows":
                    module.forward = super(type(module), module).forward
        elif change == "relu":
            model.stages[0][0].fuse[0][1][0].append(nn.ReLU())
        else:
            model.stages[2][0].branches[3][0].mlp.fn[8] = nn.Identity()
        assert off(case, model) > 1e-4, change
