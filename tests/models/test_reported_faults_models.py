"""Right values where bug reports, fuzzing or other suites found wrong ones: the models and their weights."""

from typing import Any

import pytest
import torch

import tformerlib as tf

BUFFERS = ["swin_tiny", "swinv2_base_window8", "coatnet_0_224", "convit_tiny", "vit_lite_7_4_32", "transformer_base"]


def inputs(name: str) -> tuple[torch.Tensor, ...]:
    if name == "transformer_base":
        return torch.randint(1, 50, (2, 7)), torch.randint(1, 50, (2, 5))
    side = {"swinv2_base_window8": 256, "vit_lite_7_4_32": 32}.get(name, 224)
    return (torch.randn(1, 3, side, side),)


@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("name", BUFFERS)
def test_models_built_without_memory_equal_others(name: str, assign: bool) -> None:
    options = {"source_vocab": 50} if name == "transformer_base" else {}
    torch.manual_seed(0)
    model = tf.create_model(name, **options).eval()
    with torch.device("meta"):
        empty = tf.create_model(name, **options).eval()
    if not assign:
        empty = empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict(), assign=assign)
    x = inputs(name)
    with torch.no_grad():
        torch.testing.assert_close(empty(*x), model(*x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_convit_under_autocast(dtype: torch.dtype, training: bool) -> None:
    torch.manual_seed(0)
    model = tf.create_model("convit_tiny", image=64, depth=2, free=1, drop_path=0.0).train(training)
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", dtype):
        low = model(x)
    assert (low.float() - model(x)).abs().max() < 0.1 * model(x).abs().max()


@pytest.mark.parametrize("ids", [[[3, 50]], [[-1, 2]]])
@pytest.mark.parametrize("name", ["gpt", "gpt2", "bert_tiny"])
def test_ids_outside_the_vocabulary_are_named(name: str, ids: list[list[int]]) -> None:
    small = {} if name == "bert_tiny" else {"dim": 16, "heads": 2, "depth": 1}
    model = tf.create_model(name, vocab=50, **small)
    with pytest.raises(ValueError, match=r"are not all in 0 \.\. 49"):
        model(torch.tensor(ids))


@pytest.mark.parametrize("name", ["pvt_tiny", "cmt_ti"])
def test_images_of_equal_area_are_no_equal_images(name: str) -> None:
    model = tf.create_model(name, image=128).eval()
    with pytest.raises(ValueError, match="create it with image="):
        model(torch.randn(1, 3, 64, 256))


# --- published weights ------------------------------------------------------------------------------------------------


def timm_vit(size: int) -> dict[str, torch.Tensor]:
    timm = pytest.importorskip("timm")
    return timm.create_model("vit_tiny_patch16_224", img_size=size, depth=1).state_dict()


def test_a_grid_is_its_two_sides() -> None:
    state = timm_vit(64)
    model = tf.load_published(tf.create_model("vit_tiny_patch16", image=(32, 128), depth=1), state, "timm")
    square = state["pos_embed"][:, 1:].unflatten(1, (4, 4)).movedim(-1, 1)
    wanted = torch.nn.functional.interpolate(square, size=(2, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(model.state_dict()["positions"][:, 1:], wanted.flatten(2).mT)


@pytest.mark.parametrize("wrap", ["model", "state_dict", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_load_as_training_scripts_save_them(wrap: str) -> None:
    state = timm_vit(64)
    make = lambda: tf.create_model("vit_tiny_patch16", image=64, depth=1)  # noqa: E731
    wrapped: dict[str, Any] = (
        {wrap + k: v for k, v in state.items()} if wrap.endswith(".") else {wrap: state, "epoch": 3}
    )
    expected = tf.load_published(make(), state, "timm").state_dict()
    torch.testing.assert_close(tf.load_published(make(), wrapped, "timm").state_dict(), expected)


def test_subclasses_and_half_precision_load_with_a_resize() -> None:
    vit = type(tf.create_model("vit_tiny_patch16", image=32, depth=1))
    mine = type("Mine", (vit,), {})(image=32, patch=16, dim=192, depth=1, heads=3)
    state: dict[str, Any] = {k: v.half() for k, v in timm_vit(64).items()}
    assert tf.load_published(mine, state, "timm").positions.dtype == torch.float32
    with pytest.raises(ValueError, match="'epoch' is a int"):
        tf.load_published(mine, {**state, "epoch": 3}, "timm")


def test_untied_heads_are_refused() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=False
    )
    theirs = transformers.GPT2LMHeadModel(config)
    ours = tf.create_model("gpt2", vocab=50, context=8, dim=16, depth=1, heads=2)
    with pytest.raises(ValueError, match="ours share one table"):
        tf.load_published(ours, theirs.state_dict())


def test_frozen_norms_take_the_weights_of_trained_ones() -> None:
    from tformerlib.layers.convs import FrozenBatchNorm2d

    norm = torch.nn.BatchNorm2d(3)
    norm(torch.randn(4, 3, 5, 5))
    frozen, x = FrozenBatchNorm2d(3), torch.randn(2, 3, 5, 5)
    frozen.load_state_dict(norm.state_dict())
    torch.testing.assert_close(frozen(x), norm.eval()(x))
