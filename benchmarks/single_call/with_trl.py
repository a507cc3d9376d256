"""The peer: TRL's GRPOTrainer on the same tasks, model and settings. Prints the mean reward of each step as JSON."""

# pyright: reportMissingImports=false
# It has an environment of its own, requirements-against_trl.txt.
import argparse
import json
import sys
from pathlib import Path

from datasets import Dataset
from prompt import is_right, messages
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

WARMUP = 2


class WarmedUp(GRPOTrainer):
    """With Leyden's warm-up: update k of the first n has k/n of the rate. transformers' own begins at 0."""

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        optimizer = optimizer or self.optimizer
        self.lr_scheduler = LambdaLR(optimizer, lambda made: min(1.0, (made + 1) / WARMUP))
        return self.lr_scheduler


def reward(completions: list[list[dict[str, str]]], answer: list[int], **_: object) -> list[float]:
    """1 for each answer that is right."""
    return [float(is_right(said[0]["content"], right)) for said, right in zip(completions, answer, strict=True)]


def main() -> int:
    """Train, save, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    asked = parser.parse_args()
    tasks = [json.loads(line) for line in asked.tasks.read_text().splitlines()]
    rows = [{"prompt": messages(task["question"]), "answer": task["answer"]} for task in tasks]
    config = GRPOConfig(
        output_dir=str(asked.output),
        per_device_train_batch_size=16,
        gradient_accumulation_steps=4,
        num_generations=8,
        max_steps=asked.steps,
        max_completion_length=16,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        learning_rate=2e-5,
        adam_beta2=0.99,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        epsilon=0.2,
        loss_type="dapo",  # the mean over all tokens of the step
        scale_rewards="group",
        gradient_checkpointing=False,  # it would compute the forward pass twice
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=asked.seed,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype="float32")
    model.get_input_embeddings().weight.requires_grad_(False)  # as Leyden, which trains the layers
    trainer = WarmedUp(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(asked.model),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    trainer.save_model(str(asked.output))
    rewards = [record["reward"] for record in trainer.state.log_history if "reward" in record]
    print(json.dumps({"rewards": rewards}), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
