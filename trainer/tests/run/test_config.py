from pathlib import Path

import pytest

from leyden.errors import BadConfig
from leyden_trainer.config import TrainConfig, load_config

REPOSITORY = Path(__file__).resolve().parents[3]

SPARSE = """
[model]
path = "models/tiny"
[agent]
function = "agent.py:solve"
[reward]
function = "rewards.py:score"
[tasks]
train = "train.jsonl"
heldout = "heldout.jsonl"
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(SPARSE)
    return path


def test_a_sparse_file_is_completed_with_defaults_and_absolute_paths(toml: Path) -> None:
    config = load_config(toml)
    assert config.trainer.rollouts_per_task == 8
    assert config.agent.function == f"{toml.parent}/agent.py:solve"
    assert config.reward.function == f"{toml.parent}/rewards.py:score"
    assert config.tasks.train == toml.parent / "train.jsonl"
    assert config.model.path == f"{toml.parent}/models/tiny"
    assert config.output == toml.parent / "runs"


def test_flags_lie_over_the_file(toml: Path) -> None:
    config = load_config(toml, ["--trainer.steps=3", "--name=mine", "--credit.agents=['writer']", "--seed=7"])
    assert (config.trainer.steps, config.name, config.credit.agents, config.seed) == (3, "mine", ("writer",), 7)


def test_a_flag_may_be_spelt_with_dashes(toml: Path) -> None:
    assert load_config(toml, ["--trainer.tasks-per-step=2"]).trainer.tasks_per_step == 2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--trainer.stepz=3", r"unknown key trainer\.stepz; known here: backend, verl"),
        ("--warm_start.epoch=2", r"unknown key warm_start\.epoch; known here: demonstrations, epochs, batch"),
        ("--trainr.steps=3", r"unknown key trainr; known here: name, seed"),
        ("--trainer.steps=many", r"trainer\.steps: .* got 'many'"),
        ("--optimizer.betas=[0.9, 1.0]", r"optimizer\.betas\.1: .*less than 1"),
        ("--trainer.steps=0", r"trainer\.steps: .*greater than or equal to 1"),
        ("--seed.x=1", "seed is a value, not a section"),
        ("--fast", "a flag has the form --section.key=value"),
        ("steps=4", "a flag has the form --section.key=value"),
        ("--trainer.ray_address=ray://head:10001", r"trainer\.ray_address: .*start the run on a node of the cluster"),
        ("--trainer.host=0.0.0.0", r"trainer\.host: .*name the address by which the Leyden server reaches this"),
        (
            "--server=http://10.1.2.3:4700",
            r"http://10\.1\.2\.3:4700 cannot reach a policy on 127\.0\.0\.1: set trainer",
        ),
    ],
)
def test_a_bad_flag_says_what_is_wrong_with_it(toml: Path, flag: str, message: str) -> None:
    flags = ["--seed=1", flag] if flag.startswith("--seed.") else [flag]
    with pytest.raises(BadConfig, match=message):
        load_config(toml, flags)


def test_a_server_elsewhere_needs_a_policy_that_it_can_reach(toml: Path) -> None:
    config = load_config(toml, ["--server=http://10.1.2.3:4700", "--trainer.host=10.1.2.4"])
    assert config.trainer.host == "10.1.2.4"
    assert load_config(toml, ["--server=http://localhost:4700"]).trainer.host == "127.0.0.1"


def test_runners_of_rays_need_the_backend_that_has_ray(toml: Path) -> None:
    with pytest.raises(BadConfig, match="the local backend has no Ray"):
        load_config(toml, ["--agent.runners=ray"])
    assert load_config(toml, ["--agent.runners=ray", "--trainer.backend=verl"]).agent.runners == "ray"


def test_an_asynchronous_run_needs_the_backend_that_has_it_and_weights_for_stale_rollouts(toml: Path) -> None:
    flags = ["--trainer.mode=colocate_async"]
    with pytest.raises(BadConfig, match='local is "sync"'):
        load_config(toml, flags)
    flags.append("--trainer.backend=verl")
    with pytest.raises(BadConfig, match="learns from rollouts of older weights"):
        load_config(toml, flags)
    flags += ["--loss.old_logprobs=trainer", "--loss.importance_cap=2"]
    assert load_config(toml, flags).trainer.max_staleness == 1


def test_broken_toml_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[model\n")
    with pytest.raises(BadConfig, match="is not TOML"):
        load_config(broken)
    with pytest.raises(BadConfig, match="cannot read the configuration"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("examples/**/*.toml")), ids=lambda path: path.parent.name)
def test_every_configuration_of_the_examples_is_valid(path: Path) -> None:
    assert load_config(path).name


def test_a_configuration_has_at_most_eighty_settings() -> None:
    sections = [field.annotation for field in TrainConfig.model_fields.values()]
    settings = sum(len(getattr(section, "model_fields", {"one": None})) for section in sections)
    assert settings <= 80
