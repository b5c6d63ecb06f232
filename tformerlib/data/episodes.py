"""Small worlds to act in, and episodes recorded in them. Everything is drawn by program; nothing is downloaded.

Shape letters: P episodes (played side by side), N steps. States are vectors of numbers, actions are ids.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# states (P, N, width), actions (P, N - 1) and rewards (P, N - 1) so far to the next actions (P,)
Policy = Callable[[Tensor, Tensor, Tensor], Tensor]


class World(Protocol):
    """What `play` needs of an environment; it holds many copies of itself and steps them together."""

    width: int  # numbers in a state
    actions: int  # number of actions
    steps: int  # of the longest episode

    def reset(self, count: int, generator: torch.Generator) -> Tensor:
        """Begins `count` episodes; returns what is seen first, (P, width)."""

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (P,) to states (P, width), rewards (P,) and whether an episode is over, bool (P,)."""

    def random(self, generator: torch.Generator) -> Tensor:
        """Actions (P,) of somebody who does not know what for."""


class Episodes(NamedTuple):
    """Recorded episodes, the shorter ones filled up: `seen` is False where an episode is over."""

    states: Tensor  # (P, N, width)
    actions: Tensor  # (P, N) ids
    rewards: Tensor  # (P, N)
    seen: Tensor  # bool (P, N)

    @property
    def returns(self) -> Tensor:
        """Of each step (P, N), the sum of its own reward and of all that follow: what was still to come."""
        return returns_to_go(self.rewards)

    def only(self, rows: Tensor) -> "Episodes":
        """Some of the episodes, by index or by a bool for each."""
        return Episodes(*(x[rows] for x in self))


def returns_to_go(rewards: Tensor) -> Tensor:
    """Sums from each step to the end, (..., N), without a discount.

    >>> returns_to_go(torch.tensor([1.0, 0.0, 2.0])).tolist()
    [3.0, 2.0, 2.0]
    """
    return rewards.flip(-1).cumsum(-1).flip(-1)


def play(world: World, policy: Policy | None, count: int, *, seed: int) -> Episodes:
    """Plays `count` episodes side by side, by a policy or at random, and records them."""
    generator = torch.Generator().manual_seed(seed)
    states = [world.reset(count, generator)]
    actions, rewards, seen = torch.zeros(count, 0, dtype=torch.long), torch.zeros(count, 0), []
    running = torch.ones(count, dtype=torch.bool)
    for _ in range(world.steps):
        chosen = world.random(generator) if policy is None else policy(torch.stack(states, 1), actions, rewards)
        state, reward, over = world.step(chosen)
        states.append(state)
        seen.append(running)
        actions = torch.cat([actions, (chosen * running)[:, None]], 1)
        rewards = torch.cat([rewards, (reward * running)[:, None]], 1)
        running = running & ~over
    mask = torch.stack(seen, 1)
    return Episodes(torch.stack(states[:-1], 1) * mask[..., None], actions, rewards, mask)


class ShortestPath:
    """A directed graph with one goal. An action is the node to go to; without an edge one stays. Each step costs 1.

    The task of Chen et al. (2021), appendix A.3. A random action goes along an edge, so random episodes are walks.

    Args:
        nodes: number of nodes; the last one is the goal.  edge: the chance that one node leads to another.
        steps: of the longest episode.  seed: draws the graph; every node has an edge and a way to the goal.

    Attributes:
        edges: bool (nodes, nodes), from row to column.  distance: (nodes,), steps of the shortest way to the goal.
    """

    def __init__(self, nodes: int = 20, *, edge: float = 0.1, steps: int = 10, seed: int) -> None:
        if nodes < 2 or not 0 <= edge <= 1:
            raise ValueError(f"nodes={nodes}, edge={edge}: at least two nodes, and a chance from 0 to 1")
        self.width = self.actions = nodes
        self.steps, self.goal = steps, nodes - 1
        generator = torch.Generator().manual_seed(seed)
        while True:
            self.edges = (torch.rand(nodes, nodes, generator=generator) < edge).fill_diagonal_(False)
            self.distance = steps_to(self.edges, self.goal)
            if self.distance.max() <= steps and self.edges.any(1).all():
                break
        self.at = torch.zeros(0, dtype=torch.long)

    def reset(self, count: int, generator: torch.Generator) -> Tensor:
        """Episodes begin at every node but the goal, equally often (up to one), in random order."""
        self.at = torch.arange(count)[torch.randperm(count, generator=generator)] % self.goal
        return F.one_hot(self.at, self.width).float()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.at = torch.where(self.edges[self.at, actions], actions, self.at)
        return F.one_hot(self.at, self.width).float(), -torch.ones(len(actions)), self.at == self.goal

    def random(self, generator: torch.Generator) -> Tensor:
        return torch.multinomial(self.edges[self.at].float(), 1, generator=generator)[:, 0]


