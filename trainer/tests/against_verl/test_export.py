"""What is left of verl's merger when the run that started it is cancelled."""

import asyncio
from pathlib import Path

import psutil
import pytest

from leyden_trainer.verl.export import exported


async def test_a_cancelled_export_ends_the_merger(tmp_path: Path) -> None:
    newest = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    newest.parent.mkdir()
    newest.write_text("1")
    before = set(psutil.Process().children())
    exporting = asyncio.create_task(exported(tmp_path))
    while True:
        await asyncio.sleep(0)
        if mergers := set(psutil.Process().children()) - before:
            break
    exporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert not any(merger.is_running() for merger in mergers)
