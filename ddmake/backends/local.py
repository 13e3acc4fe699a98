"""The local models that this process has opened, kept for the next job that asks for one of them.

As many are kept as half the memory holds that would be free without them; the one used longest ago goes first. What is
reused are weights and tokenizers, those of a base by all adapters on it; how tokens are drawn is each llm's own.
"""

import gc
import os
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import try_to_load_from_cache

from ddmake.backends.hf import LocalModel
from ddmake.backends.loading import Loaded, Manner, can_share, load, pick_dtype, with_adapter
from ddmake.backends.models import adapter_base, is_adapter, read_json, weights_bytes

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

MEMORY = Path("/proc/meminfo")
FREE = "MemAvailable:"

_kept: dict[tuple[Any, ...], Loaded] = {}  # the one used last at the end


def open_local(spec: "LLM", model: Path | str, adapter: Path | None, separator: str | None = None) -> LocalModel:
    """Return a model to ask, loaded now or kept from before. Raises DdmakeError for one that can't be loaded."""
    kept = _loaded(model, adapter, spec.revision, Manner(spec.dtype, spec.device_map, spec.quantize))
    loaded = replace(kept, model=copy(kept.model))  # the job sets its copy's generation config, and closes it
    return LocalModel(model, adapter=adapter, dtype=spec.dtype, quantize=spec.quantize, batch_size=spec.batch_size,
                      separator=separator, sampling=spec.sampling(), truncate=bool(spec.truncate), loaded=loaded)


def let_go() -> None:
    """Free the memory of all models that are kept, once no job holds them."""
    _kept.clear()
    _free()


def _loaded(model: Path | str, adapter: Path | None, revision: str | None, manner: Manner) -> Loaded:
    """Return a model that is kept, or load it and keep it."""
    key = (manner, revision, *_told(model), *_told(adapter))
    found = _kept.pop(key, None)
    if found is None:
        found = _load(model, adapter, revision, manner)
    _kept[key] = found
    _make_room(0)  # for what the model turned out to take
    return found


def _load(model: Path | str, adapter: Path | None, revision: str | None, manner: Manner) -> Loaded:
    """Load a model: an adapter is put on a base that is kept or worth keeping, and leaves it as it is."""
    if adapter is None and not is_adapter(model):
        folder = _folder(model, revision)
        _make_room(weights_bytes(folder) * (2 if _widened(folder, manner) else 1))
        return load(model, None, revision, manner)
    under, of = (model, None) if adapter is not None else adapter_base(model)
    base = _loaded(under, None, of or revision, manner)
    shared = can_share(base.model) and (base.model.dtype != torch.float32 or 2 * _bytes([base]) <= _bound())
    if not shared:  # nobody else may find it: it is used up
        _kept.pop(next(key for key, kept in _kept.items() if kept is base))
    return with_adapter(base, adapter or model, alone=adapter is None, shared=shared)


def _folder(model: Path | str, revision: str | None) -> Path:
    """Return where a model's files lie; of one on the Hub that was never fetched, nowhere."""
    if Path(model).is_dir():
        return Path(model)
    found = try_to_load_from_cache(str(model), "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else Path("nowhere")


def _widened(folder: Path, manner: Manner) -> bool:
    """Tell whether weights that lie there in half precision will be float32 in memory."""
    config = read_json(folder, "config.json")
    half = (config.get("dtype") or config.get("torch_dtype")) in ("float16", "bfloat16")
    return half and manner.quantize is None and pick_dtype(manner.dtype) == torch.float32


def _make_room(needed: int) -> None:
    """Let go of what was used longest ago, until there is room for so many bytes more; never of the model used last."""
    spare = 0 if needed else 1
    gone = False
    while len(_kept) > spare and _bytes(_kept.values()) + needed > _bound():
        del _kept[next(iter(_kept))]
        gone = True
    if gone:
        _free()


def _free() -> None:
    gc.collect()  # hooks and adapters hold their modules in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _bytes(models: Iterable[Loaded]) -> int:
    """Return the memory that models take together; what several share counts once."""
    held = (tensor for one in models for part in (one.model.parameters(), one.model.buffers()) for tensor in part)
    storages = (plain.untyped_storage() for tensor in held for plain in _plain(tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the tensors that one is packed from, as quantised weights are."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))


def _bound() -> int:
    """Return how many bytes all kept models together may take: half of what is free, were there none."""
    return (_available() + _bytes(_kept.values())) // 2


def _available() -> int:
    """Return the bytes of memory that are free: of the GPUs that there are, else of the machine."""
    if torch.cuda.is_available():
        return sum(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    try:
        line = next(line for line in MEMORY.read_text().splitlines() if line.startswith(FREE))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):  # macOS doesn't tell
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _told(model: Path | str | None) -> tuple[Any, ...]:
    """Return what tells a model from every other: of a folder its files by their stats, with those of a base under it."""
    if model is None or not Path(model).is_dir():
        return (model,)
    files = sorted(path for path in Path(model).rglob("*") if path.is_file())
    stats = [(str(path), os.stat(path)) for path in files]
    signs = [(name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino) for name, found in stats]
    return (str(Path(model).resolve()), *signs, *(_told(adapter_base(model)[0]) if is_adapter(model) else ()))
