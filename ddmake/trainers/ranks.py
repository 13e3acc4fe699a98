"""What a trainer does as one process of several: who saves what, and which examples are whose."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import DistributedType
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer

from ddmake.errors import DdmakeError


def all_here() -> None:
    """Wait until every process has come to this line."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def sharing(sharded: bool) -> dict[str, Any]:
    """Return what transformers' training arguments say of several processes."""
    if sharded:
        return {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}}
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return {"ddp_backend": "gloo"} if several and not torch.cuda.is_available() else {}


def gathered(trainer: Trainer) -> dict[str, torch.Tensor] | None:
    """Return the whole weights, where each process holds a part of them; all processes ask."""
    if trainer.accelerator.distributed_type != DistributedType.FSDP:
        return None
    return trainer.accelerator.get_state_dict(trainer.model)


def need_sharded(trainer: Trainer) -> None:
    """Raise DdmakeError where weights were to be spread over the processes, and each would hold all of them instead."""
    if trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise DdmakeError("sharded=True: each process would hold all weights here, for accelerate chose "
                          f"{trainer.accelerator.distributed_type.value}. It takes GPUs.")


def dealt(loader: DataLoader, alike: bool) -> DataLoader:
    """Have the examples that are left at an epoch's end dealt out evenly, `alike` where each process must get as many.

    accelerate fills up with the first ones, which would then count twice: the model would depend on the processes.
    """
    return _cut(loader, Alike if alike else Dealt)


def whole(loader: DataLoader) -> DataLoader:
    """Have the batches be those of one process, so that the loss is the same."""
    return _cut(loader, Whole)


def own(loader: DataLoader) -> int:
    """Return how many of the first batches of a `whole` loader count: those behind them are another process's again."""
    batches = loader.batch_sampler
    if not isinstance(batches, Whole):
        return len(batches)
    return len(range(batches.process_index, len(batches.batch_sampler), batches.num_processes))


@contextmanager
def apart(accelerator: Accelerator) -> Iterator[None]:
    """Leave each process what it computes, where a trainer would gather that of all: they have batches of different sizes."""
    accelerator.gather = accelerator.gather_for_metrics = lambda values: values
    try:
        yield
    finally:
        del accelerator.gather, accelerator.gather_for_metrics


def shared(loader: DataLoader) -> DataLoader:
    """Have each process take a share of every batch, of which each was drawn for all of them."""
    return _cut(loader, Shares)


def _cut(loader: DataLoader, kind: type[BatchSamplerShard]) -> DataLoader:
    batches = loader.batch_sampler
    if type(batches) is BatchSamplerShard and isinstance(batches.batch_sampler, BatchSampler):
        batches.__class__, batches.even_batches = kind, True  # without, processes would count different numbers of batches
    return loader


class Dealt(BatchSamplerShard):
    """The batches of one process: one of so many, and at the end a share of what is left."""

    filled = False

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the places of the examples; as many batches in each process, none of them empty."""
        places = [place for batch in self.batch_sampler for place in batch]
        size, count = self.batch_size, self.num_processes
        for start in range(0, len(places), size * count):
            here = places[start:start + size * count]
            here += places[:-len(here) % count if self.filled else max(0, count - len(here))]
            share, more = divmod(len(here), count)
            first = self.process_index * share + min(self.process_index, more)
            yield here[first:first + share + (self.process_index < more)]


class Alike(Dealt):
    """The same, with as many examples in each process: at the most one fewer than there are processes count twice."""

    filled = True


class Whole(BatchSamplerShard):
    """The batches of one process in their order; at the end the first ones again, so that each has as many."""

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the places of the examples; as many batches in each process."""
        batches = list(self.batch_sampler)
        for start in range(0, len(batches), self.num_processes):
            yield batches[(start + self.process_index) % len(batches)]


class Shares(BatchSamplerShard):
    """An equal share of each batch; of one that can't be cut so, at the most one fewer than there are processes is left out."""

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the places of the examples."""
        for batch in self.batch_sampler:
            share = len(batch) // self.num_processes
            if share:
                yield batch[self.process_index * share:(self.process_index + 1) * share]

    def set_epoch(self, epoch: int) -> None:
        """Tell what draws the batches, which accelerate doesn't."""
        self.batch_sampler.set_epoch(epoch)
