"""Instructions made of a few that were written by hand: Self-Instruct. evolving.py makes harder ones, magpie.py asks for none."""

import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import punctuation
from typing import Any

from ddmake import step
from ddmake.ddfile.inputs import Prompt, StoredRows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.columns import need
from ddmake.rules.growing import check_used, drawn
from ddmake.rules.texts import texts, words
from ddmake.rules.unlike import Unlike
from ddmake.rules.wording import Turn, Wording

Arguments = Mapping[str, Any]

VARIABLES = ("tasks", "first", "last")  # what the prompt sees
BARREN = 3  # rounds in a row without anything new, after which there is no going on
AVOIDED = ("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot", "go to")
NUMBER = re.compile(r"^\s*\d+\s*[.):、．]\s*(?!\d)", re.MULTILINE)


def _bootstrapped(inputs: Mapping[str, Any], arguments: Arguments) -> list[str]:
    """Tell the columns of `self_instruct`."""
    for name in ("n", "examples", "new", "batch", "max_rounds"):
        if arguments[name] < 1:
            raise DdfileError(f"{name} is a number of at least 1, not {arguments[name]}.")
    if arguments["generated"] < 0:
        raise DdfileError(f"generated is a number of at least 0, not {arguments['generated']}.")
    if arguments["shortest"] > arguments["longest"]:
        raise DdfileError(f"shortest={arguments['shortest']} is above longest={arguments['longest']}: nothing would be kept.")
    if not all(word.strip() for word in _avoided(arguments)):
        raise DdfileError("avoid holds a blank word, which is in every text.")
    if not 0 < arguments["threshold"] <= 1:
        raise DdfileError(f"threshold is a similarity above 0, at most 1, not {arguments['threshold']}.")
    need(inputs["seeds"], arguments["instruction"], "to begin with")
    Wording.of(arguments).check(VARIABLES)
    return [arguments["instruction"], "round"]


@step(version="1", columns=_bootstrapped)
def self_instruct(seeds: StoredRows, *, llm: LLM, n: int, instruction: str = "instruction", examples: int = 8, generated: int = 2,
                  new: int = 8, threshold: float = 0.7, shortest: int = 4, longest: int = 150, avoid: Collection[str] = AVOIDED,
                  batch: int = 20, max_rounds: int = 1000, prompt: Prompt = "self_instruct.j2", system: Prompt | None = None,
                  variables: Mapping[str, Any] | None = None, accept: Collection[str] = (),
                  seed: int = 0) -> Iterator[dict[str, Any]]:
    """Ask an llm for n instructions that are unlike a few given ones and each other.

    Each prompt shows `examples` instructions in an order of chance, `generated` of them from those that came so far, the
    others from `seeds`, and asks for `new` more in a numbered list. What has fewer words than `shortest` or more than `longest`,
    begins with punctuation, holds a word to `avoid`, or has a ROUGE-L of `threshold` or more with a seed or an instruction before
    it, is left out. A round is `batch` prompts; it goes on until there are n, and fails after three rounds in a row that brought
    nothing new. Rows: the instruction, and the `round` that it came in. The prompt sees `tasks`, the examples, and `first` and
    `last`, the numbers of those to write. An answer that can't be used, as one that was cut, brings nothing, and is counted.

    After Wang et al. 2022, Self-Instruct: Aligning Language Models with Self-Generated Instructions, arXiv 2212.10560.
    """
    asking = _Bootstrap(locals())
    found: list[str] = []
    barren = 0
    for number in range(1, max_rounds + 1):
        fresh = asking.round(number, found)[:n - len(found)]
        found += fresh
        yield from ({instruction: one, "round": number} for one in fresh)
        barren = 0 if fresh else barren + 1
        if len(found) == n:
            return
        if barren == BARREN:
            break
    raise DdmakeError(f"{_stopped(barren, max_rounds)}; {len(found)} of {n} instructions are there. Raise the llm's temperature, "
                      f"give more seeds, or take what there is{f': n={len(found)} asks for nothing more' if found else ''}. "
                      f"What was answered: ddmake calls --rule {llm.payer.rule}")


def _stopped(barren: int, max_rounds: int) -> str:
    if barren == BARREN:
        return f"the last {BARREN} rounds brought nothing new"
    return f"max_rounds={max_rounds} is reached"


def _avoided(arguments: Arguments) -> Collection[str]:
    return [arguments["avoid"]] if isinstance(arguments["avoid"], str) else arguments["avoid"]


@dataclass
class _Bootstrap:
    """The arguments of `self_instruct`, with its seeds and what has been kept."""

    arguments: Arguments

    def __post_init__(self):
        self.seeds = [text for text in texts(self.arguments["seeds"], self.arguments["instruction"]) if text and text.strip()]
        if not self.seeds:
            raise DdmakeError("there is no seed: self_instruct needs one instruction at least to begin with.")
        self.wording = Wording.of(self.arguments)
        self.unlike = Unlike(self.arguments["threshold"])
        marked = [rf"\b{re.escape(word)}\b" for word in _avoided(self.arguments)]
        self.avoid = re.compile("|".join(marked) or r"(?!)", re.IGNORECASE)
        for text in self.seeds:
            self.unlike.keep(text)

    def round(self, number: int, found: Sequence[str]) -> list[str]:
        """Ask a round of prompts and return the instructions that are new."""
        llm, chance = self.arguments["llm"], random.Random(f"{self.arguments['seed']} {number}")
        prompts = [self._prompt(chance, found) for _ in range(self.arguments["batch"])]
        fresh, used = [], 0
        numbers = range((number - 1) * len(prompts), number * len(prompts))
        for answer in drawn(llm, prompts, numbers, self.arguments["accept"]):
            used += answer.wrong is None
            fresh += self._kept(answer) if answer.wrong is None else []
        check_used(llm, used, len(prompts), number)
        return fresh

    def _prompt(self, chance: random.Random, found: Sequence[str]) -> list[Turn]:
        """Return what is asked: with some of the seeds, some of those found, and more of these where seeds are few."""
        examples = self.arguments["examples"]
        made = min(len(found), max(self.arguments["generated"], examples - len(self.seeds)), examples)
        tasks = chance.sample(found, made) + chance.sample(self.seeds, min(len(self.seeds), examples - made))
        chance.shuffle(tasks)
        numbers = {"first": len(tasks) + 1, "last": len(tasks) + self.arguments["new"]}
        return self.wording.turns({"tasks": [" ".join(task.split()) for task in tasks], **numbers})

    def _kept(self, answer: Any) -> list[str]:
        """Return the instructions in an answer that are sound and unlike all before them."""
        listed = tasks(answer)
        kept = []
        for text in listed[:-1] if answer.finish_reason == "length" else listed:
            if self._sound(text) and not self.unlike.like(text):
                self.unlike.keep(text)
                kept.append(text)
        return kept

    def _sound(self, text: str) -> bool:
        if text[:1] in punctuation or self.avoid.search(text):  # so is nothing at all
            return False
        return self.arguments["shortest"] <= len(words(text)) <= self.arguments["longest"]


def tasks(answer: str) -> list[str]:
    """Return the texts of a numbered list, each on a line; what stands before it and after a blank line doesn't count."""
    items = NUMBER.split(answer)[1:]
    return [" ".join(item.strip().partition("\n\n")[0].split()) for item in items]

