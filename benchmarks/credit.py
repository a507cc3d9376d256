"""Which credit method learns from fewest rollouts? Small worlds, the real credit functions, tables for policies.

For each world and method: how a step's gradient compares with the true one, and rollouts until success is 0.8, at the
method's own best learning rate and at `broadcast`'s. Rates are chosen from the same grid, on seeds that are not
reported. A critic is a table of states, fitted to what its method says they are worth. `true` is no method: it credits
each call with its true advantage, and says what the best credit could do.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from worlds import WORLDS, Episodes, World

from leyden_trainer.credit import (
    Advantage,
    CallValues,
    CallView,
    Group,
    RolloutView,
    assign,
    credit_method,
    valued,
)

matplotlib.use("Agg")
Array = NDArray[Any]

TRUE = "true"
METHODS = (
    "dr_mas",
    "return_to_go",
    "gigpo",
    "group_regression",
    "task_regression",
    "anchor_td",
    "turn_ppo",
    "hae",
    TRUE,
)
"""Against `broadcast`. Options may follow, as in `gigpo,gamma=1,scale=none`."""
MORE_METHODS = (
    "dr_grpo",
    "rloo",
    "reinforce_plus_plus",
    "rae",
    "agent_return_to_go",
    "mt_grpo",
    "c3",
    "ppo",
    "multi_level_gae",
)
"""Nearly one of the above in these worlds, or (`c3`) in need of replays; `--gradients-only` has them too."""
RATES = (0.1, 0.2, 0.4, 0.8)
TUNING_SEEDS = (1000, 1001, 1002)
GROUPS, MEMBERS = 4, 8
STEP = GROUPS * MEMBERS
MOST_STEPS = 120
GOAL = 0.8
MANY_CALLS = 10
CRITIC_RATE = 0.3
"""How far a critic's value goes towards the mean of what its state was worth in a step."""
HEAD = (
    "world | method | cosine of a first step | of a later one | of 20 | variance / mean², median | rate | "
    f"rollouts to {GOAL} ± s.e. | at broadcast's rate"
)
PICTURE = Path(__file__).parents[1] / "docs" / "credit.png"


