"""Instructions that a chat model makes up of nothing: Magpie."""

from collections.abc import Collection, Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ddmake import step
from ddmake.ddfile.asking import Asking
from ddmake.ddfile.inputs import Prompt
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdfileError, DdmakeError
from ddmake.rules.answering import OnError, Taking, answered
from ddmake.rules.columns import free
from ddmake.rules.growing import drawn
from ddmake.rules.wording import Turn

if TYPE_CHECKING:
    from ddmake.artifacts.rows import Batches

Arguments = Mapping[str, Any]


def _made_up(inputs: Mapping[str, Any], arguments: Arguments) -> list[str]:
    """Tell the columns of `magpie`."""
    from ddmake.backends import local_model
    from ddmake.calls.model import writes_no_users

    if arguments["n"] < 1:
        raise DdfileError(f"n is how often the model is asked, at least 1, not {arguments['n']}.")
    if local_model(arguments["llm"]) is None:
        raise DdfileError(str(writes_no_users(str(arguments["llm"].name))))
    if arguments["system"] is not None:
        arguments["system"].need(list(arguments["variables"] or ()))
    taking = Taking.of(arguments, arguments["response"])
    taking.check([arguments["instruction"]])
    if not arguments["respond"]:
        return [arguments["instruction"]]
    free([arguments["instruction"]], taking.told([]), "magpie")
    return taking.told([arguments["instruction"]])


@step(version="1", columns=_made_up)
def magpie(*, llm: LLM, n: int, instruction: str = "instruction", respond: bool = True, response: str = "response",
           system: Prompt | None = None, variables: Mapping[str, Any] | None = None, meta: bool = False,
           accept: Collection[str] = (), on_error: OnError = "keep") -> "Batches":
    """Let a local chat model write what a user says, n times, and then answer it.

    The model is given its chat template up to where the user's text begins, and nothing to say. What it writes until the turn
    ends is an instruction; blank ones and those that were there before are left out, so that there are n rows at most. With
    `respond` it then answers each of them, as `response`. `system` stands before the user's turn, where it steers what is asked
    for, and not before the answers. Only local models can do it: services take no text that ends within a turn.

    After Xu et al. 2024, Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing, arXiv 2406.08464.
    """
    import pyarrow as pa

    from ddmake.artifacts.rows import Batches
    from ddmake.artifacts.stored import Stored

    arguments = locals()
    found = _instructions(arguments)
    table = pa.table({instruction: pa.array(found, pa.string())})
    if not respond:
        return Batches(table.to_batches())
    return answered(Stored(table, {}), Asking(llm, found), Taking.of(arguments, response))


def _instructions(arguments: Arguments) -> list[str]:
    """Return what the model says as a user, each once, in the order in which it came first."""
    llm, n = arguments["llm"], arguments["n"]
    answers = drawn(llm, repeat(_before(arguments), n), range(n), arguments["accept"], turn="user")
    found = dict.fromkeys(answer.strip() for answer in answers if answer.wrong is None and answer.strip())
    if not found:
        raise DdmakeError(f"the model said nothing of use as a user, {n} times; the first: "
                          f"{llm.usage.first_failure or 'a blank'}. Is it a chat model? "
                          f"What was answered: ddmake calls --rule {llm.payer.rule}")
    return list(found)


def _before(arguments: Arguments) -> list[Turn]:
    """Return the turns before the user's."""
    if arguments["system"] is None:
        return []
    return [{"role": "system", "content": arguments["system"].render(**(arguments["variables"] or {}))}]
