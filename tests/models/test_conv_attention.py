"""CvT, ConViT, CMT, CoAtNet and UniFormer: their sizes beside the papers', what they mean, and what they refuse."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.attention import attention
from tformerlib.layers.blocks import MLP
from tformerlib.layers.convs import AddDepthwise, MBConv
from tformerlib.measures import macs, parameter_count
from tformerlib.models.convit import GatedAttention
from tformerlib.peers.parity import widen

SMALL: dict[str, dict[str, Any]] = {  # three or four stages that take no time
    "cvt_13": {"dims": (8, 16, 24), "depths": (1, 1, 1), "heads": (1, 2, 3)},
    "convit_tiny": {"image": 32, "patch": 4, "dim": 16, "depth": 3, "free": 1},
    "cmt_s": {"image": 64, "stem": 4, "dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "wide": 24},
    "coatnet_0_224": {"image": 64, "stem": 4, "dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "head_dim": 8},
    "uniformer_small": {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "head_dim": 8},
}
each = pytest.mark.parametrize("name", SMALL)


def make(name: str, **overrides: Any) -> Any:
    return tf.create_model(name, **SMALL[name] | {"classes": 5} | overrides)


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, image, millions, giga",  # as the papers and repositories print them, but where a comment says otherwise
    [
        ("cvt_13", 224, 20.00, 4.57),  # 20 and 4.5 in the README, which leaves out part of the embeddings
        ("cvt_13", 384, 20.00, 16.3),
        ("cvt_21", 224, 31.62, 7.18),
        ("cvt_w24", 384, 277, 193.2),
        ("convit_tiny", 224, 5.71, 1.25 + 0.074),  # a product of (N, N) weights and values more in each gated block
        ("convit_small", 224, 27.78, 5.75 + 0.166),
        ("convit_base", 224, 86.54, 17.5 + 0.295),
        ("cmt_ti", 160, 9.49, 0.64),
        ("cmt_xs", 192, 15.25, 1.55),
        ("cmt_s", 224, 26.26, 4.03),  # the paper has 25.1; the official code has what ours has
        ("cmt_b", 256, 45.72, 9.32),
        ("uniformer_small", 224, 21.55, 3.63),
        ("uniformer_small_plus", 224, 24.03, 4.20),
        ("uniformer_base", 224, 49.78, 8.25),
    ],
)
def test_parameters_and_multiply_adds(name: str, image: int, millions: float, giga: float):
    with torch.device("meta"):
        model = tf.create_model(name)
    assert abs(parameter_count(model) / 1e6 / millions - 1) < 0.01
    assert abs(macs(model, (3, image, image)) / 1e9 / giga - 1) < 0.01


COATNETS = [(0, 25, 4.2), (1, 42, 8.4), (2, 75, 15.7), (3, 168, 34.7)]  # as the paper prints them


@pytest.mark.parametrize("size, millions, giga", COATNETS)
def test_coatnet_beside_the_paper(size: int, millions: float, giga: float):
    """The paper has the stride of MBConv in its first convolution, which then sees a fourth of what ours sees."""
    with torch.device("meta"):
        model: Any = tf.create_model(f"coatnet_{size}_224")
    assert abs(parameter_count(model) / 1e6 / millions - 1) < 0.01
    first = [
        stage[0][0].branch[1][0].weight.numel() * side**2 for stage, side in zip(model.stages, (112, 56), strict=False)
    ]
    ours = macs(model, (3, 224, 224))
    assert 0 < ours / 1e9 / giga - 1 < 0.09
    assert abs((ours - 0.75 * sum(first)) / 1e9 / giga - 1) < 0.02


# --- what all have ----------------------------------------------------------------------------------------------------


@each
def test_a_pyramid_whose_maps_halve(name: str):
    maps = make(name).eval().features(images(64 if name != "convit_tiny" else 32))
    sides = [x.shape[1] for x in maps]
    assert all(x.shape[1] == x.shape[2] for x in maps)
    assert sides == {"cvt_13": [16, 8, 4], "convit_tiny": [8]}.get(name, [16, 8, 4, 2])


@each
def test_a_model_learns_four_images_by_heart(name: str):
    torch.manual_seed(0)
    side = 32 if name == "convit_tiny" else 64
    model, x, labels = make(name, drop_path=0.0).train(), images(side, 4), torch.arange(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@each
def test_one_image_alone_gets_the_same_answer_as_in_a_batch(name: str):
    """CvT's official code squeezes its logits and so loses the batch of a single image."""
    model, x = make(name).eval(), images(32 if name == "convit_tiny" else 64)
    widen(model)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), atol=1e-4, rtol=1e-4)
    assert model(x[:1]).shape == (1, 5)


