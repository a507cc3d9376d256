"""Tiny real models for all tests of the trainer: untrained (made in a moment) and warmed up (cached in .cache/)."""

from pathlib import Path

import pytest
import torch

from leyden_trainer.testing import make_tiny_model, warm_tiny_model

CACHE = Path(__file__).parents[2] / ".cache" / "tiny-models"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests share the machine: two spinning threads are slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def warm_folder() -> Path:
    return warm_tiny_model(CACHE)
