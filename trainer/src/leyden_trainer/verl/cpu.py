"""verl on a CPU: its platform plug-in (device "cpu", gloo), and the workers and engines that it registers for it.

Loaded in every process by verl's own settings, VERL_PLATFORM=cpu and VERL_USE_EXTERNAL_MODULES. What verl has for CUDA
alone is given a meaning here; nothing of the algorithm is changed, so that the path which GPUs run is the one tested.
"""

import contextlib
import functools
import os
import types
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed
from verl.plugin.platform import PlatformBase, PlatformRegistry

__all__ = ["CpuPlatform", "cpu_workers"]


class _DeviceModule(types.ModuleType):
    """torch.cpu with the names of torch.cuda that verl's FSDP path calls."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)


def _device_module() -> _DeviceModule:
    module = _DeviceModule("leyden_verl_cpu")
    nothing, zero = (
        ("empty_cache", "ipc_collect", "reset_peak_memory_stats", "set_device", "synchronize"),
        (
            "memory_allocated",
            "memory_reserved",
            "max_memory_allocated",
            "max_memory_reserved",
        ),
    )
    names: dict[str, Any] = {name: lambda *_, **__: None for name in nothing}
    names |= {name: lambda *_, **__: 0 for name in zero}
    names |= {
        "is_available": lambda: False,  # verl then takes no branch that is CUDA's alone
        "mem_get_info": lambda *_, **__: (0, 0),
        "get_device_name": lambda *_, **__: "cpu",
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
        "get_rng_state": torch.get_rng_state,
        "set_rng_state": torch.set_rng_state,
    }
    for name, value in names.items():
        setattr(module, name, value)
    return module


_MODULE = _device_module()


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """Chosen by VERL_PLATFORM=cpu alone: `is_platform_available` is False, so that no machine with a GPU gets it."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> _DeviceModule:
        return _MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False

    def current_device(self) -> torch.device:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.device("cpu")  # verl passes it on as a device; an index would mean a GPU

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return contextlib.nullcontext()

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "GPU"  # a logical one: Ray is told that there is one for each worker

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def cpu_workers() -> tuple[type, type]:
    """verl's training worker and its actor-rollout-reference worker, for the CPU."""
    from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

    class CpuTrainingWorker(TrainingWorker):
        """verl would ask for the process group "cpu:gloo,cpu:gloo", which torch refuses: it finds one made."""

        def __init__(self, config: Any) -> None:
            _register_engines()
            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group(
                    "gloo", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
                )
            super().__init__(config)

    class CpuActorRolloutRefWorker(ActorRolloutRefWorker):
        actor_worker_cls = CpuTrainingWorker
        ref_worker_cls = CpuTrainingWorker

    return CpuTrainingWorker, CpuActorRolloutRefWorker


@functools.cache  # actor and critic share a process
def _register_engines() -> None:
    """verl registers its FSDP2 engines for CUDA and NPU only."""
    from torch.distributed.tensor import DTensor
    from verl.utils.fsdp_utils import merged_lora_context, normalize_peft_param_name
    from verl.utils.model import convert_weight_keys
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

    class OnCpu:
        """A reference engine would be given CPUOffloadPolicy(pin_memory=True): no memory is pinned without a GPU."""

        engine_config: Any

        def _build_fsdp_module(self, module: Any) -> Any:
            config, forward_only = self.engine_config, self.engine_config.forward_only
            object.__setattr__(config, "forward_only", False)
            try:
                return super()._build_fsdp_module(module)  # pyright: ignore[reportAttributeAccessIssue]
            finally:
                object.__setattr__(config, "forward_only", forward_only)

    class CpuLanguageModel(OnCpu, FSDPEngineWithLMHead):
        module: Any

        def _merged_lora_per_tensor_param(self) -> Iterator[tuple[str, Any]]:
            """verl rounds them to bfloat16, as vLLM computes on a GPU; on a CPU both compute in float32."""
            with merged_lora_context(self.module, backup_adapters=True):
                weights = convert_weight_keys(normalize_peft_param_name(self.module.state_dict()), self.module)
                for name, weight in weights.items():
                    # Whole, and a copy: merged they are only in here.
                    yield name, weight.full_tensor() if isinstance(weight, DTensor) else weight.detach().clone()

    class CpuValueModel(OnCpu, FSDPEngineWithValueHead):
        pass

    for kind, engine in (("language_model", CpuLanguageModel), ("value_model", CpuValueModel)):
        EngineRegistry.register(model_type=kind, backend=["fsdp2"], device="cpu")(engine)
