"""Backends: what serves an llm. `open_backend` and `open_service` pick one by the name's first part and import no other."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ddmake import toys
from ddmake.backends import providers, servers, supported
from ddmake.backends.base import Backend, Service
from ddmake.backends.models import need
from ddmake.ddfile.specs import SERVER
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    import aiohttp

    from ddmake.backends.serving import Servers
    from ddmake.ddfile.specs import LLM


def open_backend(spec: "LLM", model: Path | str | None = None, adapter: Path | None = None,
                 separator: str | None = None) -> Backend:
    """Return what serves an llm in this process; `model` and `adapter` are where its targets lie.

    Raises DdfileError for an unknown backend, MissingExtra where its packages aren't installed.
    """
    model = local_model(spec) if model is None else model
    if model is not None:
        return _local(spec, model, adapter, separator)
    if spec.name.partition("/")[0] == "echo":
        from ddmake.backends.echo import Echo

        return Echo()
    return _plugin(spec)(spec)


def local_model(spec: "LLM") -> Path | str | None:
    """Return the folder of an llm that is loaded into this process, or its name on the Hub; None for any other."""
    if not isinstance(spec.name, str):
        return Path(spec.name.path)
    kind, _, name = spec.name.partition("/")
    if kind in toys.NAMES:
        return toys.folder(kind)
    return None if kind != "hf" else Path(name) if Path(name).is_dir() else name


def open_service(spec: "LLM", session: "aiohttp.ClientSession", started: "Servers | None" = None) -> Service:
    """Return what serves an llm over a network; servers that have to be started are found among those `started`.

    Raises ProviderError where its key or its address is missing.
    """
    if started is not None and servers.is_served(spec):
        from ddmake.backends.serving import Served

        return Served(spec, session, started)
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
    if name.startswith(SERVER):
        return servers.wrong_name(name, base_url)
    if base_url is not None and (urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname):
        return f"llm({name!r}): the base_url {base_url!r} is no address. Write it as http://host:8000/v1."
    if kind == "hf" or base_url is not None or _known(kind):
        return None if model else f"llm({name!r}) names no model: write {kind}/…."
    told = supported.gone(kind)
    if told:
        return f"llm({name!r}): {told}."
    common = ["hf", "server", *toys.NAMES, "echo", *providers.PROVIDERS, *providers.plugins()]
    return (f"llm({name!r}): there is no backend {kind!r}. There are {', '.join(common)}, and all that LiteLLM knows; any "
            f"OpenAI-compatible service is reached with base_url=….{did_you_mean(kind, [*common, *supported.providers()])}")


def _known(kind: str) -> bool:
    return kind in {**providers.PROVIDERS, **providers.ALIASES} or kind in supported.providers() or kind in providers.plugins()


def _local(spec: "LLM", model: Path | str, adapter: Path | None, separator: str | None) -> Backend:
    for package in ("torch", "transformers"):
        need(package, "local", f"llm({str(spec.name)!r})" if isinstance(spec.name, str) else "a local llm")
    from ddmake.backends.local import open_local

    return open_local(spec, model, adapter, separator)


def _plugin(spec: "LLM") -> type:
    point = providers.plugins().get(providers.kind_of(spec))
    if point is None:
        raise DdfileError(check_name(spec.name, spec.base_url) or spec.name)
    return point.load()
