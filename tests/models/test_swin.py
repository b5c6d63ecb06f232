"""What PVT, Swin and Swin V2 promise: who sees whom, sizes beside the papers', pyramids, and refusals."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tformerlib as tf
from tests.models.test_parity_swin import neighbors
from tformerlib.attention import record_attention, window_attention
from tformerlib.attention.partition import region_mask
from tformerlib.layers.blocks import Block
from tformerlib.measures import macs, parameter_count
from tformerlib.models.pvt import PVT
from tformerlib.models.swin import Swin, WindowAttention, neighborhoods
from tformerlib.models.swin_v2 import ContinuousBias, CosineAttention, SwinV2

SMALL: dict[str, Any] = {"dim": 8, "depths": (1, 1, 2, 1), "heads": (1, 2, 2, 4), "classes": 5, "drop_path": 0.0}


def attention_layer(kind: str, window: int, shift: int, dim: int = 8) -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {"dim": dim, "heads": 2, "window": window, "shift": shift}
    layer: nn.Module = WindowAttention(**options) if kind == "v1" else CosineAttention(**options, pretrained=None)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    return layer


def written_out(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Window attention as plain attention over all tokens of a map, with a bias and a mask by coordinates."""
    b, h, w, c = x.shape
    heads, window = layer.heads, layer.window
    biases = layer.qkv.bias if layer.qkv.bias is not None else torch.cat([layer.q_bias, 0 * layer.q_bias, layer.v_bias])
    q, k, v = F.linear(x.flatten(1, 2), layer.qkv.weight, biases).view(b, h * w, 3, heads, -1).permute(2, 0, 3, 1, 4)
    if isinstance(layer, CosineAttention):
        scores = F.cosine_similarity(q[..., :, None, :], k[..., None, :, :], dim=-1, eps=1e-12)
        scores = scores * layer.log_scale.clamp(max=math.log(100)).exp()[:, None, None]
    else:
        scores = q @ k.mT / (c // heads) ** 0.5
    place = torch.cartesian_prod(torch.arange(h), torch.arange(w))
    inside = (place - layer.shift) % window  # where in its window a token stands
    inside = inside[:, 0] * window + inside[:, 1]
    scores = scores + layer.bias()[:, inside[:, None], inside]
    return layer.out((scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)).view(x.shape)


def same_cell(h: int, w: int, window: int, shift: int) -> Tensor:
    """bool (N, N): whether two tokens of a map stand in the same cell of the grid, from their coordinates alone."""
    place = torch.cartesian_prod(torch.arange(h), torch.arange(w))
    cell = (place - shift) // window
    return (cell[:, None] == cell).all(-1)


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize(
    "h, w, window, shift", [(8, 8, 4, 0), (8, 12, 4, 2), (9, 7, 4, 2), (5, 11, 4, 0), (3, 2, 4, 2), (7, 7, 3, 1)]
)
def test_attends_as_coordinates_say_on_maps_of_any_size(kind, h, w, window, shift):
    """Outputs and gradients of the padded, rolled and cut version, against one big softmax with an explicit mask."""
    layer = attention_layer(kind, window, shift).double()
    x = torch.randn(2, h, w, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for out in (layer(x), written_out(layer, x, same_cell(h, w, window, shift))):
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])])
    for ours, oracle in zip(*results, strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("h, w, shift", [(10, 9, 0), (10, 9, 2), (8, 8, 2)])
def test_every_token_reaches_its_window_and_nothing_else(kind, h, w, shift):
    layer, mask = attention_layer(kind, 4, shift), same_cell(h, w, 4, shift)
    x = torch.randn(1, h, w, 8, requires_grad=True)
    out = layer(x).flatten(1, 2)
    for i in (0, w - 1, w + 3, (h - 1) * w, h * w - 1, h * w // 2):  # corners and others
        (reached,) = torch.autograd.grad(out[0, i].sum(), x, retain_graph=True)
        assert torch.equal(reached[0].flatten(0, 1).abs().amax(-1) > 0, mask[i])


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("shift", [0, 2])
def test_padding_may_hold_anything(backend, shift):
    """Also what projections make of zeros, with a bias, and also huge values."""
    qkv, bias = torch.randn(1, 8, 8, 3, 2, 4), torch.randn(2, 16, 16, requires_grad=True)
    size = (6, 7)
    outs = []
    for filling in (0.0, 1.0, 1e4):
        padded = torch.full_like(qkv, filling)
        padded[:, :6, :7] = qkv[:, :6, :7]
        out = window_attention(padded, bias, window=4, shift=shift, size=size, backend=backend)
        outs.append(out[:, :6, :7])
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_the_test_of_padding_can_fail():
    """Without a size, as in the official code, padding is attended to, and what it holds matters."""
    qkv, bias = torch.randn(1, 8, 8, 3, 2, 4), torch.zeros(2, 16, 16)
    other = qkv.clone()
    other[:, 6:] = 1.0
    a, b = (window_attention(x, bias, window=4)[:, :6] for x in (qkv, other))
    assert (a - b).abs().max() > 0.1


@pytest.mark.parametrize(
    "h, w, window, shift", [(8, 8, 4, 2), (9, 7, 4, 2), (5, 11, 4, 0), (3, 2, 4, 2), (14, 7, 7, 3)]
)
def test_the_region_mask_is_that_of_coordinates(h, w, window, shift):
    ph, pw = h + -h % window, w + -w % window
    mask = region_mask(window, shift, ph, pw, torch.device("cpu"), (h, w))
    real = region_mask(window, shift, ph, pw, torch.device("cpu"), (h, w)) & True
    expected = neighbors(h, w, window, shift)
    padding = ~expected.diagonal(dim1=1, dim2=2)  # the oracle's padding sees itself alone; ours, all padding
    assert not padding.any() and torch.equal((mask & real).diagonal(dim1=1, dim2=2), expected.diagonal(dim1=1, dim2=2))
    y, x = torch.meshgrid(torch.arange(ph), torch.arange(pw), indexing="ij")
    inside = ((y < h) & (x < w)).roll((-shift, -shift), (0, 1)).unfold(0, window, window).unfold(1, window, window)
    inside = inside.flatten(2).flatten(0, 1)
    assert torch.equal(mask[inside], expected[inside])


@pytest.mark.parametrize("shift, size", [(0, (8, 8)), (2, (8, 8)), (2, (7, 5))])
def test_written_out_it_equals_torchs(shift, size):
    """The path of a trained bias on a CPU against that of scaled_dot_product_attention, gradients included."""
    qkv = torch.randn(2, 8, 8, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 16, 16, dtype=torch.float64, requires_grad=True)
    results, weights = [], []
    for backend in ("auto", "torch"):
        with record_attention() as calls:
            out = window_attention(qkv, bias, window=4, shift=shift, size=size, backend=backend)[
                :, : size[0], : size[1]
            ]
        results.append([out, *torch.autograd.grad(out.square().sum(), (qkv, bias))])
        weights += calls
    for a, b in (*zip(*results, strict=True), weights):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["swin_tiny", "swinv2_tiny_window8"])
def test_images_of_any_size_pass_and_the_border_is_not_seen_across(name):
    """The left part of an image does not know, after one stage, what stands at the opposite border."""
    torch.manual_seed(0)
    model = tf.create_model(name, image=64, window=4, patch=2, **SMALL).eval()
    image = torch.randn(1, 3, 52, 44)
    other = image.clone()
    other[..., -6:] = 0.0
    a, b = (model.features(x) for x in (image, other))
    assert [m.shape[1:3] for m in a] == [(26, 22), (13, 11), (7, 6), (4, 3)]
    assert torch.equal(a[0][:, :, :14], b[0][:, :, :14]) and not torch.equal(a[0], b[0])


def test_pyramids():
    for name, widths in (("swin_tiny", (96, 192, 384, 768)), ("pvt_tiny", (64, 128, 320, 512))):
        model = tf.create_model(name, image=64, window=4) if "swin" in name else tf.create_model(name, image=64)
        maps = model.features(torch.randn(1, 3, 64, 64))
        assert [tuple(m.shape[1:]) for m in maps] == [(16 // 2**s, 16 // 2**s, width) for s, width in enumerate(widths)]


def test_merging_takes_neighborhoods_in_the_papers_order():
    x = torch.arange(16.0).view(1, 4, 4, 1)
    assert neighborhoods(x)[0, 0, 0].tolist() == [0, 4, 1, 5]  # down before right
    assert neighborhoods(x[:, :3, :3])[0, 1, 1].tolist() == [10, 0, 0, 0]  # an odd side gets zeros


def test_windows_shrink_with_the_map_and_then_nothing_is_shifted():
    model = Swin(image=64, window=6, **SMALL | {"depths": (2, 2, 2, 2)})
    blocks = [[block.mixer.fn for block in stage] for stage in model.stages]
    assert [[(a.window, a.shift) for a in stage] for stage in blocks] == [
        [(6, 0), (6, 3)], [(6, 0), (6, 3)], [(4, 0), (4, 0)], [(2, 0), (2, 0)],
    ]  # fmt: skip
    assert all(block.mixer.fn.shift == 0 for stage in Swin(shifted=False).stages for block in stage)


@pytest.mark.parametrize(
    "name, side, parameters, giga",  # Liu et al. 2021, table 1, Wang et al. 2021, table 1, and V2's repository
    [
        ("swin_tiny", 224, 28, 4.5), ("swin_small", 224, 50, 8.7), ("swin_base", 224, 88, 15.4),
        ("swin_base_384", 384, 88, 47.0), ("swin_large", 224, 197, 34.5), ("swin_large_384", 384, 197, 103.9),
        ("swinv2_tiny_window8", 256, 28, 5.9), ("swinv2_tiny_window16", 256, 28, 6.6),
        ("swinv2_small_window8", 256, 50, 11.5), ("swinv2_small_window16", 256, 50, 12.6),
        ("swinv2_base_window8", 256, 88, 20.3), ("swinv2_base_window16", 256, 88, 21.8),
        ("swinv2_base_window12to16", 256, 88, 21.8), ("swinv2_base_window12to24", 384, 88, 54.7),
        ("swinv2_large_window12to16", 256, 197, 47.5), ("swinv2_large_window12to24", 384, 197, 115.4),
        ("pvt_tiny", 224, 13.2, 1.9), ("pvt_small", 224, 24.5, 3.8), ("pvt_medium", 224, 44.2, 6.7),
        ("pvt_large", 224, 61.4, 9.8),
    ],
)  # fmt: skip
def test_parameters_and_multiply_adds_beside_the_papers(name, side, parameters, giga):
    """Within 1 %, or within the rounding of what is printed. V2's authors do not count the network of the bias."""
    with torch.device("meta"):
        model = tf.create_model(name)
    count, cost = parameter_count(model) / 1e6, macs(model, (3, side, side)) / 1e9
    for bias in (m for m in model.modules() if isinstance(m, ContinuousBias)):
        cost -= len(bias.offsets) * 512 * (2 + bias.mlp[2].out_features) / 1e9
    half = 0.5 if parameters == int(parameters) else 0.05
    assert abs(count - parameters) < max(0.01 * parameters, half)
    assert abs(cost - giga) < max(0.01 * giga, 0.05)


def test_cost_is_linear_in_pixels_for_windows_and_quadratic_for_a_reduced_memory():
    """Multiply-adds of attention's two products alone, from 224 to 448 pixels: 4 times, 16 times."""

    def products(name: str, side: int) -> int:
        with torch.device("meta"):
            model = tf.create_model(name, image=side).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, side, side, device="meta"))
        counts = counter.get_flop_counts()["Global"]
        return sum(n for op, n in counts.items() if "bmm" in str(op) or "attention" in str(op)) // 2

    swin, reduced = ([products(name, side) for side in (224, 448)] for name in ("swin_tiny", "pvt_small"))
    assert abs(swin[1] / swin[0] - 4) < 0.01 and abs(reduced[1] / reduced[0] - 16) < 0.1


# Published weights


def test_bias_tables_are_resized_on_load():
    small, large = Swin(image=32, window=4, **SMALL), Swin(image=64, window=8, **SMALL)
    import timm

    def published(image: int, window: int) -> nn.Module:
        return timm.models.swin_transformer.SwinTransformer(
            img_size=image, window_size=window, embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), num_classes=5
        )

    theirs = published(32, 4)
    state = theirs.state_dict()
    state = {k: torch.full_like(x, 0.7) if "table" in k else x for k, x in state.items()}
    tf.load_published(small, dict(state), source="timm")
    tf.load_published(large, dict(state), source="timm")
    tables = [[p for name, p in m.named_parameters() if name.endswith("table")] for m in (small, large)]
    for a, b in zip(*tables, strict=True):
        assert len(b) > len(a) or len(a) == 1
        torch.testing.assert_close(b, torch.full_like(b, 0.7))  # what does not depend on the offset still does not
    key = "layers.0.blocks.0.attn.relative_position_bias_table"
    ramp = torch.linspace(-1, 1, 7)[:, None].expand(7, 7).reshape(49, 1)  # grows with dy
    loaded = tf.load_published(large, state | {key: ramp}, source="timm")
    table = loaded.stages[0][0].mixer.fn.bias.table.detach().view(15, 15)
    assert (table[1:, 7] > table[:-1, 7]).all() and abs(table[7, 7]) < 1e-6  # still does, and no offset is still none


