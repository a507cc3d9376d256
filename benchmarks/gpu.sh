#!/usr/bin/env bash
# On one GPU: the calculator's and the text-to-SQL agent on verl and vLLM, seconds per step by phase, tokens per second and
# memory; then tokens per second through the gateway against bare vLLM.
#   benchmarks/gpu.sh MODEL_FOLDER AGENT_PYTHON      (in the trainer's environment: see docs/gpus.md)
set -euo pipefail
cd "$(dirname "$0")/.."
model=$(realpath "$1") agent=$2 steps=${STEPS:-8}
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader

train() { # EXAMPLE
	leyden train "examples/$1/gpu.toml" --name=gpu --model.path="$model" --agent.python="$agent" \
		--trainer.steps="$steps" --trainer.evaluate_every="$steps"
	python benchmarks/verl_parts/phases.py "examples/$1/runs/gpu/metrics.jsonl"
}

"$agent" examples/calculator_langgraph/make_tasks.py
train calculator_langgraph
"$agent" examples/text_to_sql/make_tasks.py --all
train text_to_sql
python benchmarks/gateway_vllm.py --model "$model" --clients 256 --calls 4 --tokens 128
