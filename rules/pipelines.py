"""Pipelines: functions that declare several rules under a folder, and return the last one's target."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ddmake.ddfile.check import checked
from ddmake.ddfile.recipe import Recipe
from ddmake.ddfile.registry import here
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.target import Target
from ddmake.errors import DdfileError
from ddmake.rules.columns import Columns, need
from ddmake.rules.data import zipped
from ddmake.rules.feedback import binarize, rate_together
from ddmake.rules.prompting import transform

ASPECTS = {
    "instruction_following": """How well does the text do what the instruction asks for, within the limits that it sets?
Lowest: it does something else. Middle: the main wish is met, and some limits aren't. Highest: all is done as asked.""",
    "honesty": """Does the text say how sure it is, and is it right to be?
Lowest: sure of itself and wrong. Middle: it doubts where it need not, or is too sure in places. Highest: sure where it is
right, and it says what it doesn't know.""",
    "truthfulness": """Is what the text says true, free of made-up facts, and in accord with the instruction?
Lowest: mostly false. Middle: some of it is false, the main point isn't. Highest: nothing is false.""",
    "helpfulness": """Does the text give its reader, correctly, what is useful: clear, complete, without padding and repetition?
Lowest: wrong or of no use. Middle: correct and of some use. Highest: all that is needed, and well put.""",
}  # those of UltraFeedback; the words are ours


@checked("ultrafeedback")
def ultrafeedback(folder: str, instructions: Any, *, llms: Mapping[str, LLM], judge: LLM,
                  aspects: Mapping[str, str] = ASPECTS, question: str = "instruction", prompt: Any = None, system: Any = None,
                  rating: Any = None, scale: Sequence[int] = (1, 5), longest: int | None = None,
                  rest: Literal["random", "worst"] = "random", seed: int = 0) -> Target:
    """Make preference pairs: several models answer each instruction, a judge rates the answers, and the best is chosen.

    As UltraFeedback has it (Cui et al. 2023, arXiv 2310.01377): the judge sees all answers to an instruction side by side, rates
    each in one aspect at a time, and says why. As Zephyr has it (Tunstall et al. 2023, arXiv 2310.16944): of the answer with the
    highest mean and another one, drawn from the rest, a pair is made. Rows whose answers are all rated alike are left out.

    `instructions` holds a column `question`; `llms` names the models, and its names become the columns of their answers.
    `prompt` words the instruction for the models, with `system` before it; `rating` words it for the judge, whose reasons have at
    most `longest` characters (`rate_together` says what a prompt sees). Under the folder there are `answers/<model>`, `together`,
    `ratings/<aspect>`, `rated` and `pairs`, whose target is returned.
    """
    for name in (*llms, *aspects):
        if not name.isidentifier():
            raise DdfileError(f"{here()}: ultrafeedback: {name!r} becomes a column's name and a path: use letters, digits and _.")
    worded = {"prompt": f"{{{{ {question} }}}}" if prompt is None else prompt, "system": system}
    answering = _answering(question)
    answers = {name: answering(f"{folder}/answers/{name}", instructions, llm=one, column=name, **worded)
               for name, one in llms.items()}
    together = zipped(f"{folder}/together", [instructions, *(answer.select(name) for name, answer in answers.items())])
    shown = {} if rating is None else {"prompt": rating}
    ratings = {aspect: rate_together(f"{folder}/ratings/{aspect}", together, llm=judge, rubric=rubric, answers=list(llms),
                                     question=question, column=aspect, scale=scale, longest=longest, seed=seed,
                                     **shown)
               for aspect, rubric in aspects.items()}
    added = [rated.select(*(f"{name}_{aspect}{what}" for name in llms for what in ("", "_reason")))
             for aspect, rated in ratings.items()]
    rated = zipped(f"{folder}/rated", [together, *added])
    return binarize(f"{folder}/pairs", rated, answers=list(llms), aspects=list(aspects), rest=rest, seed=seed)


def _answering(question: str) -> Recipe:
    """Return `transform`, which here says by which argument the column is named that it misses."""
    def told(inputs: dict[str, Any], arguments: dict[str, Any]) -> Columns:
        need(inputs["rows"], question, "of instructions (question= names another)")
        return transform.columns(inputs, arguments)

    return replace(transform, columns=told)
