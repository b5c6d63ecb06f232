"""ViT, AugReg and DeiT: equal to timm's and transformers', their sizes beside the papers', and what breaks them."""

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
)

import tformerlib as tf
from tformerlib.attention import record_attention
from tformerlib.measures import macs, parameter_count
from tformerlib.models.deit import DeiT
from tformerlib.models.vit import ViT
from tformerlib.objectives import distillation
from tformerlib.peers.parity import assert_parity, assert_same, widen

TINY: dict[str, Any] = {"dim": 48, "depth": 2, "heads": 4, "classes": 5}
PEERS: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 5}


def images(side: int | tuple[int, int], count: int = 2) -> torch.Tensor:
    height, width = (side, side) if isinstance(side, int) else side
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ours,theirs",
    [
        ("vit_tiny_patch16", "vit_tiny_patch16_224"),
        ("vit_small_patch32", "vit_small_patch32_224"),
        ("vit_base_patch32", "vit_base_patch32_224"),
        ("deit_tiny", "deit_tiny_patch16_224"),
        ("deit_tiny_distilled", "deit_tiny_distilled_patch16_224"),
        ("deit_small_distilled", "deit_small_distilled_patch16_224"),
        ("vit_tiny_r_s16_p8", "vit_tiny_r_s16_p8_224"),
        ("vit_small_r26_s32", "vit_small_r26_s32_224"),
    ],
)
def test_equals_timm_at_published_sizes(ours: str, theirs: str):
    """Hybrids in float64: where a ReLU's input is nearly 0, rounding decides whether a gradient passes."""
    double = "_r" in ours
    assert_parity(tf.create_model(ours), timm.create_model(theirs), "timm", images(224, 1), double=double)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ours,theirs",
    [
        ("vit_base_patch16", "vit_base_patch16_224"),
        ("vit_base_patch8", "vit_base_patch8_224"),
        ("vit_small_patch16", "vit_small_patch16_224"),
        ("vit_large_patch16", "vit_large_patch16_224"),
        ("vit_large_patch32", "vit_large_patch32_224"),
        ("vit_huge_patch14", "vit_huge_patch14_224"),
        ("vit_base_r50_s16", "vit_base_r50_s16_224"),
        ("vit_large_r50_s32", "vit_large_r50_s32_224"),
        ("deit_small", "deit_small_patch16_224"),
        ("deit_base", "deit_base_patch16_224"),
        ("deit_base_distilled", "deit_base_distilled_patch16_224"),
    ],
)
def test_equals_timm_at_the_other_published_sizes(ours: str, theirs: str):
    peer = timm.create_model(theirs, num_classes=1000)  # two of them have no head unless one asks
    assert_parity(tf.create_model(ours), peer, "timm", images(224, 1), gradients=False)


@pytest.mark.parametrize("side", [96, (96, 64)])
def test_equals_timm_at_odd_sizes(side: int | tuple[int, int]):
    theirs = timm.models.VisionTransformer(img_size=side, **PEERS)
    assert_parity(ViT(image=side, patch=8, **TINY), theirs, "timm", images(side))
    shallow = timm.create_model("vit_tiny_patch16_224", img_size=side, num_classes=7, depth=3)
    assert_parity(tf.create_model("vit_tiny_patch16", image=side, classes=7, depth=3), shallow, "timm", images(side))


def test_distilled_equals_timm_at_odd_sizes():
    theirs = timm.create_model("deit_tiny_distilled_patch16_224", img_size=96, num_classes=7, depth=3)
    ours = tf.create_model("deit_tiny_distilled", image=96, classes=7, depth=3, drop_path=0.0)
    assert_parity(ours, theirs, "timm", images(96))
    theirs.set_distilled_training(True)  # what it does in training; drop path is 0 in it
    for mine, other in zip(ours.train().heads(images(96)), theirs.train()(images(96)), strict=True):
        assert_same(mine, other)


def config(kind: type, **sizes: Any) -> Any:
    made = kind(layer_norm_eps=1e-6, **sizes)
    made.num_labels = 5
    return made


HUB = {"image_size": 48, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
       "intermediate_size": 96}  # fmt: skip


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equals_transformers(implementation: str):
    logits = lambda m, x: m(x).logits if hasattr(m, "config") else m(x)  # noqa: E731
    theirs: nn.Module = ViTForImageClassification(config(ViTConfig, **HUB, attn_implementation=implementation))
    ours = ViT(image=48, patch=8, mlp=2, **TINY)
    assert_parity(ours, theirs, "transformers", images(48), call=logits)
    distilled = DeiT(image=48, patch=8, mlp=2, **TINY)
    theirs = DeiTForImageClassificationWithTeacher(config(DeiTConfig, **HUB, attn_implementation=implementation))
    assert_parity(distilled, theirs, "transformers", images(48), call=logits)