def steps_to(edges: Tensor, goal: int) -> Tensor:
    """Length of the shortest way from each node to the goal; as many as there are nodes where there is no way."""
    distance = torch.full((len(edges),), len(edges))
    distance[goal] = 0
    for _ in range(len(edges)):  # of each edge: the way from its end, and one step more
        distance = torch.minimum(distance, torch.where(edges, distance + 1, len(edges)).amin(1))
    return distance


class KeyToDoor:
    """Three rooms: a key, nothing, a door. One reward, at the very end, for whoever had the key and reached the door.

    After Mesnard et al. (2021), smaller: rooms of side x side fields that are left by the clock. One sees which room it
    is, where the key or the door lies from here, and not whether one has the key: that has to be remembered.

    Args:
        side: of a room, in fields.  stay: steps in the first and in the last room.  between: steps in the middle one.
    """

    MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))

    def __init__(self, side: int = 3, *, stay: int = 4, between: int = 8) -> None:
        if side < 2 or stay < 1 or between < 0:
            raise ValueError(f"side={side}, stay={stay}, between={between}: a room of one field has nothing to reach")
        self.side, self.stay, self.between = side, stay, between
        self.steps, self.actions, self.width = 2 * stay + between, 4, 3 + 2 * (2 * side - 1)

    def reset(self, count: int, generator: torch.Generator) -> Tensor:
        places = torch.rand(count, self.side**2, generator=generator).argsort(1)[:, :4]  # four fields, all different
        self.time = 0
        self.me, self.key, self.door, self.entry = (self._field(places[:, i]) for i in range(4))
        self.has, self.arrived = torch.zeros(2, count, dtype=torch.bool)
        return self._look()

    def _field(self, place: Tensor) -> Tensor:
        return torch.stack([place // self.side, place % self.side], -1)  # row and column

    def _look(self) -> Tensor:
        """One-hot: the room, and the way to what lies in it, down and right; nothing where nothing lies."""
        room = int(self.time >= self.stay) + int(self.time >= self.stay + self.between)
        ahead = (self.door if room == 2 else self.key) - self.me + self.side - 1
        there = torch.ones(len(self.me)) if room == 2 else (room == 0) * ~self.has
        rooms = F.one_hot(torch.full((len(self.me),), room), 3).float()
        return torch.cat([rooms, F.one_hot(ahead, 2 * self.side - 1).flatten(1) * there[:, None]], 1)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.me = (self.me + torch.tensor(self.MOVES)[actions]).clamp(0, self.side - 1)
        if self.time < self.stay:
            self.has = self.has | (self.me == self.key).all(-1)
        self.time += 1
        if self.time == self.stay + self.between:
            self.me = self.entry
        if self.time > self.stay + self.between:
            self.arrived = self.arrived | (self.me == self.door).all(-1)
        over = torch.full_like(self.has, self.time == self.steps)
        return self._look(), (self.has & self.arrived & over).float(), over

    def random(self, generator: torch.Generator) -> Tensor:
        return torch.randint(4, (len(self.me),), generator=generator)
