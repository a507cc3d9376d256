"""The critic of the local backend: linear heads on the policy's own hidden states, or on those of a model of their own.

It says what return to expect before each sampled token. A head on the policy's backbone costs no forward pass; how much
its gradient may move the backbone is a setting, none by default, so that the policy learns from its own loss alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.errors import TrainingStopped
from leyden_trainer.local.forward import decoder

__all__ = ["Critic", "CriticSettings"]


@dataclass(frozen=True)
class CriticSettings:
    """How a critic learns."""

    learning_rate: float
    clip: float | None = None
    """See `loss.value_loss`."""
    backbone: float = 0.0
    """The share of the heads' gradient that goes on into the policy's weights; for a critic without its own model."""
    weight_decay: float = 0.0


class Critic:
    """`heads` values for each state: one, or a low and a high one. They start at 0 everywhere.

    Args:
        width: of the hidden states.
        model: the critic's own causal language model, whose output layer is not used; None: the policy's states.
    """

    def __init__(
        self,
        settings: CriticSettings,
        *,
        heads: int,
        width: int,
        device: torch.device,
        model: PreTrainedModel | None = None,
    ) -> None:
        self.settings = settings
        self.model = model
        self.heads = nn.Linear(width, heads, device=device)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)
        self.parameters = {f"heads.{name}": parameter for name, parameter in self.heads.named_parameters()}
        if model is not None:
            own = decoder(model).named_parameters()
            self.parameters |= {f"model.{name}": parameter for name, parameter in own}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def values(self, hidden_U_D: Tensor) -> Tensor:
        """[U, H] float32."""
        if self.model is None:
            still_U_D = hidden_U_D.detach()
            hidden_U_D = still_U_D + self.settings.backbone * (hidden_U_D - still_U_D)
        return self.heads(hidden_U_D.float())

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on exactly here."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return {"weights": weights, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Take weights and optimiser from `state()` of a critic of the same form.

        Raises:
            TrainingStopped: the saved critic has other parameters.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in state["weights"].items()}
        if shapes != {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}:
            raise TrainingStopped(
                "the saved state's critic is of another form; resume with the credit.method and critic of its start"
            )
        for name, parameter in self.parameters.items():
            parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
