"""Answers to the exercises of the chapter on decisions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def total_minus_past(rewards: Tensor) -> Tensor:
    return rewards.sum(1, keepdim=True) - rewards.cumsum(1) + rewards


def discounted(rewards: Tensor) -> Tensor:
    n = torch.arange(rewards.shape[1])
    ahead = n[None] - n[:, None]
    return rewards @ torch.where(ahead >= 0, 0.99 ** ahead.clamp(min=0), 0.0).T


def by_loop(R: Tensor, s: Tensor, a: Tensor) -> Tensor:
    return torch.cat([x[:, n : n + 1] for n in range(R.shape[1]) for x in (R, s, a)], 1)


def step_by_step(target: Tensor, rewards: Tensor) -> Tensor:
    tokens = [target]
    for reward in rewards.unbind(1):
        tokens.append(tokens[-1] - reward)
    return torch.stack(tokens, 1)


RIGHT = {"decisions-returns": [total_minus_past], "decisions-tokens": [by_loop], "decisions-left": [step_by_step]}
WRONG = {
    "decisions-returns": {
        "what was fetched so far": lambda rewards: rewards.cumsum(1),
        "without its own reward": lambda rewards: rewards.flip(1).cumsum(1).flip(1) - rewards,
        "the whole return at every step": lambda rewards: rewards.sum(1, keepdim=True).expand_as(rewards),
        "a discount": discounted,
        "turned round": lambda rewards: rewards.flip(1).cumsum(1),
        "over the episodes": lambda rewards: rewards.flip(0).cumsum(0).flip(0),
        "one number for each episode": lambda rewards: rewards.sum(1),
    },
    "decisions-tokens": {
        "one kind after another": lambda R, s, a: torch.cat([R, s, a], 1),
        "side by side in the width": lambda R, s, a: (
            torch.cat([R, s, a], 2).reshape(len(R), 3 * R.shape[1], -1).flip(1)
        ),
        "the state first": lambda R, s, a: torch.stack([s, R, a], 2).flatten(1, 2),
        "stacked and only reshaped": lambda R, s, a: torch.stack([R, s, a], 1).reshape(len(R), -1, R.shape[2]),
        "the action first": lambda R, s, a: torch.stack([a, R, s], 2).flatten(1, 2),
        "mixed up with the batch": lambda R, s, a: torch.stack([R, s, a]).reshape(len(R), -1, R.shape[2]),
    },
    "decisions-left": {
        "the request for ever": lambda target, rewards: target[:, None].expand(-1, rewards.shape[1] + 1),
        "added": lambda target, rewards: target[:, None] + F.pad(rewards.cumsum(1), (1, 0)),
        "the last reward alone": lambda target, rewards: target[:, None] - F.pad(rewards, (1, 0)),
        "one step too early": lambda target, rewards: target[:, None] - F.pad(rewards.cumsum(1), (0, 1)),
        "without a token for the next step": lambda target, rewards: target[:, None] - rewards.cumsum(1),
    },
}
