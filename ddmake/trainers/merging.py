"""An adapter made one with its base: a whole model, which needs neither ddmake nor peft."""

from pathlib import Path

import torch

from ddmake.backends.heads import TASK, opened
from ddmake.backends.loading import load_generation, load_model, load_tokenizer
from ddmake.backends.models import ADAPTER, base_name, is_adapter, read_json
from ddmake.errors import DdmakeError
from ddmake.trainers.common import hush


def merge(adapter: Path, dtype: str, output: Path) -> None:
    """Write a model folder of an adapter and the base that it names: summed in float32, whatever it is then written in.

    Raises DdmakeError for what is no adapter, and for one whose base isn't there.
    """
    hush()
    if not is_adapter(adapter):
        raise DdmakeError(f"merge: {base_name(adapter)} is no adapter: its weights are whole already. Use it as it is.")
    if read_json(adapter, ADAPTER).get("task_type") == TASK:
        model, tokenizer = opened(adapter, torch.float32, "merge")
    else:
        model, tokenizer = load_model(adapter, None, "float32"), load_tokenizer(adapter)
        model.generation_config = load_generation(adapter, model)
    model.to(getattr(torch, dtype)).save_pretrained(output)
    tokenizer.save_pretrained(output)
