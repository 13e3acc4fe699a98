"""What a model folder holds, and how it is to be loaded: by its files, and by the job that trained it."""

from collections.abc import Mapping
from typing import Any

from ddmake.cards import placed
from ddmake.cards.facts import TUNED, Facts
from ddmake.cards.used import address
from ddmake.store import Store

LIBRARIES = {"modules.json": "sentence-transformers", "adapter_config.json": "peft", "config.json": "transformers"}  # by a file
LABELS = "labels.json"  # of models whose config has no place for their labels
HEAD = "ForSequenceClassification"


def told(store: Store, path: str, out: Facts, entries: Mapping[str, Facts]) -> Facts:
    """Return how a model is to be loaded, and from which other it was trained."""
    manifest, entry = out["manifest"], trained(entries, path)
    if entry["recipe"] == TUNED:
        there = placed.config(store, path, manifest, "model.json")
        found = {"task": "hosted", "base": entry.get("base", ""), "hosted": there.get("model", ""), "chat": True,
                 "endpoint": address(there.get("base_url"))}
        return {name: value for name, value in found.items() if value}
    configs = {name: placed.config(store, path, manifest, name) for name in ("adapter_config.json", "config.json", LABELS)}
    library = next((library for file, library in LIBRARIES.items() if file in manifest), "")
    base = entry.get("base", "")
    whole, labels = configs["config.json"], configs[LABELS]
    several = labels.get("several") or whole.get("problem_type") == "multi_label_classification"
    found = {"library": library, "task": _task(library, *configs.values(), entry), "base": base,
             "base_hub": _on_hub(entry, base), "root": "" if library == "peft" else _root(entries, entry),
             "labels": _labels(whole, labels), "several": several or "", "chat": "chat_template.jinja" in manifest}
    return {name: value for name, value in found.items() if value not in ("", [])}


def trained(entries: Mapping[str, Facts], name: str) -> Facts:
    """Return the entry of the job that trained a model; of one that was chosen or merged, the entry of what it was before."""
    entry = entries[name]
    if entry["recipe"] == "choose":
        return _made(entries, {out["digest"] for out in entry["outputs"].values()}, entry)
    if entry["recipe"] == "merge":
        return _made(entries, {given["digest"] for given in entry.get("inputs", [])}, entry)
    return entry


def _made(entries: Mapping[str, Facts], shas: set[str], entry: Facts) -> Facts:
    others = (one for one in entries.values() if one is not entry and one["kind"] == "train")
    return next((one for one in others if shas & {out["digest"] for out in one["outputs"].values()}), entry)


def _on_hub(entry: Facts, name: str) -> str:
    """Return the name on the Hub of a model that a job used."""
    return next((model.get("hub", "") for model in entry.get("models", []) if model["name"] == name), "")


def _root(entries: Mapping[str, Facts], entry: Facts) -> str:
    """Return the nearest model on the Hub that one was trained from, through those in between."""
    seen: set[str] = set()
    while (base := entry.get("base", "")) and base not in seen:
        hub = _on_hub(entry, base)
        if hub or base not in entries:
            return hub
        seen.add(base)
        entry = trained(entries, base)
    return ""


def _task(library: str, adapter: Facts, whole: Facts, labels: Facts, entry: Facts) -> str:
    """Return "causal", "seq2seq", "classification", "reward" or "embedding"; nothing where configs don't tell."""
    if library == "sentence-transformers":
        return "classification" if labels else "embedding"
    names = [str(adapter.get("task_type") or ""), *(whole.get("architectures") or [])]
    if "SEQ_2_SEQ_LM" in names or whole.get("is_encoder_decoder"):
        return "seq2seq"
    if "SEQ_CLS" in names or any(name.endswith(HEAD) for name in names):
        return "reward" if entry["recipe"] == "reward_model" else "classification"
    return "causal" if "CAUSAL_LM" in names or any(name.endswith("ForCausalLM") for name in names) else ""


def _labels(whole: Facts, told: Facts) -> list[Any]:
    """Return a classifier's labels in the model's order; none of one that gives numbers."""
    if told.get("labels"):
        return list(told["labels"])
    names = whole.get("id2label") or {}
    if not any(kind.endswith(HEAD) for kind in whole.get("architectures") or []) or len(names) < 2:
        return []
    return [names[number] for number in sorted(names, key=int)] if whole.get("problem_type") != "regression" else []
