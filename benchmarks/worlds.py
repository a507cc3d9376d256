"""Small multi-agent worlds whose true credit is known: tables for policies, vectorised over rollouts.

A world is a function from action probabilities to episodes. Its states are rows of the policy's table; `agents` names
who acts in each. `reached` is the expected success of an episode, without the reward's noise.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORLDS", "Corridor", "Episodes", "Pipeline", "Team", "World"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Episodes:
    """B rollouts of at most T calls. Where mask is False there was no call."""

    states_B_T: Array
    actions_B_T: Array
    mask_B_T: Array
    rewards_B: Array
    reached_B: Array


def drawn(probabilities_B_A: Array, noise: np.random.Generator) -> Array:
    """One action per row."""
    u = noise.random((len(probabilities_B_A), 1))
    return np.minimum((probabilities_B_A.cumsum(-1) < u).sum(-1), probabilities_B_A.shape[-1] - 1)


@dataclass
class World(ABC):
    """What all have: `num_tasks` tasks; which action is right where is drawn from `seed`."""

    seed: int
    num_tasks: int = 4
    num_actions: int = 4
    agents: list[str] = field(default_factory=list[str])

    @property
    def num_states(self) -> int:
        return len(self.agents)

    @abstractmethod
    def run(self, policy_S_A: Array, tasks_B: Array, noise: np.random.Generator) -> Episodes:
        """Play one episode of each task."""


@dataclass
class Team(World):
    """`size` agents act once each, in order; each sees the task and a hint of whether the one before did well.

    Their weights in the success fall geometrically, in a random order; half of them are distractors of weight 0.
    """

    size: int = 16
    noise: float = 0.0
    """Standard deviation added to the reward."""
    binary: bool = False
    """The reward is 1 with probability success², else 0."""

    def __post_init__(self) -> None:
        made = np.random.default_rng(self.seed)
        self.right = made.integers(0, self.num_actions, (self.size, self.num_tasks))
        heavy = (self.size + 1) // 2
        weights = np.concatenate([0.8 ** np.arange(heavy), np.zeros(self.size - heavy)])
        self.weights = made.permutation(weights / weights.sum())
        self.agents = [f"agent{m}" for m in range(self.size) for _ in range(self.num_tasks * 2)]

    def run(self, policy_S_A: Array, tasks_B: Array, noise: np.random.Generator) -> Episodes:
        """See `World.run`."""
        count = len(tasks_B)
        states, actions = np.zeros((2, count, self.size), int)
        hint, reached = np.zeros(count, int), np.zeros(count)
        for m in range(self.size):
            states[:, m] = (m * self.num_tasks + tasks_B) * 2 + hint
            actions[:, m] = drawn(policy_S_A[states[:, m]], noise)
            right = actions[:, m] == self.right[m, tasks_B]
            reached += self.weights[m] * right
            hint = np.where(noise.random(count) < 0.8, right, ~right).astype(int)
        rewards = (noise.random(count) < reached**2) if self.binary else reached + self.noise * noise.normal(size=count)
        return Episodes(states, actions, np.ones_like(states, bool), rewards.astype(float), reached)


@dataclass
class Pipeline(World):
    """3 to 6 calls: a planner, a worker that may try again up to four times, and a checker that hardly matters.

    Success needs plan and work: 0.75 for both, 0.1 for each alone, 0.05 for the checker.
    """

    def __post_init__(self) -> None:
        made = np.random.default_rng(self.seed)
        self.right = made.integers(0, self.num_actions, (3, self.num_tasks))
        n = self.num_tasks
        self.agents = ["planner"] * n + ["worker"] * (2 * n) + ["checker"] * (2 * n)

    def run(self, policy_S_A: Array, tasks_B: Array, noise: np.random.Generator) -> Episodes:
        """See `World.run`."""
        count, n = len(tasks_B), self.num_tasks
        states, actions = np.zeros((2, count, 6), int)
        mask = np.ones((count, 6), bool)
        states[:, 0] = tasks_B
        actions[:, 0] = drawn(policy_S_A[states[:, 0]], noise)
        plan = actions[:, 0] == self.right[0, tasks_B]
        hint = np.where(noise.random(count) < 0.8, plan, ~plan).astype(int)
        live, work = np.ones(count, bool), np.zeros(count, bool)
        for k in range(1, 5):
            states[:, k] = n + 2 * tasks_B + hint
            actions[:, k] = drawn(policy_S_A[states[:, k]], noise)
            mask[:, k] = live
            good = actions[:, k] == self.right[1, tasks_B]
            work |= live & good
            live = live & ~good & (noise.random(count) < 0.5)
        look = np.where(noise.random(count) < 0.8, plan & work, ~(plan & work)).astype(int)
        states[:, 5] = 3 * n + 2 * tasks_B + look
        actions[:, 5] = drawn(policy_S_A[states[:, 5]], noise)
        check = actions[:, 5] == self.right[2, tasks_B]
        reached = 0.75 * (plan & work) + 0.1 * plan + 0.1 * work + 0.05 * check
        return Episodes(states, actions, mask, reached, reached)


@dataclass
class Corridor(World):
    """Up to 30 calls: a walker in a corridor, whose rooms it sees again and again, and a talker that changes nothing.

    In each room one action goes on, one goes back, the others stay. The reward is 1 for the last room, else 0.
    """

    length: int = 7
    turns: int = 15

    def __post_init__(self) -> None:
        made = np.random.default_rng(self.seed)
        orders = np.argsort(made.random((self.length, self.num_tasks, self.num_actions)), -1)
        self.onward, self.back = orders[..., 0], orders[..., 1]
        self.agents = ["walker"] * (self.length * self.num_tasks) + ["talker"] * self.num_tasks

    def run(self, policy_S_A: Array, tasks_B: Array, noise: np.random.Generator) -> Episodes:
        """See `World.run`."""
        count = len(tasks_B)
        states, actions = np.zeros((2, count, 2 * self.turns), int)
        mask = np.zeros((count, 2 * self.turns), bool)
        room = np.zeros(count, int)
        for turn in range(self.turns):
            live = room < self.length
            inside = np.minimum(room, self.length - 1)
            for place, state in ((2 * turn, inside * self.num_tasks), (2 * turn + 1, self.length * self.num_tasks)):
                states[:, place] = state + tasks_B
                actions[:, place] = drawn(policy_S_A[states[:, place]], noise)
                mask[:, place] = live
            action = actions[:, 2 * turn]
            onward, back = self.onward[inside, tasks_B], self.back[inside, tasks_B]
            room = np.where(live, np.maximum(room + (action == onward) - (action == back), 0), room)
        reached = (room >= self.length).astype(float)
        return Episodes(states, actions, mask, reached, reached)


WORLDS = {
    "pipeline": (Pipeline, {}),
    "team of 10": (Team, {"size": 10}),
    "team of 16": (Team, {"size": 16, "num_tasks": 6, "num_actions": 6}),
    "team of 16, noisy": (Team, {"size": 16, "noise": 0.1}),
    "team of 12, yes or no": (Team, {"size": 12, "binary": True, "num_actions": 4}),
    "team of 30": (Team, {"size": 30}),
    "corridor": (Corridor, {}),
}
"""Name → (world, its settings)."""
