"""The README of an artifact, in the Hub's form: metadata, then what it is, how it was made, and what to cite.

All of it comes from the JSON card.
"""

from typing import Any

from ddmake.cards import steps
from ddmake.cards.card import Card
from ddmake.cards.front import answering, front_matter
from ddmake.cards.loading import snippet
from ddmake.cards.markdown import both, code, codes, fence, link, number, table, when
from ddmake.cards.models import UNKNOWN
from ddmake.cards.papers import DATADREAMER
from ddmake.store.forms import reading


def readme(card: Card) -> str:
    """Return the README of an artifact from its card. Raises DdmakeError for what isn't of a card's form."""
    with reading(f"The card of {card['name']}"):
        return _readme(card)


def _readme(card: Card) -> str:
    name = card.get("published", {}).get("repo", card["name"])
    parts = [f"# {code(name)}", _toy(card), _edited(card), _what(card), _columns(card), _loading(card), _results(card),
             "## How it was made", *steps.told(card), _licenses(card), _citations(card), _environment(card)]
    return front_matter(card) + "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _toy(card: Card) -> str:
    if not card["toys"]:
        return ""
    return (f"> **A toy's product.** {both(card['toys'])} had a part in this: toys that ddmake brings along so that a workflow\n"
            "> runs without a key or a network. It shows that the workflow works. Don't use it for anything else.")


def _edited(card: Card) -> str:
    """Return that data in the chain aren't what their recipe made: nothing is known of how they came to be as they are."""
    if "edited" not in card:
        return ""
    return (f"> **Edited by hand.** What lay at {codes(card['edited'])} was changed after its recipe had made it, and kept so\n"
            "> (`ddmake --adopt`). Who changed it, and how, isn't recorded; its fingerprint is that of its contents.")


def _what(card: Card) -> str:
    """Return what an artifact is, in a few sentences."""
    made = f"Made with ddmake {card['__version__']} on {card['datetime'][:10]}."
    kind = {"model": _model, "dataset": _dataset}.get(card["type"], _files)
    return " ".join(filter(None, [_entry(card).get("about", ""), kind(card), _synthetic(card), made]))


def _dataset(card: Card) -> str:
    size = f"A dataset of {number(card['rows'])} row{'s' * (card['rows'] != 1)}" if "rows" in card else "A dataset"
    return f"{size}, made by {code(_entry(card)['recipe'])}{_from(card)}."


def _files(card: Card) -> str:
    return f"Files, made by {code(_entry(card)['recipe'])}{_from(card)}."


def _model(card: Card) -> str:
    base = card["model"].get("base", "")
    kind = "A LoRA adapter" if card["model"].get("library") == "peft" else "A model"
    if _entry(card)["recipe"] == "choose":
        told = _entry(card)["metrics"]
        by = f"the one called {code(told['chosen'])}, for its {code(told['chosen_by'])} of {number(told['score'])}"
        return f"{kind}{f' for {code(base)}' if base else ''}, chosen from {told['candidates']} by {code('choose')}: {by}."
    return f"{kind}{f' for {code(base)}' if base else ''}, trained by {code(_entry(card)['recipe'])}{_from(card, 'on')}."


def _from(card: Card, word: str = "from") -> str:
    """Return what an artifact was made from: datasets with their rows."""
    inputs = [given for given in _entry(card).get("inputs", []) if "observed" not in given]
    inputs = [given for given in inputs if given["path"] != card.get("model", {}).get("base")]
    named = [code(given["path"]) + (f" ({steps.of_rows(given)} rows)" if "rows" in given else "") for given in inputs]
    return f" {word} {' and '.join(named)}" if named else ""


def _synthetic(card: Card) -> str:
    if not card["synthetic"]:
        return ""
    names = both(answering(card)) or "a model made in this workflow"
    what = "Its training data" if card["type"] == "model" else "It"
    return f"{what} is synthetic: {names} had a part in it."


def _columns(card: Card) -> str:
    rows = [(code(name), code(kind)) for name, kind in card.get("columns", {}).items()]
    return table(("column", "type"), rows) if rows else ""


def _loading(card: Card) -> str:
    python = snippet(card)
    if not python:
        return ""
    where = "" if "published" in card or "hosted" in card.get("model", {}) else "Paths are those of the project that made it.\n\n"
    return f"## How to load it\n\n{where}{fence(python, 'python')}"


def _results(card: Card) -> str:
    parts = [_result(done) for done in card.get("evaluations", [])]
    return "\n\n".join(["## Results", *parts]) if parts else ""


