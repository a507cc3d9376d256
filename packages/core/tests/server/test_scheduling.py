"""A server beside agents on the same cores does not drive them out; a policy that the user chose for it stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="only Linux has scheduling policies")

UNDER = (
    "import os, sys; os.sched_setscheduler(0, int(sys.argv[1]), os.sched_param(0)); os.execv(sys.argv[2], sys.argv[2:])"
)


@pytest.mark.parametrize(("before", "after"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")])
def test_all_threads_of_a_server_are_scheduled_as_batches(tmp_path: Path, before: str, after: str) -> None:
    python = sys.executable
    serve = [python, "-m", "leyden", "serve", "--store", str(tmp_path / "store.sqlite"), "--port", "0"]
    command = [python, "-c", UNDER, str(getattr(os, before)), *serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        threads = [int(thread.name) for thread in Path(f"/proc/{process.pid}/task").iterdir()]
        found = {os.sched_getscheduler(thread) for thread in threads}
        process.terminate()
    assert len(threads) > 1
    assert found == {getattr(os, after)}