def test_names_of_older_transformers_load_too():
    """Published files have the names of version 4, and its buffers."""
    from transformers import SwinConfig, SwinForImageClassification

    theirs = SwinForImageClassification(SwinConfig(image_size=32, window_size=4, embed_dim=8, depths=[1, 1, 2, 1],
                                                   num_heads=[1, 2, 2, 4], num_labels=5))  # fmt: skip
    state = theirs.state_dict()
    old = {}
    for key, x in state.items():
        for new, older in (
            ("attention.q_proj", "attention.self.query"), ("attention.k_proj", "attention.self.key"),
            ("attention.v_proj", "attention.self.value"), ("attention.o_proj", "attention.output.dense"),
            ("attention.relative_position_bias.", "attention.self."), ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):  # fmt: skip
            key = key.replace(new, older)
        old[key] = x
    old["swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = torch.zeros(16, 16)
    a, b = (tf.load_published(Swin(image=32, window=4, **SMALL), s).state_dict() for s in (state, old))
    assert set(old) != set(state) and all(torch.equal(a[key], b[key]) for key in a)


def test_positions_of_pvt_are_resized_on_load():
    from transformers import PvtConfig, PvtForImageClassification

    theirs = PvtForImageClassification(PvtConfig(image_size=64, depths=[1, 1, 1, 1], num_labels=3)).state_dict()
    key = "pvt.encoder.patch_embeddings.3.position_embeddings"
    theirs[key] = torch.cat([torch.full((1, 1, 512), 9.0), torch.full((1, 4, 512), 0.5)], 1)
    ours = tf.load_published(PVT(image=96, depths=(1, 1, 1, 1), classes=3), theirs)
    positions = ours.stages[3].positions.detach()
    assert torch.equal(positions[0], torch.full((512,), 9.0))  # the class token's is not part of the grid
    torch.testing.assert_close(positions[1:], torch.full((9, 512), 0.5))


# Swin V2


def test_a_fresh_block_of_v2_does_nothing_and_keeps_its_branch():
    model = SwinV2(image=32, window=4, **SMALL)
    block = next(m for m in model.modules() if isinstance(m, Block))
    x = torch.randn(1, 8, 8, 8)
    assert torch.equal(block(x), x)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert all(b.mixer.norm.weight.grad.abs().sum() > 0 for b in model.modules() if isinstance(b, Block))


def test_scores_are_cosines_and_do_not_see_lengths():
    layer, x = attention_layer("v2", 4, 0), torch.randn(1, 4, 4, 8)
    nn.init.zeros_(layer.q_bias)
    with record_attention() as calls, torch.no_grad():
        layer(x)
        layer(5 * x)  # queries and keys five times as long: a dot product would be 25 times as large
    torch.testing.assert_close(calls[0], calls[1], atol=1e-5, rtol=1e-5)


def test_the_factor_is_clamped_at_100():
    layer = attention_layer("v2", 4, 0)
    x = torch.randn(1, 4, 4, 8)
    outs = []
    for value in (math.log(100), 7.0):
        nn.init.constant_(layer.log_scale, value)
        outs.append(layer(x))
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)


