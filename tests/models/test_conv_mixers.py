"""ConvMixer, CXV, Conviformer, EfficientNet and the ViTs on it: equal to others' code, sizes, meaning, refusals."""

import json
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import tformerlib as tf
from tests.models.golden.conv_mixers import FILE
from tformerlib.attention import attention, record_attention
from tformerlib.attention.linear import Nystrom, RandomFeatures, linear_attention, pseudo_inverse
from tformerlib.measures import macs, parameter_count
from tformerlib.models.conviformer import Conviformer, presize
from tformerlib.models.convit import ConViT
from tformerlib.models.convmixer import ConvMixer
from tformerlib.models.cxv import ChannelNorm
from tformerlib.models.efficient_vit import CrossEfficientViT, EfficientViT
from tformerlib.models.efficientnet import EfficientNet, Trunk
from tformerlib.peers.golden import assert_equal, fill, rebuilt, uniform
from tformerlib.peers.parity import assert_parity, assert_same, widen

TINY: dict[str, Any] = {"dim": 24, "depth": 3, "kernel": 5, "patch": 4, "classes": 5}
XFORMER: dict[str, Any] = {"dim": 16, "depth": 2, "classes": 5}
SMALL: dict[str, Any] = {"stages": ((1, 8, 1, 3, 1), (2, 16, 2, 3, 2), (2, 16, 1, 5, 2)), "stem": 8, "last": 24}


OFFICIAL = {name: case for repo in json.loads(FILE.read_text("utf-8")).values() for name, case in repo["cases"].items()}


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


# --- ConvMixer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [nn.GELU, nn.ReLU])
def test_convmixer_equals_timm(act: type[nn.Module]):
    theirs = timm.models.ConvMixer(24, 3, kernel_size=5, patch_size=4, num_classes=5, act_layer=act)
    assert_parity(ConvMixer(**TINY, act=act), theirs, "timm", images(24), double=act is nn.ReLU)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ours,theirs",
    [
        ("convmixer_1536_20", "convmixer_1536_20"),
        ("convmixer_768_32", "convmixer_768_32"),
        ("convmixer_1024_20", "convmixer_1024_20_ks9_p14"),
    ],
)
def test_convmixer_equals_timm_at_published_sizes(ours: str, theirs: str):
    assert_parity(tf.create_model(ours), timm.create_model(theirs), "timm", images(112, 1), gradients=False)


def test_convmixer_loads_the_authors_sequence():
    """Their model is one nn.Sequential; its layers in the order of timm's have the same weights."""
    theirs = timm.models.ConvMixer(24, 3, kernel_size=5, patch_size=4, num_classes=5)
    widen(theirs)
    numbered = {}
    for key, x in theirs.state_dict().items():
        for name, place in [("stem.", ""), ("head.", "8."), *[(f"blocks.{i}.", f"{i + 3}.") for i in range(3)]]:
            if key.startswith(name):
                numbered[place + key.removeprefix(name)] = x
    loaded = [
        tf.load_published(ConvMixer(**TINY), state, source=source).eval()(images(24))
        for state, source in ((theirs.state_dict(), "timm"), (numbered, "official"))
    ]
    assert torch.equal(*loaded)


def test_parity_catches_a_convmixer_that_is_nearly_right():
    theirs = timm.models.ConvMixer(24, 3, kernel_size=5, patch_size=4, num_classes=5).eval()
    widen(theirs)
    ours = tf.load_published(ConvMixer(**TINY), theirs.state_dict(), source="timm").eval()
    expected = theirs(images(24))
    assert (ours(images(24)) - expected).abs().max() < 2e-5
    for layer in [m for m in ours.modules() if isinstance(m, nn.Sequential) and len(m) == 3]:
        layer[1], layer[2] = layer[2], layer[1]  # the norm before the activation, as ResNets have it
    assert (ours(images(24)) - expected).abs().max() > 0.1


def test_a_block_mixes_places_within_channels_and_then_channels_within_places():
    block: Any = ConvMixer(**TINY).blocks[0].eval()
    x = torch.randn(1, 24, 9, 9, requires_grad=True)
    (reached,) = torch.autograd.grad(block.places(x)[0, 3, 4, 4], x)
    assert (reached[0, 3].abs() > 0).sum() == 25 and (reached[0].flatten(1).abs().sum(1) > 0).sum() == 1
    (reached,) = torch.autograd.grad(block.channels(x)[0, 3, 4, 4], x)
    assert (reached[0, :, 4, 4].abs() > 0).all() and (reached[0, 3].abs() > 0).sum() == 1


