"""Examples put together, so that less of a batch is padding: none sees another, since positions begin anew with each.

A model's mask keeps examples apart where it is given positions that begin anew and no mask of its own. That is measured on the
model itself, before it is trained.
"""

import os
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import pyarrow.compute as pc
import torch

from ddmake.errors import DdmakeError
from ddmake.trainers.tokens import IGNORED

NEAR = 0.05  # of the spread of what a model says: so far an example may be from what it is alone
NAMES = ("input_ids", "labels", "position_ids")

Example = Mapping[str, Sequence[int]]


def packed(examples: datasets.Dataset, length: int, file: Path) -> datasets.Dataset:
    """Return examples put together to packs of at most so many tokens, in a file."""
    sizes = pc.list_value_length(examples.with_format("arrow")[:]["input_ids"]).to_pylist()
    packs = datasets.Dataset.from_dict({"members": fill(sizes, length)})
    file = file.with_stem(f"{file.stem}-{os.environ.get('RANK', '0')}")  # each process writes its own
    file.parent.mkdir(parents=True, exist_ok=True)
    return packs.map(lambda pack: together([examples[number] for number in pack["members"]]), remove_columns=["members"],
                     cache_file_name=str(file), load_from_cache_file=False, new_fingerprint=file.stem)


def fill(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return numbers of examples by pack: the longest first, each where it leaves the least room."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is left of a pack, and its number, least first
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        at = bisect_left(room, (sizes[number], -1))
        left, pack = room.pop(at) if at < len(room) else (length, len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(number)
        insort(room, (left - sizes[number], pack))
    return packs


def together(members: Sequence[Example]) -> dict[str, list[int]]:
    """Return examples as one. None of them is learned to begin as it does after the one before."""
    return {"input_ids": [token for one in members for token in one["input_ids"]],
            "labels": [label for one in members for label in (IGNORED, *one["labels"][1:])],
            "position_ids": [place for one in members for place in range(len(one["input_ids"]))]}


class Collator:
    """Makes a batch of packs, or of examples; each token that only fills is a text by itself."""

    def __init__(self, pad: int):
        self.fill = dict(zip(NAMES, (pad, IGNORED, 0), strict=True))

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return a batch, without a mask."""
        whole = [{"position_ids": range(len(one["input_ids"])), **one} for one in examples]
        longest = max(len(one["input_ids"]) for one in whole)
        return {name: torch.tensor([[*one[name], *[fill] * (longest - len(one[name]))] for one in whole])
                for name, fill in self.fill.items()}


def need_apart(model: torch.nn.Module, packs: datasets.Dataset, name: str) -> None:
    """Raise DdmakeError for a model in which the examples of a pack see each other."""
    pack = next((pack for pack in packs if pack["position_ids"].count(0) > 1), None)
    if pack is None:
        return
    *_, last = starts(pack["position_ids"])
    was = model.training
    with torch.random.fork_rng(), torch.no_grad():
        model.eval()
        beside, alone = (model(**given(pack, first, model.device), use_cache=False).logits[0].float() for first in (0, last))
        model.train(was)
    far = (beside[last:] - alone).abs().mean() / alone.std()
    if not far <= NEAR:
        raise DdmakeError(f"packing=True: in base {name} the examples of a pack would see each other. Leave packing out.")


def given(pack: Example, first: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return a pack from a token on, as a model is given it."""
    return {name: torch.tensor([pack[name][first:]], device=device) for name in ("input_ids", "position_ids")}


def starts(positions: Sequence[int]) -> Iterator[int]:
    """Yield where examples begin."""
    return (at for at, position in enumerate(positions) if position == 0)
