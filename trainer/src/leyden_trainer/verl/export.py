"""verl's newest checkpoint, shards of FSDP, as a model that transformers loads: `checkpoints/last` of the run."""

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import torch

__all__ = ["exported"]


async def exported(folder: Path) -> str | None:
    """Write it, by verl's own merger and so in bfloat16; adapters are merged into the weights.

    The last, since verl keeps its newest checkpoint and not its best.

    Args:
        folder: the run's.

    Returns:
        Why there is none, or None.
    """
    checkpoints = folder / "checkpoints"
    newest = checkpoints / "latest_checkpointed_iteration.txt"
    if not newest.is_file():
        return "verl has saved no checkpoint (trainer.verl.trainer.save_freq)"
    shards = checkpoints / f"global_step_{newest.read_text().strip()}" / "actor"
    last, part = checkpoints / "last", checkpoints / "last.part"
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    merger = await asyncio.create_subprocess_exec(
        *command, "--local_dir", str(shards), "--target_dir", str(part), stdout=PIPE, stderr=STDOUT
    )
    try:
        said, _ = await merger.communicate()
    finally:
        if merger.returncode is None:  # cancelled; what it has written is in `part` alone
            merger.kill()
            await merger.wait()
    if merger.returncode:
        last_words = said.decode(errors="replace").strip().rpartition("\n")[2]
        return f"verl's merger could not put {shards} together, whose shards may be on other nodes: {last_words}"
    if (part / "lora_adapter").is_dir():
        await asyncio.to_thread(_merge_adapter, part)
    shutil.rmtree(last, ignore_errors=True)
    os.replace(part, last)
    return None


def _merge_adapter(folder: Path) -> None:
    """Into the model beside it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapter = folder / "lora_adapter"
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()  # pyright: ignore[reportCallIssue]
    merged.save_pretrained(folder)
    shutil.rmtree(adapter)
