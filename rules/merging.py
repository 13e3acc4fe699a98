"""Adapters made one with their bases."""

from pathlib import Path
from typing import Literal

from ddmake import train
from ddmake.ddfile.inputs import Model


@train(version="1")
def merge(model: Model, *, dtype: Literal["float32", "bfloat16"] = "float32", output: Path) -> None:
    """Write a whole model of an adapter and the base that it was trained on, which loads without peft.

    The base is the one that the adapter's config names, in full precision, also where the adapter was trained on a base in fewer
    bits. Both are summed in float32, and written in `dtype`.
    """
    from ddmake.backends.models import need

    for package in ("transformers", "peft"):
        need(package, "train", "merge")
    from ddmake.trainers import merging

    merging.merge(Path(model), dtype, output)
