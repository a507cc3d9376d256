"""The judge of both: the share of held-out tasks that a checkpoint solves, greedy, by transformers' own generation."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from prompt import is_right, messages
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, tasks: str) -> None:
    """Print {"success": share}."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    values = [json.loads(line) for line in Path(tasks).read_text().splitlines()]
    right = 0
    for start in range(0, len(values), 32):
        part = values[start : start + 32]
        inputs = tokenizer.apply_chat_template(
            [messages(task["question"]) for task in part],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        said = model.generate(**inputs, max_new_tokens=16, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        right += sum(is_right(text, task["answer"]) for text, task in zip(texts, part, strict=True))
    print(json.dumps({"success": right / len(values)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
