"""What a card tells of one finished job, read from its trace's record.

Left out: values of environment variables, paths outside of the project, and whatever is named like a secret.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ddmake.cards import papers
from ddmake.cards.models import UNKNOWN, Known
from ddmake.cards.plain import Facts, opened, plain, shown, spoken
from ddmake.cards.seen import same, views
from ddmake.cards.used import MADE_HERE, datasets, models_of, parameters, unique
from ddmake.ddfile.facts import Said
from ddmake.fingerprint.values import dicts
from ddmake.store.traces import Trace

TUNED = "finetune_hosted"  # has a service learn; what it notes of that under the service's model are no answers


def facts(trace: Trace, before: Mapping[int, Trace], said: Mapping[str, Said]) -> Facts:
    """Return a job's entry in a card: the paper's fields by their names, then ours in lower case.

    `before` holds the traces of the jobs that made its inputs, by number; `said` is what Ddfiles say of data and models.
    """
    record, outputs = trace.record, [out["path"] for out in trace.outputs.values()]
    used, data = models_of(record, said), datasets(record, outputs, said)
    stated = {path: said[path] for path in outputs if path in said}
    recipe = record["recipe"]
    made_of = record["ingredients"]
    found = {
        "Date & Time": trace.made,
        **_paper(record, data, unique([known for known, _ in used]), stated.values()),
        "recipe": recipe["name"],
        "kind": recipe["kind"],
        "doc": inspect.cleandoc(recipe.get("doc") or ""),
        "about": recipe.get("about") or "",
        "fingerprint": trace.fingerprint,
        "edited": True if record.get("adopted") else None,
        "outputs": {out["path"]: _output(out, trace.rows(name)) for name, out in trace.outputs.items()},
        "inputs": [_input(given, before.get(given["trace"]), made_of) for given in record["inputs"]],
        "data": [_data(known) for known in data],
        "stated": {path: {name: text for name, text in asdict(one).items() if text} for path, one in stated.items()},
        "models": [_model(known, fields) for known, fields in used],
        "base": _base(record),
        "prompts": list(_prompts(made_of)),
        "settings": _settings(made_of),
        "examples": [{"model": spoken(name), **asked["example"]} for name, asked in record.get("usage", {}).items()
                     if asked.get("example")],
        "usage": {spoken(name): _usage(asked) for name, asked in record.get("usage", {}).items()},
        "metrics": {name: value for name, value in record.get("metrics", {}).items() if isinstance(value, (int, float, str))},
        "left_out": record["of_rows"] - trace.outputs[""]["digest"]["rows"] if "of_rows" in record else None,
        "seconds": record["seconds"],
        "git": record.get("git"),
        "hardware": record.get("hardware"),
    }
    return {name: value for name, value in found.items() if value not in ("", [], {}, None)}


def is_model(entry: Facts) -> bool:
    """Tell whether a job made a model."""
    return entry["kind"] == "train" or any(out["kind"] == "model" for out in entry["outputs"].values())


def answered(entry: Facts) -> bool:
    """Tell whether a model answered in a job; what a training makes is synthetic by its data alone, and so are vectors."""
    models = entry.get("models", [])
    if entry["recipe"] == TUNED or models and all("embeds" in model for model in models):
        return False
    return bool(entry.get("usage") or models and entry["kind"] != "train")


def _paper(record: Mapping[str, Any], data: list[Known], named: list[Known], stated: Iterable[Said]) -> dict[str, list[str]]:
    """Return the paper's arrays, those that apply; what they should hold and nobody knows is "unknown"."""
    outside: list[Known | Said] = [*data, *(known for known in named if known.card != MADE_HERE), *stated]
    licenses, citations, urls = (unique([text for one in outside if (text := getattr(one, name))])
                                 for name in ("license", "citation", "url"))
    cited = [*(text for text in citations if text != UNKNOWN), *_methods(record)]
    return {
        "Dataset Name": [known.name for known in data],
        "Dataset Card": [known.card for known in data],
        "Model Name": [known.name for known in named],
        "Model Card": [known.card for known in named],
        "License Information": licenses,
        "Citation Information": cited or citations,
        "URL": [url for url in urls if url != UNKNOWN],
    }


