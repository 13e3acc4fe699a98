"""What a card tells of one finished job, read from its trace's record.

Left out: values of environment variables, paths outside of the project, and whatever is named like a secret.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ddmake.cards import models
from ddmake.cards.models import UNKNOWN, Known
from ddmake.fingerprint.values import dicts
from ddmake.store.traces import Trace

SECRET = re.compile(r"api_?key|secret|passw|credential|authorization|(access|auth|bearer)_?token", re.IGNORECASE)
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "sample", "extra", "dtype", "prompt", "dimensions",
            "max_length")
SAID = {"code": "(a function)", "builtin": "(a function)", "llm": "(a model)", "embedder": "(a model)",
        "template": "(a prompt)"}  # instead of their forms
MADE_HERE = "made here; see its entry in this card"

Facts = dict[str, Any]
T = TypeVar("T")


def facts(trace: Trace, before: Mapping[int, Trace]) -> Facts:
    """Return a job's entry in a card: the paper's fields by their names, then ours in lower case.

    `before` holds the traces of the jobs that made its inputs, by number.
    """
    record, used = trace.record, _models(trace.record)
    recipe = record["recipe"]
    made_of = record["ingredients"]
    found = {
        "Date & Time": trace.made,
        **_paper(record, used),
        "recipe": recipe["name"],
        "kind": recipe["kind"],
        "doc": inspect.cleandoc(recipe.get("doc") or ""),
        "about": recipe.get("about") or "",
        "fingerprint": trace.fingerprint,
        "outputs": {out["path"]: _output(out) for out in trace.outputs.values()},
        "inputs": [_input(given, before.get(given["trace"]), made_of) for given in record["inputs"]],
        "models": [_model(known, fields) for known, fields in used],
        "base": _base(record),
        "prompts": list(_prompts(made_of)),
        "settings": _settings(made_of),
        "usage": {spoken(name): _usage(asked) for name, asked in record.get("usage", {}).items()},
        "metrics": {name: value for name, value in record.get("metrics", {}).items() if isinstance(value, (int, float, str))},
        "seconds": record["seconds"],
    }
    return {name: value for name, value in found.items() if value not in ("", [], {})}


def shown(path: str) -> str:
    """Return a path as a card may name it: of one outside of the project its last part alone."""
    parts = PurePosixPath(path).parts
    return parts[-1] if parts and (parts[0] in ("/", "..") or path.startswith("~")) else path


def spoken(model: str) -> str:
    """Return a model's name as a card may give it: of a folder outside of the project its last part alone."""
    return f"hf/{shown(model[3:])}" if model.startswith("hf/") else shown(model)


def is_model(entry: Facts) -> bool:
    """Tell whether a job made a model."""
    return entry["kind"] == "train" or any(out["kind"] == "model" for out in entry["outputs"].values())


def _paper(record: Mapping[str, Any], used: list[tuple[Known, Facts]]) -> dict[str, list[str]]:
    """Return the paper's arrays, those that apply; what they should hold and nobody knows is "unknown"."""
    data, named = _datasets(record), _unique([known for known, _ in used])
    outside = [*data, *(known for known in named if known.card != MADE_HERE)]
    cited = [*(known.citation for known in outside), *_methods(record["ingredients"])]
    citations = _unique([text for text in cited if text != UNKNOWN]) or ([UNKNOWN] if outside else [])
    return {
        "Dataset Name": [known.name for known in data],
        "Dataset Card": [known.card for known in data],
        "Model Name": [known.name for known in named],
        "Model Card": [known.card for known in named],
        "License Information": _unique([known.license for known in outside]),
        "Citation Information": citations,
        "URL": _unique([known.url for known in outside if known.url != UNKNOWN]),
    }


def _datasets(record: Mapping[str, Any]) -> list[Known]:
    """Return the datasets that a job reads and no rule makes."""
    repo = record["ingredients"].get("arguments", {}).get("repo")
    from_hub = [models.dataset(repo)] if record["recipe"]["name"] == "hub" and isinstance(repo, str) else []
    folders = _kinds(record["ingredients"])
    sources = [given for given in record["inputs"] if given["trace"] is None and folders.get(given["digest"]) != "model"]
    return [*from_hub, *(Known(shown(given["path"])) for given in sources)]


