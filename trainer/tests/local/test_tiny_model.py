from itertools import islice

from transformers import AutoModelForCausalLM, AutoTokenizer

from leyden_trainer.testing import lookup_tasks, make_tiny_model, parse_call


def test_the_same_seed_makes_the_same_model(tmp_path, tiny_folder):
    again, other = make_tiny_model(tmp_path / "again"), make_tiny_model(tmp_path / "other", seed=1)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tiny_folder, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_the_vocabulary_is_the_tokenizers(tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert AutoModelForCausalLM.from_pretrained(tiny_folder).config.vocab_size == len(tokenizer)


def test_the_tokenizer_loses_nothing_and_keeps_numbers_whole(tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for text in ("result 57", "anything else: ß 漢\n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer("result 57").input_ids) == 2


def test_heldout_tasks_are_of_other_cities_and_both_are_scored_alike():
    train, heldout = (list(islice(lookup_tasks(1, heldout=side), 300)) for side in (False, True))
    assert not {task.city for task in train} & {task.city for task in heldout}
    for task in train + heldout:
        call = f"call {task.tool} {task.city}"
        assert parse_call(call) == (task.tool, task.city)
        assert task.score(call, f"answer {task.number}")
        assert not task.score(call, "answer unknown")
        assert not task.score(call.replace(task.tool, "other"), f"answer {task.number}")
