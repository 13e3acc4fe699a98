"""The datasets and models that a job used, as its trace's record tells, and what is known and said of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ddmake.cards import models
from ddmake.cards.models import UNKNOWN, Known
from ddmake.cards.plain import Facts, plain, shown, spoken
from ddmake.ddfile.facts import Said
from ddmake.fingerprint.values import dicts

SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "sample", "reasoning", "api", "extra", "dtype",
            "quantize", "truncate", "flags", "prompt", "dimensions", "max_length")
MADE_HERE = "made here; see its entry in this card"

T = TypeVar("T")


def datasets(record: Mapping[str, Any], outputs: Iterable[str], said: Mapping[str, Said]) -> list[Known]:
    """Return the datasets that a job reads and no rule makes.

    What is said of an output counts for what was read, if that is all that it was made of and nothing else is known of it.
    """
    arguments = record["ingredients"].get("arguments", {})
    repo = arguments.get("repo") if record["recipe"]["name"] == "hub" else None
    pinned = (sha for name, sha in arguments.items() if name.startswith(f"datasets/{repo}@") and isinstance(sha, str))
    from_hub = [_with(models.dataset(repo, next(pinned, None)), said, repo)] if isinstance(repo, str) else []
    unmade = [given for given in record["inputs"] if given["trace"] is None]
    kinds = _kinds(record["ingredients"]) if unmade else {}
    sources = [given for given in unmade if kinds.get(given["digest"]) != "model"]
    found = [*from_hub, *(_with(Known(shown(given["path"])), said, given["path"]) for given in sources)]
    if len(sources) < len(record["inputs"]) or record["models"]:
        return found
    return [_with(known, said, *outputs) if known.license == UNKNOWN else known for known in found]


def models_of(record: Mapping[str, Any], said: Mapping[str, Said]) -> list[tuple[Known, Facts]]:
    """Return the models that a job used, each with what it was asked with."""
    told = {model["name"]: model for model in record["models"]}
    paths = {given["digest"]: given for given in record["inputs"]}
    found, through = [], set()
    for fields in _llms(record["ingredients"]):
        through |= {part["sha"] for part in (fields["name"], fields.get("adapter")) if isinstance(part, dict)}
        found.append((_asked(fields, told, paths, said), {**_sampling(fields, paths), **_commit(_told(fields, told))}))
    for model in record["models"]:
        if "sampling" not in model:
            known = models.known(model["name"], asked=False, revision=model.get("revision"))
            found.append((_with(replace(known, name=spoken(known.name)), said, model["name"]), _commit(model)))
    for sha, kind in _kinds(record["ingredients"]).items():
        if kind == "model" and sha not in through and sha in paths:
            found.append((_folder(paths[sha], said), {}))
    return unique(found)


def _with(known: Known, said: Mapping[str, Said], *names: str) -> Known:
    """Return what is known with what is said in its place."""
    one = next((said[name] for name in names if name in said), None)
    return known if one is None else models.told(known, one.license, one.citation, one.url)


def _asked(fields: Facts, told: Mapping[str, Any], paths: Mapping[str, Any], said: Mapping[str, Said]) -> Known:
    """Return what is known of an llm, and what the user says of it: now, or when the job ran."""
    name = fields["name"]
    if isinstance(name, dict):
        return _folder(paths[name["sha"]], said) if name["sha"] in paths else Known(UNKNOWN)
    then, elsewhere = _told(fields, told), "base_url" in fields or "identity" in fields
    known = models.known(name, asked=True, elsewhere=elsewhere, revision=then.get("revision"))
    known = models.told(replace(known, name=spoken(name)), then.get("license"), then.get("citation"), then.get("url"))
    return _with(known, said, name, name.removeprefix("hf/"))


def _told(fields: Facts, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the record tells of an llm that goes by a name."""
    return told.get(fields["name"], {}) if isinstance(fields["name"], str) else {}


def _commit(model: Mapping[str, Any]) -> Facts:
    """Return the commit on the Hub that a model was pinned to."""
    return {"revision": model["revision"]} if model.get("revision") else {}


def _folder(given: Mapping[str, Any], said: Mapping[str, Said]) -> Known:
    """Return a model folder that is an input: made by a rule, or found there."""
    return _with(Known(shown(given["path"]), UNKNOWN if given["trace"] is None else MADE_HERE), said, given["path"])


def _sampling(fields: Facts, paths: Mapping[str, Any]) -> Facts:
    """Return how an llm was asked: parameters that were set, revision, adapter, and whose server it was."""
    sampling = {name: plain(fields[name]) for name in SAMPLING if name in fields}
    adapter = fields.get("adapter")
    if isinstance(adapter, dict):
        adapter = paths[adapter["sha"]]["path"] if adapter.get("sha") in paths else UNKNOWN
    found = {"sampling": sampling, "revision": fields.get("revision"), "adapter": adapter and shown(adapter),
             "endpoint": fields.get("identity") or address(fields.get("base_url")), "embeds": fields.get("embeds")}
    return {name: value for name, value in found.items() if value is not None}


def address(url: str | None) -> str | None:
    """Return a server's address without names, passwords and queries."""
    if url is None:
        return None
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _llms(made_of: Mapping[str, Any]) -> Iterator[Facts]:
    for _, value in parameters(made_of):
        for part in dicts(value):
            if isinstance(part.get("llm"), dict) and "name" in part["llm"]:
                yield part["llm"]
            if isinstance(part.get("embedder"), dict) and "name" in part["embedder"]:
                yield {**part["embedder"], "embeds": True}


def _kinds(made_of: Mapping[str, Any]) -> dict[str, str]:
    """Return the kinds of the inputs that are no datasets, by digest."""
    parts = (part for _, value in parameters(made_of) for part in dicts(value))
    return {part["sha"]: part["kind"] for part in parts if isinstance(part.get("sha"), str) and isinstance(part.get("kind"), str)}


def parameters(made_of: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a job's inputs and arguments by name, as its ingredients have them."""
    for place in ("inputs", "arguments"):
        yield from made_of.get(place, {}).items()


def unique(items: list[T]) -> list[T]:
    """Return items without those that came before."""
    return [item for at, item in enumerate(items) if item not in items[:at]]
