"""Backends: what serves an llm. `open_backend` and `open_service` pick one by the name's first part and import no other."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ddmake import toys
from ddmake.backends import providers, supported
from ddmake.backends.base import Backend, Service
from ddmake.backends.models import need
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    import aiohttp

    from ddmake.ddfile.specs import LLM


def open_backend(spec: "LLM", model: Path | None = None, adapter: Path | None = None) -> Backend:
    """Return what serves an llm in this process; `model` and `adapter` are the folders that its targets lie at.

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
    return _plugin(spec)(spec)


def open_service(spec: "LLM", session: "aiohttp.ClientSession") -> Service:
    """Return what serves an llm over a network. Raises ProviderError where its key or its address is missing."""
    road = providers.road(spec)
    if road == "http":
        from ddmake.backends.openai import OpenAI

        return OpenAI(spec, session)
    if road == "litellm":
        from ddmake.backends.others import Others

        return Others(spec)
    return _plugin(spec)(spec)


def check_name(name: str, base_url: str | None) -> str | None:
    """Return what is wrong with an llm's name or its address, or None; imports nothing heavy."""
    kind, _, model = name.partition("/")
    if kind in (*toys.NAMES, "echo"):
        return None
    if base_url is not None and (urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname):
        return f"llm({name!r}): the base_url {base_url!r} is no address. Write it as http://host:8000/v1."
    if kind == "hf" or base_url is not None or _known(kind):
        return None if model else f"llm({name!r}) names no model: write {kind}/…."
    told = supported.gone(kind)
    if told:
        return f"llm({name!r}): {told}."
    common = ["hf", *toys.NAMES, "echo", *providers.PROVIDERS, *providers.plugins()]
    return (f"llm({name!r}): there is no backend {kind!r}. There are {', '.join(common)}, and all that LiteLLM knows; any "
            f"OpenAI-compatible service is reached with base_url=….{did_you_mean(kind, [*common, *supported.providers()])}")


def _known(kind: str) -> bool:
    return kind in {**providers.PROVIDERS, **providers.ALIASES} or kind in supported.providers() or kind in providers.plugins()


def _local(spec: "LLM", model: Path | str, adapter: Path | None) -> Backend:
    for package in ("torch", "transformers"):
        need(package, "local", f"llm({str(spec.name)!r})" if isinstance(spec.name, str) else "a local llm")
    from ddmake.backends.local import open_local

    return open_local(spec, model, adapter)


def _plugin(spec: "LLM") -> type:
    point = providers.plugins().get(providers.kind_of(spec))
    if point is None:
        raise DdfileError(check_name(spec.name, spec.base_url) or spec.name)
    return point.load()
