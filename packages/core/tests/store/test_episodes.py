"""Export, import and deletion by age, as a user types them: what comes back is what was there, to the last bit."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from leyden.errors import BadInput, Conflict
from leyden.store import SqlStore
from leyden.store.episodes import Episode, episodes
from leyden.testing.records import claimed, ended, rewarded, sampled, told
from leyden.types import Credit, Rollout


async def filled(place: Path) -> list[Episode]:
    """A store with two finished rollouts and one that is queued; gives its episodes."""
    store = SqlStore.open(place)
    for name, value in (("a", 0.1), ("b", 1 / 3)):
        await claimed(store, name, run="r", task={"question": "6 × 7?"}, task_id=name)
        prompt = tuple(range(1500))
        await store.record([sampled(name, f"{name}-1", prompt_token_ids=prompt), told(name, f"{name}-1")])
        await store.finish(ended(name, result={"answer": 42}, rewards=(rewarded(name, value),)))
        credit = Credit(call_id=f"{name}-1", rollout_id=name, run="r", step=1, method="grpo", advantage=value)
        await store.credit([credit])
    await store.queue([Rollout(id="waiting", run="r")])
    found = [episode async for episode in episodes(store)]
    await store.close()
    return found


async def content(place: Path) -> list[Episode]:
    store = SqlStore.open(place)
    found = [episode async for episode in episodes(store)]
    await store.close()
    return found


def leyden(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leyden", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_what_is_exported_and_imported_is_the_same_and_again_is_nothing_new(tmp_path: Path, form: str) -> None:
    before = await filled(tmp_path / "from.sqlite")
    assert [episode.rollout.id for episode in before] == ["a", "b"]
    done = leyden(tmp_path, "export", f"out.{form}", "--store", "from.sqlite")
    assert (done.returncode, done.stdout) == (0, f"2 rollouts are in out.{form}\n"), done.stderr
    first = leyden(tmp_path, "import", f"out.{form}", "--store", "to.sqlite")
    assert first.stdout == "2 rollouts were added to to.sqlite; 0 were there already\n", first.stderr
    assert await content(tmp_path / "to.sqlite") == before
    again = leyden(tmp_path, "import", f"out.{form}", "--store", "to.sqlite")
    assert again.stdout == "0 rollouts were added to to.sqlite; 2 were there already\n"
    over = leyden(tmp_path, "export", f"out.{form}", "--store", "from.sqlite")
    assert (over.returncode, f"out.{form} exists" in over.stderr) == (2, True)


async def test_parquet_has_columns_to_group_by(tmp_path: Path) -> None:
    await filled(tmp_path / "from.sqlite")
    leyden(tmp_path, "export", "out.parquet", "--store", "from.sqlite", "--run", "r")
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["id"], row["run"], row["status"], row["reward"]) for row in rows] == [
        ("a", "r", "succeeded", 0.1),
        ("b", "r", "succeeded", 1 / 3),
    ]
    assert rows[0]["agents"] == ["planner/writer"]
    assert rows[0]["calls"] == 1


async def test_a_line_that_is_no_episode_and_one_that_contradicts_the_store_are_refused(tmp_path: Path) -> None:
    (episode, _) = await filled(tmp_path / "from.sqlite")
    (tmp_path / "bad.jsonl").write_text(f'{episode.model_dump_json()}\n{{"rollout": 1}}\n')
    done = leyden(tmp_path, "import", "bad.jsonl", "--store", "to.sqlite")
    assert (done.returncode, "bad.jsonl, rollout 2: rollout:" in done.stderr) == (2, True)
    store = SqlStore.open(tmp_path / "from.sqlite")
    other = episode.rollout.model_copy(update={"result": "another"})
    with pytest.raises(Conflict, match="rollout a is there with other content"):
        await store.add_episodes([episode.model_copy(update={"rollout": other})])
    with pytest.raises(BadInput, match="the episode of rollout c has a part of rollout 'a'"):
        await store.add_episodes([episode.model_copy(update={"rollout": other.model_copy(update={"id": "c"})})])
    with pytest.raises(BadInput, match="only finished rollouts are imported"):
        await store.add_episodes([Episode(rollout=Rollout(id="d"))])
    await store.close()


async def test_rollouts_older_than_what_is_kept_are_deleted_and_no_others(tmp_path: Path) -> None:
    old, new = await filled(tmp_path / "from.sqlite")
    aged = old.rollout.model_copy(update={"finished_at": time.time() - 40 * 86400})
    store = SqlStore.open(tmp_path / "to.sqlite")
    await store.add_episodes([old.model_copy(update={"rollout": aged}), new])
    await store.queue([Rollout(id="waiting")])
    await store.close()
    dry = leyden(tmp_path, "gc", "--keep", "30d", "--store", "to.sqlite", "--dry-run")
    assert dry.stdout.startswith("1 rollouts would be deleted")
    done = leyden(tmp_path, "gc", "--keep", "30d", "--store", "to.sqlite")
    assert done.stdout == "1 rollouts were deleted: they finished more than 30d ago\n"
    assert await content(tmp_path / "to.sqlite") == [new]
    left = json.loads(leyden(tmp_path, "rollouts", "--store", "to.sqlite", "--json").stdout)
    assert [rollout["id"] for rollout in left["rollouts"]] == ["b", "waiting"]
    assert "expected a number and s, m, h, d or w" in leyden(tmp_path, "gc", "--keep", "month").stderr