def test_the_keys_of_older_transformers_load_too():
    """The files on the hub have the names of transformers 4."""
    ours = ViT(image=48, patch=8, mlp=2, **TINY)
    state = ViTForImageClassification(config(ViTConfig, **HUB)).state_dict()
    renamed = {}
    for key, x in state.items():
        for new, old in (
            ("vit.layers", "vit.encoder.layer"), ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"), ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):  # fmt: skip
            key = key.replace(new, old)
        renamed[key] = x
    assert "vit.encoder.layer.1.attention.attention.value.bias" in renamed
    new, old = (tf.load_published(copy.deepcopy(ours), s)(images(48)) for s in (state, renamed))
    assert torch.equal(new, old)
    with pytest.raises(KeyError, match=r"no rule for 'vit\.pooler\.dense\.weight'"):
        tf.load_published(ours, state | {"vit.pooler.dense.weight": torch.zeros(48, 48)})


@pytest.mark.parametrize("side", [96, 320])
def test_positions_are_resized_as_timm_does(side: int):
    theirs: Any = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5)
    widen(theirs)
    large: Any = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5, img_size=side).eval()
    large.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), large))
    ours: Any = tf.create_model("vit_tiny_patch16", image=side, depth=1, classes=5).eval()
    tf.load_published(ours, theirs.state_dict(), source="timm")
    assert_same(ours(images(side)), large(images(side)))
    assert_same(ours.positions[:, 0], theirs.pos_embed[:, 0])  # the class token has no place in the grid


def test_parity_catches_a_vit_that_is_nearly_right():
    theirs = timm.models.VisionTransformer(img_size=48, **PEERS).eval()
    widen(theirs)
    x, state = images(48), theirs.state_dict()
    expected = theirs(x)

    def error(model: nn.Module) -> float:
        return (tf.load_published(model, state, source="timm")(x) - expected).abs().max().item()

    assert error(ViT(image=48, patch=8, **TINY)) < 2e-5
    assert error(ViT(image=48, patch=8, **TINY | {"heads": 2})) > 0.1
    no_cls_position = copy.deepcopy(state)
    no_cls_position["pos_embed"][:, 0] = 0
    ours = tf.load_published(ViT(image=48, patch=8, **TINY), no_cls_position, source="timm")
    assert (ours(x) - expected).abs().max() > 1e-3
    transposed = ViT(image=48, patch=8, **TINY)
    tf.load_published(transposed, state, source="timm")
    assert (transposed(x.transpose(-1, -2)) - expected).abs().max() > 0.1


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,millions,giga",  # parameters as the papers print them; multiply-adds as measured on the released models
    [
        ("vit_base_patch16", 86, 17.56),
        ("vit_base_patch32", 88, 4.41),
        ("vit_large_patch16", 307, 61.6),
        ("vit_huge_patch14", 632, 167.3),
        ("vit_tiny_patch16", 5.72, 1.25),
        ("vit_small_patch16", 22.05, 4.60),
        ("vit_small_patch32", 22.88, 1.14),
        ("vit_tiny_r_s16_p8", 6.34, 0.43),
        ("vit_small_r26_s32", 36.43, 3.46),
        ("vit_large_r50_s32", 329.0, 19.4),
        ("deit_tiny", 5.7, 1.25),
        ("deit_small", 22, 4.60),
        ("deit_base", 86, 17.56),
        ("deit_tiny_distilled", 5.91, 1.26),
        ("deit_small_distilled", 22.44, 4.62),
        ("deit_base_distilled", 87.34, 17.66),
    ],
)
def test_parameters_and_multiply_adds(name: str, millions: float, giga: float):
    """ViT-L/16 has 304.3 M parameters where table 1 says 307: the table counts the hidden layer of the head (1024^2)
    and more classes, as in pre-training."""
    with torch.device("meta"):
        model = tf.create_model(name)
    assert abs(parameter_count(model) / 1e6 / millions - 1) < 0.01
    assert abs(macs(model, (3, 224, 224)) / 1e9 / giga - 1) < 0.01


def test_cost_at_384_pixels():
    with torch.device("meta"):
        model = tf.create_model("vit_base_patch16", image=384)
    assert abs(parameter_count(model) / 86.86e6 - 1) < 0.001 and abs(macs(model, (3, 384, 384)) / 55.5e9 - 1) < 0.01


# --- meaning ----------------------------------------------------------------------------------------------------------


