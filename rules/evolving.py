"""Instructions made harder, or others made in their manner: Evol-Instruct."""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.inputs import Prompt, StoredRows
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, did_you_mean
from ddmake.rules.columns import added, free, need
from ddmake.rules.growing import check_used, drawn, grown
from ddmake.rules.texts import each, texts, words
from ddmake.rules.wording import Turn, Wording

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

Arguments = Mapping[str, Any]
Form = dict[str, Any]

KINDS = ("constraints", "deepening", "concretizing", "reasoning", "breadth")
LEAKED = re.compile(r"\b(given|rewritten|created)[ _]prompt", re.IGNORECASE)
REFUSED = re.compile(r"(i['’]?m |i am )?(very |so |really )?sorry\b|as an ai\b"
                     r"|i (can['’]?t|cannot|can not|won['’]?t) (help|assist|comply|rewrite|fulfil|provide|do)\b", re.IGNORECASE)
SHORT = 80  # words of a response, below which a "sorry" means that there is none
EMPTY = frozenset("a an and are as at be but by for from has have he i if in is it its me my of on or she so that the they this "
                  "to was we were will with you your".split())  # words that say nothing by themselves
MADE = ("origin", "kind", "round")  # columns beside the instruction
VERDICT = {"type": "object", "properties": {"verdict": {"type": "string", "enum": ["equal", "different"]}},
           "required": ["verdict"], "additionalProperties": False}


def _evolved(inputs: Mapping[str, Any], arguments: Arguments) -> list[str] | None:
    """Tell the columns of `evol_instruct`."""
    columns, more = inputs["rows"], [*MADE, *filter(None, [arguments["response"]])]
    if arguments["rounds"] < 1:
        raise DdfileError(f"rounds is a number of at least 1, not {arguments['rounds']}.")
    if not arguments["kinds"]:
        raise DdfileError(f"kinds names no way to evolve. There are: {', '.join(KINDS)}.")
    unknown = next((kind for kind in arguments["kinds"] if kind not in KINDS and " " not in kind.strip()), None)
    if unknown is not None:
        raise DdfileError(f"there is no kind {unknown!r}. There are: {', '.join(KINDS)}; one of your own is a sentence that says "
                          f"what to do.{did_you_mean(unknown, KINDS)}")
    need(columns, arguments["instruction"], "to evolve")
    free([arguments["instruction"], *MADE], more[len(MADE):], "evol_instruct")
    free(columns, more, "evol_instruct")
    Wording.of(arguments).check(added(columns, "instruction", "kind"))
    Wording(arguments["compare"]).check(["instruction", "evolved"])
    return added(columns, *more)


@step(version="2", columns=_evolved)
def evol_instruct(rows: StoredRows, *, llm: LLM, rounds: int = 4, instruction: str = "instruction", kinds: Sequence[str] = KINDS,
                  all: bool = False, judge: LLM | None = None, response: str | None = None, prompt: Prompt = "evol_instruct.j2",
                  compare: Prompt = "evol_compare.j2", system: Prompt | None = None, variables: Mapping[str, Any] | None = None,
                  accept: Collection[str] = (), seed: int = 0) -> "Batches":
    """Ask an llm, so many rounds over, to make each instruction harder, or to make a rarer one in its manner.

    Harder is in depth: a constraint more, a deeper question, concreter words, or more steps of reasoning; one that is new is in
    breadth. The kind is drawn for each row and round; one of your own is a sentence that says what to do. An evolution fails,
    and the last good instruction goes into the next round, where it is blank, what it was before, a refusal, or speaks of the
    "given prompt"; with `judge`, also where that llm finds it equal to what it was; with `response`, a column for what the llm
    answers to the evolved instructions, also where that is a short "sorry" or has no words that say anything.

    Rows keep their columns; `instruction` is the evolved one, `origin` what it began as, `kind` and `round` tell of its last
    evolution (null and 0: of none). With `all` there is a row for the original, and for each evolution that didn't fail. A null
    or blank instruction stays as it is. The prompt sees `instruction`, `kind`, and the row's other columns; `compare`, which the
    judge is asked, sees `instruction` and `evolved`.

    After Xu et al. 2023, WizardLM: Empowering Large Language Models to Follow Complex Instructions, arXiv 2304.12244.
    """
    evolving = _Evolving(locals(), [[_form(text, text)] for text in texts(rows, instruction)])
    for number in range(1, rounds + 1):
        evolving.round(number)
    names = _kinds(evolving.arguments)
    kept = ((grew if all else grew[-1:]) for grew in evolving.grew)
    found = ([dict(zip(names, form.values())) for form in forms] for forms in kept)
    return grown(rows, found, names)


