"""The local model that this process opened last, kept for the next job that asks for the same one.

What is reused are weights and tokenizer; how tokens are drawn is each llm's own.
"""

import os
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from ddmake.backends.hf import ROWS, LocalModel, read_sampling
from ddmake.backends.models import adapter_base, is_adapter

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM


@dataclass
class _Kept:
    key: tuple[Any, ...]
    model: LocalModel
    config: GenerationConfig  # that it came with; the one that it holds is stripped for decoding


_kept: list[_Kept] = []  # one at most


def open_local(spec: "LLM", model: Path | str, adapter: Path | None) -> LocalModel:
    """Return a model to ask, loaded now or kept from before."""
    key = (spec.revision, spec.dtype, spec.device_map, *_told(model), *_told(adapter))
    if not _kept or _kept[0].key != key:
        let_go()
        opened = LocalModel(model, adapter=adapter, revision=spec.revision, dtype=spec.dtype, device_map=spec.device_map)
        _kept.append(_Kept(key, opened, _generation(opened, model, adapter, spec.revision)))
    again = copy(_kept[0].model)  # the job closes its copy, and what is kept stays open
    again.sampling = read_sampling(spec.sampling(), _kept[0].config)
    again.rows = spec.batch_size or ROWS
    return again


def let_go() -> None:
    """Free the memory of the model that is kept, once no job holds it."""
    while _kept:
        _kept.pop().model.close()


def _told(model: Path | str | None) -> tuple[Any, ...]:
    """Return what tells a model from every other: of a folder its files by their stats, with those of a base under it."""
    if model is None or not Path(model).is_dir():
        return (model,)
    files = sorted(path for path in Path(model).rglob("*") if path.is_file())
    stats = [(str(path), os.stat(path)) for path in files]
    signs = [(name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino) for name, found in stats]
    return (str(Path(model).resolve()), *signs, *(_told(adapter_base(model)[0]) if is_adapter(model) else ()))


def _generation(opened: LocalModel, model: Path | str, adapter: Path | None, revision: str | None) -> GenerationConfig:
    """Return the generation config that a model came with: an adapter folder's own, else its base's, as transformers has it."""
    tuned = adapter or model
    if is_adapter(tuned) and (Path(tuned) / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(tuned))
    base, revision = adapter_base(model) if is_adapter(model) else (model, revision)
    try:
        return GenerationConfig.from_pretrained(str(base), revision=revision)
    except (OSError, TypeError):
        return GenerationConfig.from_model_config(opened.model.config)
