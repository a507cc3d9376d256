"""The phases of a run's steps, from its metrics.jsonl (argv): means without the first two steps, which warm up."""

import json
import statistics
import sys
from pathlib import Path

FIGURES = (
    "seconds",
    "seconds_rollouts",
    "timing_s/old_log_prob",
    "timing_s/adv",
    "timing_s/update_actor",
    "timing_s/update_weights",
    "perf/throughput",
    "perf/max_memory_allocated_gb",
    "mismatch",
    "reward",
)

if __name__ == "__main__":
    records = map(json.loads, Path(sys.argv[1]).read_text().splitlines())
    steps = [record for record in records if "reward" in record][2:]
    for name in FIGURES:
        values = [step[name] for step in steps if name in step]
        if values:
            print(f"{name:32} {statistics.fmean(values):.4g}")
