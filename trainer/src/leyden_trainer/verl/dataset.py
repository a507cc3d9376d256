"""What verl's data loader counts with: one empty item for each group of a step. The tasks are the manager's to choose.

Leyden's order of tasks depends on the seed, the step and the place alone, so there is nothing here to save or resume.
"""

from typing import Any

from torch.utils.data import Dataset

__all__ = ["Places"]


class Places(Dataset[dict[str, Any]]):
    """verl makes it with these arguments; `data_files` is how many places there are."""

    def __init__(
        self,
        *,
        data_files: int,
        tokenizer: Any = None,
        processor: Any = None,
        config: Any = None,
        max_samples: int = -1,
    ) -> None:
        self._count = int(data_files)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"raw_prompt": [], "index": index, "data_source": "leyden"}
