"""Transitions as verl's rows: prompts up to the first sampled token, responses from there, context masked within."""

from collections.abc import Sequence
from typing import Any

import torch

from leyden_trainer.transitions import Transition

__all__ = ["fields_of", "response_start", "tags_of"]


def response_start(transition: Transition) -> int:
    """Where the responses of a row begin: its first sampled token."""
    return transition.mask.index(True)


def fields_of(transition: Transition, *, uid: str, reward: float, trained: Sequence[bool]) -> dict[str, Any]:
    """One row for TransferQueue.

    Args:
        transition: the row; it has at least one sampled token.
        uid: the group's.
        reward: the rollout's; it stands at the last token, for verl's metrics, and is no part of our credit.
        trained: for each token of the row whether it is trained: sampled, by an agent that is selected.
    """
    start = response_start(transition)
    token_ids = torch.tensor(transition.token_ids)
    mask = torch.tensor(trained[start:], dtype=torch.int64)
    scores = torch.zeros(len(token_ids) - start)
    scores[-1] = reward
    return {
        "prompts": token_ids[:start],
        "responses": token_ids[start:],
        "input_ids": token_ids,
        "position_ids": torch.arange(len(token_ids)),
        "response_mask": mask,
        "loss_mask": mask,
        "rollout_log_probs": torch.tensor(transition.logprobs[start:]),
        "rm_scores": scores,
        "num_turns": 2 * len(transition.spans),
        "uid": uid,
        "raw_prompt": [],
        "data_source": "leyden",
        "reward_model": {"ground_truth": ""},
        "extra_fields": {"reward_extra_info": {}},
        "multi_modal_inputs": {},
    }


def tags_of(transition: Transition, step: int) -> dict[str, Any]:
    """verl's tags of a row: its lengths and the versions that sampled it."""
    start, length = response_start(transition), len(transition.token_ids)
    versions = [version for version in transition.versions if version is not None]
    return {
        "status": "success",
        "prompt_len": start,
        "response_len": length - start,
        "seq_len": length,
        "global_steps": step,
        "min_global_steps": min(versions),
        "max_global_steps": max(versions),
    }
