"""New weights into vLLM on a CPU, for verl's weight transfer.

vLLM's CPU backend packs weights anew after loading, so verl's loading in place fails there; vLLM's own `reload_weights`
takes whole tensors and packs them.
"""

from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

__all__ = ["CpuWorkerExtension"]


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """verl names it to vLLM as the workers' extension."""

    def update_weights_from_ipc(
        self, peft_config: Any = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        """Receive all buckets, then reload."""
        if peft_config and base_sync_done:
            super().update_weights_from_ipc(peft_config, base_sync_done, use_shm)
            return
        received: list[tuple[str, torch.Tensor]] = []

        def keep(weights: Any, is_last: bool) -> None:
            received.extend((name, weight.clone()) for name, weight in weights)  # the bucket's memory is used again

        receiver = BucketedWeightReceiver(
            zmq_handle=self._get_zmq_handle(), device=torch.device("cpu"), use_shm=use_shm
        )
        receiver.receive_weights(on_bucket_received=keep)
        self.reload_weights(weights_iterator=iter(received))  # pyright: ignore[reportAttributeAccessIssue]  # the worker's