def _data(known: Known) -> Facts:
    return {"name": known.name, "card": known.card, "license": known.license, **({"hub": known.hub} if known.hub else {})}


def _model(known: Known, fields: Facts) -> Facts:
    here = {"made_here": True} if known.card == MADE_HERE else {}
    here |= {"license": known.license} if not here or known.license != UNKNOWN else {}
    marks = {"hub": known.hub} if known.hub else {"toy": True} if known.toy else {}
    return {"name": known.name, "card": known.card, **here, **marks, **fields}


def _base(record: Mapping[str, Any]) -> str:
    """Return the name of the model that a training starts from, by its argument `base`."""
    base = record["ingredients"].get("arguments", {}).get("base")
    if not isinstance(base, dict):
        return ""
    if isinstance(base.get("llm"), dict):  # of a service
        base = {"model": base["llm"]["name"]} if isinstance(base["llm"].get("name"), str) else base["llm"].get("name") or {}
    paths = {given["digest"]: given["path"] for given in record["inputs"]}
    return base.get("toy") or base.get("model") or shown(paths.get(base.get("sha", ""), ""))


def _output(out: Mapping[str, Any], rows: int | None) -> Facts:
    digest = out["digest"]
    columns = {name: column["type"] for name, column in digest.get("columns", {}).items()}
    found = {"kind": digest["kind"], "digest": digest["sha"], "rows": rows, "columns": columns or None}
    return {name: value for name, value in found.items() if value is not None}


def _input(given: Mapping[str, Any], made_by: Trace | None, made_of: Mapping[str, Any]) -> Facts:
    told = {"path": shown(given["path"]), "digest": given["digest"]}
    if given["trace"] is None:
        return {**told, "source": True}
    if made_by is None:
        return {**told, "fingerprint": UNKNOWN}
    digest = next((out["digest"] for out in made_by.outputs.values() if out["digest"]["sha"] == given["digest"]), {})
    rows = {"rows": digest["rows"]} if "rows" in digest else {}
    through = {"views": seen} if (seen := views(made_of, digest)) else {}
    watched = {"observed": True} if _only_watched(digest, made_of) else {}
    return {**told, "fingerprint": made_by.fingerprint, **rows, **through, **watched}


def _only_watched(digest: Facts, made_of: Mapping[str, Any]) -> bool:
    """Tell whether an input is a dataset that is no ingredient: a validation set that only draws a curve."""
    if digest.get("kind") != "dataset":
        return False
    return not any(same(part, digest) for _, value in parameters(made_of) for part in dicts(value))


def _usage(asked: Mapping[str, Any]) -> Facts:
    told = {name: value for name, value in asked.items() if name != "example" and (value is not None or name != "first_failure")}
    counts = {name: UNKNOWN if value is None else value for name, value in told.items()}
    return {**counts, "models": [spoken(name) for name in asked["models"]]}


def _methods(record: Mapping[str, Any]) -> list[str]:
    """Return the papers of the methods that a job used, by its recipe's docstring and what it was given."""
    arguments = {name: plain(value) for name, value in record["ingredients"].get("arguments", {}).items()}
    return list(papers.cited(record["recipe"].get("doc") or "", arguments))


def _prompts(made_of: Mapping[str, Any]) -> Iterator[Facts]:
    """Yield the texts of all templates, by the parameter that they stand in."""
    for name, value in parameters(made_of):
        for part in dicts(value):
            if isinstance(part.get("template"), dict):
                for file, text in part["template"].items():
                    yield {"argument": name, "template": file or "inline", "text": text}


def _settings(made_of: Mapping[str, Any]) -> Facts:
    """Return the arguments that are set, without models and prompts, which have their own place."""
    found = {name: value for name, value in made_of.get("arguments", {}).items() if name != "base" and not _elsewhere(value)}
    env = {"env": sorted(made_of["env"])} if "env" in made_of else {}
    return {**opened(found.items()), **env}


def _elsewhere(value: Any) -> bool:
    """Tell whether an argument is told elsewhere in a card, or isn't set."""
    forms = {"template", "llm", "embedder", "toy", "model"}
    return value in (None, [], {}) or isinstance(value, dict) and bool(forms & value.keys())
