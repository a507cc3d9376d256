"""Serves a tiny real model, made on the spot, until its input ends; for the trainer's environment, which has torch."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from leyden_trainer.local.model import load_model
from leyden_trainer.local.policy_server import PolicyServer
from leyden_trainer.local.sampler import Sampler
from leyden_trainer.testing import make_tiny_model

CONTEXT_LENGTH = 4096  # its tokenizer knows few words, and the suites' tools have long schemas

if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        model, tokenizer = load_model(make_tiny_model(Path(folder) / "tiny"), device=torch.device("cpu"))
    sampler = Sampler(model, context_length=CONTEXT_LENGTH)
    server = PolicyServer(sampler, tokenizer, model_name="tiny")
    server.start()
    print(server.url, flush=True)
    sys.stdin.read()
    sampler.close()
    server.stop()
