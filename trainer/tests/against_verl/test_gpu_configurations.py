"""The examples' settings for GPUs make a configuration of verl's; on a GPU they are run by benchmarks/gpu.sh."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("example", sorted(path.parent.name for path in EXAMPLES.glob("*/gpu.toml")))
def test_it_is_one_that_verl_takes(example: str, tmp_path: Path) -> None:
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("1\n2\n")
    command = [sys.executable, "-m", "leyden", "train", str(EXAMPLES / example / "gpu.toml"), "--print-verl-config"]
    done = subprocess.run([*command, f"--tasks.heldout={heldout}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verl = yaml.safe_load(done.stdout)
    policy, length = verl["actor_rollout_ref"], verl["data"]["max_prompt_length"]
    assert policy["model"]["enable_gradient_checkpointing"] is True
    # Without flash-attn every row is padded to the longest, at most the context: the memory is bounded.
    assert policy["actor"]["use_dynamic_bsz"] is False
    rows = {policy["actor"]["ppo_micro_batch_size_per_gpu"], policy["rollout"]["log_prob_micro_batch_size_per_gpu"]}
    assert max(rows) * length <= 16384
