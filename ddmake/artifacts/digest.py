"""What an artifact is, and its digest by meaning."""

import json
import os
from pathlib import Path
from typing import Any

from ddmake.fingerprint import hashes
from ddmake.store.files import Manifest

Digest = dict[str, Any]  # {"kind", "sha"}, and for a dataset "rows" and "columns": {name: {"type", "hash"}}

# Of a model folder, what says how it came about and not what it is.
NO_MEANING = {"README.md", "training_args.bin", "metrics.json", "samples.jsonl", "trainer_state.json", "log.txt",
              ".gitattributes"}
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
CONFIGS = {"config.json", "generation_config.json", "adapter_config.json", "tokenizer_config.json", "special_tokens_map.json"}
VERSION_FIELDS = {"transformers_version", "_name_or_path", "peft_version", "auto_mapping", "is_local"}


def kind_of(path: Path) -> str:
    """Return "file", "dataset", "model" or "files"."""
    if os.path.isfile(path):
        return "file"
    if os.path.exists(f"{path}/state.json") and os.path.exists(f"{path}/dataset_info.json"):
        return "dataset"
    configured = (path / "config.json").exists() or (path / "adapter_config.json").exists()
    return "model" if configured and any(next(path.glob(weights), None) for weights in WEIGHTS) else "files"


def digest(path: Path, manifest: Manifest) -> Digest:
    """Return an artifact's digest; `manifest` holds the hashes of its files."""
    kind = "file" if "" in manifest else kind_of(path)
    if kind == "dataset":
        return _dataset(path)
    if kind == "model":
        return {"kind": kind, "sha": hashes.of_value(_model(path, manifest))}
    return {"kind": kind, "sha": hashes.of_value(manifest)}


def _dataset(path: Path) -> Digest:
    import pyarrow as pa

    from ddmake.artifacts import columns

    info, state = (_json(f"{path}/{name}") for name in ("dataset_info.json", "state.json"))
    readers = [pa.ipc.open_stream(pa.memory_map(f"{path}/{entry['filename']}")) for entry in state["_data_files"]]
    batches = (batch for reader in readers for batch in reader)
    table = columns.digest(readers[0].schema, batches, info.get("features") or {})
    return {"kind": "dataset", "sha": hashes.of_value(table), **table}


def _model(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Return a model's files by name: hashes, and configs without what a library's release or a place adds to them."""
    meaning: dict[str, Any] = {}
    for name, sha in manifest.items():
        base = name.rpartition("/")[2]
        if base in NO_MEANING or base.startswith("events.out."):
            continue
        meaning[name] = _config(path / name, sha) if base in CONFIGS else sha
    return meaning


def _config(path: Path, sha: str) -> Any:
    """Return a config's values that mean something; of a damaged one the hash, so that only who reads it is told."""
    try:
        found = _json(path)
    except ValueError:
        return sha
    return found if not isinstance(found, dict) else {key: found[key] for key in sorted(found) if key not in VERSION_FIELDS}


def _json(file: str | Path) -> Any:
    with open(file, encoding="utf-8") as opened:
        return json.load(opened)