def test_what_does_not_fit_is_refused_by_name():
    for build, words in (
        (lambda: make("cvt_13", heads=(1, 2)), r"heads=\(1, 2\)"),
        (lambda: make("cvt_13", positions=64).eval()(images(96)), r"\(24, 24\)"),
        (lambda: make("convit_tiny", image=30), "image=30"),
        (lambda: make("convit_tiny", heads=8), "heads=8"),
        (lambda: make("convit_tiny", free=0), "free=0"),
        (lambda: make("convit_tiny")(images(64)), r"\(16, 16\)"),
        (lambda: make("cmt_s", image=48), "cannot be reduced by 8"),
        (lambda: make("cmt_s").eval()(images(128)), r"positions for \(16, 16\)"),
        (lambda: make("coatnet_0_224", layout="CCT"), "CCT"),
        (lambda: make("coatnet_0_224", image=80), "image=80"),
        (lambda: make("coatnet_0_224", head_dim=3), "heads=5"),
        (lambda: make("coatnet_0_224").eval()(images(96)), r"\(6, 6\)"),
        (lambda: make("uniformer_small", layout="LLGX"), "LLGX"),
        (lambda: make("uniformer_small", overlap=True, patch=2), "patch=2"),
    ):
        with pytest.raises(ValueError, match=words):
            build()


# --- what each means --------------------------------------------------------------------------------------------------


def test_cvt_knows_places_by_its_convolutions_alone():
    """A ViT without positions answers the same when patches trade places; CvT without positions does not."""
    model = make("cvt_13").eval()
    widen(model)
    x = images(64)
    assert (model(x) - model(x.roll(16, -1))).abs().max() > 0.01
    assert sum(p.numel() for p in make("cvt_13", positions=64).parameters()) - parameter_count(model) == 16 * 16 * 8


def test_cvt_has_a_fourth_of_the_keys():
    model = make("cvt_13").eval()
    with tf.attention.record_attention() as weights:
        model(images(64))
    assert [tuple(w.shape[-2:]) for w in weights] == [(256, 64), (64, 16), (17, 5)]


def test_a_gated_head_starts_at_one_place_of_a_kernel():
    """Nine heads at the nine offsets of a 3 x 3 kernel: at first each looks mostly at its own."""
    gated = GatedAttention(18, 9, (5, 5))
    gated.start_as_convolution()
    middle = gated.positional()[:, 12].unflatten(-1, (5, 5))  # of the token in the middle
    places = [divmod(int(head.argmax()), 5) for head in middle]
    assert sorted(places) == [(y, x) for y in (1, 2, 3) for x in (1, 2, 3)]
    assert torch.equal(gated.v.weight, torch.eye(18))


def test_gates_choose_between_content_and_place():
    torch.manual_seed(0)
    gated, x = GatedAttention(16, 4, (3, 4)), torch.randn(2, 12, 16)
    widen(gated)
    q, k = gated.qk(x).unflatten(-1, (2, 4, 4)).permute(2, 0, 3, 1, 4)
    v = gated.v(x).unflatten(-1, (4, 4)).transpose(1, 2)
    for gate, expected in ((-40.0, attention(q, k, v)), (40.0, gated.positional() @ v)):
        gated.gate.data.fill_(gate)
        torch.testing.assert_close(gated(x), gated.out(expected.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-5)
    gated.gate.data = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    mixed = gated.weights(x)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(2, 4, 12))
    torch.testing.assert_close(gated(x), gated.out((mixed @ v).transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-5)


def test_convit_at_random_has_the_same_size_and_no_kernel():
    local, chance = make("convit_tiny"), make("convit_tiny", local=False)
    assert parameter_count(local) == parameter_count(chance)
    assert local.blocks[0].mixer.fn.positional().max() > 0.3 > chance.blocks[0].mixer.fn.positional().max()


def test_cmt_without_its_convolutions_is_a_plain_block():
    plain = make("cmt_s", perception=nn.Identity, feedforward=MLP)
    assert not [m for m in plain.modules() if isinstance(m, AddDepthwise)]
    shared = {id(p) for p in plain.positions}
    assert len(shared) == 4, "one bias for each stage, whatever its depth"


def test_squeeze_excite_scales_whole_channels():
    torch.manual_seed(0)
    block = MBConv(4, 4).eval()
    squeeze, x = block.branch[5], torch.randn(2, 16, 5, 5)
    factors = squeeze(x) / x
    torch.testing.assert_close(factors, factors[..., :1, :1].expand_as(factors), atol=1e-4, rtol=1e-3)
    assert factors.min() > 0 and factors.max() < 1


def test_coatnet_attention_depends_on_offsets_not_places():
    """With equal content everywhere, what is left of the scores is the bias, a function of the offset."""
    block = make("coatnet_0_224", layout="TTTT").eval().stages[0][0]
    widen(block)
    with tf.attention.record_attention() as weights:
        block(torch.ones(1, 32, 32, 4))
    score = weights[0][0, 0].log().unflatten(0, (16, 16)).unflatten(-1, (16, 16))
    near = score[3:13, 3:13]
    step = torch.stack([near[y, x, y + 4, x + 5] - near[y, x, y + 3, x + 3] for y in range(10) for x in range(8)])
    torch.testing.assert_close(step, step[:1].expand_as(step), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("layout, reach", [("LLLL", False), ("LLGG", True), ("GGGG", True)])
def test_uniformer_reaches_far_by_its_global_stages(layout: str, reach: bool):
    """In local stages of one block each, the upper left token of the last map cannot see the lower right pixel."""
    model = make("uniformer_small", layout=layout).eval()
    widen(model)
    x = images(256, 1).requires_grad_()
    model.features(x)[-1][0, 0, 0].sum().backward()
    assert x.grad is not None and bool((x.grad[..., -1, -1] != 0).any()) == reach
