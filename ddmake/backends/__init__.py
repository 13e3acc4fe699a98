"""Backends: what serves an llm. `open_backend` picks one by the name's first part and imports no other."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake import toys
from ddmake.backends.base import Backend
from ddmake.backends.models import need
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

BUILT_IN = ("openai", "hf", "tiny", "echo")


def open_backend(spec: "LLM", model: Path | None = None, adapter: Path | None = None) -> Backend:
    """Return what serves an llm; `model` and `adapter` are the folders that its targets lie at.

    Raises DdfileError for an unknown backend, MissingExtra where its packages aren't installed.
    """
    if model is not None:
        return _local(spec, model, adapter)
    kind, _, name = spec.name.partition("/")
    if kind in toys.NAMES:
        return _local(spec, toys.folder(kind), adapter)
    if kind == "hf":
        return _local(spec, Path(name) if Path(name).is_dir() else name, adapter)
    if kind == "echo":
        from ddmake.backends.echo import Echo

        return Echo()
    if kind == "openai" or spec.base_url is not None:
        from ddmake.backends.openai import OpenAI

        return OpenAI(spec)
    return _other(spec, kind)


def check_name(name: str, base_url: str | None) -> str | None:
    """Return what is wrong with an llm's name, or None; imports nothing."""
    kind, _, model = name.partition("/")
    if kind in (*toys.NAMES, "echo"):
        return None
    if kind in ("hf", "openai") or base_url is not None or kind in _others():
        return None if model else f"llm({name!r}) names no model: write {kind}/…."
    known = [*BUILT_IN, *_others()]
    return (f"llm({name!r}): there is no backend {kind!r}. There are {', '.join(known)}; any OpenAI-compatible service "
            f"is reached with base_url=….{did_you_mean(kind, known)}")


def _local(spec: "LLM", model: Path | str, adapter: Path | None) -> Backend:
    for package in ("torch", "transformers"):
        need(package, "local", f"llm({str(spec.name)!r})" if isinstance(spec.name, str) else "a local llm")
    from ddmake.backends.local import open_local

    return open_local(spec, model, adapter)


def _others() -> dict[str, Any]:
    """Return the backends that other packages bring, by name."""
    return {point.name: point for point in entry_points(group="ddmake.backends")}


def _other(spec: "LLM", kind: str) -> Backend:
    point = _others().get(kind)
    if point is None:
        raise DdfileError(check_name(spec.name, spec.base_url) or spec.name)
    return point.load()(spec)
