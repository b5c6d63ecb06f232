"""Decision Transformer: what a prediction may depend on, padding, acting, counts, and inputs that are refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.models.decision_transformer import DecisionTransformer
from tformerlib.peers import prepare
from tformerlib.peers.parity import widen

SIZES: dict[str, Any] = {"state_dim": 7, "act_dim": 5, "dim": 24, "depth": 2, "heads": 3, "steps": 13, "context": 4}


def wide(**overrides: Any) -> DecisionTransformer:
    model = DecisionTransformer(**SIZES | {"act_last": nn.Identity} | overrides)
    widen(model)
    return model.eval()


def episode(n: int, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (batch, n), (batch, n, 7), (batch, n, 5)
    returns, states, actions = (torch.randn(shape, generator=generator) for shape in shapes)
    return returns, states, actions


@pytest.mark.parametrize("kind", ["returns", "states", "actions"])
def test_a_prediction_depends_on_what_was_known_and_on_nothing_else(kind: str) -> None:
    """At step n an action is predicted from returns and states up to n and actions before n; the rest from all up to n.

    Asked by gradients: of each step's prediction with respect to each step's input.
    """
    model, n = wide(), 6
    inputs = [x.requires_grad_() for x in episode(n)]
    predicted = model(*inputs)
    source = inputs[("returns", "states", "actions").index(kind)]
    for what, out in predicted._asdict().items():
        for step in range(n):
            (gradient,) = torch.autograd.grad(out[:, step].square().sum(), source, retain_graph=True)
            felt = gradient.flatten(2).abs().amax((0, 2)) > 0 if kind != "returns" else gradient.abs().amax(0) > 0
            last = step - 1 if what == "actions" and kind == "actions" else step
            assert felt.tolist() == [i <= last for i in range(n)], (what, step)


def test_steps_that_fill_up_change_nothing() -> None:
    """Padding on the left, as the official code has it, with the true times; and on the right."""
    model, (returns, states, actions) = wide(), episode(5)
    alone = model(returns, states, actions)
    for before, after in ((3, 0), (0, 3), (2, 2)):
        seen = F.pad(torch.ones(3, 5, dtype=torch.bool), (before, after))
        times = F.pad(torch.arange(5), (before, after))
        filled = [F.pad(x, (*(0, 0) * (x.ndim - 2), before, after), value=9.0) for x in (returns, states, actions)]
        for a, b in zip(model(*filled, times, seen), alone, strict=True):
            torch.testing.assert_close(a[:, before : before + 5], b, atol=2e-5, rtol=2e-5)


def test_acting_reads_the_last_steps_with_their_own_times() -> None:
    model, (returns, states, actions) = wide(context=4), episode(9)
    for n in (1, 3, 4, 5, 9):
        cut = slice(max(0, n - 4), n)
        full = model(returns[:, cut], states[:, cut], actions[:, cut], torch.arange(n)[cut]).actions[:, -1]
        torch.testing.assert_close(model.act(returns[:, :n], states[:, :n], actions[:, : n - 1]), full)


def test_the_three_tokens_of_a_step_share_one_time_and_order_is_read_from_times_alone() -> None:
    """With equal times for all steps, two past steps may change places; with their own times they may not."""
    model, (returns, states, actions) = wide(depth=1), episode(4)
    order = torch.tensor([1, 0, 2, 3])
    swapped = [x[:, order] for x in (returns, states, actions)]
    equal = torch.zeros(4, dtype=torch.long)
    a, b = model(returns, states, actions, equal), model(*swapped, equal)
    torch.testing.assert_close(a.actions[:, -1], b.actions[:, -1], atol=2e-5, rtol=2e-5)
    a, b = model(returns, states, actions), model(*swapped)
    assert (a.actions[:, -1] - b.actions[:, -1]).abs().max() > 1e-2


def test_training_drops_and_evaluation_does_not() -> None:
    model, inputs = wide(dropout=0.5), episode(6)
    assert torch.equal(model(*inputs).actions, model(*inputs).actions)
    model.train()
    torch.manual_seed(0)
    first, second = (model(*inputs).actions for _ in range(2))
    assert (first - second).abs().max() > 1e-2
    still = wide(dropout=0.0).train()
    assert torch.equal(still(*inputs).actions, still(*inputs).actions)


def test_actions_are_bounded_by_a_tanh_unless_told_otherwise() -> None:
    inputs = [100 * x for x in episode(6)]
    assert wide(act_last=nn.Tanh)(*inputs).actions.abs().max() <= 1 < wide()(*inputs).actions.abs().max()


def test_every_parameter_gets_a_gradient() -> None:
    model = wide()
    sum(x.square().sum() for x in model(*episode(13))).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


COUNTS = {
    "decision_transformer_hopper": (11, 3, 727_567),
    "decision_transformer_halfcheetah": (17, 6, 729_880),
    "decision_transformer_reacher": (11, 2, 727_310),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_transformers_without_its_extra_tables(name: str) -> None:
    """The paper prints none. Theirs has 1024 positions and a table of one word besides, each 128 wide."""
    prepare()
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    state_dim, act_dim, count = COUNTS[name]
    config = DecisionTransformerConfig(
        state_dim=state_dim, act_dim=act_dim, max_ep_len=1000, bos_token_id=None, eos_token_id=None
    )
    with torch.device("meta"):
        ours, theirs = tf.create_model(name), DecisionTransformerModel(config)
    assert sum(p.numel() for p in ours.parameters()) == count
    assert sum(p.numel() for p in theirs.parameters()) == count + 128 * (1024 + 1)


def test_bad_input_is_refused() -> None:
    model, (returns, states, actions) = wide(), episode(5)
    with pytest.raises(ValueError, match=r"returns \(3, 5\), states \(3, 4, 7\) and actions \(3, 5, 5\)"):
        model(returns, states[:, 1:], actions)
    with pytest.raises(ValueError, match="times from 0 to 13 are not all in 0 .. 12"):
        model(returns, states, actions, torch.tensor([0, 1, 2, 3, 13]))
    with pytest.raises(ValueError, match="after 5 states come 4 actions, not 5"):
        model.act(returns, states, actions)
    with pytest.raises(ValueError, match="heads=5 does not divide dim=24"):
        wide(heads=5)
    with pytest.raises(ValueError, match="context=0"):
        wide(context=0)


def test_compiles_without_a_graph_break() -> None:
    model, inputs = wide(), episode(6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs).actions, model(*inputs).actions, atol=2e-5, rtol=2e-5)
