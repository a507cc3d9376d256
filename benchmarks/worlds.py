"""Small multi-agent worlds whose true credit is known: tables for policies, vectorised over rollouts.

A world is a function from action probabilities to episodes. Its states are rows of the policy's table; `agents` names
who acts in each. `reached` is the expected success of an episode, without the reward's noise. `advantages` is the true
credit: the exact expected return after an action minus that before it, given all that has happened in the episode.
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

    @abstractmethod
    def advantages(self, policy_S_A: Array, tasks_B: Array, episodes: Episodes) -> Array:
        """The true advantage of every call of these episodes, shape (B, T); what it says where there was none is void.

        Of all actions but the right one none is better than another, so that it is (1 - p) · d for the right one and
        -p · d for the others: p is the policy's probability of the right one, d its expected gain over the others.
        """


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

    def advantages(self, policy_S_A: Array, tasks_B: Array, episodes: Episodes) -> Array:
        """See `World.advantages`."""
        table = policy_S_A.reshape(self.size, self.num_tasks, 2, self.num_actions)
        p_M_N_2 = np.array([table[m, np.arange(self.num_tasks), :, self.right[m]] for m in range(self.size)])
        # First and second moment of what the agents from m on add, by task and by the hint that m sees
        moments = np.zeros((self.size + 1, 2, self.num_tasks, 2))
        for m in reversed(range(self.size)):
            wrong, right = (self._hinted(moments[m + 1], good) for good in (0, 1))
            gained = self._plus(right, self.weights[m])
            moments[m] = p_M_N_2[m] * gained[..., None] + (1 - p_M_N_2[m]) * wrong[..., None]
        found, so_far = np.zeros(episodes.states_B_T.shape), np.zeros(len(tasks_B))
        for m in range(self.size):
            wrong, right = (self._hinted(moments[m + 1], good)[:, tasks_B] for good in (0, 1))
            good = episodes.actions_B_T[:, m] == self.right[m, tasks_B]
            gain = self._worth(right, so_far + self.weights[m]) - self._worth(wrong, so_far)
            found[:, m] = (good - p_M_N_2[m, tasks_B, episodes.states_B_T[:, m] % 2]) * gain
            so_far += self.weights[m] * good
        return found

    def _hinted(self, moments_2_N_2: Array, good: int) -> Array:
        """Expected over the hint that follows an action: right in 0.8 of cases."""
        return 0.8 * moments_2_N_2[..., good] + 0.2 * moments_2_N_2[..., 1 - good]

    def _plus(self, moments_2_N: Array, weight: float) -> Array:
        first, second = moments_2_N
        return np.array([first + weight, second + 2 * weight * first + weight**2])

    def _worth(self, moments_2_B: Array, so_far_B: Array) -> Array:
        """The expected reward, given what was reached so far and the moments of what is to come."""
        first, second = moments_2_B
        return so_far_B**2 + 2 * so_far_B * first + second if self.binary else so_far_B + first


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

    def advantages(self, policy_S_A: Array, tasks_B: Array, episodes: Episodes) -> Array:
        """See `World.advantages`."""
        n, everyone = self.num_tasks, np.arange(self.num_tasks)
        work_N_2 = policy_S_A[n : 3 * n].reshape(n, 2, -1)[everyone, :, self.right[1]]
        check_N_2 = policy_S_A[3 * n :].reshape(n, 2, -1)[everyone, :, self.right[2]]
        # What follows the work, by (plan, work): shape (N, 2, 2); the checker's hint is right in 0.8 of cases
        checked = [0.05 * (0.8 * check_N_2[:, done] + 0.2 * check_N_2[:, 1 - done]) for done in (0, 1)]
        after = np.stack([np.stack([0.75 * p * w + 0.1 * w + checked[p * w] for w in (0, 1)], -1) for p in (0, 1)], 1)
        # What a failed try k leaves, by plan and hint, and what the try is worth: shape (N, 2, 2)
        done, failed = np.repeat(after[..., 1:], 2, -1), {4: np.repeat(after[..., :1], 2, -1)}
        tries: dict[int, Array] = {}
        for k in (4, 3, 2, 1):
            tries[k] = work_N_2[:, None] * done + (1 - work_N_2[:, None]) * failed[k]
            failed[k - 1] = 0.5 * tries[k] + 0.5 * failed[4]
        hinted = [0.8 * tries[1][:, p, p] + 0.2 * tries[1][:, p, 1 - p] for p in (0, 1)]
        right_B_T = np.repeat(self.right[:, tasks_B], (1, 4, 1), 0).T
        good = episodes.actions_B_T == right_B_T
        p_B_T = policy_S_A[episodes.states_B_T, right_B_T]
        plan, hint = good[:, 0].astype(int), (episodes.states_B_T[:, 1] - n) % 2
        gain = np.full(good.shape, 0.05)
        gain[:, 0] = (0.1 + hinted[1] - hinted[0])[tasks_B]
        for k in range(1, 5):
            gain[:, k] = (done - failed[k])[tasks_B, plan, hint]
        return (good - p_B_T) * gain


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

    def advantages(self, policy_S_A: Array, tasks_B: Array, episodes: Episodes) -> Array:
        """See `World.advantages`; here some actions are neither right nor wrong."""
        rooms, tasks = np.indices((self.length, self.num_tasks))
        table = policy_S_A[: self.length * self.num_tasks].reshape(self.length, self.num_tasks, -1)
        on, back = table[rooms, tasks, self.onward], table[rooms, tasks, self.back]
        # The probability of getting there from each room, when so many turns are left
        worth = np.zeros((self.length + 1, self.num_tasks))
        worth[self.length] = 1
        found = np.zeros(episodes.states_B_T.shape)
        for turn in reversed(range(self.turns)):
            ahead, behind, here = worth[1:], worth[np.maximum(np.arange(self.length) - 1, 0)], worth[:-1]
            now = on * ahead + back * behind + (1 - on - back) * here
            room, action = episodes.states_B_T[:, 2 * turn] // self.num_tasks, episodes.actions_B_T[:, 2 * turn]
            place = room, tasks_B
            reached = np.where(action == self.onward[place], ahead[place], here[place])
            found[:, 2 * turn] = np.where(action == self.back[place], behind[place], reached) - now[place]
            worth = np.concatenate([now, worth[-1:]])
        return found


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
