"""Demonstrations become the tokens that would have been sampled, and learning takes their mean loss."""

import json
import threading
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from leyden.errors import BadInput, TrainingStopped
from leyden_trainer.demonstrations import read_demonstrations
from leyden_trainer.local.parameters import fold_adapters, merged_state, train_parameters
from leyden_trainer.local.sampler import SampleRequest
from leyden_trainer.local.warm_start import WarmStart, demonstrated_rows, learn

SHOWN = [
    {"role": "system", "content": "use tools"},
    {"role": "user", "content": "is it cold in Rome"},
    {"role": "assistant", "content": "call weather Rome", "weight": 0},
    {"role": "user", "content": "is it late in Oslo"},
]
CALL = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"city": "Oslo"}'}}
HOW = WarmStart(
    epochs=1, batch=2, learning_rate=3e-3, weight_decay=0.0, max_grad_norm=1.0, micro_batch_tokens=64, seed=0
)


def written(folder: Path, *conversations: list[dict]) -> Path:
    path = folder / "demos.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return path


def spoken(messages: list[dict], answer: str) -> list[dict]:
    return [*messages, {"role": "assistant", "content": answer}]


@pytest.fixture
def rows_of(tmp_path, tokenizer):
    stop_ids = frozenset([tokenizer.eos_token_id])
    return lambda *demos: demonstrated_rows(read_demonstrations(written(tmp_path, *demos)), tokenizer, stop_ids, 512)


def test_only_the_turns_to_learn_carry_loss_with_the_token_that_ends_them(rows_of, tokenizer) -> None:
    ((first, second),) = rows_of(
        spoken([*spoken(SHOWN, "call clock Oslo"), {"role": "user", "content": "result 57"}], "answer 57")
    )
    prompt = (
        "<|im_start|>system\nuse tools<|im_end|>\n<|im_start|>user\nis it cold in Rome<|im_end|>\n"
        "<|im_start|>assistant\ncall weather Rome<|im_end|>\n<|im_start|>user\nis it late in Oslo<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.decode(first.token_ids) == f"{prompt}call clock Oslo<|im_end|>"
    learnt = [token for token, chosen in zip(first.token_ids, first.mask, strict=True) if chosen]
    assert tokenizer.decode(learnt) == "call clock Oslo<|im_end|>"
    assert second.token_ids[: len(first.token_ids)] == first.token_ids
    learnt = [token for token, chosen in zip(second.token_ids, second.mask, strict=True) if chosen]
    assert tokenizer.decode(learnt) == "answer 57<|im_end|>"


def test_a_tool_call_is_learnt_in_the_form_that_the_policy_server_reads(rows_of, tokenizer) -> None:
    ((row,),) = rows_of([*SHOWN, {"role": "assistant", "content": None, "tool_calls": [CALL]}])
    learnt = [token for token, chosen in zip(row.token_ids, row.mask, strict=True) if chosen]
    said = '<tool_call>\n{"name": "clock", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
    assert tokenizer.decode(learnt) == said


def test_the_loss_is_the_mean_over_the_learnt_tokens_of_an_update(rows_of, model) -> None:
    conversations = rows_of(spoken(SHOWN, "call clock Oslo"), spoken(SHOWN, "call hotel Oslo, please"))
    rows = [row for rows in conversations for row in rows]
    wanted = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.token_ids])).logits[0, :-1]
        mask = torch.tensor(row.mask[1:])
        wanted.append(F.cross_entropy(logits[mask], torch.tensor(row.token_ids)[1:][mask], reduction="none"))
    (loss,) = learn(model, train_parameters(model), conversations, HOW)
    assert loss == pytest.approx(torch.cat(wanted).mean().item(), rel=1e-5)


def test_what_was_shown_is_said_and_the_same_seed_learns_the_same(rows_of, loaded, sampler) -> None:
    model, tokenizer = loaded
    conversations = rows_of(*(spoken(SHOWN, "call clock Oslo") for _ in range(8)))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    how = WarmStart(**{**vars(HOW), "epochs": 6})
    losses = learn(model, train_parameters(model), conversations, how)
    assert len(losses) == 24
    learnt = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(start)
    assert learn(model, train_parameters(model), conversations, how) == losses
    assert all(torch.equal(tensor, learnt[name]) for name, tensor in model.state_dict().items())

    (row,) = conversations[0]
    prompt = row.token_ids[: row.mask.index(True)]
    stop_ids = frozenset([tokenizer.eos_token_id])
    (future,) = sampler.submit([SampleRequest(prompt, 16, seed=0, stop_ids=stop_ids, temperature=0.0)])
    assert tokenizer.decode(future.result().token_ids) == "call clock Oslo<|im_end|>"


def test_a_stop_ends_the_warm_start_at_its_next_update(rows_of, model) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(TrainingStopped, match="stopped after 0 of 1 updates of the warm start"):
        learn(model, train_parameters(model), rows_of(spoken(SHOWN, "call clock Oslo")), HOW, stopping=stopping)


def test_folded_adapters_leave_the_model_as_it_was_and_begin_anew(rows_of, model) -> None:
    parameters = train_parameters(model, lora_rank=4)
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    learn(model, parameters, rows_of(spoken(SHOWN, "call clock Oslo")), HOW)
    learnt = merged_state(model)
    fold_adapters(model, start)
    assert all(torch.equal(parameters[name], tensor) for name, tensor in start.items())
    assert all(torch.allclose(tensor, learnt[name], atol=1e-6) for name, tensor in merged_state(model).items())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: not JSON"),
        ('{"messages": []}', "line 2: messages: List should have at least 2 items"),
        ('{"chat": []}', "line 2: messages: Field required; chat: Extra inputs are not permitted"),
        (json.dumps({"messages": SHOWN}), "line 2: no assistant's message to learn"),
        (json.dumps({"messages": spoken([], "hello") * 2}), "line 2: the first message is the assistant's"),
        (
            json.dumps({"messages": [{**SHOWN[0], "weight": 1}, *spoken(SHOWN[1:2], "no")]}),
            r"line 2: messages\.0: .*only an assistant's message has a weight",
        ),
        (json.dumps({"messages": spoken(SHOWN, "")}), r"line 2: messages\.4: .*needs content or tool_calls"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path: Path, line: str, reason: str) -> None:
    path = written(tmp_path, spoken(SHOWN, "call clock Oslo"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(BadInput, match=reason):
        read_demonstrations(path)


def test_a_conversation_longer_than_the_context_is_refused(tmp_path: Path, tokenizer) -> None:
    demonstrations = read_demonstrations(written(tmp_path, spoken(SHOWN, "call clock Oslo")))
    with pytest.raises(BadInput, match=r"line 1: message 4 ends after .* more than the context length of 20"):
        demonstrated_rows(demonstrations, tokenizer, frozenset([tokenizer.eos_token_id]), 20)
