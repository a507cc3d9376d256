"""A fresh tiny model for each test, and a sampler that is closed after it."""

import pytest
import torch

from leyden_trainer.local.model import load_model
from leyden_trainer.local.sampler import Sampler


@pytest.fixture
def loaded(tiny_folder):
    return load_model(tiny_folder, device=torch.device("cpu"))


@pytest.fixture
def model(loaded):
    return loaded[0]


@pytest.fixture
def tokenizer(loaded):
    return loaded[1]


@pytest.fixture
def sampler(model):
    sampler = Sampler(model, context_length=512)
    yield sampler
    sampler.close()
