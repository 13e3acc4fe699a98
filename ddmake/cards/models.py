"""What is known of the models, datasets and methods that a workflow names: a small table, and the Hub's local cache.

Each fact has its source and a day. What isn't known is "unknown": nothing is guessed, nobody is asked.
"""

import re
from dataclasses import dataclass, replace

from ddmake import toys

UNKNOWN = "unknown"
HUB = "https://huggingface.co"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
GPT_4O = re.compile(r"gpt-4o(-\d{4}-\d{2}-\d{2})?")  # and its dated snapshots; mini and audio have no card of their own here

T5 = """@article{2020t5,
  author = {Colin Raffel and Noam Shazeer and Adam Roberts and Katherine Lee and Sharan Narang and Michael Matena and Yanqi Zhou
            and Wei Li and Peter J. Liu},
  title = {Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer},
  journal = {Journal of Machine Learning Research},
  year = {2020},
  volume = {21},
  number = {140},
  pages = {1--67},
  url = {http://jmlr.org/papers/v21/20-074.html}
}"""
GPT_4O_CARD = """@misc{openai2024gpt4o,
  author = {{OpenAI}},
  title = {{GPT-4o} System Card},
  year = {2024},
  eprint = {2410.21276},
  archivePrefix = {arXiv},
  primaryClass = {cs.CL}
}"""
LORA = """@misc{hu2021lora,
  author = {Edward J. Hu and Yelong Shen and Phillip Wallis and Zeyuan Allen-Zhu and Yuanzhi Li and Shean Wang and Lu Wang and
            Weizhu Chen},
  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  year = {2021},
  eprint = {2106.09685},
  archivePrefix = {arXiv},
  primaryClass = {cs.CL}
}"""
ROUGE = """@inproceedings{lin-2004-rouge,
  author = {Lin, Chin-Yew},
  title = {{ROUGE}: A Package for Automatic Evaluation of Summaries},
  booktitle = {Text Summarization Branches Out},
  year = {2004},
  address = {Barcelona, Spain},
  publisher = {Association for Computational Linguistics},
  pages = {74--81},
  url = {https://aclanthology.org/W04-1013}
}"""
DATADREAMER = """@misc{patel2024datadreamer,
  author = {Ajay Patel and Colin Raffel and Chris Callison-Burch},
  title = {{DataDreamer}: A Tool for Synthetic Data Generation and Reproducible {LLM} Workflows},
  year = {2024},
  eprint = {2402.10379},
  archivePrefix = {arXiv},
  primaryClass = {cs.CL}
}"""


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
    "google/t5-v1_1-base": Fact("apache-2.0", T5, "https://huggingface.co/google/t5-v1_1-base", "2026-11-23"),
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
        return Known(name, page, OPENAI_TERMS, GPT_4O_CARD if GPT_4O.fullmatch(rest) else UNKNOWN, page)
    if asked and kind != "hf":
        return Known(name)
    return _on_hub(name, rest if asked else name, "model", revision)


def dataset(name: str) -> Known:
    """Return what is known of a dataset on the Hub."""
    return _on_hub(name, name, "dataset", None)


def _on_hub(name: str, hub: str, kind: str, revision: str | None) -> Known:
    if not HUB_NAME.fullmatch(hub):
        return Known(name)
    url = f"{HUB}/{hub}" if kind == "model" else f"{HUB}/datasets/{hub}"
    fact = FACTS.get(hub) if kind == "model" else None
    if fact is not None:
        return Known(name, url, fact.license, fact.citation, url, hub)
    return Known(name, url, _cached_license(hub, kind, revision), url=url, hub=hub)


def _cached_license(hub: str, kind: str, revision: str | None) -> str:
    """Return the licence that a card in the Hub's local cache tells, without the network."""
    from huggingface_hub import DatasetCard, ModelCard, try_to_load_from_cache

    try:
        file = try_to_load_from_cache(hub, "README.md", repo_type=kind, revision=revision)
        if not isinstance(file, str):
            return UNKNOWN
        data = (ModelCard if kind == "model" else DatasetCard).load(file, ignore_metadata_errors=True).data
    except (ValueError, OSError):  # no name for a repository, or a card that can't be read
        return UNKNOWN
    told = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return ", ".join(told) if isinstance(told, list) else told or UNKNOWN


def told(found: Known, license: str | None, citation: str | None, url: str | None) -> Known:
    """Return what is known with what the user says of a model in place of it."""
    said = {"license": license, "citation": citation, "url": url}
    return replace(found, **{name: value for name, value in said.items() if value})