def _kinds(arguments: Arguments) -> dict[str, str]:
    """Return the columns that `evol_instruct` makes, with their types, in the order of a form."""
    names = [arguments["instruction"], *MADE[:2]]
    answers = {} if arguments["response"] is None else {arguments["response"]: "string"}
    return {**dict.fromkeys(names, "string"), "round": "int64", **answers}


def _form(text: str | None, origin: str | None, kind: str | None = None, number: int = 0, response: str | None = None) -> Form:
    """Return what a row was at a time."""
    return {"text": text, "origin": origin, "kind": kind, "round": number, "response": response}


@dataclass
class _Evolving:
    """The arguments of `evol_instruct`, and the forms that each row has had."""

    arguments: Arguments
    grew: list[list[Form]]

    def __post_init__(self):
        times: Counter[str] = Counter()
        self.told = []  # what rows are drawn by: their instructions, and how often each came before, so that no other row counts
        for (first,) in self.grew:
            self.told.append(f"{times[first['text']]} {first['text']}")
            times[first["text"]] += 1

    def round(self, number: int) -> None:
        """Evolve each instruction once; those that fail stay as they were."""
        alive = [row for row, forms in enumerate(self.grew) if (forms[-1]["text"] or "").strip()]
        kinds = {row: self._drawn(number, row) for row in alive}
        asked = drawn(self.arguments["llm"], self._prompts(kinds), alive, self.arguments["accept"])
        texts = {row: answer.strip() for row, answer in zip(alive, asked) if answer.wrong is None}
        if number == 1:
            check_used(self.arguments["llm"], len(texts), len(alive), number)
        good = {row: text for row, text in texts.items() if sound(text, self.grew[row][-1]["text"])}
        if self.arguments["judge"] is not None:
            good = self._different(good)
        said = dict.fromkeys(good) if self.arguments["response"] is None else self._responses(good)
        for row, response in said.items():
            self.grew[row].append(_form(good[row], self.grew[row][0]["origin"], kinds[row], number, response))

    def _drawn(self, number: int, row: int) -> str:
        """Return the kind of a row's evolution in a round."""
        return random.Random(f"{self.arguments['seed']} {number} {self.told[row]}").choice(self.arguments["kinds"])

    def _prompts(self, kinds: Mapping[int, str]) -> Iterator[list[Turn]]:
        rows, wording = self.arguments["rows"], Wording.of(self.arguments)
        for number, row in enumerate(each(rows, wording.reads(rows.column_names))):
            if number in kinds:
                yield wording.turns({**row, "instruction": self.grew[number][-1]["text"], "kind": kinds[number]})

    def _different(self, good: Mapping[int, str]) -> dict[int, str]:
        """Return those instructions that a judge finds different from what they were."""
        wording = Wording(self.arguments["compare"])
        prompts = (wording.turns({"instruction": self.grew[row][-1]["text"], "evolved": text}) for row, text in good.items())
        verdicts = drawn(self.arguments["judge"], prompts, good, schema=VERDICT)
        return {row: good[row] for row, answer in zip(good, verdicts)
                if answer.wrong is None and answer.value["verdict"] == "different"}

    def _responses(self, good: Mapping[int, str]) -> dict[int, str]:
        """Return the responses to instructions, but for those that are none."""
        answers = drawn(self.arguments["llm"], list(good.values()), good, self.arguments["accept"])
        return {row: str(answer) for row, answer in zip(good, answers) if answer.wrong is None and answers_something(answer)}


def sound(evolved: str, before: str) -> bool:
    """Tell whether an evolved instruction is one: not blank, not what it was, no refusal, and without words of the prompt."""
    same = words(evolved) == words(before)
    return bool(evolved) and not same and not REFUSED.match(evolved) and not LEAKED.search(evolved)


def answers_something(response: str) -> bool:
    """Tell whether a response says anything, and isn't a short apology."""
    found = words(response)
    return not EMPTY.issuperset(found) and not ("sorry" in found and len(found) < SHORT)
