"""Which of a model's parameters are trained: all, the top layers, or low-rank adapters (LoRA, arXiv:2106.09685).

Everything else is frozen. A tied embedding is frozen too: it is the largest matrix, and moves every logit at once.
"""

import contextlib
import warnings
from collections.abc import Generator, Mapping

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.errors import BadConfig
from leyden_trainer.local.forward import decoder

__all__ = ["ADAPTER", "fold_adapters", "has_adapters", "merged_state", "train_parameters", "without_adapters"]

ADAPTER = "default"
"""peft's name of the one adapter."""


def train_parameters(
    model: PreTrainedModel, *, layers: int | None = None, lora_rank: int | None = None, seed: int = 0
) -> dict[str, nn.Parameter]:
    """Freeze the rest of the model in place, and return what is trained, by name.

    Args:
        layers: train the top so many layers only; with `lora_rank`, their adapters.
        lora_rank: put adapters of this rank, with alpha twice the rank, into all linear layers; `seed` draws them.

    Raises:
        BadConfig: the model has fewer layers.
    """
    stack = _layers(model)
    if layers is not None and layers > len(stack):
        raise BadConfig(f"model.layers = {layers}, but the model has {len(stack)} layers")
    if lora_rank is not None:
        top = set(stack[-layers:].modules() if layers else stack.modules())
        linear = [name for name, module in model.named_modules() if module in top and isinstance(module, nn.Linear)]
        config = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=linear, task_type="CAUSAL_LM")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that it is leaving
            get_peft_model(model, config)  # changes the model in place; the wrapper is not needed
        model.eval()
    elif layers is not None:
        model.requires_grad_(False)
        stack[-layers:].requires_grad_(True)
    elif model.config.get_text_config(decoder=True).tie_word_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def has_adapters(model: nn.Module) -> bool:
    """Whether `train_parameters` put adapters into it."""
    return bool(_adapted(model))


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Generator[None]:
    """The start model: adapters are off inside."""
    adapted = _adapted(model)
    for layer in adapted.values():
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted.values():
            layer.enable_adapters(True)


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with its adapters added into the weights, under the names that it has without them."""
    adapted = _adapted(model)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner, _, rest = name.partition(".base_layer.")
        if any(part.startswith("lora_") for part in name.split(".")):
            continue
        change = adapted[owner].get_delta_weight(ADAPTER) if owner in adapted and rest == "weight" else None
        state[name.replace(".base_layer.", ".")] = tensor if change is None else tensor + change.to(tensor.dtype)
    return state


@torch.no_grad()
def fold_adapters(model: nn.Module, start: Mapping[str, Tensor]) -> None:
    """Add the adapters into the weights that they adapt, and set them to `start`, by name: the model is as it was."""
    for layer in _adapted(model).values():
        weight: Tensor = layer.get_base_layer().weight  # type: ignore[assignment]
        weight.add_(layer.get_delta_weight(ADAPTER).to(weight.dtype))
    for name, parameter in model.named_parameters():
        if name in start:
            parameter.copy_(start[name])


def _adapted(model: nn.Module) -> dict[str, LoraLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder(model).children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise BadConfig(f"cannot find the {count} layers of a {model.config.model_type} model; train all of it")