# --- CXV --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cxv_performer", "cxv_linear", "cxv_nystrom"])
def test_cxv_equals_the_official_code(name: str):
    assert_equal(OFFICIAL[name])


def test_the_official_numbers_catch_a_cxv_that_is_nearly_right():
    case = OFFICIAL["cxv_nystrom"]
    expected, x = torch.tensor(case["logits"], dtype=torch.float64), 2 * uniform("images", (3, 3, 16, 16))

    def error(change: Any) -> float:
        model: Any = rebuilt(case)
        change(model)
        return (model(x) - expected).abs().max().item()

    assert error(lambda model: None) < 1e-8
    assert error(lambda model: setattr(model.layers[0].norm, "eps", 1e-2)) > 1e-3
    assert error(lambda model: setattr(model.layers[1].mixer.attend, "steps", 5)) > 1e-4
    assert error(lambda model: setattr(model.layers[0].mixer.attend, "landmarks", 32)) > 1e-3


def test_linear_attention_is_softmax_attention_where_keys_do_not_matter():
    """Equal keys: every query gets the mean of the values, in both."""
    q, v = torch.randn(2, 2, 3, 20, 8)
    k = torch.ones(2, 3, 20, 8)
    assert_same(linear_attention(q, k, v), v.mean(-2, keepdim=True).expand_as(v))
    assert_same(attention(q, k, v), v.mean(-2, keepdim=True).expand_as(v))