def _models(record: Mapping[str, Any]) -> list[tuple[Known, Facts]]:
    """Return the models that a job used, each with what it was asked with."""
    told = {model["name"]: model for model in record["models"]}
    paths = {given["digest"]: given for given in record["inputs"]}
    found, through = [], set()
    for fields in _llms(record["ingredients"]):
        through |= {part["sha"] for part in (fields["name"], fields.get("adapter")) if isinstance(part, dict)}
        found.append((_asked(fields, told, paths), {**_sampling(fields, paths), **_commit(_told(fields, told))}))
    for model in record["models"]:
        if "sampling" not in model:
            known = models.known(model["name"], asked=False, revision=model.get("revision"))
            found.append((replace(known, name=spoken(known.name)), _commit(model)))
    for sha, kind in _kinds(record["ingredients"]).items():
        if kind == "model" and sha not in through and sha in paths:
            found.append((_folder(paths[sha]), {}))
    return _unique(found)


def _asked(fields: Facts, told: Mapping[str, Any], paths: Mapping[str, Any]) -> Known:
    """Return what is known of an llm, and what the user says of it."""
    name = fields["name"]
    if isinstance(name, dict):
        return _folder(paths[name["sha"]]) if name["sha"] in paths else Known(UNKNOWN)
    said, elsewhere = _told(fields, told), "base_url" in fields or "identity" in fields
    known = models.known(name, asked=True, elsewhere=elsewhere, revision=said.get("revision"))
    return models.told(replace(known, name=spoken(name)), said.get("license"), said.get("citation"), said.get("url"))


