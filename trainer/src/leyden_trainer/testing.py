"""A real language model of 0.46 million parameters, made on the spot, and a task of two calls that it can learn.

A Llama with a byte-level tokenizer and a ChatML template with Hermes tools. Untrained it takes a moment. Warmed up it
has the task's habits, half of them wrong, so that reinforcement has something to find in seconds; that one is cached.
"""

import hashlib
import itertools
import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from leyden_trainer.local.source import publish

__all__ = ["LookupTask", "lookup_tasks", "make_tiny_model", "parse_call", "warm_tiny_model"]

SYSTEM = "use tools"
TRAIN_CITIES = ["Oslo", "Rome", "Paris", "Lima", "Cairo", "Delhi", "Tokyo", "Accra", "Quito", "Sofia", "Riga", "Bern"]
TRAIN_CITIES += ["Doha", "Kyiv", "Baku", "Minsk", "Hanoi", "Seoul"]
HELDOUT_CITIES = ["Tunis", "Dakar", "Praha", "Turin", "Milan", "Osaka"]
QUESTIONS = {
    "weather": ("how hot is it in {}", "is it cold in {}", "tell me the weather of {}"),
    "people": ("how many people live in {}", "what is the population of {}", "how big is the crowd of {}"),
    "clock": ("what time is it in {}", "is it late in {}", "show the local hour of {}"),
    "hotel": ("find a room in {}", "where can I sleep in {}", "book a bed in {}"),
}
TOOLS = tuple(QUESTIONS)
TEMPLATE = """\
{%- if tools -%}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}tools:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if not (tools and loop.first and message.role == 'system') -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


@dataclass(frozen=True)
class LookupTask:
    """ "how hot is it in Oslo" → `call weather Oslo` → `result 57` → `answer 57`."""

    question: str
    tool: str
    city: str
    number: int

    @property
    def result(self) -> str:
        """What the tool says, as the next user message, whichever tool was called."""
        return f"result {self.number}"

    @property
    def first_messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self.question}]

    def next_messages(self, call: str) -> list[dict[str, str]]:
        """The conversation after the model's call and the tool's result."""
        return [*self.first_messages, {"role": "assistant", "content": call}, {"role": "user", "content": self.result}]

    def score(self, call: str, answer: str) -> bool:
        """The right tool was called, and its number copied."""
        return parse_call(call) == (self.tool, self.city) and answer == f"answer {self.number}"


def parse_call(text: str) -> tuple[str, str] | None:
    """(tool, city) of a well-formed call."""
    found = re.fullmatch(f"call ({'|'.join(TOOLS)}) ({'|'.join(TRAIN_CITIES + HELDOUT_CITIES)})", text)
    return (found[1], found[2]) if found else None


def lookup_tasks(seed: int, *, heldout: bool = False) -> Iterator[LookupTask]:
    """Endless tasks; the held-out ones are of other cities."""
    rng = random.Random(f"{seed} {heldout}")
    cities = HELDOUT_CITIES if heldout else TRAIN_CITIES
    while True:
        tool, city = rng.choice(TOOLS), rng.choice(cities)
        yield LookupTask(rng.choice(QUESTIONS[tool]).format(city), tool, city, rng.randrange(10, 100))


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write an untrained model with its tokenizer; the same bytes for the same seed."""
    tokenizer = _tokenizer()
    _save(_model(tokenizer, seed), tokenizer, folder)
    return folder


def warm_tiny_model(cache: Path, seed: int = 0) -> Path:
    """The folder, in `cache`, of a model with the task's habits; made on the first call (about 30 CPU-seconds)."""
    key = hashlib.sha256(Path(__file__).read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = cache / f"tiny-{key}-{seed}"
    if not folder.exists():
        tokenizer = _tokenizer()
        model = _model(tokenizer, seed)
        _teach_copying(model, seed)
        _teach_habits(model, tokenizer, seed)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as place:
            _save(model, tokenizer, Path(place) / "model")
            publish(Path(place) / "model", folder)
    return folder


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    bytes_to_tokens = Tokenizer(models.BPE())
    bytes_to_tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_to_tokens.decoder = decoders.ByteLevel()
    lines: list[str] = []
    tasks = itertools.chain(
        itertools.islice(lookup_tasks(0), 2250), itertools.islice(lookup_tasks(0, heldout=True), 750)
    )
    for task in tasks:
        lines += [SYSTEM, task.question, f"call {task.tool} {task.city}", task.result, f"answer {task.number}"]
        lines += ["answer unknown", "system\n", "user\n", "assistant\n", "tool\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bytes_to_tokens.train_from_iterator(lines, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_to_tokens, pad_token="<|pad|>", eos_token="<|im_end|>", model_max_length=512
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=2,
            bos_token_id=None,
        )
        return LlamaForCausalLM(config).eval()


def _teach_copying(model: LlamaForCausalLM, seed: int, steps: int = 150) -> None:
    """Random sequences said twice: without this, two layers are slow to learn to copy a number."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    for step in range(steps):
        length = rng.randint(6, 14)
        once = torch.randint(3, model.config.vocab_size, (96, length), generator=generator)
        ids = torch.cat([once, once], 1)
        predicted = model(input_ids=ids).logits[:, length:-1]
        loss = F.cross_entropy(predicted.flatten(0, 1), ids[:, length + 1 :].flatten())
        _update(model, optimizer, loss, 3e-3 * min(1, (step + 1) / 20))


def _teach_habits(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int = 120) -> None:
    """The right form, but in 45 of 100 calls one wrong tool, in 10 another, and "unknown" for half the answers."""
    rng = random.Random(seed)
    tasks = (lookup_tasks(seed), lookup_tasks(seed), lookup_tasks(seed, heldout=True))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    for step in range(steps):
        pairs = [_demonstration(next(rng.choice(tasks)), rng) for _ in range(64)]
        prompts = [tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=False) for m, _ in pairs]
        answers = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for _, text in pairs]
        width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = torch.zeros(64, width, dtype=torch.int64)
        target = torch.full((64, width), -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor([*prompt, *answer])
            target[row, len(prompt) : end] = torch.tensor(answer)
        logits = model(input_ids=ids).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())
        _update(model, optimizer, loss, 3e-3 * min(1, (step + 1) / 20) * (1 - 0.9 * step / steps))


def _demonstration(task: LookupTask, rng: random.Random) -> tuple[list[dict[str, str]], str]:
    right = TOOLS.index(task.tool)
    (shift,) = rng.choices(range(4), [0.45, 0.45, 0.05, 0.05])
    call = f"call {TOOLS[(right + shift) % 4]} {task.city}"
    if rng.random() < 0.5:
        return task.first_messages, call
    return task.next_messages(call), rng.choice([f"answer {task.number}", "answer unknown"])


def _update(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