def _result(done: dict[str, Any]) -> str:
    """Return an evaluation as a table, this model's row in bold."""
    this = done["this"]
    names = [f"{code(label)} is {'this model' if label == this else code(name)}" for label, name in done["models"].items()]
    data = f", on {codes(done['data'])}" if done["data"] else ""
    head = f"{code(done['name'])}{data}{'; ' if names else ''}{', '.join(names)}:"
    if not done["rows"]:
        return f"{head} its rows don't lie there any more as they were made."
    columns = list(done["rows"][0])
    rows = [tuple(_score(row.get(name), row.get("model") == this != "") for name in columns) for row in done["rows"]]
    return f"{head}\n\n{table([code(name) for name in columns], rows)}"


def _score(value: Any, mine: bool) -> str:
    text = number(value) if isinstance(value, (int, float)) else "–" if value is None else code(value)
    return f"**{text}**" if mine else text


def _licenses(card: Card) -> str:
    """Return the licences of all that an artifact came from, and what that means for the metadata."""
    own, stated = _stated(card)
    came = {name: told for name, told in card["licenses"].items() if name != card["name"]}
    rows = [(code(name), link(told), link(_cards(card).get(name, ""))) for name, told in came.items()]
    shared = {UNKNOWN: "Not all of these are known, so this card states no licence of its own.",
              "several": "They differ, so this card states no licence of its own."}
    if not rows:
        none = "" if own else "; this card states no licence"
        return f"## Licences\n\n{stated}It came from no model and no dataset outside of this workflow{none}."
    told = shared.get(card["license"], f"All that it came from is under {link(card['license'])}.")
    if own:
        told = "What it came from is under:"
    return f"## Licences\n\n{stated}{told}\n\n{table(('from', 'licence', 'card'), rows)}"


def _stated(card: Card) -> tuple[str, str]:
    """Return the licence that is stated of an artifact itself, and the sentence that says so; nothing where none is."""
    published = card.get("published", {}).get("license", "")
    own = published or _entry(card).get("stated", {}).get(card["name"], {}).get("license", "")
    if not own:
        return "", ""
    by = "published under {}, as its publisher states" if published else "under {}, as its maker states"
    return own, f"It is {by.format(link(own))}.\n\n"


def _cards(card: Card) -> dict[str, str]:
    entries = [*card["data_card"].values(), *card.get("model_card", {}).values()]
    return {used["name"]: used["card"] for entry in entries for used in (*entry.get("models", []), *entry.get("data", []))}


def _citations(card: Card) -> str:
    entries = [*card["data_card"].values(), *card.get("model_card", {}).values()]
    cited = dict.fromkeys(text for entry in entries for text in entry.get("Citation Information", []) if text != UNKNOWN)
    own = "\n\n".join(fence(text, "bibtex") for text in cited)
    form = f"The form of this card is that of\n\n{fence(DATADREAMER, 'bibtex')}"
    return "\n\n".join(filter(None, ["## Citations", own, form]))


def _environment(card: Card) -> str:
    """Return what the last step ran on; `card.json` beside the README has the others'."""
    packages = ", ".join(f"{name} {version}" for name, version in card["req_versions"].items())
    facts = [("fingerprint", code(card["fingerprint"])), ("version", code(card["version"])), ("made", when(card["datetime"])),
             ("Ddfile", steps.commit(card)), ("in all", _spent(card["spent"])), ("hardware", steps.hardware(card)),
             ("environment", f"{card['interpreter']}, {card['system']}"), ("packages", packages)]
    text = ("The fingerprint is a hash of every recipe, prompt, argument and model in the chain above: equal fingerprints mean "
            "equal recipes. It is of the jobs that ran. The version is a hash of the content. "
            "`card.json` holds all of this card as data.")
    return f"## Reproducibility\n\n{text}\n\n" + "\n".join(f"- {name}: {told}" for name, told in facts if told)


def _spent(spent: dict[str, Any]) -> str:
    """Return what a whole chain took."""
    asked = [f"{number(spent['sent'])} answers sent", steps.tokens(spent), steps.dollars(spent)] if "sent" in spent else []
    asked += [f"and {number(spent['cached'])} answers that were known already"] if "cached" in spent else []
    return ", ".join(filter(None, [f"{number(spent['seconds'])} s of jobs", *asked]))


def _entry(card: Card) -> dict[str, Any]:
    return {**card["data_card"], **card.get("model_card", {})}[card["name"]]
