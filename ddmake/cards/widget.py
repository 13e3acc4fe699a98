"""An example of what a model is asked, for the form on its page on the Hub: texts of rows that lie in this project.

Nothing is rendered: a template is filled in by hand where it holds plain columns alone, else there is no example.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ddmake.cards import placed
from ddmake.cards.facts import Facts
from ddmake.cards.lineage import Lineage
from ddmake.store import Store
from ddmake.store.traces import Trace

COLUMN = re.compile(r"{{-?\s*(\w+)\s*-?}}")
LONGEST = 500  # characters: a form is for short texts
OTHERS = 3  # texts that another is compared with


def widget(store: Store, lineage: Lineage, path: str, task: str, entry: Facts, evaluations: Sequence[Facts]) -> Facts:
    """Return an example in the Hub's form; {} where there is none."""
    rows = _rows(store, lineage, entry)
    example = _of_rows(task, entry, rows) if rows else {}
    asked = next((done["asked"] for done in evaluations if done.get("asked")), None)
    if example or not asked or task not in ("causal", "seq2seq"):
        return example
    return _short({"messages": asked} if len(asked) > 1 else {"text": asked[0]["content"]})


def _of_rows(task: str, entry: Facts, rows: Sequence[Mapping[str, Any]]) -> Facts:
    """Return an example from the first rows of what a model was trained on."""
    settings, row = entry.get("settings", {}), rows[0]
    if task == "embedding":
        others = [one.get(settings.get("positive", "positive")) for one in rows[:OTHERS]]
        return _short({"source_sentence": row.get(settings.get("anchor", "anchor")), "sentences": others})
    if task == "classification":
        return _short({"text": row.get(settings.get("text", "text"))})
    return _short({"text": _prompt(entry, row)}) if task in ("causal", "seq2seq") else {}


def _rows(store: Store, lineage: Lineage, entry: Facts) -> list[dict[str, Any]]:
    """Return the first rows of what a model was trained on, where that lies there as it was made."""
    for given in entry.get("inputs", []):
        found = lineage.placed(given["path"]) if "rows" in given and "observed" not in given else None
        if found is not None and _is(found, given["digest"]):
            return placed.first(store, given["path"], found[0].outputs[found[1]]["manifest"], OTHERS)
    return []


def _is(found: tuple[Trace, str], digest: str) -> bool:
    trace, name = found
    return trace.outputs[name]["digest"]["sha"] == digest


def _prompt(entry: Facts, row: Mapping[str, Any]) -> str | None:
    """Return a row's prompt: its column, or a template that holds plain columns alone, filled in."""
    templates = [prompt["text"] for prompt in entry.get("prompts", []) if prompt["argument"] == "prompt"]
    if not templates:
        return row.get("prompt")
    rest = COLUMN.sub("", templates[0])
    if "{{" in rest or "{%" in rest or "{#" in rest or not row.keys() >= set(COLUMN.findall(templates[0])):
        return None
    return COLUMN.sub(lambda column: str(row[column[1]]), templates[0])


def _short(example: Facts) -> Facts:
    """Return an example all of whose texts are texts, and short; {} for another."""
    texts = [text for value in example.values() for text in (value if isinstance(value, list) else [value])]
    plain = [text["content"] if isinstance(text, dict) else text for text in texts]
    return example if all(isinstance(text, str) and 0 < len(text) <= LONGEST for text in plain) else {}
