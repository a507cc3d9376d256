"""verl's critic with as many heads as a credit method reads, and Leyden's value loss for it.

verl's critic is a token classifier with one label; its engine carries any number. verl's loss would average over the
tokens that are trained; here each head's targets bring their weight in the step, as the local critic's do.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import verl.utils.model
from torch import Tensor
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import response_from_nested

from leyden_trainer.loss import value_loss

__all__ = ["HEADS", "TARGETS", "critic_loss", "has_flash_attention"]

HEADS = "value_heads"
"""The name, in the configuration of verl's critic model, of how many heads it has."""
TARGETS = ("value_targets", "value_weights", "old_values")
"""Columns of verl's rows over their responses, (B, j, heads) float32: what `critic_loss` reads."""


def critic_loss(model_output: Any, data: Any, dp_group: Any = None, *, clip: float | None) -> tuple[Tensor, dict]:
    """verl's signature, by `set_loss_fn`. verl divides by the workers: we multiply before."""
    values = _flat(response_from_nested(model_output["values"], data["response_mask"]))
    targets, weights, old = (_flat(data[name]) for name in TARGETS)
    kept = weights > 0
    loss = value_loss(values, targets, weights, old_values_N=old, clip=clip) * data["dp_size"]
    mean = float(values[kept].mean()) if kept.any() else 0.0
    return loss, {
        "critic/vf_loss": Metric(value=loss.detach(), aggregation=AggregationType.SUM),
        "critic/vpred_mean": mean,
    }


def _flat(rows: Tensor) -> Tensor:
    """All figures of (B, j, ...) in order, without padding."""
    return torch.cat([row.flatten() for row in rows.unbind()])


def has_flash_attention() -> bool:
    """Whether flash-attn is installed, which is for CUDA alone and not among verl's requirements."""
    return importlib.util.find_spec("flash_attn") is not None


def _with_heads(load: Callable[..., Any]) -> Callable[..., Any]:
    """A loader of value models, but with the number of heads that the model's configuration names."""

    @functools.wraps(load)
    def loaded(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        model_config.num_labels = getattr(model_config, HEADS, 1)  # verl has set it to 1
        return load(local_path, torch_dtype, model_config, trust_remote_code)

    return loaded


def _load_valuehead_model(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
    """verl's own asks for flash_attention_2, whatever its configuration says."""
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        dtype=torch_dtype,
        config=model_config,
        attn_implementation="sdpa",
        trust_remote_code=trust_remote_code,
    )


verl.utils.model.load_valuehead_model = _with_heads(
    verl.utils.model.load_valuehead_model if has_flash_attention() else _load_valuehead_model
)
