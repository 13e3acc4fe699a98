"""What is known of the models, datasets and methods that a workflow names: a small table, and the Hub's local cache.

Each fact has its source and a day. What isn't known is "unknown": nothing is guessed, nobody is asked.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ddmake import toys
from ddmake.cards import papers

UNKNOWN = "unknown"
HUB = "https://huggingface.co"
SHORT = re.compile(r"[0-9a-f]{7,39}")
BIBTEX = re.compile(r"^```\w*\n(\s*@\w+\s*\{[^`]{1,5000}?)\n```", re.MULTILINE)  # the first citation in a card
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
GPT_4O = re.compile(r"gpt-4o(-\d{4}-\d{2}-\d{2})?")  # and its dated snapshots; mini and audio have no card of their own here


@dataclass(frozen=True)
class Known:
    """What is known of a model or a dataset. `hub` is its name on the Hub, if it is there."""

    name: str
    card: str = UNKNOWN
    license: str = UNKNOWN
    citation: str = UNKNOWN
    url: str = UNKNOWN
    hub: str = ""
    toy: bool = False


@dataclass(frozen=True)
class Fact:
    """A fact about a model on the Hub, where it stands, and the day on which a copy of that page was read."""

    license: str
    citation: str
    source: str
    read: str


FACTS = {
    "google/t5-v1_1-base": Fact("apache-2.0", papers.T5, "https://huggingface.co/google/t5-v1_1-base", "2026-11-23"),
}
# Addresses alone, noted 2026-11-23: what stands there is for the reader to see, and nothing of it is repeated in a card.
OPENAI = "https://platform.openai.com/docs/models"  # one page per model
OPENAI_TERMS = "https://openai.com/policies/"  # the terms that the API is used under
TOYS = {
    **{name: f"TOY model bundled with ddmake: ddmake/toys/{name}/README.md" for name in toys.NAMES},
    "echo": "TOY bundled with ddmake: it repeats its prompt",
}


def known(name: str, asked: bool, elsewhere: bool = False, revision: str | None = None) -> Known:
    """Return what is known of a model by name.

    `asked`: the name is an llm's, "backend/model"; else it is a toy's or the Hub's. `elsewhere`: a server of the
    user's own answers for it, of which nothing is known. `revision`: the commit on the Hub that was used.
    """
    kind, _, rest = name.partition("/")
    if kind in TOYS and (asked or not rest):
        return Known(name, TOYS[kind], "apache-2.0", toy=True)
    if elsewhere:
        return Known(name)
    if asked and kind == "openai":
        page = f"{OPENAI}/{rest}"
        return Known(name, page, OPENAI_TERMS, papers.GPT_4O_CARD if GPT_4O.fullmatch(rest) else UNKNOWN, page)
    if asked and kind != "hf":
        return Known(name)
    return _on_hub(name, rest if asked else name, "model", revision)


def dataset(name: str, commit: str | None = None) -> Known:
    """Return what is known of a dataset on the Hub; `commit` is the one that was used, or how its name begins."""
    return _on_hub(name, name, "dataset", commit)


def _on_hub(name: str, hub: str, kind: str, revision: str | None) -> Known:
    if not HUB_NAME.fullmatch(hub):
        return Known(name)
    url = f"{HUB}/{hub}" if kind == "model" else f"{HUB}/datasets/{hub}"
    fact = FACTS.get(hub) if kind == "model" else None
    if fact is not None:
        return Known(name, url, fact.license, fact.citation, url, hub)
    return Known(name, url, *_cached(hub, kind, revision), url, hub)


def _cached(hub: str, kind: str, revision: str | None) -> tuple[str, str]:
    """Return licence and citation that a card in the Hub's local cache tells, without the network."""
    from huggingface_hub import DatasetCard, ModelCard, try_to_load_from_cache

    try:
        file = try_to_load_from_cache(hub, "README.md", repo_type=kind, revision=_whole(hub, kind, revision))
        if not isinstance(file, str):
            return UNKNOWN, UNKNOWN
        found = (ModelCard if kind == "model" else DatasetCard).load(file, ignore_metadata_errors=True)
    except (ValueError, OSError):  # no name for a repository, or a card that can't be read
        return UNKNOWN, UNKNOWN
    told = found.data.get("license_name") if found.data.get("license") == "other" else found.data.get("license")
    cited = BIBTEX.search(found.text)
    return ", ".join(told) if isinstance(told, list) else told or UNKNOWN, cited[1].strip() if cited else UNKNOWN


def _whole(hub: str, kind: str, revision: str | None) -> str | None:
    """Return a commit's whole hash by its beginning, as far as the local cache has it."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if revision is None or not SHORT.fullmatch(revision):
        return revision
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=hub, repo_type=kind), "snapshots")
    return next((one.name for one in sorted(folder.glob(f"{revision}*"))), revision)


def told(found: Known, license: str | None, citation: str | None, url: str | None) -> Known:
    """Return what is known with what the user says of it in its place; where no card is known, the page that is named is one."""
    said = {"license": license, "citation": citation, "url": url, "card": url if found.card == UNKNOWN else None}
    return replace(found, **{name: value for name, value in said.items() if value})
