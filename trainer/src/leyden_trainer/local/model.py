"""Loads a causal language model with its tokenizer, and refuses one whose sampling or training would not be exact.

Only softmax attention and a plain output layer: rows continue from copied keys and values, and logits are computed for
trained tokens alone.
"""

from pathlib import Path

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils.logging import disable_progress_bar

from leyden.errors import BadConfig
from leyden_trainer.local.forward import decoder, logits

__all__ = ["best_device", "context_length", "load_model"]


def best_device() -> torch.device:
    """cuda if there is one, else mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_model(
    folder: Path, *, device: torch.device, dtype: torch.dtype = torch.float32, chat_template: Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, in evaluation mode (training and sampling must see the same dropout: none), and its tokenizer.

    Args:
        chat_template: a file to use instead of the tokenizer's own template; checkpoints keep it.

    Raises:
        BadConfig: transformers cannot load it, the local backend cannot run it exactly, or there is no such template.
    """
    disable_progress_bar()  # its bars would be drawn across the run's own screen
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadConfig(f"transformers cannot load a causal language model from {folder}: {error}") from error
    if chat_template is not None:
        _set_template(tokenizer, chat_template)
    model.to(device=device)  # type: ignore[reportArgumentType]  # transformers' decorator hides the method's type
    model.eval()
    _check_attention(model, folder)
    _check_output(model, folder)
    return model, tokenizer


def _set_template(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Render a message at once: a broken template is told here, not by the first rollout."""
    try:
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    except OSError as error:
        raise BadConfig(f"cannot read the chat template {path}: {error.strerror}") from error
    except TemplateError as error:
        raise BadConfig(f"the chat template {path} does not render a user's message: {error}") from error


def context_length(model: PreTrainedModel) -> int:
    """The most tokens of one row: within a sliding window, windowed attention is full attention."""
    config = model.config.get_text_config(decoder=True)
    windows = [layer.sliding_window for layer in _cache_layers(model) if isinstance(layer, DynamicSlidingWindowLayer)]
    return min([config.max_position_embeddings, *windows])


def _cache_layers(model: PreTrainedModel) -> list[object]:
    return list(DynamicCache(config=model.config).layers)


def _check_attention(model: PreTrainedModel, folder: Path) -> None:
    strange = {type(layer) for layer in _cache_layers(model)} - {DynamicLayer, DynamicSlidingWindowLayer}
    if strange:
        names = ", ".join(sorted(kind.__name__ for kind in strange))
        raise BadConfig(f"{folder}: the local backend runs models with plain attention layers only, got {names}")


@torch.inference_mode()
def _check_output(model: PreTrainedModel, folder: Path) -> None:
    ids = torch.arange(4, device=model.device)[None]
    whole = model(input_ids=ids, use_cache=False).logits[0].float()
    parts = logits(model, decoder(model)(input_ids=ids, use_cache=False).last_hidden_state[0])
    if not torch.allclose(whole, parts, rtol=1e-4, atol=1e-4):
        raise BadConfig(
            f"{folder}: a {model.config.model_type} model changes its logits after the output layer (by up to "
            f"{(whole - parts).abs().max().item():.3g}); the local backend cannot train it exactly"
        )