def test_the_bias_of_a_larger_window_is_that_of_the_smaller_where_both_are_asked():
    """Offsets are measured in the pretrained window: the answer to (dy, dx) is the same in both."""
    small, large = ContinuousBias(3, 4), ContinuousBias(3, 7, pretrained=4)
    large.load_state_dict(small.state_dict())
    a, b = small().view(3, 4, 4, 4, 4), large().view(3, 7, 7, 7, 7)
    torch.testing.assert_close(b[:, :4, :4, :4, :4], a)
    assert a.min() > 0 and a.max() < 16


# Refusals


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Swin(depths=(2, 2), heads=(3, 6, 12)), r"depths=\(2, 2\) and heads=\(3, 6, 12\)"),
        (lambda: Swin(dim=10, heads=(3, 6, 12, 24)), "heads=3 does not divide dim=10"),
        (lambda: Swin(window=0), "window=0"),
        (lambda: SwinV2(dim=10, heads=(3, 6, 12, 24)), "heads=3 does not divide dim=10"),
        (lambda: SwinV2(pretrained=(12, 12)), r"pretrained=\(12, 12\)"),
        (lambda: Swin()(torch.zeros(1, 3, 226, 224)), r"patch=4 does not divide the image \(226, 224\)"),
        (lambda: PVT(reductions=(8, 4, 2, 2)), r"reductions=\(8, 4, 2, 2\)"),
        (lambda: PVT(dims=(64, 128)), r"dims=\(64, 128\)"),
        (lambda: PVT(image=64)(torch.zeros(1, 3, 96, 96)), r"\(24, 24\) tokens, but positions for \(16, 16\)"),
        (lambda: PVT(image=80)(torch.zeros(1, 3, 80, 80)), r"patch=8 does not divide the image \(20, 20\)"),
        (lambda: window_attention(torch.zeros(1, 4, 4, 3, 1, 8), torch.zeros(1, 4, 4), window=2, size=(5, 4)),
         r"size=\(5, 4\)"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match=r"swin_tiny takes no windows \(did you mean window\?\); it takes image"):
        tf.create_model("swin_tiny", windows=7)
    with pytest.raises(TypeError, match="windows"):
        tf.create_model("swinv2_tiny_window8", windows=7)
