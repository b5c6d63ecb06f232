"""Decision Transformer: an episode read as a text of returns, states and actions (Chen et al. 2021).

Shape letters: B batch, N steps of an episode (3 N tokens), C width (`dim`).

The model of the Gym experiments: GPT-2's blocks with ReLU, over embeddings of numbers instead of words. Positions are
those of steps: the three tokens of a step share one vector. Two deviations from the released code: it keeps an unused
table of one word (`wte`), which ours lacks; and `act_last` is an argument, as discrete actions want logits, not a tanh.
The Atari model, with its convolutions and a tanh on every embedding, is not here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, PreNorm, look_up
from ..registry import register


class Predictions(NamedTuple):
    """What is read off the tokens of each step: the action, before it is seen; after it, next state and return."""

    actions: Tensor  # (B, N, act_dim)
    states: Tensor  # (B, N, state_dim)
    returns: Tensor  # (B, N)


class DecisionTransformer(nn.Module):
    """Actions that continue an episode, given the return that is still to be fetched.

    Args:
        state_dim, act_dim: numbers in a state and in an action; discrete ones come as one-hot vectors.
        dim, depth, heads: width, layers and heads.  hidden: of the MLP; 4 dim by default.
        dropout: on embeddings, attention weights and what each sublayer adds.
        steps: the longest episode.  context: how many of the last steps `act` reads.
        act_last: what ends the head of the actions: a tanh for actions in [-1, 1], nn.Identity for logits.
    """

    def __init__(
        self, *, state_dim: int = 17, act_dim: int = 6, dim: int = 128, depth: int = 3, heads: int = 1,
        hidden: int | None = None, dropout: float = 0.1, steps: int = 1000, context: int = 20,
        act_last: Callable[[], nn.Module] = nn.Tanh,
    ) -> None:  # fmt: skip
        super().__init__()
        if context < 1:
            raise ValueError(f"context={context}: to act, it has to read one step at least")
        self.steps, self.context, self.dropout = steps, context, dropout
        self.times = nn.Embedding(steps, dim)
        self.embed_return, self.embed_state, self.embed_action = (nn.Linear(n, dim) for n in (1, state_dim, act_dim))
        self.norm_in = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads, causal=True, dropout=dropout), MLP(dim, hidden or 4 * dim, nn.ReLU),
                  residual=PreNorm, dropout=dropout) for _ in range(depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)
        self.to_state, self.to_return = nn.Linear(dim, state_dim), nn.Linear(dim, 1)
        self.to_action = nn.Sequential(nn.Linear(dim, act_dim), act_last())
        self.init()

    def init(self) -> None:
        """What is GPT-2's from N(0, 0.02^2) without biases, as in the released code; the rest as torch has it."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, returns: Tensor, states: Tensor, actions: Tensor, times: Tensor | None = None, seen: Tensor | None = None
    ) -> Predictions:
        """Returns to go (B, N), states (B, N, state_dim) and actions (B, N, act_dim) to what follows each.

        The action of step n is predicted from all of the steps before it, its own return and its own state.

        Args:
            times: (B, N) or (N,), the number of each step in its episode; 0 .. N - 1 by default.
            seen: bool (B, N), False for steps that only fill up a batch.
        """
        batch, n = returns.shape
        if states.shape[:2] != (batch, n) or actions.shape[:2] != (batch, n):
            raise ValueError(f"returns {(batch, n)}, states {tuple(states.shape)} and actions {tuple(actions.shape)}")
        if times is None:
            times = torch.arange(n, device=returns.device)
        when = look_up(self.times, times, "times")
        three = self.embed_return(returns[..., None]), self.embed_state(states), self.embed_action(actions)
        x = torch.stack([kind + when for kind in three], 2).flatten(1, 2)  # (B, 3N, C): R, s, a, R, s, a, ...
        x = F.dropout(self.norm_in(x), self.dropout, self.training)
        mask = None if seen is None else seen.repeat_interleave(3, 1)[:, None, None]
        for block in self.blocks:
            x = block(x, mask=mask)
        _, at_state, at_action = self.norm(x).unflatten(1, (n, 3)).unbind(2)
        return Predictions(self.to_action(at_state), self.to_state(at_action), self.to_return(at_action)[..., 0])

    def act(self, returns: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        """The next action, (B, act_dim), after N states and N - 1 actions; it reads the last `context` steps.

        Args:
            returns: (B, N): in step 0 the return that is asked for, later what is left of it.
        """
        last, n = self.context, returns.shape[1]
        if actions.shape[1] != n - 1:
            raise ValueError(f"after {n} states come {n - 1} actions, not {actions.shape[1]}: the next one is wanted")
        actions = F.pad(actions, (0, 0, 0, 1))  # the next action's token: nothing that is read off can see it
        times = torch.arange(n, device=returns.device)[-last:]
        return self(returns[:, -last:], states[:, -last:], actions[:, -last:], times).actions[:, -1]


@register
def decision_transformer_hopper(**overrides: Any) -> DecisionTransformer:
    """0.73 M parameters, for 11 numbers in a state and 3 in an action (Chen et al. 2021, appendix A.2)."""
    return DecisionTransformer(**{"state_dim": 11, "act_dim": 3} | overrides)


@register
def decision_transformer_halfcheetah(**overrides: Any) -> DecisionTransformer:
    """0.73 M parameters, for 17 numbers in a state and 6 in an action (Chen et al. 2021, appendix A.2)."""
    return DecisionTransformer(**overrides)


@register
def decision_transformer_reacher(**overrides: Any) -> DecisionTransformer:
    """0.73 M parameters, for 11 numbers in a state and 2 in an action; it reads 5 steps (Chen et al. 2021, A.2)."""
    return DecisionTransformer(**{"state_dim": 11, "act_dim": 2, "context": 5} | overrides)
