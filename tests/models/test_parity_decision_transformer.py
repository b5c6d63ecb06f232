"""Same weights, same episodes: the same predictions and gradients as transformers' DecisionTransformerModel."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.models.decision_transformer import DecisionTransformer
from tformerlib.peers import prepare
from tformerlib.peers.parity import assert_same, widen

prepare()
from transformers import DecisionTransformerConfig, DecisionTransformerModel  # noqa: E402

SIZES = [(11, 3, 32, 2, 1, 17), (7, 5, 48, 3, 3, 9), (5, 2, 20, 1, 2, 23)]  # state, action, width, layers, heads, steps
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size)))
OUTPUTS = ("action_preds", "state_preds", "return_preds")


def both(size: tuple[int, ...], bounded: bool = True) -> tuple[DecisionTransformer, Any]:
    state_dim, act_dim, dim, depth, heads, steps = size
    last = nn.Tanh if bounded else nn.Identity
    ours = DecisionTransformer(
        state_dim=state_dim, act_dim=act_dim, dim=dim, depth=depth, heads=heads, steps=steps, act_last=last
    )
    theirs = DecisionTransformerModel(DecisionTransformerConfig(
        state_dim=state_dim, act_dim=act_dim, hidden_size=dim, n_layer=depth, n_head=heads, max_ep_len=steps,
        n_positions=29, action_tanh=bounded, bos_token_id=None, eos_token_id=None,
    ))  # fmt: skip
    widen(theirs)
    return ours.eval(), theirs.eval()


def episodes(size: tuple[int, ...], n: int) -> dict[str, Tensor]:
    """Some of them begin late in an episode; the first steps of the second only fill up."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, n, dtype=torch.long)
    mask[1, : n // 2] = 0
    return {
        "states": torch.randn(3, n, size[0], generator=generator),
        "actions": torch.randn(3, n, size[1], generator=generator),
        "returns_to_go": torch.randn(3, n, 1, generator=generator),
        "timesteps": torch.arange(n) + torch.tensor([[0], [1], [size[5] - n]]),
        "attention_mask": mask,
    }


def ours_on(model: DecisionTransformer, batch: dict[str, Tensor]) -> Any:
    return model(
        batch["returns_to_go"][..., 0], batch["states"], batch["actions"], batch["timesteps"],
        batch["attention_mask"].bool(),
    )  # fmt: skip


@each_size
@pytest.mark.parametrize("places", [False, True], ids=["wpe zeroed", "wpe as it is"])
def test_predictions_equal_transformers(size: tuple[int, ...], places: bool) -> None:
    """Their vector of position 0, which every token gets, is part of a bias in ours: equal with and without it."""
    ours, theirs = both(size)
    if not places:
        nn.init.zeros_(theirs.encoder.wpe.weight)
    tf.load_published(ours, theirs.state_dict())
    batch = episodes(size, 8)
    with torch.no_grad():
        found, expected = ours_on(ours, batch), theirs(**batch)
    real = batch["attention_mask"].bool()
    for a, name in zip(found, OUTPUTS, strict=True):
        b = getattr(expected, name).squeeze(-1) if name == "return_preds" else getattr(expected, name)
        assert b.std() > 0.1
        assert_same(a[real], b[real], name)


@each_size
def test_gradients_equal_transformers(size: tuple[int, ...]) -> None:
    ours, theirs = both(size, bounded=False)
    nn.init.zeros_(theirs.encoder.wpe.weight)
    tf.load_published(ours, theirs.state_dict())
    batch = episodes(size, 8)
    real = batch["attention_mask"].bool()
    found, expected = ours_on(ours, batch), theirs(**batch)
    for a, name in zip(found, OUTPUTS, strict=True):
        b = getattr(expected, name).squeeze(-1) if name == "return_preds" else getattr(expected, name)
        weights = torch.randn(a[real].shape, generator=torch.Generator().manual_seed(2))
        (a[real] * weights).sum().backward(retain_graph=True)
        (b[real] * weights).sum().backward(retain_graph=True)
    grads = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    del grads["encoder.wpe.weight"]  # it is not in ours; its gradient is that of our bias once more
    twin = tf.load_published(copy.deepcopy(ours), theirs.state_dict() | grads)
    for (name, p), g in zip(ours.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None and p.grad.abs().max() > 0, name
        assert_same(p.grad, g.detach(), f"gradient of {name}")


def test_the_extra_position_is_not_harmless() -> None:
    """Whoever drops `wpe` without adding its first row to the bias gets another model."""
    ours, theirs = both(SIZES[0])
    batch, state = episodes(SIZES[0], 8), theirs.state_dict()
    tf.load_published(ours, {key: x for key, x in state.items() if key != "encoder.wpe.weight"})
    with torch.no_grad():
        error = (ours_on(ours, batch).actions - theirs(**batch).action_preds)[batch["attention_mask"].bool()].abs()
    assert error.max() > 0.05
