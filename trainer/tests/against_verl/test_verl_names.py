"""What of verl we touch. A new release of verl is tried by changing the pin and reading what fails here."""

import ast
import importlib
from pathlib import Path

import pytest

import leyden_trainer.verl

pytestmark = pytest.mark.filterwarnings("ignore")  # verl's own imports
FOLDER = Path(leyden_trainer.verl.__file__).parent

IMPORTED = {
    # Made to be used from outside: plug-ins, registries, and the classes that their documentation tells to extend.
    "verl.plugin.platform": {"PlatformBase", "PlatformRegistry"},
    "verl.workers.engine.base": {"EngineRegistry"},
    "verl.trainer.ppo.core_algos": {"register_policy_loss"},
    "verl.trainer.ppo.v1": {"PPOTrainer", "PPOTrainerColocateAsync", "PPOTrainerSync"},
    "verl.trainer.ppo.utils": {"Role"},
    "verl.trainer.constants_ppo": {"get_ppo_ray_runtime_env"},
    "verl.utils.tensordict_utils": {"list_of_dict_to_tensordict"},
    "verl.utils.metric": {"AggregationType", "Metric"},
    "verl.workers.utils.padding": {"response_from_nested"},
    "verl.workers.engine_workers": {"ActorRolloutRefWorker", "TrainingWorker"},
    "verl.workers.rollout.vllm_rollout.utils": {"vLLMColocateWorkerExtension"},
    # On a CPU alone, and nobody's promise.
    "verl.workers.engine.fsdp.transformer_impl": {"FSDPEngineWithLMHead", "FSDPEngineWithValueHead"},
    "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer": {"BucketedWeightReceiver"},
    "verl.utils.fsdp_utils": {"merged_lora_context", "normalize_peft_param_name"},
    "verl.utils.model": {"convert_weight_keys", "verl.utils.model"},
}

PRIVATE = {
    # Overridden: they are no hooks of verl's.
    ("verl.trainer.ppo.v1", "PPOTrainerColocateAsync", "_add_async_warmup_batches"),  # reads what `resume` sets
    ("verl.trainer.ppo.v1", "PPOTrainerSync", "_compute_advantage"),
    ("verl.trainer.ppo.v1", "PPOTrainerSync", "_get_required_batch_multiple"),
    ("verl.trainer.ppo.v1", "PPOTrainerSync", "_init_resource_pool_mgr"),  # on a CPU alone
    ("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead", "_build_fsdp_module"),  # likewise
    ("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead", "_merged_lora_per_tensor_param"),  # likewise
    # Called.
    ("verl.workers.rollout.vllm_rollout.utils", "vLLMColocateWorkerExtension", "_get_zmq_handle"),  # likewise
}

PATCHED = {("verl.utils.model", "load_valuehead_model")}  # for a critic of two heads; and without flash-attn, for any

HOOKS = {"on_train_begin", "on_sample_end", "on_step_end", "on_validate_end", "on_init_end", "init", "fit"}


def imports() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "verl":
                found.setdefault(node.module, set()).update(alias.name for alias in node.names)
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "verl":
                        found.setdefault(alias.name, set()).add(alias.name)
    return found


def test_every_name_of_verl_that_is_imported_is_listed_here() -> None:
    """And none is listed that is not imported."""
    assert imports() == IMPORTED


def test_the_private_and_patched_names_are_there() -> None:
    """verl may rename them in any release; then the backend would lose its credit in silence."""
    for module, owner, name in PRIVATE:
        assert callable(getattr(getattr(importlib.import_module(module), owner), name))
    for module, name in PATCHED:
        assert callable(getattr(importlib.import_module(module), name))


def test_the_hooks_of_the_trainer_are_there() -> None:
    """They are what verl offers to subclasses."""
    trainer = importlib.import_module("verl.trainer.ppo.v1").PPOTrainerSync
    assert {name for name in HOOKS if callable(getattr(trainer, name, None))} == HOOKS


def test_verl_is_imported_nowhere_else() -> None:
    """One small folder meets verl."""
    package = FOLDER.parent
    outside = [file for file in package.rglob("*.py") if FOLDER not in file.parents]
    guilty = [
        file.name
        for file in outside
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "verl")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "verl" for alias in node.names))
    ]
    assert guilty == []


def test_verl_counts_restored_prompts_where_a_resumed_run_says_that_there_are_none() -> None:
    """A private attribute: under another name, the rollouts of a resumed asynchronous run would not go ahead."""
    code = importlib.import_module("verl.trainer.ppo.v1").PPOTrainer._add_async_warmup_batches.__code__
    assert "_restored_tq_prompt_count" in code.co_names
