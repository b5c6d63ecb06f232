"""Focal, HRFormer and EfficientFormer: sizes beside the papers', who sees whom, and what they refuse."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.layers.blocks import DropPath
from tformerlib.measures import macs, parameter_count
from tformerlib.models.efficientformer import OffsetAttention, Pool, absolute_offsets
from tformerlib.models.focal import FocalAttention, ring
from tformerlib.models.hrformer import CenteredWindows, ConvMLP
from tformerlib.peers.parity import widen

SMALL: dict[str, dict[str, Any]] = {
    "focal_tiny": {"image": 64, "dim": 8, "depths": (1, 1), "heads": (1, 2), "regions": (3, 3), "window": 4,
                   "expand": 2},
    "hrformer_tiny": {"dim": 4, "modules": (1, 1), "blocks": 1, "bottlenecks": 1, "window": 4},
    "efficientformer_l1": {"image": 64, "dims": (8, 8, 16, 16), "depths": (1, 1, 1, 2)},
}  # fmt: skip
each = pytest.mark.parametrize("name", SMALL)


def make(name: str, **overrides: Any) -> Any:
    return tf.create_model(name, **SMALL[name] | {"classes": 5} | overrides)


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def reached(layer: nn.Module, size: tuple[int, ...], y: int, x: int) -> Tensor:
    """Bool (H, W): which tokens of a random map have an influence on what stands at (y, x)."""
    maps = torch.randn(size, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer.double()(maps)[0, y, x].sum(), maps)
    return gradient[0].abs().sum(-1) > 0


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, millions, giga",  # as repositories print them, but HRFormer's multiply-adds, which count norms there
    [
        ("focal_tiny", 28.9, 4.95),
        ("focal_small", 51.1, 9.47),
        ("focal_base", 89.8, 16.41),
        ("hrformer_tiny", 8.04, 1.71),
        ("hrformer_small", 13.54, 3.36),
        ("hrformer_base", 50.32, 13.31),
        ("efficientformer_l1", 12.3, 1.3),
        ("efficientformer_l3", 31.4, 3.9),
        ("efficientformer_l7", 82.1, 10.2),
    ],
)
def test_parameters_and_multiply_adds(name: str, millions: float, giga: float):
    with torch.device("meta"):
        model = tf.create_model(name)
    assert abs(parameter_count(model) / 1e6 / millions - 1) < 0.003
    assert abs(macs(model, (3, 224, 224)) / 1e9 / giga - 1) < 0.01


# --- what all have ----------------------------------------------------------------------------------------------------


@each
def test_a_pyramid_whose_maps_halve(name: str):
    sides = [x.shape[1] for x in make(name).eval().features(images(64))]
    assert sides == [16, 8, 4, 2][: len(sides)] and len(sides) >= 2


@each
def test_a_model_learns_four_images_by_heart(name: str):
    torch.manual_seed(0)
    model, x, labels = make(name, drop_path=0.0).train(), images(64, 4), torch.arange(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        out = model(x)
        heads = out if isinstance(out, tuple) else (out,)
        loss = torch.stack([nn.functional.cross_entropy(head, labels) for head in heads]).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@each
def test_one_image_alone_gets_the_same_answer_as_in_a_batch(name: str):
    model = make(name).eval()
    widen(model)
    x = images(64)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), atol=1e-4, rtol=1e-4)


@each
def test_drop_path_rises_to_what_was_asked_and_skips_in_training_alone(name: str):
    torch.manual_seed(0)
    model = make(name, drop_path=0.5)
    rates = [module.p for module in model.modules() if isinstance(module, DropPath)]
    assert rates[0] == 0 and max(rates) == 0.5
    widen(model)
    assert torch.equal(model.eval()(images(64)), model(images(64)))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(False)
    runs = []
    for _ in range(6):
        model.training = False  # the heads' mean, with blocks in training
        for block in model.modules():
            if isinstance(block, DropPath):
                block.training = True
        runs.append(model(images(64)))
    assert any(not torch.equal(runs[0], other) for other in runs[1:])


def test_what_does_not_fit_is_refused_by_name():
    for build, words in (
        (lambda: make("focal_tiny", regions=(2, 3)), "region=2"),
        (lambda: make("focal_tiny", expand=4), "expand=4"),
        (lambda: make("focal_tiny", heads=(1, 2, 3)), r"heads=\(1, 2, 3\)"),
        (lambda: make("focal_tiny")(images(72)), r"window=4 does not divide the map \(18, 18\)"),
        (lambda: make("hrformer_tiny", heads=3), "heads=3"),
        (lambda: make("efficientformer_l1", global_blocks=6), "global_blocks=6"),
        (lambda: make("efficientformer_l1", image=72), "image=72"),
        (lambda: make("efficientformer_l1").eval()(images(96)), r"\(3, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            build()


# --- Focal ------------------------------------------------------------------------------------------------------------


def test_the_ring_has_132_keys_for_120_places():
    keys = ring(7, 3)
    assert len(keys) == 132 and len(keys.unique(dim=0)) == 120
    assert len(ring(7, 0)) == 0
    inside = ((keys >= 0) & (keys < 7)).all(-1)
    assert not inside.any() and keys.min() == -3 and keys.max() == 9


@pytest.mark.parametrize("wrap", [True, False])
def test_focal_attention_reaches_what_coordinates_say(wrap: bool):
    """Own window, ring and pooled windows: with region 3 of windows of 3, all that is at most one window away."""
    layer = FocalAttention(4, 1, 3, expand=1, region=3, wrap=wrap)
    for p in layer.parameters():
        nn.init.normal_(p)
    seen = reached(layer, (1, 15, 15, 4), 7, 6)  # in the middle window
    expected = torch.zeros(15, 15, dtype=torch.bool)
    expected[3:12, 3:12] = True
    assert torch.equal(seen, expected)
    corner = reached(layer, (1, 15, 15, 4), 0, 0)
    near = torch.zeros(15, 15, dtype=torch.bool)
    near[:6, :6] = True
    assert torch.equal(corner & near, near) and bool(corner[14, 14]) == wrap
    assert wrap or torch.equal(corner, near)


def test_focal_attention_is_plain_attention_over_the_keys_it_says():
    """One window of the middle, written out: a softmax over 9 + 16 fine and 9 pooled keys with their biases."""
    torch.manual_seed(0)
    layer = FocalAttention(6, 2, 3, expand=1, region=3).double()
    for p in layer.parameters():
        nn.init.normal_(p)
    x = torch.randn(1, 9, 9, 6, dtype=torch.float64)
    at = [(3 + y, 3 + x) for y in range(3) for x in range(3)]
    around = [(3 + y, 3 + x) for y, x in ring(3, 1).tolist()]
    pooled = [
        (x[0, y : y + 3, c : c + 3].reshape(9, 6) * layer.pool.weight.view(9, 1)).sum(0) + layer.pool.bias
        for y in (0, 3, 6) for c in (0, 3, 6)
    ]  # fmt: skip
    memory = torch.stack([x[0, y, c] for y, c in (*at, *around)] + pooled)
    q, k, v = (project(t).view(-1, 2, 3).transpose(0, 1) for project, t in
               ((layer.attn.q, memory[:9]), (layer.attn.k, memory), (layer.attn.v, memory)))  # fmt: skip
    far = torch.stack([
        torch.stack([layer.pooled_bias[:, (y - r + 2) * 5 + c - s + 2] for r in range(3) for s in range(3)], -1)
        for y in range(3) for c in range(3)
    ], 1)  # fmt: skip
    assert layer.ring_bias is not None
    scores = q @ k.mT / 3**0.5 + torch.cat([layer.bias(), layer.ring_bias, far], -1)
    expected = layer.attn.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(layer(x)[0, 3:6, 3:6].reshape(9, 6), expected)


def test_where_one_window_covers_the_map_there_is_no_ring():
    model = make("focal_tiny", image=32, regions=(3, 1))
    first, second = (stage[0].mixer.fn for stage in model.stages)
    assert first.ring_bias is not None and second.ring_bias is None and second.window == 4


def test_pooling_starts_as_a_mean():
    layer = make("focal_tiny").stages[0][0].mixer.fn
    assert torch.equal(layer.pool.weight, torch.full((1, 16), 1 / 16)) and not layer.pool.bias.any()


# --- HRFormer ---------------------------------------------------------------------------------------------------------


def test_the_depthwise_convolution_carries_things_across_windows():
    """A block with it reaches the windows beside a token at a border; without, no token beyond its own."""
    for depthwise in (True, False):
        block = nn.Sequential(CenteredWindows(4, 1, 4), ConvMLP(4, 8, depthwise).eval())
        seen = reached(block, (1, 12, 12, 4), 4, 4)  # the upper left token of the middle window
        expected = torch.zeros(12, 12, dtype=torch.bool)
        start = 0 if depthwise else 4  # one step up or left is another window, which has been heard as a whole
        expected[start:8, start:8] = True
        assert torch.equal(seen, expected)


def test_windows_are_centered_on_maps_that_they_do_not_divide():
    seen = reached(CenteredWindows(4, 1, 4), (1, 6, 6, 4), 0, 0)
    assert seen.sum() == 9 and seen[:3, :3].all()  # one row and column of padding at each side


def test_every_map_is_made_of_all():
    model = make("hrformer_tiny", modules=(1, 1, 1)).eval()
    widen(model)
    x = images(64, 1).requires_grad_()
    maps = model.features(x)
    assert [m.shape[1:] for m in maps] == [(16, 16, 4), (8, 8, 8), (4, 4, 16), (2, 2, 32)]
    for m in maps:
        (gradient,) = torch.autograd.grad(m.sum(), model.stages[-1][0].branches[3][0].mixer.fn.qkv.weight,
                                          retain_graph=True)  # fmt: skip
        assert gradient.abs().sum() > 0


def test_images_of_odd_sizes_pass():
    model = make("hrformer_tiny", modules=(1, 1, 1)).eval()
    assert [tuple(m.shape[1:3]) for m in model.features(torch.randn(1, 3, 52, 76))] == [
        (13, 19),
        (7, 10),
        (4, 5),
        (2, 3),
    ]


# --- EfficientFormer --------------------------------------------------------------------------------------------------


def test_pooling_ignores_the_padding_and_forgets_a_constant():
    pool = Pool()
    assert not pool(torch.full((1, 2, 4, 5), 3.0)).any()  # counted padding would leave something at the border
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0, 0] = 12.0
    expected = torch.tensor([[3.0 - 12.0, 2.0, 0.0], [2.0, 12 / 9, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(pool(x)[0, 0], expected)


def test_offsets_know_no_direction():
    index = absolute_offsets(3)
    assert torch.equal(index, index.T) and index.unique().numel() == 9
    assert index[0].tolist() == list(range(9)) and index[4].tolist() == [4, 3, 4, 1, 0, 1, 4, 3, 4]


def test_global_blocks_reach_into_earlier_stages():
    model = make("efficientformer_l1", global_blocks=3)
    kinds = [isinstance(block.mixer.fn, OffsetAttention) for stage in model.stages for block in stage]
    assert kinds == [False, False, True, True, True]
    assert make("efficientformer_l1", global_blocks=0)(images(64))[0].shape == (2, 5)


def test_folding_the_norms_changes_nothing():
    """What a compiler does: a BatchNorm behind a convolution becomes part of it."""
    model = make("efficientformer_l1").eval()
    widen(model)
    x = images(64)
    expected = model(x)
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            for i, (a, b) in enumerate(zip(list(module), list(module)[1:], strict=False)):
                if isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d):
                    module[i], module[i + 1] = nn.utils.fuse_conv_bn_eval(a, b), nn.Identity()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
