"""PVT v2: equal to timm's with the same weights, its sizes beside the paper's, and what its two kinds of keys cost."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import tformerlib as tf
from tformerlib.measures import macs, parameter_count
from tformerlib.models.pvt_v2 import PVTv2
from tformerlib.peers.parity import assert_parity, assert_same

OURS: dict[str, Any] = {"dims": (16, 32, 40, 64), "depths": (1, 1, 2, 1), "classes": 7}
TIMMS: dict[str, Any] = {"embed_dims": (16, 32, 40, 64), "depths": (1, 1, 2, 1), "num_classes": 7}


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_equals_timm_at_a_published_size():
    assert_parity(tf.create_model("pvt_v2_b0"), timm.create_model("pvt_v2_b0"), "timm", images(224, 224, 1))


@pytest.mark.slow
def test_the_linear_kind_equals_timm_at_its_published_size():
    """In float64: it has ReLUs, and where an input is nearly 0 rounding decides what passes. Takes minutes."""
    ours, theirs = (make("pvt_v2_b2_li") for make in (tf.create_model, timm.create_model))
    assert_parity(ours, theirs, "timm", images(224, 224, 1), double=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pvt_v2_b1", "pvt_v2_b2", "pvt_v2_b3", "pvt_v2_b4", "pvt_v2_b5"])
def test_equals_timm_at_the_other_published_sizes(name: str):
    assert_parity(tf.create_model(name), timm.create_model(name), "timm", images(224, 224, 1), gradients=False)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("size", [(96, 96), (128, 64)])
def test_equals_timm_at_other_sizes(linear: bool, size: tuple[int, int]):
    theirs: Any = timm.create_model("pvt_v2_b1", linear=linear, num_heads=(1, 2, 5, 8), **TIMMS)
    ours = PVTv2(linear=linear, drop_path=0.0, **OURS)
    assert_parity(ours, theirs, "timm", images(*size), double=linear)
    maps = theirs.double().forward_intermediates(images(*size).double())[1]
    for s, (a, b) in enumerate(zip(ours.double().features(images(*size).double()), maps, strict=True)):
        assert_same(a, b.movedim(1, -1), f"map of stage {s + 1}")


@pytest.mark.parametrize(
    "name, parameters, giga",  # as the official repository prints them; second-hand
    [
        ("pvt_v2_b0", 3.7, 0.6), ("pvt_v2_b1", 14.0, 2.1), ("pvt_v2_b2", 25.4, 4.0), ("pvt_v2_b2_li", 22.6, 3.9),
        ("pvt_v2_b3", 45.2, 6.9), ("pvt_v2_b4", 62.6, 10.1), ("pvt_v2_b5", 82.0, 11.8),
    ],
)  # fmt: skip
def test_parameters_and_multiply_adds(name: str, parameters: float, giga: float):
    """Within 1 %, or within the rounding of what is printed."""
    with torch.device("meta"):
        model = tf.create_model(name)
    assert abs(parameter_count(model) / 1e6 - parameters) < 0.05
    assert abs(macs(model, (3, 224, 224)) / 1e9 - giga) < max(0.01 * giga, 0.05)


def test_pooled_keys_make_attention_linear_in_the_pixels_and_reduced_ones_do_not():
    """Multiply-adds of attention's two products alone, from 224 to 448 pixels: 4 times, 16 times."""

    def products(name: str, side: int) -> int:
        with torch.device("meta"):
            model = tf.create_model(name).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, side, side, device="meta"))
        counts = counter.get_flop_counts()["Global"]
        return sum(n for op, n in counts.items() if "bmm" in str(op) or "attention" in str(op)) // 2

    pooled, reduced = ([products(name, side) for side in (224, 448)] for name in ("pvt_v2_b2_li", "pvt_v2_b2"))
    assert abs(pooled[1] / pooled[0] - 4) < 0.01 and abs(reduced[1] / reduced[0] - 16) < 0.1


def test_borders_stand_in_for_positions():
    """A uniform image gives different tokens: the zeros around it tell border from middle."""
    torch.manual_seed(0)
    model = PVTv2(**OURS).eval()
    first = model.features(torch.ones(1, 3, 128, 128))[0][0]
    assert (first[0, 0] - first[16, 16]).abs().max() > 1e-3
    assert torch.allclose(first[16, 16], first[16, 17], atol=1e-5)


def test_every_parameter_gets_a_gradient():
    for linear in (False, True):
        model = PVTv2(linear=linear, **OURS)
        model(images(64, 64)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(ValueError, match="differ in length"):
        PVTv2(dims=(16, 32))
    with pytest.raises(ValueError, match=r"patch=8 does not divide the image \(25, 25\)"):
        PVTv2(**OURS)(images(100, 100))
    with pytest.raises(ValueError, match="heads=5"):
        PVTv2(**OURS | {"dims": (16, 32, 42, 64)})
