"""Early convolutions, CCT and its kin, CeiT: equal to the official code by recorded numbers, and to living packages."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer
from vit_pytorch import cct as peer

import tformerlib as tf
from tests.models.golden.stems import FILE
from tformerlib.layers.positions import sinusoids
from tformerlib.peers.golden import fill, uniform
from tformerlib.peers.parity import TOLERANCE, assert_parity

GOLDEN = json.loads(FILE.read_text("utf-8"))
CASES = {name: case for repository in GOLDEN.values() for name, case in repository["cases"].items()}


def tuples(size: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in size.items()}


def rebuilt(name: str, dtype: torch.dtype, **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """Our model of a recorded case, with the official weights, which are made of their names again; and these."""
    case = CASES[name]
    if "sinusoids" in name:
        options["positions"] = sinusoids
    if "no positions" in name:
        options["positions"] = None
    model = tf.create_model(case["ours"], **tuples(case["size"]) | options).to(dtype).eval()
    state = {key: x.to(dtype) if x.is_floating_point() else x for key, x in fill(case["shapes"]).items()}
    if "sinusoids" in name:
        key = "classifier.positional_emb"
        state[key] = sinusoids(*case["shapes"][key][1:])[None].to(dtype)
    return tf.load_published(model, state, source="official"), state


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, TOLERANCE), (torch.float64, 1e-8)])
def test_equals_the_official_code(name: str, dtype: torch.dtype, tolerance: float):
    """Logits, and of each official parameter's gradient one product with a fixed direction.

    The direction has official names, so it travels to ours by the rules by which weights do, alone among zeros.
    """
    case = CASES[name]
    model, state = rebuilt(name, dtype)
    images = (2 * uniform("images", (3, 3, case["side"], case["side"]))).to(dtype)
    expected, logits = torch.tensor(case["logits"], dtype=dtype), model(images)
    assert (logits - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())
    (logits * uniform("cotangent", tuple(logits.shape)).to(dtype)).sum().backward()
    fixed = {"classifier.positional_emb"} if "sinusoids" in name else set()
    learned = {key for key, x in state.items() if x.is_floating_point() and "running" not in key}
    assert set(case["gradients"]) == learned - fixed
    zeros = {key: torch.zeros_like(x) for key, x in state.items()}
    if "sinusoids" in name:
        zeros["classifier.positional_emb"] = state["classifier.positional_emb"]
    for key, product in case["gradients"].items():
        probe = uniform(f"probe {key}", tuple(case["shapes"][key])).to(dtype)
        twin = tf.load_published(copy.deepcopy(model), zeros | {key: probe}, source="official")
        pairs = list(zip(model.parameters(), twin.parameters(), strict=True))
        ours = sum((p.grad * t.detach()).sum() for p, t in pairs if p.grad is not None)
        length = sum(p.grad.square().sum() for p, t in pairs if p.grad is not None and t.any()) ** 0.5 * probe.norm()
        assert abs(ours - product) <= tolerance * max(1.0, float(length)), key
        assert (length > 0) != (".1.leff." in key), f"{key}: a gradient of length {length}"  # see test_conv_stems.py


def test_a_wrong_model_is_noticed():
    """What one gets wrong in these three: a residual stream that is not normalized, an activation too many."""
    for name, part, wrong in (
        ("cct", "norm", nn.Identity()),
        ("ceit", "patches.0.1", nn.Sequential(nn.BatchNorm2d(64), nn.ReLU())),
    ):
        model, _ = rebuilt(name, torch.float32)
        target = model.blocks[0] if part == "norm" else model.patches[0]
        if part == "norm":
            target.norm = wrong
        else:
            wrong[0].load_state_dict(target[1].state_dict())
            target[1] = wrong.eval()
        case = CASES[name]
        images = (2 * uniform("images", (3, 3, case["side"], case["side"]))).float()
        assert (model(images) - torch.tensor(case["logits"])).abs().max() > 1e-2


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


# --- living packages --------------------------------------------------------------------------------------------------


def torchvisions(stem: tuple[tuple[int, ...], tuple[int, ...]], **size: Any) -> VisionTransformer:
    configs = [ConvStemConfig(dim, 3, stride) for dim, stride in zip(*stem, strict=True)]
    return VisionTransformer(**size, conv_stem_configs=configs or None)


STEM4 = ((48, 96, 192, 384), (2, 2, 2, 2))
STEM6 = ((64, 128, 128, 256, 256, 512), (2, 2, 1, 2, 1, 2))


@pytest.mark.parametrize(
    "name, stem, size",
    [
        ("vit_p_1gf", ((), ()), {"num_layers": 12, "num_heads": 3, "hidden_dim": 192, "mlp_dim": 576}),
        ("vit_c_1gf", ((24, 48, 96, 192), (2, 2, 2, 2)),
         {"num_layers": 11, "num_heads": 3, "hidden_dim": 192, "mlp_dim": 576}),
        ("vit_c_4gf", STEM4, {"num_layers": 11, "num_heads": 6, "hidden_dim": 384, "mlp_dim": 1152}),
    ],
)  # fmt: skip
def test_early_convolutions_equal_torchvision(name: str, stem: Any, size: dict[str, int]):
    theirs = torchvisions(stem, image_size=224, patch_size=16, **size)
    double = name != "vit_p_1gf"  # where a ReLU's input is nearly 0, rounding decides whether a gradient passes
    assert_parity(tf.create_model(name), theirs, "torchvision", images(224, 1), double=double)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, depth, dim, heads",
    [("vit_c_18gf", 11, 768, 12), ("vit_c_36gf", 13, 1024, 16)],
)
def test_large_early_convolutions_equal_torchvision(name: str, depth: int, dim: int, heads: int):
    size = {"num_layers": depth, "num_heads": heads, "hidden_dim": dim, "mlp_dim": 4 * dim}
    theirs = torchvisions(STEM6, image_size=224, patch_size=16, **size)
    assert_parity(tf.create_model(name), theirs, "torchvision", images(224, 1), double=True)


@pytest.mark.parametrize(
    "name, image, options, size",
    [
        ("cct_7_3x1_32", 32, {"kernel_size": 3, "stride": 1, "padding": 1, "n_conv_layers": 1}, (7, 256, 4, 2.0, 10)),
        ("cct_2_3x2_32", 32, {"kernel_size": 3, "stride": 1, "padding": 1, "n_conv_layers": 2}, (2, 128, 2, 1.0, 10)),
        ("cct_14_7x2_224", 224, {"kernel_size": 7, "stride": 2, "padding": 3, "n_conv_layers": 2},
         (14, 384, 6, 3.0, 1000)),
    ],
)  # fmt: skip
def test_cct_equals_vit_pytorch(name: str, image: int, options: dict[str, int], size: tuple[Any, ...]):
    """Whose positions are sinusoids unless one asks; in float64, as the poolings choose between nearly equal values."""
    depth, dim, heads, mlp, classes = size
    theirs = peer.CCT(
        img_size=image, num_layers=depth, embedding_dim=dim, num_heads=heads, mlp_ratio=mlp, num_classes=classes,
        positional_embedding="learnable", **options,
    )  # fmt: skip
    assert_parity(tf.create_model(name), theirs, "official", images(image, 1), double=True)
