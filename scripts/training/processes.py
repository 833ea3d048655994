"""Data parallelism over processes that `torchrun` starts: they share the rows of a batch and average their gradients.

On CPUs, one process per core with one thread each is faster than one process with a thread per core, which has to
synchronise its threads in every operation, and it does not stall when another program takes a core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import distributed


class Processes:
    """The processes of a training; only this one, unless `torchrun` started it."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replaces float tensors, which have the same shapes in every process, by their mean over the processes."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def first(self, value: float) -> float:
        """Returns the value of the first process."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Waits for the other processes, if any, and is connected to them in a context.

    Raises:
        ValueError: there are others, and the device is not the CPU.
    """
    if not distributed.is_torchelastic_launched():
        yield Processes()
        return
    if device.type != "cpu":
        raise ValueError("several processes: expected --device cpu")
    distributed.init_process_group("gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