def softmax(logits_S_A: Array) -> Array:
    """Action probabilities."""
    powers = np.exp(logits_S_A - logits_S_A.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def views(world: World, episodes: Episodes, tasks_B: Array) -> list[Group]:
    """Episodes in groups of MEMBERS, as credit sees them."""
    rollouts = [
        RolloutView(str(b), float(reward), _calls(world, b, episodes), task=str(tasks_B[b]))
        for b, reward in enumerate(episodes.rewards_B)
    ]
    return [rollouts[n : n + MEMBERS] for n in range(0, len(rollouts), MEMBERS)]


def _calls(world: World, b: int, episodes: Episodes) -> tuple[CallView, ...]:
    """Of rollout b; a segment ends where another agent follows."""
    calls: list[CallView] = []
    for t in np.flatnonzero(episodes.mask_B_T[b]):
        s, a = episodes.states_B_T[b, t], str(episodes.actions_B_T[b, t])
        agent = world.agents[s]
        segment = calls[-1].segment + (calls[-1].agent != agent) if calls else 0
        calls.append(CallView(f"{b}-{t}", agent, state=str(s), observation=str(s), action=a, segment=segment))
    return tuple(calls)


def gradient(policy_S_A: Array, episodes: Episodes, advantages_N: Array) -> Array:
    """Mean over calls of advantage · ∇ log π, with respect to the table; `advantages_N` in the order of the mask."""
    states_N, actions_N = episodes.states_B_T[episodes.mask_B_T], episodes.actions_B_T[episodes.mask_B_T]
    found = np.zeros_like(policy_S_A)
    np.add.at(found, (states_N, actions_N), advantages_N)
    found -= np.bincount(states_N, advantages_N, minlength=len(found))[:, None] * policy_S_A
    return found / len(states_N)


class Credit:
    """A method by name, with its options: from a step's episodes and a memory to advantages and the memory after."""

    def __init__(self, told: str) -> None:
        self.name = told
        name, *options = told.split(",")
        given = {key: _json_or_text(value) for key, _, value in (option.partition("=") for option in options)}
        self.method = None if name == TRUE else credit_method(name, options=given)

    def __call__(
        self, world: World, policy_S_A: Array, episodes: Episodes, tasks_B: Array, memory: Any
    ) -> tuple[Array, Any]:
        """Advantages in the order of the mask, and what the method carries on; with a critic that is the critic."""
        if self.method is None:
            return world.advantages(policy_S_A, tasks_B, episodes)[episodes.mask_B_T], None
        groups = views(world, episodes, tasks_B)
        if self.method.needs_critic:
            critic_S_2 = np.zeros((world.num_states, 2)) if memory is None else memory
            groups = [[_with_values(rollout, critic_S_2) for rollout in group] for group in groups]
            advantages, _ = assign(self.method, groups)
            memory = _fitted(critic_S_2, groups, advantages)
        else:
            advantages, memory = assign(self.method, groups, memory)
        places = np.argwhere(episodes.mask_B_T)
        return np.array([advantages[f"{b}-{t}"].value for b, t in places]), memory


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _with_values(rollout: RolloutView, critic_S_2: Array) -> RolloutView:
    """Seen by a critic that is a table, too: a low and a high value of every state."""
    low_high = {call.id: critic_S_2[int(call.state)].tolist() for call in rollout.calls}
    return valued(rollout, {call_id: CallValues((low,), high) for call_id, (low, high) in low_high.items()})


def _fitted(critic_S_2: Array, groups: Sequence[Group], advantages: Mapping[str, Advantage]) -> Array:
    """The critic after a step, nearer to the returns that the method defines."""
    targets: dict[tuple[int, int], list[float]] = defaultdict(list)
    for call in (call for group in groups for rollout in group for call in rollout.calls):
        found = advantages[call.id]
        targets[int(call.state), 0] += found.returns or ()
        targets[int(call.state), 1] += () if found.high_return is None else (found.high_return,)
    fitted = critic_S_2.copy()
    for place, values in targets.items():
        if values:
            fitted[place] += CRITIC_RATE * (np.mean(values) - fitted[place])
    return fitted


def step_tasks(world: World, noise: np.random.Generator) -> Array:
    """The tasks of a step's rollouts, group by group."""
    return np.repeat(noise.permutation(world.num_tasks)[:GROUPS], MEMBERS)


def rollouts_needed(world: World, credit: Credit, rate: float, seed: int, most_steps: int = MOST_STEPS) -> int:
    """Rollouts until the mean success over all tasks is GOAL; those of `most_steps` if it never is. Adam."""
    noise, judge = np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2))
    logits = np.zeros((world.num_states, world.num_actions))
    first, second, memory = np.zeros_like(logits), np.zeros_like(logits), None
    everywhere = np.tile(np.arange(world.num_tasks), 100)
    for step in range(1, most_steps + 1):
        policy = softmax(logits)
        if world.run(policy, everywhere, judge).reached_B.mean() >= GOAL:
            return (step - 1) * STEP
        tasks_B = step_tasks(world, noise)
        episodes = world.run(policy, tasks_B, noise)
        advantages, memory = credit(world, policy, episodes, tasks_B, memory)
        slope = gradient(policy, episodes, advantages)
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        logits = logits + rate * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-5)
    return most_steps * STEP


