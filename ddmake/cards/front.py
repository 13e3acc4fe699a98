"""The YAML that a README on the Hub begins with (https://huggingface.co/docs/hub/model-cards#model-card-metadata).

The Hub acts on these fields, so none is guessed: no model or dataset is named here that isn't known to be on the Hub.
"""

import re
from itertools import takewhile
from typing import Any

from ddmake.cards.card import Card
from ddmake.cards.facts import answered
from ddmake.cards.models import UNKNOWN

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
         (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
PIPELINES = {"causal": "text-generation", "seq2seq": "text2text-generation", "classification": "text-classification",
             "reward": "text-classification", "embedding": "sentence-similarity", "hosted": "text-generation"}

Meta = dict[str, Any]


def front_matter(card: Card) -> str:
    """Return the metadata of a card between its two lines."""
    import yaml

    meta = {"pretty_name": card.get("published", {}).get("repo", card["name"])} if card["type"] == "dataset" else {}
    meta |= {**_license(card), "tags": _tags(card)}
    meta |= _model(card) if card["type"] == "model" else _dataset(card) if card["type"] == "dataset" else {}
    return f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def answering(card: Card) -> list[str]:
    """Return the names of the models that wrote something in a chain, as the Hub knows them."""
    entries = [*card["data_card"].values(), *card.get("model_card", {}).values()]
    used = [model for entry in entries if answered(entry) for model in entry.get("models", [])]
    wrote = (model for model in used if not model.get("made_here") and "embeds" not in model)
    return list(dict.fromkeys(model.get("hub") or model["name"] for model in wrote))


def _license(card: Card) -> Meta:
    """Return the licence field where all of a chain have the same one.

    Where they differ or one is unknown, the field is left out: `other` would be a statement too, and it is the
    publisher's to make. The text lists them.
    """
    shared = card.get("published", {}).get("license", card["license"])
    if shared in (UNKNOWN, "several"):
        return {}
    if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", shared.lower()):
        return {"license": shared.lower()}  # the Hub writes its names of licences so
    link = {"license_link": shared} if shared.startswith("http") else {}
    return {"license": "other", "license_name": "terms-of-use" if link else shared, **link}


def _tags(card: Card) -> list[str]:
    marks = [*(["synthetic"] if card["synthetic"] else []), "ddmake", *(["toy"] if card["toys"] else [])]
    return list(dict.fromkeys([*marks, *answering(card)]))


def _dataset(card: Card) -> Meta:
    if "rows" not in card:
        return {}
    sizes = {"size_categories": [next((name for limit, name in SIZES if card["rows"] < limit), "n>10B")]}
    if "published" not in card:
        return sizes
    files = [{"split": split, "path": f"data/{split}-*"} for split in card["published"]["splits"]]
    return {**sizes, "configs": [{"config_name": "default", "data_files": files}]}


def _model(card: Card) -> Meta:
    model = card["model"]
    found: Meta = {"library_name": model.get("library"), "pipeline_tag": PIPELINES.get(model.get("task", ""))}
    base = model.get("base_hub") or model.get("root")
    if base:
        found |= {"base_model": base, "base_model_relation": "adapter" if model["library"] == "peft" else "finetune"}
    found |= {"datasets": _datasets(card), "widget": _widget(model)}
    results = [result for done in card.get("evaluations", []) for result in _results(done, card)]
    if results:
        found["model-index"] = [{"name": card["name"], "results": results}]
    return {name: value for name, value in found.items() if value}


def _datasets(card: Card) -> list[str]:
    """Return the datasets on the Hub that a chain read."""
    entries = [*card["data_card"].values(), *card.get("model_card", {}).values()]
    return list(dict.fromkeys(known["hub"] for entry in entries for known in entry.get("data", []) if "hub" in known))


def _widget(model: Meta) -> list[Meta]:
    return [model["widget"]] if "widget" in model else []


def _results(done: Meta, card: Card) -> list[Meta]:
    """Return an evaluation's scores of this model in the Hub's form; the dataset is named as a target, not as the Hub's."""
    row = next((row for row in done["rows"] if row.get("model") == done["this"]), {})
    scores = takewhile(lambda pair: pair[0] != "rows", row.items())  # behind it stands what was varied
    metrics = [{"type": name, "name": name, "value": value} for name, value in scores if isinstance(value, (int, float))]
    if not metrics:
        return []
    data = ", ".join(done["data"]) or UNKNOWN
    task = PIPELINES.get(card["model"].get("task", ""), "text-generation")
    return [{"task": {"type": task}, "dataset": {"type": "ddmake-target", "name": data}, "metrics": metrics}]