def test_without_positions_the_class_token_sees_a_bag_of_patches():
    torch.manual_seed(0)
    model = ViT(image=48, patch=8, **TINY).eval()
    widen(model)
    x = images(48)
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)  # (B, 3, N, 8, 8)
    mixed = patches[:, :, torch.randperm(36)].unflatten(2, (6, 6)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    assert (model(x) - model(mixed)).abs().max() > 0.01
    model.positions.data.zero_()
    torch.testing.assert_close(model(x), model(mixed), atol=1e-4, rtol=1e-4)


def test_features_are_the_map_of_patches():
    model = ViT(image=(48, 64), patch=8, **TINY).eval()
    (x,) = model.features(images((48, 64)))
    assert x.shape == (2, 6, 8, 48)
    torch.testing.assert_close(x[0, 2, 3], model.tokens(images((48, 64)))[0, 1 + 2 * 8 + 3])
    with record_attention() as weights:
        model(images((48, 64)))
    assert len(weights) == 2 and weights[0].shape == (2, 4, 49, 49)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(ValueError, match="image=50"):
        ViT(image=50, patch=8, **TINY)
    with pytest.raises(ValueError, match=r"\(32, 32\)"):
        ViT(image=48, patch=8, **TINY)(images(32))
    with pytest.raises(ValueError, match="heads=5"):
        ViT(image=48, patch=8, **TINY | {"heads": 5})
    with pytest.raises(TypeError, match="takes no windows"):
        tf.create_model("vit_tiny_patch16", windows=7)


def test_drop_path_rises_from_nothing():
    model = tf.create_model("deit_tiny", drop_path=0.2)
    rates = [block.mixer.drop_path.p for block in model.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.2) and rates == sorted(rates)


def test_deit_says_two_things_in_training_and_their_mean_afterwards():
    model = DeiT(image=48, patch=8, **TINY)
    widen(model)
    x = images(48)
    label, teacher = model.train()(x)
    assert (label - teacher).abs().max() > 0.1
    torch.testing.assert_close(model.eval()(x), (label + teacher) / 2)
    kind = DeiTForImageClassification(config(DeiTConfig, **HUB)).state_dict()  # has no second head
    with pytest.raises(RuntimeError, match=r"teacher_head"):
        tf.load_published(DeiT(image=48, patch=8, mlp=2, **TINY), kind)


# --- distillation -----------------------------------------------------------------------------------------------------


def test_hard_distillation_by_hand():
    label, says, teacher = torch.randn(3, 4, 5)
    targets = torch.tensor([0, 1, 2, 3])
    p, q = label.softmax(-1), says.softmax(-1)
    by_hand = -(p[range(4), targets].log().mean() + q[range(4), teacher.argmax(-1)].log().mean()) / 2
    torch.testing.assert_close(distillation.hard(label, says, targets, teacher), by_hand)
    assert torch.equal(
        distillation.hard(label, says, targets, teacher), distillation.hard(label, says, targets, 3 * teacher)
    )


def test_soft_distillation_is_the_papers_equation_and_the_official_codes_up_to_the_classes():
    label, says, teacher = torch.randn(3, 4, 5)
    targets, tau = F.one_hot(torch.tensor([0, 1, 2, 3]), 5).float(), 3.0
    p, q = (teacher / tau).softmax(-1), (says / tau).softmax(-1)
    divergence = (p * (p.log() - q.log())).sum(-1).mean()
    entropy = -(targets * label.log_softmax(-1)).sum(-1).mean()
    loss = distillation.soft(label, says, targets, teacher, tau=tau, share=0.1)
    torch.testing.assert_close(loss, 0.9 * entropy + 0.1 * tau**2 * divergence)
    official = tau**2 * (p * (p.log() - q.log())).sum() / says.numel()
    torch.testing.assert_close(official * 5, tau**2 * divergence)
    assert distillation.soft(label, teacher, targets, teacher, share=1.0).abs() < 1e-6  # the teacher itself


def test_the_gradient_of_soft_distillation_keeps_its_size_as_tau_grows():
    says, teacher = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)
    sizes = []
    for tau in (10.0, 20.0, 40.0):
        loss = distillation.soft(says, says, torch.zeros(8, dtype=torch.long), teacher, tau=tau, share=1.0)
        sizes.append(torch.autograd.grad(loss, says)[0].norm())
    assert abs(sizes[1] / sizes[0] - 1) < 0.1 and abs(sizes[2] / sizes[1] - 1) < 0.05


def test_no_gradient_reaches_the_teacher_and_bad_input_is_refused():
    label, says, teacher = (torch.randn(4, 5, requires_grad=True) for _ in range(3))
    targets = torch.zeros(4, dtype=torch.long)
    (distillation.hard(label, says, targets, teacher) + distillation.soft(label, says, targets, teacher)).backward()
    assert teacher.grad is None and label.grad.abs().sum() > 0 and says.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="tau=0"):
        distillation.soft(label, says, targets, teacher, tau=0)
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        distillation.hard(label, says, targets, torch.randn(4, 3))
