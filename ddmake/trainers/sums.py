"""Sums over the processes of a training; with one process they are what they are."""

from collections.abc import Sequence

import torch
from accelerate import PartialState


def processes() -> int:
    """Return how many processes train together."""
    return PartialState().num_processes


def total(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes."""
    if processes() == 1:
        return value
    summed = value.clone().to(PartialState().device)
    torch.distributed.all_reduce(summed)
    return summed


def mean(values: Sequence[float]) -> float:
    """Return the mean of all processes' numbers."""
    summed, count = total(torch.tensor([float(sum(values)), float(len(values))], dtype=torch.float64)).tolist()
    return summed / count


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return tensors of rows × tokens as one, filled up with zeros to the widest."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])
