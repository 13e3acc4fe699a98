"""Jinja as templates use it: the environment, and tags for the turns of a chat. It is imported with the first template."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROLES = ("system", "user", "assistant")
MARK = "__turns"  # the context's name for the token that marks turns
PACKAGED = Path(__file__).parent.parent / "templates"


class Turns(Extension):
    """`{% system %}…{% endsystem %}`, `{% user %}…`, `{% assistant %}…`: turns of a chat."""

    tags = set(ROLES)

    def parse(self, parser: Parser) -> nodes.Node:
        """Turn a block into a call that marks its text."""
        token = next(parser.stream)
        body = parser.parse_statements((f"name:end{token.value}",), drop_needle=True)
        call = self.call_method("_mark", [nodes.Const(token.value), nodes.Name(MARK, "load")])
        return nodes.CallBlock(call, [], [], body).set_lineno(token.lineno)

    def _mark(self, role: str, mark: str, caller: Any) -> str:
        return f"{mark}{role}{mark}{caller()}{mark}"


@cache
def environment(folder: Path | None) -> ImmutableSandboxedEnvironment:
    """Return the environment that looks up templates beside the Ddfile, then in the package."""
    folders = [str(PACKAGED)] if folder is None else [str(folder / "templates"), str(PACKAGED)]
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(folders), undefined=StrictUndefined, extensions=[Turns], autoescape=False
    )
