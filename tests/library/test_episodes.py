"""The worlds of the chapter on decisions keep their rules, and episodes are recorded as they were played."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tformerlib.data.episodes import KeyToDoor, ShortestPath, play, returns_to_go, steps_to


def test_returns_to_go_are_sums_to_the_end() -> None:
    rewards = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    for p, n in itertools.product(range(3), range(5)):
        assert torch.isclose(returns_to_go(rewards)[p, n], rewards[p, n:].sum(), atol=1e-6)


def breadth_first(edges: Tensor, goal: int) -> list[int]:
    found, frontier, steps = {goal: 0}, [goal], 0
    while frontier:
        steps += 1
        frontier = [n for n in range(len(edges)) if n not in found and any(edges[n, m] for m in frontier)]
        found |= dict.fromkeys(frontier, steps)
    return [found.get(n, len(edges)) for n in range(len(edges))]


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_a_breadth_first_search(seed: int) -> None:
    edges = torch.rand(11, 11, generator=torch.Generator().manual_seed(seed)) < 0.12
    assert steps_to(edges, 3).tolist() == breadth_first(edges, 3)
    world = ShortestPath(11, edge=0.2, seed=seed)
    assert world.distance.max() <= world.steps and not world.edges.diagonal().any()


def shortest(world: ShortestPath) -> Any:
    """A policy that knows the graph."""
    onward = torch.where(world.edges, world.distance, 99).argmin(1)
    return lambda states, actions, rewards: onward[states[:, -1].argmax(-1)]


def test_who_knows_the_graph_arrives_by_shortest_ways_and_each_step_costs_one() -> None:
    world = ShortestPath(seed=3)
    played = play(world, shortest(world), 19, seed=0)
    starts = played.states[:, 0].argmax(-1)
    assert starts.sort().values.tolist() == list(range(19))
    assert torch.equal(-played.returns[:, 0], world.distance[starts].float())
    assert torch.equal(played.seen.sum(1), world.distance[starts])
    assert (played.rewards[~played.seen] == 0).all() and (played.states[~played.seen] == 0).all()


def test_walks_go_along_edges_and_a_jump_without_an_edge_stays() -> None:
    world = ShortestPath(seed=4)
    walks = play(world, None, 200, seed=1)
    nodes = walks.states.argmax(-1)
    assert world.edges[nodes, walks.actions][walks.seen].all()
    assert torch.equal(nodes[:, 1:][walks.seen[:, 1:]], walks.actions[:, :-1][walks.seen[:, 1:]])
    again = play(world, None, 200, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(walks, again, strict=True))
    world.reset(19, torch.Generator().manual_seed(0))
    before = world.at.clone()
    state, reward, over = world.step(before)  # nowhere leads an edge from a node to itself
    assert torch.equal(state.argmax(-1), before) and (reward == -1).all() and not over.any()


def towards(states: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """Goes to what is seen: rows first. In a world of side 3 what lies ahead is one-hot from -2 to 2."""
    down, right = (states[:, -1, 3 + 5 * i : 8 + 5 * i].argmax(-1) - 2 for i in (0, 1))
    return torch.where(down != 0, (down > 0).long(), 2 + (right > 0).long())


def test_the_door_opens_for_those_with_the_key_alone() -> None:
    world = KeyToDoor()
    assert play(world, towards, 300, seed=0).rewards.sum(1).eq(1).all()  # four steps reach any field of 3 x 3
    half = world.stay + world.between

    def door_only(states: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        return towards(states, actions, rewards) if states.shape[1] > half else torch.zeros(len(states)).long()

    def key_only(states: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        return towards(states, actions, rewards) if states.shape[1] <= half else torch.zeros(len(states)).long()

    for policy in (door_only, key_only):
        won = play(world, policy, 300, seed=0).rewards.sum(1)
        assert 0 < won.mean() < 0.6  # where one runs along a wall into it by chance
    luck = play(world, None, 20_000, seed=0).rewards.sum(1).mean()
    assert 0.04 < luck < 0.09


def test_one_reward_at_the_very_end_and_the_key_is_not_seen() -> None:
    world = KeyToDoor()
    won = play(world, towards, 50, seed=2)
    assert (won.rewards[:, :-1] == 0).all() and won.seen.all() and won.rewards.shape == (50, 16)
    rooms = won.states[..., :3].argmax(-1)
    assert rooms[0].tolist() == [0] * 4 + [1] * 8 + [2] * 4
    assert (won.states[:, 4:12, 3:] == 0).all()  # nothing lies in the middle room
    lost = play(world, lambda states, actions, rewards: torch.zeros(len(states)).long(), 50, seed=2)
    assert torch.equal(lost.states[:, 12], won.states[:, 12])  # the last room looks the same with and without a key


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShortestPath(1, seed=0), "nodes=1"),
        (lambda: ShortestPath(edge=1.5, seed=0), "edge=1.5"),
        (lambda: KeyToDoor(1), "side=1"),
        (lambda: KeyToDoor(stay=0), "stay=0"),
    ],
)
def test_worlds_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