def _told(fields: Facts, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the record tells of an llm that goes by a name."""
    return told.get(fields["name"], {}) if isinstance(fields["name"], str) else {}


def _commit(model: Mapping[str, Any]) -> Facts:
    """Return the commit on the Hub that a model was pinned to."""
    return {"revision": model["revision"]} if model.get("revision") else {}


def _folder(given: Mapping[str, Any]) -> Known:
    """Return a model folder that is an input: made by a rule, or found there."""
    return Known(shown(given["path"]), UNKNOWN if given["trace"] is None else MADE_HERE)


def _model(known: Known, fields: Facts) -> Facts:
    here = {"made_here": True} if known.card == MADE_HERE else {"license": known.license}
    marks = {"hub": known.hub} if known.hub else {"toy": True} if known.toy else {}
    return {"name": known.name, "card": known.card, **here, **marks, **fields}


def _sampling(fields: Facts, paths: Mapping[str, Any]) -> Facts:
    """Return how an llm was asked: parameters that were set, revision, adapter, and whose server it was."""
    sampling = {name: _plain(fields[name]) for name in SAMPLING if name in fields}
    adapter = fields.get("adapter")
    if isinstance(adapter, dict):
        adapter = paths[adapter["sha"]]["path"] if adapter.get("sha") in paths else UNKNOWN
    found = {"sampling": sampling, "revision": fields.get("revision"), "adapter": adapter and shown(adapter),
             "endpoint": fields.get("identity") or _host(fields.get("base_url")), "embeds": fields.get("embeds")}
    return {name: value for name, value in found.items() if value is not None}


def _host(url: str | None) -> str | None:
    """Return a server's address without names, passwords and queries."""
    if url is None:
        return None
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _base(record: Mapping[str, Any]) -> str:
    """Return the name of the model that a training starts from, by its argument `base`."""
    base = record["ingredients"].get("arguments", {}).get("base")
    if not isinstance(base, dict):
        return ""
    paths = {given["digest"]: given["path"] for given in record["inputs"]}
    return base.get("toy") or base.get("model") or shown(paths.get(base.get("sha", ""), ""))


def _output(out: Mapping[str, Any]) -> Facts:
    digest = out["digest"]
    columns = {name: column["type"] for name, column in digest.get("columns", {}).items()}
    found = {"kind": digest["kind"], "digest": digest["sha"], "rows": digest.get("rows"), "columns": columns or None}
    return {name: value for name, value in found.items() if value is not None}


def _input(given: Mapping[str, Any], made_by: Trace | None, made_of: Mapping[str, Any]) -> Facts:
    if given["trace"] is None:
        by: Facts = {"source": True}
    else:
        by = {"fingerprint": made_by.fingerprint if made_by else UNKNOWN}
    watched = {"observed": True} if made_by and _only_watched(given, made_by, made_of) else {}
    return {"path": shown(given["path"]), "digest": given["digest"], **by, **watched}


def _only_watched(given: Mapping[str, Any], made_by: Trace, made_of: Mapping[str, Any]) -> bool:
    """Tell whether an input is a dataset that is no ingredient: a validation set that only draws a curve."""
    digest = next((out["digest"] for out in made_by.outputs.values() if out["digest"]["sha"] == given["digest"]), {})
    if digest.get("kind") != "dataset":
        return False
    datasets = [part for _, value in _parameters(made_of) for part in dicts(value) if part.get("kind") == "dataset"]
    return not any(part["rows"] == digest["rows"] and part["columns"].items() <= digest["columns"].items() for part in datasets)


def _usage(asked: Mapping[str, Any]) -> Facts:
    counts = {name: UNKNOWN if value is None else value for name, value in asked.items()}
    return {**counts, "models": [spoken(name) for name in asked["models"]]}


def _methods(made_of: Mapping[str, Any]) -> list[str]:
    """Return the papers of the methods that ingredients show."""
    arguments = made_of.get("arguments", {})
    peft, metrics = arguments.get("peft"), arguments.get("metrics")
    lora = isinstance(peft, dict) and peft.get("class") == "Lora"
    rouge = isinstance(metrics, list) and "rouge_l" in metrics
    return [*([models.LORA] if lora else []), *([models.ROUGE] if rouge else [])]


def _prompts(made_of: Mapping[str, Any]) -> Iterator[Facts]:
    """Yield the texts of all templates, by the parameter that they stand in."""
    for name, value in _parameters(made_of):
        for part in dicts(value):
            if isinstance(part.get("template"), dict):
                for file, text in part["template"].items():
                    yield {"argument": name, "template": file or "inline", "text": text}


def _settings(made_of: Mapping[str, Any]) -> Facts:
    """Return the arguments that are set, without models and prompts, which have their own place."""
    found = {name: value for name, value in made_of.get("arguments", {}).items() if name != "base" and not _elsewhere(value)}
    env = {"env": sorted(made_of["env"])} if "env" in made_of else {}
    return {**_open(found.items()), **env}


def _elsewhere(value: Any) -> bool:
    """Tell whether an argument is told elsewhere in a card, or isn't set."""
    forms = {"template", "llm", "embedder", "toy", "model"}
    return value in (None, [], {}) or isinstance(value, dict) and bool(forms & value.keys())


def _plain(value: Any) -> Any:
    """Return a canonical form as a person would write it; what is named like a secret is left out."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class" in value and "fields" in value:
        return {str(value["class"]).lower(): _open(value["fields"].items())}
    if "dict" in value:
        return _open(value["dict"])
    for kind in ("tuple", "set"):
        if kind in value:
            return [_plain(item) for item in value[kind]]
    said = next((text for kind, text in SAID.items() if kind in value), None)
    return said or _open(value.items())


def _open(pairs: Iterable[Any]) -> Facts:
    return {str(name): _plain(part) for name, part in pairs if not SECRET.search(str(name))}


def _llms(made_of: Mapping[str, Any]) -> Iterator[Facts]:
    for _, value in _parameters(made_of):
        for part in dicts(value):
            if isinstance(part.get("llm"), dict) and "name" in part["llm"]:
                yield part["llm"]
            if isinstance(part.get("embedder"), dict) and "name" in part["embedder"]:
                yield {**part["embedder"], "embeds": True}


def _kinds(made_of: Mapping[str, Any]) -> dict[str, str]:
    """Return the kinds of the inputs that are no datasets, by digest."""
    parts = (part for _, value in _parameters(made_of) for part in dicts(value))
    return {part["sha"]: part["kind"] for part in parts if isinstance(part.get("sha"), str) and isinstance(part.get("kind"), str)}


def _parameters(made_of: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for place in ("inputs", "arguments"):
        yield from made_of.get(place, {}).items()


def _unique(items: list[T]) -> list[T]:
    return [item for at, item in enumerate(items) if item not in items[:at]]
