"""Methods that read a critic: generalised advantage estimation (GAE, arXiv:1506.02438) over tokens, calls and segments.

One recursion for all: A_t = δ_t + γλ A_(t+1), δ_t = r_t + γ V_(t+1) - V_t, where γ and λ depend on what lies between t
and t+1: a token, a call or a segment. Values are the policy's at the sampled tokens only; a rollout ends at value 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leyden.errors import BadInput
from leyden_trainer.credit.compare import said
from leyden_trainer.credit.group import Advantage, CallView, Group, RolloutView
from leyden_trainer.credit.relative import floored, weighted_moments
from leyden_trainer.credit.returns import call_rewards

__all__ = ["Horizon", "gae", "hae", "token_gae", "turn_ppo"]


@dataclass(frozen=True)
class Horizon:
    """How far credit looks over one kind of border: γ discounts what comes after it, λ mixes estimates over it."""

    gamma: float = 1.0
    lam: float = 1.0


def gae(
    rewards: Sequence[float], values: Sequence[float], horizons: Sequence[Horizon], last_value: float = 0.0
) -> list[float]:
    """The recursion. All three have the length T; horizons[t] lies between t and t+1, `last_value` follows the end."""
    found: list[float] = []
    following, value_after = 0.0, last_value
    for reward, value, horizon in zip(reversed(rewards), reversed(values), reversed(horizons), strict=True):
        delta = reward + horizon.gamma * value_after - value
        following = delta + horizon.gamma * horizon.lam * following
        value_after = value
        found.append(following)
    return found[::-1]


def token_gae(
    groups: Sequence[Group], *, token: Horizon, call: Horizon, segment: Horizon, normalize: bool
) -> dict[str, Advantage]:
    """GAE over all sampled tokens of a rollout, with a horizon for each kind of border.

    One horizon for all three is PPO (arXiv:1707.06347) over the rollout's tokens; two or three are multi-level GAE:
    tokens within a call, calls within a segment, segments within a rollout. (VAGEN's bi-level GAE, arXiv:2510.16907,
    reaches two levels otherwise: it runs the turns first and starts each turn's tokens from the turn's advantage.)
    A call's rewards fall on its last token.
    """
    raw: dict[str, Advantage] = {}
    for rollout in (rollout for group in groups for rollout in group):
        raw |= _tokens_of(rollout, token, call, segment)
    if not normalize:
        return raw
    flat = [value for a in raw.values() for value in a.tokens or ()]
    scale = _whitener(flat, [1] * len(flat))
    return {k: _of_tokens([scale(v) for v in a.tokens or ()], a.returns or (), a.reason) for k, a in raw.items()}


def _tokens_of(rollout: RolloutView, token: Horizon, call: Horizon, segment: Horizon) -> dict[str, Advantage]:
    rewards: list[float] = []
    values: list[float] = []
    horizons: list[Horizon] = []
    for place, (one, reward) in enumerate(zip(rollout.calls, call_rewards(rollout), strict=True)):
        ends = place + 1 == len(rollout.calls) or rollout.calls[place + 1].segment != one.segment
        size = one.num_tokens
        values += _values(one, rollout)
        rewards += [0.0] * (size - 1) + [reward]
        horizons += [token] * (size - 1) + [segment if ends else call]
    advantages = gae(rewards, values, horizons)
    found: dict[str, Advantage] = {}
    start = 0
    for one in rollout.calls:
        mine = advantages[start : start + one.num_tokens]
        returns = tuple(a + v for a, v in zip(mine, values[start : start + one.num_tokens], strict=True))
        reason = said(mine[0], f"the critic's value {values[start]:.3g} at its first token")
        found[one.id] = _of_tokens(mine, returns, reason)
        start += one.num_tokens
    return found


def turn_ppo(groups: Sequence[Group], *, gamma: float, lam: float, normalize: bool) -> dict[str, Advantage]:
    """Turn-PPO (arXiv:2512.17008): GAE over calls, with the value of the state in which each call was asked."""
    turns = {
        call.id: (a, value)
        for group in groups
        for rollout in group
        for call, a, value in _turns(rollout.calls, rollout, Horizon(gamma, lam), call_rewards(rollout), 0.0)
    }
    scale = _whitener(*_per_token(groups, {k: a for k, (a, _) in turns.items()})) if normalize else _unchanged
    return {
        k: Advantage(scale(a), said(a, f"the critic's value {value:.3g} of its state"), returns=(a + value,))
        for k, (a, value) in turns.items()
    }


def hae(
    groups: Sequence[Group], *, gamma: float, lam: float, lam_segment: float, normalize: bool
) -> dict[str, Advantage]:
    """Hierarchical advantage estimation (HiPER, arXiv:2602.16165), its segments taken from the framework's structure.

    Low: GAE over the calls of a segment; its last call bootstraps from the high value of the next segment's first call,
    and no advantage crosses the border. High: GAE over segments of d calls each, with γ^d. Each level is normalised by
    itself. HiPER gives the high level to the tokens that name a subgoal; here no token does, so a segment's first
    call, which decides how it goes, gets the sum of both levels. Its third head, for when to switch, is left out: the
    framework's structure, not a token, says when.
    """
    low: dict[str, tuple[float, float]] = {}
    high: dict[str, tuple[float, float]] = {}
    for rollout in (rollout for group in groups for rollout in group):
        of_low, of_high = _levels(rollout, Horizon(gamma, lam), lam_segment)
        low |= of_low
        high |= of_high
    whiten = _whitener if normalize else lambda values, counts: _unchanged
    scale_low = whiten([a for a, _ in low.values()], [1] * len(low))
    scale_high = whiten([a for a, _ in high.values()], [1] * len(high))
    found: dict[str, Advantage] = {}
    for call_id, (a, value) in low.items():
        reason = said(a, f"the critic's value {value:.3g} within its segment")
        if call_id not in high:
            found[call_id] = Advantage(scale_low(a), reason, returns=(a + value,))
            continue
        above, usual = high[call_id]
        found[call_id] = Advantage(
            scale_low(a) + scale_high(above),
            f"{reason}; the segment that it begins {said(above, f'its value {usual:.3g}')}",
            returns=(a + value,),
            high_return=above + usual,
        )
    return found


Level = dict[str, tuple[float, float]]
"""(advantage, value) by call id."""


def _levels(rollout: RolloutView, horizon: Horizon, lam_segment: float) -> tuple[Level, Level]:
    rewards = call_rewards(rollout)
    starts = [n for n, c in enumerate(rollout.calls) if n == 0 or c.segment != rollout.calls[n - 1].segment]
    stops = [*starts[1:], len(rollout.calls)]
    usual = [_high_value(rollout.calls[start], rollout) for start in starts]
    low: Level = {}
    earned: list[float] = []
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        after = usual[number + 1] if stop < len(rollout.calls) else 0.0
        part = _turns(rollout.calls[start:stop], rollout, horizon, rewards[start:stop], after)
        low |= {call.id: (a, value) for call, a, value in part}
        earned.append(sum(horizon.gamma**n * reward for n, reward in enumerate(rewards[start:stop])))
    horizons = [
        Horizon(horizon.gamma ** (stop - start), lam_segment) for start, stop in zip(starts, stops, strict=True)
    ]
    pairs = zip(starts, gae(earned, usual, horizons), usual, strict=True)
    return low, {rollout.calls[start].id: (a, value) for start, a, value in pairs}


def _turns(
    calls: Sequence[CallView], rollout: RolloutView, horizon: Horizon, rewards: Sequence[float], last_value: float
) -> list[tuple[CallView, float, float]]:
    """(call, advantage, value) of GAE whose steps are calls."""
    values = [_values(call, rollout)[0] for call in calls]
    return list(zip(calls, gae(rewards, values, [horizon] * len(calls), last_value), values, strict=True))


def _values(call: CallView, rollout: RolloutView) -> tuple[float, ...]:
    if call.values is None:
        raise BadInput(f"call {call.id} of rollout {rollout.id} has no values; this credit method needs a critic's")
    if call.num_choices > 1:
        raise BadInput(
            f"call {call.id} of rollout {rollout.id} has {call.num_choices} choices; with a critic a call must have one"
        )
    if len(call.values) != call.num_tokens or not call.values:
        raise BadInput(
            f"call {call.id} of rollout {rollout.id} has {len(call.values)} values, expected {call.num_tokens}: "
            "one per sampled token, and at least one token"
        )
    return call.values


def _high_value(call: CallView, rollout: RolloutView) -> float:
    if call.high_value is None:
        raise BadInput(f"call {call.id} of rollout {rollout.id} has no high value; hae needs a critic with two heads")
    return call.high_value


def _of_tokens(tokens: Sequence[float], returns: Sequence[float], reason: str) -> Advantage:
    return Advantage(sum(tokens) / len(tokens), reason, tokens=tuple(tokens), returns=tuple(returns))


def _per_token(groups: Sequence[Group], values: dict[str, float]) -> tuple[list[float], list[int]]:
    """Each call's value with its number of tokens."""
    calls = [call for group in groups for rollout in group for call in rollout.calls]
    return [values[call.id] for call in calls], [call.num_tokens for call in calls]


def _whitener(values: Sequence[float], counts: Sequence[int]) -> Callable[[float], float]:
    """Subtract the mean, divide by the deviation, over the whole step; equal values become 0."""
    mean, std = weighted_moments(values, counts)
    if std == 0.0:
        return lambda value: 0.0
    return lambda value: (value - mean) / floored(std)


def _unchanged(value: float) -> float:
    return value
