import random
import subprocess
import sys
import textwrap

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from leyden.errors import TrainingStopped
from leyden_trainer.local.checkpoint import load_latest, save_model, save_state
from leyden_trainer.local.learner import Learner, LearnerConfig
from leyden_trainer.local.model import load_model
from leyden_trainer.local.parameters import train_parameters
from leyden_trainer.rows import TrainingRow

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8]])


def rows(step: int) -> list[TrainingRow]:
    rng = random.Random(step)
    ids = [tuple(rng.randrange(3, 500) for _ in range(9)) for _ in range(4)]
    mask = (False,) * 4 + (True,) * 5
    advantages = [tuple(float(trained) * sign for trained in mask) for sign in (1, -1, 0.5, -0.5)]
    weights = tuple(0.05 * trained for trained in mask)
    return [TrainingRow(f"r{i}", ids[i], mask, (-6.0,) * 9, advantages[i], weights) for i in range(4)]


def learner(folder, **choice) -> Learner:
    model, _ = load_model(folder, device=CPU)
    config = LearnerConfig(learning_rate=1e-3, warmup_steps=5, max_mismatch=100)
    return Learner(model, train_parameters(model, **choice), config)


def test_a_checkpoint_loads_with_transformers_and_gives_the_same_logits(tiny_folder, tmp_path):
    trained = learner(tiny_folder)
    trained.step(rows(1))
    _, tokenizer = load_model(tiny_folder, device=CPU)
    save_model(trained.model, tokenizer, tmp_path / "best")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "best")
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, trained.model(IDS).logits)
    again = AutoTokenizer.from_pretrained(tmp_path / "best")
    assert again("how hot is it").input_ids == tokenizer("how hot is it").input_ids
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's loader
def test_a_lora_checkpoint_is_merged_and_has_its_adapter_apart(tiny_folder, tmp_path):
    trained = learner(tiny_folder, lora_rank=4)
    for step in range(5):
        trained.step(rows(step))
    _, tokenizer = load_model(tiny_folder, device=CPU)
    save_model(trained.model, tokenizer, tmp_path / "best")
    with torch.no_grad():
        expected = trained.model(IDS).logits
        start = AutoModelForCausalLM.from_pretrained(tiny_folder)
        assert not torch.allclose(start(IDS).logits, expected, atol=1e-3)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "best")
        assert torch.allclose(merged(IDS).logits, expected, atol=1e-4)
        adapted = PeftModel.from_pretrained(start, tmp_path / "best" / "adapter")
        assert torch.allclose(adapted(IDS).logits, expected, atol=1e-5)


def test_a_checkpoint_replaces_the_one_before_it_whole(tiny_folder, tmp_path):
    model, tokenizer = load_model(tiny_folder, device=CPU)
    save_model(model, tokenizer, tmp_path / "best")
    (tmp_path / "best" / "of-the-old-one").touch()
    save_model(model, tokenizer, tmp_path / "best")
    assert not (tmp_path / "best" / "of-the-old-one").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("choice", [{}, {"layers": 1}, {"lora_rank": 2}])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(tiny_folder, tmp_path, choice):
    straight = learner(tiny_folder, **choice)
    for step in range(6):
        straight.step(rows(step))

    first = learner(tiny_folder, **choice)
    for step in range(3):
        first.step(rows(step))
    save_state(tmp_path, 3, first.state(), {"cursor": [1, "two"]})
    resumed = learner(tiny_folder, **choice)
    state = load_latest(tmp_path, device=CPU)
    assert state.record == {"cursor": [1, "two"]}
    resumed.load(state.learner)
    for step in range(3, 6):
        resumed.step(rows(step))

    for name, parameter in straight.parameters.items():
        assert torch.equal(resumed.parameters[name], parameter), name


def test_random_numbers_go_on_where_they_were(tmp_path):
    random.seed(5)
    torch.manual_seed(5)
    save_state(tmp_path, 1, {}, {})
    expected = (random.random(), torch.rand(3).tolist())
    random.seed(6)
    torch.manual_seed(6)
    load_latest(tmp_path, device=CPU)
    assert (random.random(), torch.rand(3).tolist()) == expected


def test_the_newest_two_states_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save_state(tmp_path, step, {}, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000003.pt", "state-00000010.pt"]
    assert load_latest(tmp_path, device=CPU).record == {"step": 10}


def test_without_a_state_there_is_nothing_to_resume(tmp_path):
    assert load_latest(tmp_path / "none", device=CPU) is None


def test_a_state_of_other_parameters_is_refused(tiny_folder):
    with pytest.raises(TrainingStopped, match="layers and lora_rank"):
        learner(tiny_folder).load(learner(tiny_folder, layers=1).state())


ENDLESS_SAVES = """
    import sys, torch
    from pathlib import Path
    from leyden_trainer.local.checkpoint import save_state
    step = 0
    while True:
        step += 1
        weights = torch.full((1_000_000,), float(step))
        save_state(Path(sys.argv[1]), step, {"weights": weights}, {"step": step})
        print(step, flush=True)
"""


@pytest.mark.parametrize("after_bytes", [0, 1, 2_000_000])
def test_a_kill_during_a_save_leaves_a_whole_state(tmp_path, after_bytes):
    """The process is killed once the partial file of a save is seen to have so many bytes."""
    folder = tmp_path / "states"
    command = [sys.executable, "-c", textwrap.dedent(ENDLESS_SAVES), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        told = [int(child.stdout.readline()) for _ in range(3)]
        while _partial_bytes(folder) < after_bytes:
            assert max(folder.glob("*.pt")).name < "state-00001000.pt", "no partial file was ever seen"
        child.kill()
        told += map(int, child.stdout.read().split())
    state = load_latest(folder, device=CPU)
    assert state.record["step"] >= max(told)
    assert torch.equal(state.learner["weights"], torch.full((1_000_000,), float(state.record["step"])))


def _partial_bytes(folder) -> int:
    """The size of the file that is being written; -1 while there is none."""
    try:
        return max((path.stat().st_size for path in folder.glob("*.partial")), default=-1)
    except FileNotFoundError:  # renamed between being listed and being measured
        return -1


FULL_DISK = """
    import sys, torch
    from pathlib import Path
    from leyden.errors import TrainingStopped
    from leyden_trainer.local.checkpoint import load_latest, save_state
    import resource, signal
    folder = Path(sys.argv[1])
    save_state(folder, 1, {}, {"step": 1})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        save_state(folder, 2, {"weights": torch.zeros(1_000_000)}, {"step": 2})
    except TrainingStopped as error:
        print(error)
    print(load_latest(folder, device=torch.device("cpu")).record, [path.name for path in folder.iterdir()])
"""


def test_a_full_disk_stops_with_the_reason_and_keeps_the_state_before(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)], capture_output=True, text=True, check=True
    )
    reason, after = done.stdout.strip().splitlines()
    assert reason.startswith(f"cannot save {tmp_path}/state-00000002.pt: ")
    assert "MB are free" in reason
    assert after == "{'step': 1} ['state-00000001.pt']"
