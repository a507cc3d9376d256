"""The next token of each row, by inverse CDF with one uniform number per row.

Unlike torch.multinomial, a row's draw depends on its own number alone, never on which rows share the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["draw"]


def draw(
    logits_B_V: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Token ids and their log probabilities under the distribution that was drawn from.

    Temperature 0 takes the likeliest token and reports its log probability at temperature 1.
    """
    device = logits_B_V.device
    if any(temperature not in (0, 1) for temperature in temperatures):
        logits_B_V = logits_B_V / torch.tensor([t or 1.0 for t in temperatures], device=device)[:, None]
    logprobs_B_V = torch.log_softmax(logits_B_V, dim=-1)
    if any(top_p < 1 for top_p in top_ps):
        logprobs_B_V = _nucleus(logprobs_B_V, torch.tensor(top_ps, device=device))
    if not any(temperatures):
        chosen_B = logprobs_B_V.argmax(-1)
    else:
        chosen_B = _inverse_cdf(logprobs_B_V, uniforms)
        if not all(temperatures):
            greedy_B = torch.tensor([t == 0 for t in temperatures], device=device)
            chosen_B = torch.where(greedy_B, logprobs_B_V.argmax(-1), chosen_B)
    return chosen_B.tolist(), logprobs_B_V.gather(-1, chosen_B[:, None])[:, 0].tolist()


def _inverse_cdf(logprobs_B_V: Tensor, uniforms: Sequence[float]) -> Tensor:
    # Sums over a vocabulary need float64 to keep the tail; MPS has none.
    wide = torch.float32 if logprobs_B_V.device.type == "mps" else torch.float64
    cumulative_B_V = logprobs_B_V.exp().cumsum(-1, dtype=wide)
    target_B_1 = torch.tensor(uniforms, dtype=wide, device=logprobs_B_V.device)[:, None] * cumulative_B_V[:, -1:]
    # right=True: the first token whose cumulative probability exceeds the target; never one of probability 0.
    return torch.searchsorted(cumulative_B_V, target_B_1, right=True)[:, 0].clamp(max=logprobs_B_V.shape[-1] - 1)


def _nucleus(logprobs_B_V: Tensor, top_p_B: Tensor) -> Tensor:
    """Renormalised over the likeliest tokens that together reach top_p; rows with top_p 1 stay as they are."""
    sorted_B_V, order_B_V = logprobs_B_V.sort(-1, descending=True)
    before_B_V = sorted_B_V.exp().cumsum(-1) - sorted_B_V.exp()
    cut_B_V = (before_B_V >= top_p_B[:, None]) & (top_p_B[:, None] < 1)
    cut_B_V[:, 0] = False  # the likeliest token stays, whatever float32 made of its sum
    kept_B_V = torch.empty_like(cut_B_V).scatter_(-1, order_B_V, ~cut_B_V)
    nucleus_B_V = torch.log_softmax(logprobs_B_V.masked_fill(~kept_B_V, float("-inf")), dim=-1)
    return torch.where(top_p_B[:, None] < 1, nucleus_B_V, logprobs_B_V)
