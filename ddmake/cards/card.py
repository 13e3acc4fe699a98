"""The JSON card of one artifact: what it is, and every job of the chain that it came from.

Its form is that of data cards and model cards in Patel, Raffel and Callison-Burch 2024, "DataDreamer: A Tool for
Synthetic Data Generation and Reproducible LLM Workflows" (arXiv 2402.10379, Appendix E), extended. `docs/cards.md`
has a table of the fields, `docs/card.schema.json` a schema.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ddmake.cards import placed
from ddmake.cards.facts import Facts, is_model, shown
from ddmake.cards.lineage import Lineage, Step
from ddmake.cards.models import UNKNOWN
from ddmake.store import Store
from ddmake.store.traces import Trace

SCHEMA = 1  # raised when a field changes its meaning or goes
ROWS = (".jsonl", ".csv", ".parquet")

Card = dict[str, Any]


def card(store: Store, lineage: Lineage, path: str) -> Card | None:
    """Return the card of what was last placed at a path; None if nothing was."""
    found = lineage.placed(path)
    if found is None:
        return None
    trace, name = found
    out, steps = trace.outputs[name], lineage.chain(path, trace)
    entries = {shown(step.name): _entry(lineage, step, trace) for step in steps}
    digest, kind = out["digest"], _kind(path, out)
    columns = {column: told["type"] for column, told in digest.get("columns", {}).items()}
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
        "synthetic": any(_asks(entry) for entry in entries.values()),
        "toys": sorted({model["name"] for entry in entries.values() for model in entry.get("models", []) if model.get("toy")}),
        **_license(list(entries.values())),
        **({"rows": digest["rows"], "columns": columns} if "rows" in digest else {}),
        **({"model": _model(store, path, out, trained(entries, shown(path)))} if kind == "model" else {}),
        "steps": list(entries),
        "model_card": {step: entry for step, entry in entries.items() if is_model(entry)},
        "data_card": {step: entry for step, entry in entries.items() if not is_model(entry)},
        "evaluations": _evaluations(store, lineage, path, digest["sha"]),
        "req_versions": trace.record["packages"],
    }
    return {field: value for field, value in made.items() if field not in ("model_card", "evaluations") or value}


def trained(entries: Mapping[str, Facts], name: str) -> Facts:
    """Return the entry of the job that trained a model; of one that was chosen among others, the entry of that one."""
    entry = entries[name]
    if entry["recipe"] != "choose":
        return entry
    shas = {out["digest"] for out in entry["outputs"].values()}
    others = (one for one in entries.values() if one["recipe"] != "choose")
    return next((one for one in others if shas & {out["digest"] for out in one["outputs"].values()}), entry)


def _kind(path: str, out: Facts) -> str:
    kind = out["digest"]["kind"]
    if kind == "file":
        return "dataset" if PurePosixPath(path).suffix in ROWS else "files"
    return kind


def _entry(lineage: Lineage, step: Step, last: Trace) -> Facts:
    """Return a job's entry, with the versions of packages that were others than the last job's."""
    entry, latest = lineage.facts(step.trace), last.record["packages"]
    others = {name: version for name, version in step.trace.record["packages"].items() if latest.get(name) != version}
    return {**entry, "req_versions": others} if others else entry


def _asks(entry: Facts) -> bool:
    """Tell whether a model answered in a job: what a training makes is synthetic by its data alone."""
    models = entry.get("models", [])
    if models and all("embeds" in model for model in models):  # vectors are no more than another form of what was there
        return False
    if entry["kind"] == "train":
        return bool(entry.get("usage"))
    return bool(entry.get("usage") or models)


def _license(entries: list[Facts]) -> Facts:
    """Return the licences of all models and datasets in a chain, and the one that they share, if they do."""
    found: dict[str, str] = {}
    for entry in entries:
        sources = {} if "Dataset Name" not in entry else dict.fromkeys(entry["Dataset Name"], UNKNOWN)
        if entry["recipe"] == "hub":
            sources = dict.fromkeys(sources, entry["License Information"][0])
        models = {model["name"]: model["license"] for model in entry.get("models", []) if "license" in model}
        found |= {**sources, **models}
    said = set(found.values())
    shared = said.pop() if len(said) == 1 else UNKNOWN if UNKNOWN in said or not said else "several"
    return {"license": shared, "licenses": found}


def _model(store: Store, path: str, out: Facts, entry: Facts) -> Facts:
    """Return how a model folder is to be loaded."""
    manifest = out["manifest"]
    hub = {model["name"]: model.get("hub", "") for model in entry.get("models", [])}
    adapter = placed.config(store, path, manifest, "adapter_config.json")
    whole = placed.config(store, path, manifest, "config.json")
    found = {
        "library": "sentence-transformers" if "modules.json" in manifest else "peft" if "adapter_config.json" in manifest
        else "transformers" if "config.json" in manifest else "",
        "task": _task(adapter, whole),
        "base": entry.get("base", ""),
        "base_hub": hub.get(entry.get("base", ""), ""),
        "chat": "chat_template.jinja" in manifest,
    }
    return {name: value for name, value in found.items() if value != ""}


def _task(adapter: Facts, whole: Facts) -> str:
    """Return "causal", "seq2seq", "classification", or nothing where configs don't tell."""
    names = [str(adapter.get("task_type") or ""), *(whole.get("architectures") or [])]
    if "SEQ_2_SEQ_LM" in names or whole.get("is_encoder_decoder"):
        return "seq2seq"
    if "SEQ_CLS" in names or any(name.endswith("ForSequenceClassification") for name in names):
        return "classification"
    return "causal" if "CAUSAL_LM" in names or any(name.endswith("ForCausalLM") for name in names) else ""


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
    out = next(iter(done.outputs.values()))
    return {
        "name": shown(place),
        "fingerprint": done.fingerprint,
        "data": [given["path"] for given in entry.get("inputs", []) if given["path"] not in used],
        "models": {label: name for label, name, _ in _labels(done)},
        "this": next((label for label, _, digest in _labels(done) if sha and digest == sha), ""),
        "rows": placed.rows(store, place, out["manifest"]) or [],
    }


def _labels(done: Trace) -> list[tuple[str, str, str]]:
    """Return the models of an evaluation: its name for each, the model's own, and the digest of one made or found here."""
    given = done.record["ingredients"].get("inputs", {}).get("models", {})
    paths = {source["digest"]: shown(source["path"]) for source in done.record["inputs"]}
    pairs = given.get("dict", []) if isinstance(given, dict) else []
    models = [(str(label), model) for label, model in pairs if isinstance(model, dict)]
    return [(label, model.get("toy") or model.get("model") or paths.get(model.get("sha", ""), UNKNOWN), model.get("sha", ""))
            for label, model in models]
