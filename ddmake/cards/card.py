"""The JSON card of one artifact: what it is, and every job of the chain that it came from.

Its form is that of data cards and model cards in Patel, Raffel and Callison-Burch 2024, "DataDreamer: A Tool for
Synthetic Data Generation and Reproducible LLM Workflows" (arXiv 2402.10379, Appendix E), extended. `docs/cards.md`
has a table of the fields, `docs/card.schema.json` a schema.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from ddmake.cards import folders, placed
from ddmake.cards.facts import TUNED, Facts, answered, is_model, shown
from ddmake.cards.lineage import Lineage, Step
from ddmake.cards.models import UNKNOWN
from ddmake.cards.private import cleaned, cleaner
from ddmake.cards.widget import widget
from ddmake.store import Store
from ddmake.store.forms import reading
from ddmake.store.traces import Trace

SCHEMA = 1  # raised when a field changes its meaning or goes
OPTIONAL = ("edited", "git", "hardware", "model_card", "evaluations")  # fields that are left out where they hold nothing
ROWS = (".jsonl", ".csv", ".parquet")

Card = dict[str, Any]


def card(store: Store, lineage: Lineage, path: str) -> Card | None:
    """Return the card of what was last placed at a path; None if nothing was.

    Raises DdmakeError where what is recorded of it, or lies there, isn't of a form that ddmake writes.
    """
    with reading(f"What is recorded of {shown(path)}"):
        return _card(store, lineage, path)


def _card(store: Store, lineage: Lineage, path: str) -> Card | None:
    found = lineage.placed(path)
    if found is None:
        return None
    trace, name = found
    steps, out = lineage.chain(path, trace), trace.outputs[name]
    entries = {shown(step.name): _entry(lineage, step, trace) for step in steps}
    digest, kind = out["digest"], _kind(path, out, trace)
    evaluations = _evaluations(store, lineage, path, digest["sha"])
    made = {
        "schema": SCHEMA,
        "type": kind,
        "name": shown(path),
        "version": digest["sha"][:16],
        "fingerprint": trace.fingerprint,
        "datetime": trace.made,
        "__version__": trace.record["packages"].get("ddmake", UNKNOWN),
        "interpreter": "{interpreter} {python}".format(**trace.record["environment"]),
        "system": "{system} {machine}".format(**trace.record["environment"]),
        "pickled": False,
        "edited": [step for step, entry in entries.items() if "edited" in entry],
        "git": trace.record.get("git"),
        "hardware": trace.record.get("hardware"),
        "synthetic": any(answered(entry) for entry in entries.values()),
        "toys": sorted({model["name"] for entry in entries.values() for model in entry.get("models", []) if model.get("toy")}),
        **_license(entries, path),
        "spent": spent(entries.values()),
        **_table(digest, trace.rows(name)),
        **({"model": _model(store, lineage, path, out, entries, evaluations)} if kind == "model" else {}),
        "steps": list(entries),
        "model_card": {step: entry for step, entry in entries.items() if is_model(entry)},
        "data_card": {step: entry for step, entry in entries.items() if not is_model(entry)},
        "evaluations": evaluations,
        "req_versions": trace.record["packages"],
    }
    clean = cache(cleaner(store.root))  # names of fields and much else come again and again
    return cleaned({field: value for field, value in made.items() if field not in OPTIONAL or value}, clean)


def _table(digest: Facts, rows: int | None) -> Facts:
    """Return how many rows an artifact has, and, but of a file, of which columns."""
    columns = {column: told["type"] for column, told in digest.get("columns", {}).items()}
    return {name: value for name, value in {"rows": rows, "columns": columns or None}.items() if value is not None}


def _kind(path: str, out: Facts, trace: Trace) -> str:
    """Return "dataset", "model" or "files"; a model at a service is a file that names it."""
    kind = out["digest"]["kind"]
    if kind == "file":
        return "dataset" if PurePosixPath(path).suffix in ROWS else "files"
    return "model" if kind == "files" and trace.record["recipe"]["name"] == TUNED else kind


def _entry(lineage: Lineage, step: Step, last: Trace) -> Facts:
    """Return a job's entry, with versions of packages, hardware and commit as far as they were others than the last job's."""
    entry, latest = dict(lineage.facts(step.trace)), last.record["packages"]
    for name in ("hardware", "git"):
        if entry.get(name) == last.record.get(name):
            entry.pop(name, None)
    others = {name: version for name, version in step.trace.record["packages"].items() if latest.get(name) != version}
    return {**entry, "req_versions": others} if others else entry


def spent(entries: Iterable[Facts]) -> Facts:
    """Return what all jobs of a chain took: seconds, and of their llms what was sent; a sum is unknown where a part is.

    Answers that were known already are counted apart: what they had cost isn't in it.
    """
    entries = list(entries)
    used = [used for entry in entries for used in entry.get("usage", {}).values()]
    asked, cached = [one for one in used if one["sent"]], sum(one["cached"] for one in used)
    sums = {name: _sum([one.get(name, UNKNOWN) for one in asked]) for name in ("sent", "tokens_in", "tokens_out", "cost")}
    return {"seconds": round(sum(entry["seconds"] for entry in entries), 3), **(sums if asked else {}),
            **({"cached": cached} if cached else {})}


def _sum(parts: list[Any]) -> Any:
    return UNKNOWN if UNKNOWN in parts else sum(parts)


def _model(store: Store, lineage: Lineage, path: str, out: Facts, entries: Mapping[str, Facts],
           evaluations: list[Facts]) -> Facts:
    """Return how a model is to be loaded, with an example of what it is asked where there is one."""
    found = folders.told(store, path, out, entries)
    example = widget(store, lineage, path, found.get("task", ""), folders.trained(entries, path), evaluations)
    return {**found, **({"widget": example} if example else {})}


def _license(entries: Mapping[str, Facts], path: str) -> Facts:
    """Return the licences in a chain, of all models and datasets and of what is stated of targets, and the artifact's own.

    That is what is stated of it, else the one that all of them share.
    """
    found: dict[str, str] = {}
    for entry in entries.values():
        found |= {known["name"]: known["license"] for known in entry.get("data", [])}
        found |= {model["name"]: model["license"] for model in entry.get("models", []) if "license" in model}
        found |= {shown(place): one["license"] for place, one in entry.get("stated", {}).items() if "license" in one}
    stated = entries[shown(path)].get("stated", {}).get(path, {}).get("license")
    held = set(found.values())
    shared = held.pop() if len(held) == 1 else UNKNOWN if UNKNOWN in held or not held else "several"
    return {"license": stated or shared, "licenses": found}


def _evaluations(store: Store, lineage: Lineage, path: str, sha: str) -> list[Facts]:
    """Return the results of `evaluate` that lie there and have this very artifact among their inputs, or are it."""
    found = []
    for place, done in lineage.evaluations:
        given = {source["path"] for source in done.record["inputs"] if source["digest"] == sha}
        if place == path or path in given:
            found.append(_evaluation(store, lineage.facts(done), place, done, "" if place == path else sha))
    return found


def _evaluation(store: Store, entry: Facts, place: str, done: Trace, sha: str) -> Facts:
    """Return an evaluation's rows, what they were taken on, and which model is called what in them."""
    used = {model["name"] for model in entry.get("models", [])}
    out, labels = next(iter(done.outputs.values())), _labels(done)
    this, mine = next(((label, name) for label, name, digest in labels if sha and digest == sha), ("", ""))
    asked = next((example["messages"] for example in entry.get("examples", []) if example["model"] == mine), None)
    return {
        "name": shown(place),
        "fingerprint": done.fingerprint,
        "data": [given["path"] for given in entry.get("inputs", []) if given["path"] not in used],
        "models": {label: name for label, name, _ in labels},
        "this": this,
        "rows": placed.rows(store, place, out["manifest"]) or [],
        **({"asked": asked} if asked else {}),
    }


def _labels(done: Trace) -> list[tuple[str, str, str]]:
    """Return the models of an evaluation: its name for each, the model's own, and the digest of one made or found here."""
    given = done.record["ingredients"].get("inputs", {}).get("models", {})
    paths = {source["digest"]: shown(source["path"]) for source in done.record["inputs"]}
    pairs = given.get("dict", []) if isinstance(given, dict) else []
    models = [(str(label), model) for label, model in pairs if isinstance(model, dict)]
    return [(label, model.get("toy") or model.get("model") or paths.get(model.get("sha", ""), UNKNOWN), model.get("sha", ""))
            for label, model in models]
