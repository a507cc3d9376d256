#!/usr/bin/env bash
# The calculator agent on verl and vLLM on one GPU: seconds per step by phase, tokens per second, memory.
#   benchmarks/gpu.sh MODEL_FOLDER AGENT_PYTHON      (in the trainer's environment: see docs/gpus.md)
set -euo pipefail
cd "$(dirname "$0")/.."
model=$1 agent=$2
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
python examples/calculator_langgraph/make_tasks.py
leyden train examples/calculator_langgraph/train.toml --name=gpu --model.path="$model" --agent.python="$agent" \
    --trainer.backend=verl --trainer.steps=8 --trainer.max_mismatch=1.0 \
    --loss.old_logprobs=trainer --loss.importance_cap=2.0
python - examples/calculator_langgraph/runs/gpu/metrics.jsonl <<'PY'
import json, sys
steps = [record for record in map(json.loads, open(sys.argv[1])) if "reward" in record][2:]
for name in ("seconds", "seconds_rollouts", "timing_s/old_log_prob", "timing_s/adv", "timing_s/update_actor",
             "timing_s/update_weights", "perf/throughput", "perf/max_memory_allocated_gb", "mismatch", "reward"):
    values = [step[name] for step in steps if name in step]
    if values:
        print(f"{name:32} {sum(values) / len(values):.4g}")
PY