def test_nystrom_with_a_landmark_for_each_token_is_exact():
    """Where the pseudo-inverse has converged; the added convolution is left out."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 16, 8, dtype=torch.float64)
    layer = Nystrom(2, landmarks=16, steps=40).double()
    nn.init.zeros_(layer.conv.weight)
    torch.testing.assert_close(layer(q, k, v), attention(q, k, v), atol=1e-6, rtol=1e-6)
    with record_attention() as weights:
        layer(q, k, v)
    assert len(weights) == 2


def test_the_pseudo_inverse_converges_and_until_then_depends_on_the_batch():
    torch.manual_seed(0)
    x = (2 * torch.randn(6, 2, 12, 12, dtype=torch.float64)).softmax(-1)
    torch.testing.assert_close(pseudo_inverse(x, 40), torch.linalg.pinv(x), atol=1e-6, rtol=1e-6)
    assert (pseudo_inverse(x)[:1] - pseudo_inverse(x[:1])).abs().max() > 1e-2


def test_random_features_estimate_softmax_attention_better_the_more_there_are():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 32, 16) / 2  # longer ones need many more features
    errors = [
        torch.stack([(RandomFeatures(16, n)(q, k, v) - attention(q, k, v)).square().mean() for _ in range(8)]).mean()
        for n in (16, 256, 4096)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_directions_of_random_features_are_orthogonal_within_a_block_and_saved():
    layer = RandomFeatures(16)
    assert layer.directions.shape == (44, 16) and "directions" in layer.state_dict()
    products = layer.directions[:16] @ layer.directions[:16].mT
    assert (products - products.diag().diag()).abs().max() < 1e-4


@pytest.mark.parametrize("attend", [Nystrom(2, landmarks=4), RandomFeatures(8)])
def test_linear_attentions_refuse_what_they_cannot_honor(attend: nn.Module):
    q, k, v = torch.randn(3, 1, 2, 8, 8)
    for option in ({"causal": True}, {"mask": torch.ones(8, 8, dtype=torch.bool)}, {"dropout": 0.1}, {"scale": 1.0}):
        with pytest.raises(NotImplementedError, match=next(iter(option))):
            attend(q, k, v, **option)
    attend(q, k, v, mask=None, bias=None, causal=False, scale=None, dropout=0.0)


def test_cost_grows_with_tokens_linearly_and_with_their_square():
    def products(attend: Any, tokens: int) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            attend(*torch.zeros(3, 1, 2, tokens, 8, device="meta"))
        return counter.get_total_flops()

    with torch.device("meta"):
        linear = {"linear": linear_attention, "features": RandomFeatures(8).to("meta"), "nystrom": Nystrom(2, 64)}
    for name, attend in linear.items():
        assert products(attend, 4096) / products(attend, 1024) < 4.05, name
    assert products(attention, 4096) == 16 * products(attention, 1024)


def test_the_first_two_convolutions_are_one_linear_map():
    model: Any = tf.create_model("cxv_linear", **XFORMER)
    x, y = torch.randn(2, 1, 12, 12, 3)
    zero = model.stem(torch.zeros_like(x))
    assert_same(model.stem(2 * x - y) - zero, 2 * (model.stem(x) - zero) - (model.stem(y) - zero))


def test_the_norm_of_channels_and_torchs_differ_where_channels_are_nearly_equal():
    x = 1e-4 * torch.randn(4, 16)
    ours, torchs = ChannelNorm(16)(x), nn.LayerNorm(16)(x)
    assert ours.std() > 0.8 and torchs.std() < 0.1


# --- EfficientNet and the ViTs on it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "theirs,options",
    [("tf_efficientnet_b0", {}), ("efficientnet_b0", {"conv": nn.Conv2d, "norm": nn.BatchNorm2d})],
)
def test_efficientnet_equals_timm(theirs: str, options: dict[str, Any]):
    ours = EfficientNet(**options)
    assert_parity(ours, timm.create_model(theirs), "timm", images(64, 1), double=True)


@pytest.mark.parametrize("name", ["efficient_vit", "cross_efficient_vit"])
def test_efficient_vits_equal_the_official_code(name: str):
    """Efficient-ViT with a table of one position, which serves both tokens of all images of a batch."""
    assert_equal(OFFICIAL[name])


def test_official_answers_depend_on_the_place_in_the_batch():
    """With the published table of 32 rows, each image of a batch gets a row of its own; ours with that row agrees."""
    case = OFFICIAL["efficient_vit, 32 rows"]
    state, expected = fill(case["shapes"]), torch.tensor(case["logits"], dtype=torch.float64)
    x, model = 2 * uniform("images", (3, 3, 224, 224)), rebuilt(case)
    for i in range(3):
        rolled = state | {"pos_embedding": state["pos_embedding"].roll(-i, 0)}
        with torch.no_grad():
            out = tf.load_published(model, rolled, source="official")(x)
        assert_same(out[i], expected[i])
        others = [j for j in range(3) if j != i]
        assert (out[others] - expected[others]).abs().max() > 1e-3


def test_only_class_tokens_cross_over():
    """A patch of one branch, changed after the branches' own blocks, moves the other branch's class token alone."""
    model = CrossEfficientViT(image=32, small=(16, 1, 1), large=(24, 2, 1), early=1, rounds=1, hidden=8, **SMALL).eval()
    step: Any = model.rounds[0]
    step.small, step.large = nn.Identity(), nn.Identity()
    s, t = torch.randn(1, 5, 16), torch.randn(1, 5, 24)
    (a, b), (c, d) = step(s, t), step(torch.cat([s[:, :4], s[:, 4:] + 1], 1), t)
    assert torch.equal(a[:, :4], c[:, :4]) and torch.equal(b[:, 1:], d[:, 1:]) and not torch.equal(b[:, 0], d[:, 0])


def test_the_published_sizes_read_two_tokens():
    with torch.device("meta"):
        one: Any = tf.create_model("efficient_vit")
        two: Any = tf.create_model("cross_efficient_vit")
        many: Any = tf.create_model("efficient_vit", patch=1)
    assert one.tokens.positions.shape[1] == two.small.positions.shape[1] == two.large.positions.shape[1] == 2
    assert many.tokens.positions.shape[1] == 50


# --- Conviformer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [448, pytest.param(896, marks=pytest.mark.slow)])
def test_conviformer_equals_the_official_code(side: int):
    assert_equal(OFFICIAL[f"conviformer_{side}"])


def test_without_halvings_it_is_convit():
    sizes: dict[str, Any] = {"heads": 4, "dim": 16, "depth": 3, "classes": 5}
    ours, convit = Conviformer(image=32, halvings=0, patch=8, **sizes), ConViT(image=32, patch=8, **sizes)
    ours.convit.load_state_dict(convit.state_dict())
    assert torch.equal(ours.eval()(images(32)), convit.eval()(images(32)))
    assert ours.features(images(32))[0].shape == (2, 4, 4, 16)


@pytest.mark.parametrize("height,width", [(90, 60), (60, 90), (70, 70), (300, 50), (50, 300)])
def test_presizer_reflects_as_numpy_does(height: int, width: int):
    image = torch.randn(3, height, width)
    inside = image[:, 20:-20, 20:-20].numpy()
    right, top = max(0, height - width), max(0, width - height)
    expected = np.pad(inside, ((0, 0), (top, 0), (0, right)), mode="reflect")
    assert np.array_equal(presize(image).numpy(), expected)


# --- sizes ------------------------------------------------------------------------------------------------------------

SIZES = [  # millions as the papers print them, giga multiply-adds as measured on the released models
    ("convmixer_1536_20", 224, 51.6, 51.1),
    ("convmixer_768_32", 224, 21.1, 20.7),
    ("convmixer_1024_20", 224, 24.4, 5.95),
    ("convmixer_256_8", 32, 0.592, 0.590),
    ("cxv_performer", 32, 1.346, None),
    ("cxv_linear", 32, 3.967, 4.10),
    ("cxv_nystrom", 32, 1.345, 1.77),
    ("efficientnet_b0", 224, 5.3, 0.39),
    ("efficient_vit", 224, 109, 0.526),
    ("cross_efficient_vit", 224, 101, 0.593),
    ("conviformer_base_224", 224, 86.54, 17.5),
    ("conviformer_base_448", 448, 98.57, 21.8),
    ("conviformer_base_896", 896, 111.4, 41.2),
]


@pytest.mark.parametrize("name,side,millions,giga", SIZES)
def test_parameters_and_multiply_adds(name: str, side: int, millions: float, giga: float | None):
    """Within 1 %, once what differs in the count is counted: see the comments."""
    with torch.device("meta"):
        model = tf.create_model(name)
        trunks = parameter_count(Trunk()) - parameter_count(Trunk(blocks=3))
    count, cost = parameter_count(model), macs(model, (3, side, side))
    classifier = 1281 * 1000  # of EfficientNet, which nothing reads
    if name == "efficient_vit":
        count += classifier + 30 * 1024  # positions of 32 places in a batch, where ours are of 2 tokens
        assert count == 109_447_781
    if name == "cross_efficient_vit":
        count += 2 * classifier + trunks + 1023 * 192 + 15 * 384  # positions of tokens that there are not
        assert count == 101_377_610
    if name == "cxv_nystrom":  # officially (A B) (C V); ours forms A (B (C V)), which saves a product
        cost += 5 * 4 * (1024 - 32) * 64 * 64
    if "conviformer" in name:  # content and place each go with the values here; officially their mixture does, once
        cost -= 10 * 196 * 196 * 768
    assert abs(count / 1e6 / millions - 1) < 0.01
    assert giga is None or abs(cost / 1e9 / giga - 1) < 0.012


def test_more_tokens_cost_convit_what_halvings_save():
    """At 448 pixels ConViT-B has 784 tokens and 78.7 G multiply-adds officially, Conviformer-B 196 and 21.8 G."""
    with torch.device("meta"):
        convit = ConViT(image=448)
        conviformer = tf.create_model("conviformer_base_448")
    assert macs(convit, (3, 448, 448)) > 3 * macs(conviformer, (3, 448, 448))


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ConvMixer(**TINY)(torch.zeros(1, 3, 30, 32)), r"patch=4 does not divide the image \(30, 32\)"),
        (lambda: Nystrom(2, landmarks=64)(*torch.zeros(3, 1, 2, 100, 8)), "landmarks=64 do not divide the 100 tokens"),
        (lambda: Trunk(blocks=17), r"blocks=17 is not in 1 \.\. 16"),
        (lambda: EfficientViT(image=200), "image=200"),
        (lambda: EfficientViT(image=224, patch=2), "patch=2 does not fit"),
        (lambda: EfficientViT(image=32, patch=1, dim=8, depth=1, **SMALL)(torch.zeros(1, 3, 64, 64)), r"\(64, 64\)"),
        (lambda: Conviformer(halvings=4), "halvings=4"),
        (lambda: Conviformer(image=450, halvings=2), "image=450 cannot be halved 2 times"),
        (lambda: presize(torch.zeros(3, 41, 90)), r"\(41, 90\) has nothing left"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match=r"convmixer_768_32 takes no width \(did you mean depth\?\); it takes dim"):
        tf.create_model("convmixer_768_32", width=7)