@cache
def true_gradient(name: str, seed: int) -> tuple[Array, Array]:
    """A random policy, and the expectation of its gradient: true advantages over 200 000 rollouts."""
    world, noise = made(name, seed), np.random.default_rng((seed, 4))
    policy_S_A = softmax(noise.normal(0, 1, (world.num_states, world.num_actions)))
    parts: list[Array] = []
    for _ in range(20):
        tasks_B = np.repeat(np.arange(world.num_tasks), 10_000 // world.num_tasks)
        episodes = world.run(policy_S_A, tasks_B, noise)
        true_N = world.advantages(policy_S_A, tasks_B, episodes)[episodes.mask_B_T]
        parts.append(gradient(policy_S_A, episodes, true_N))
    return policy_S_A, np.mean(parts, axis=0)


def against_truth(name: str, credit: Credit, seed: int) -> tuple[float, float, float, float]:
    """Cosine of a first step's gradient; of a later one's; of the mean of 20 later ones; their variance over mean².

    All steps are of one policy. A later one comes after 20 whose memory, or critic, it goes on from.
    """
    policy, truth = true_gradient(name, seed)
    world, noise = made(name, seed), np.random.default_rng((seed, 3))
    firsts: list[Array] = []
    laters: list[Array] = []
    memory: Any = None
    for step in range(40):
        tasks_B = step_tasks(world, noise)
        episodes = world.run(policy, tasks_B, noise)
        before = memory
        advantages, memory = credit(world, policy, episodes, tasks_B, before)
        if step >= 20:
            laters.append(gradient(policy, episodes, advantages).ravel())
            continue
        if before is not None:
            advantages, _ = credit(world, policy, episodes, tasks_B, None)
        firsts.append(gradient(policy, episodes, advantages).ravel())
    mean = np.mean(laters, axis=0)
    spread = float(np.var(laters, axis=0, ddof=1).sum())
    signal = max(float(mean @ mean) - spread / len(laters), 1e-12)
    first, later = (float(np.mean([cosine(one, truth.ravel()) for one in steps])) for steps in (firsts, laters))
    return first, later, cosine(mean, truth.ravel()), spread / signal


def cosine(one: Array, other: Array) -> float:
    """0 if one of them is 0."""
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else 0.0


def made(name: str, seed: int) -> World:
    """The world of this name with its right actions drawn from `seed`."""
    kind, more = WORLDS[name]
    return kind(seed=seed, **more)


def best_rate(name: str, credit: Credit) -> float:
    """The rate that needs fewest rollouts on the tuning seeds; of equals the lowest."""
    best, fewest = RATES[-1], math.inf
    for rate in reversed(RATES):
        spent = 0
        for seed in TUNING_SEEDS:
            # No further than it takes to see that the rate is not the best
            most_steps = int(min(MOST_STEPS, (fewest - spent) // STEP + 1))
            spent += rollouts_needed(made(name, seed), credit, rate, seed, most_steps)
            if spent > fewest:
                break
        if spent <= fewest:
            best, fewest = rate, spent
    return best


def rollouts_told(name: str, credit: Credit, common: float, seeds: Sequence[int]) -> str:
    """The three columns about rollouts: the method's own best rate, and what it needs at that and at the common one."""
    rate = common if credit.name == "broadcast" else best_rate(name, credit)
    own = _needed_told(name, credit, rate, seeds)
    return f"{rate} | {own} | {own if rate == common else _needed_told(name, credit, common, seeds)}"


def _needed_told(name: str, credit: Credit, rate: float, seeds: Sequence[int]) -> str:
    counts = [rollouts_needed(made(name, seed), credit, rate, seed) for seed in seeds]
    mean, error = mean_error(counts)
    never = counts.count(MOST_STEPS * STEP)
    return f"{mean:.0f} ± {error:.0f}" + (f" ({never} never)" if never else "")


def against_truth_told(name: str, credit: Credit, seeds: Sequence[int]) -> str:
    """The four columns about the gradient."""
    measured = [against_truth(name, credit, seed) for seed in seeds]
    first, later, mean = (mean_error([m[part] for m in measured]) for part in range(3))
    # The median: where 20 steps show no signal, the ratio has no bound
    ratio = np.median([m[3] for m in measured])
    return f"{first[0]:.2f} | {later[0]:.2f} ± {later[1]:.2f} | {mean[0]:.2f} ± {mean[1]:.2f} | {ratio:.1f}"


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def draw(results: dict[str, dict[str, tuple[float, float]]]) -> None:
    """A bar for each world and method, with standard errors."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4))
    methods = [method for method in next(iter(results.values())) if all(method in of for of in results.values())]
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        at = np.arange(len(results)) + (place - len(methods) / 2 + 0.5) * width
        means, errors = zip(*(of[method] for of in results.values()), strict=True)
        axes.bar(at, means, width, yerr=errors, label=method, capsize=2)
    axes.set_xticks(np.arange(len(results)), list(results), rotation=15)
    axes.set_ylabel(f"rollouts until success is {GOAL}")
    axes.legend()
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=100)


def main() -> int:
    """Print a line for each world and method, and the verdict; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--methods", nargs="+", help="against broadcast; options may follow: gigpo,gamma=1,scale=none")
    parser.add_argument("--seeds", type=int, default=20)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--rollouts-only", action="store_true", help="leave out the comparison with the true gradient")
    only.add_argument("--gradients-only", action="store_true", help="leave out the rollouts, and with them the verdict")
    only.add_argument(
        "--printed", nargs="+", type=Path, help="draw and judge what earlier runs printed, by these files"
    )
    chosen = parser.parse_args()
    if chosen.printed:
        return judged([line for file in chosen.printed for line in file.read_text().splitlines()])
    methods = chosen.methods or (METHODS + MORE_METHODS if chosen.gradients_only else METHODS)
    seeds = range(chosen.seeds)
    lines = [HEAD]
    print(HEAD)
    for name in chosen.worlds:
        common = None if chosen.gradients_only else best_rate(name, Credit("broadcast"))
        for credit in map(Credit, ("broadcast", *methods)):
            gradients = "- | - | - | -" if chosen.rollouts_only else against_truth_told(name, credit, seeds)
            rollouts = "- | - | -" if common is None else rollouts_told(name, credit, common, seeds)
            lines.append(f"{name} | {credit.name} | {gradients} | {rollouts}")
            print(lines[-1], flush=True)
    return 0 if chosen.gradients_only else judged(lines)


def judged(lines: Sequence[str]) -> int:
    """Draw and judge what was printed; 1 if the goal is missed."""
    results: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for line in lines:
        columns = line.split(" | ")
        if len(columns) == len(HEAD.split(" | ")) and columns[0] in WORLDS and columns[-2] != "-":
            mean, _, error, *_ = columns[-2].split()
            results[columns[0]][columns[1]] = float(mean), float(error)
    draw(results)
    return verdict(results, {name: calls_per_rollout(name) for name in results})


def calls_per_rollout(name: str) -> float:
    """Of a uniform policy, on average."""
    world, noise = made(name, 0), np.random.default_rng(0)
    uniform = np.full((world.num_states, world.num_actions), 1 / world.num_actions)
    return float(world.run(uniform, step_tasks(world, noise), noise).mask_B_T.sum(1).mean())


def verdict(results: dict[str, dict[str, tuple[float, float]]], calls: dict[str, float]) -> int:
    """Whether one method meets the goal everywhere; its best candidate, of those that all were played with."""

    def ratios(method: str, names: Sequence[str]) -> float:
        return max((results[n][method][0] / results[n]["broadcast"][0] for n in names), default=0.0)

    many = [name for name in results if calls[name] >= MANY_CALLS]
    if not many:
        print(f"no world of {MANY_CALLS} calls or more was played (required: 0.50 of broadcast's rollouts): missed")
        return 1
    everywhere = set.intersection(*(set(of) for of in results.values())) - {"broadcast", TRUE}
    tried = [method for method in results[many[0]] if method in everywhere]
    best = min(tried, key=lambda method: ratios(method, many))
    long, anywhere = ratios(best, many), ratios(best, list(results))
    met = long <= 0.5 and anywhere <= 1.05
    print(
        f"{best} needs {long:.2f} of broadcast's rollouts at worst where there are {MANY_CALLS} calls or more "
        f"(required 0.50), {anywhere:.2f} anywhere (required 1.05): {'met' if met else 'missed'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
