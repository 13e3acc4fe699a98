"""Prompt templates: Jinja files and strings, rendered to text or to chat messages.

Rendering is sandboxed and strict: a variable that the row doesn't have is an error. Text from a row can never
open a turn of its own: turns are marked with a token that each process draws anew, and that no prompt shows.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake.ddfile.registry import here, workflow
from ddmake.errors import DdfileError, did_you_mean

if TYPE_CHECKING:
    from jinja2 import nodes

FILE = re.compile(r"\S+\.(j2|jinja2?)")


class Template:
    """A prompt's template. `place` is where the Ddfile names it, for messages; `given` are the wildcards that it reads."""

    def __init__(self, text: str, name: str | None, folder: Path | None, place: str):
        self.text, self.name, self.folder, self.place = text, name, folder, place
        self.given: Mapping[str, str] = {}
        self._check()

    @classmethod
    def inline(cls, text: str) -> "Template":
        """Return a template of a Jinja string; many rules may be given the same one, which is checked once."""
        if FILE.fullmatch(text):
            raise DdfileError(f"{here()}: the prompt {text!r} is a file's name. Write template({text!r}).")
        flow = workflow("a template")
        if text not in flow.templates:
            flow.templates[text] = cls(text, None, flow.root, here())
        found = copy(flow.templates[text])
        found.place = here()
        return found

    def told(self, wildcards: Mapping[str, str]) -> "Template":
        """Return the template with the values of those wildcards that it reads; no others are part of it."""
        read = {name: value for name, value in wildcards.items() if name in self.variables}
        if not read:
            return self
        found = copy(self)
        found.given = read
        return found

    @property
    def label(self) -> str:
        """Return what the template is called in messages."""
        return f"template {self.name}" if self.name else "the prompt"

    def render(self, /, **row: Any) -> str:
        """Return the text for one row, turns joined by blank lines.

        Raises DdfileError for a variable that isn't there.
        """
        return "\n\n".join(message["content"] for message in self.messages(**row))

    def messages(self, /, **row: Any) -> tuple[dict[str, str], ...]:
        """Return the chat messages for one row: one user turn, where the template marks none.

        Text outside of marked turns counts as a user's turn, unless it is blank.
        """
        known, mark = self._marked
        try:
            text = self._render({**self._globals, **self.given, **row, known: mark})
        except Exception as error:
            raise self._mistake(error, {**self.given, **row}) from None
        if mark not in text:
            return ({"role": "user", "content": text},)
        return tuple(_turns(text.split(mark))) or ({"role": "user", "content": ""},)

    def _render(self, known: dict[str, Any]) -> str:
        """Return the text, as Jinja's own `render` does, which merges names for each row at twice the cost."""
        compiled = self._compiled
        return "".join(compiled.root_render_func(compiled.new_context(known, shared=True)))

    @cached_property
    def _globals(self) -> dict[str, Any]:
        return dict(self._compiled.globals)

    @cached_property
    def _marked(self) -> tuple[str, str]:
        """Return the token that marks turns, and the name by which templates know it."""
        from ddmake.ddfile.jinja import MARK

        return MARK, f"\x00{os.urandom(16).hex()}\x00"

    def _mistake(self, error: Exception, row: Mapping[str, Any]) -> Exception:
        """Return what went wrong in rendering as the user's mistake; an error of another kind as it is."""
        from jinja2 import TemplateError, UndefinedError

        if not isinstance(error, (TemplateError, TypeError)):
            return error
        told = f"{self.place}: {self.label}: {error}."
        if isinstance(error, UndefinedError):
            unknown = re.match(r"'(\w+)' is undefined", str(error))
            told += f"{did_you_mean(unknown[1], row) if unknown else ''} Its row has: {', '.join(row) or 'nothing'}."
        return DdfileError(told)

    @property
    def texts(self) -> dict[str, str]:
        """Return all that the template is made of: its text, those of what it includes, and the wildcards that it reads."""
        return {**self._texts, **{f"{{{name}}}": value for name, value in self.given.items()}}

    @cached_property
    def _texts(self) -> dict[str, str]:
        """Return the texts of this template and of all that it includes, extends or imports, by name."""
        from jinja2 import meta

        found: dict[str, str] = {self.name or "": self.text}
        waiting = [self.text]
        while waiting:
            tree = self._parse(waiting.pop())
            optional = self._optional(tree)
            for name in meta.find_referenced_templates(tree):
                if name in optional and name not in _environment(self.folder).list_templates():
                    continue
                if name is None:
                    raise DdfileError(f"{self.place}: {self.label} includes a template whose name is computed; write it out.")
                if name not in found:
                    found[name] = self._source(name)
                    waiting.append(found[name])
        return found

    def _optional(self, tree: "nodes.Template") -> set[str]:
        """Return the names that a template includes only if they are there: what is missing, or the others of a list."""
        from jinja2 import nodes

        found: set[str] = set()
        for include in tree.find_all(nodes.Include):
            given = include.template
            named = [item.value for item in given.items if isinstance(item, nodes.Const)] if hasattr(given, "items") else []
            there = set(named) & set(_environment(self.folder).list_templates())
            found.update(named if include.ignore_missing or there else ())
            found.update({given.value} if include.ignore_missing and isinstance(given, nodes.Const) else ())
        return found

    @cached_property
    def variables(self) -> frozenset[str]:
        """Return the names that the template and those it includes read and don't set.

        A template sees what the one that includes it has set, and a block what its template sets outside of blocks.
        """
        from jinja2 import meta

        from ddmake.ddfile.jinja import MARK

        trees = [self._parse(text) for text in self._texts.values()]
        found = set()
        for tree in trees:
            around = set().union(*(_bound(other) for other in trees if other is not tree))
            found |= meta.find_undeclared_variables(tree) - set().union(*map(_bound, tree.body)) - around
        return frozenset(found - {MARK, *_environment(self.folder).globals})

    @cached_property
    def names(self) -> frozenset[str]:
        """Return every name that stands in the template and those it includes: no column of another name is read."""
        from jinja2 import nodes

        trees = (self._parse(text) for text in self._texts.values())
        return frozenset(node.name for tree in trees for node in tree.find_all(nodes.Name))

    def need(self, known: Sequence[str] | None) -> None:
        """Raise DdfileError where a variable isn't among the known columns; None: they aren't known."""
        for name in sorted(self.variables):
            if known is not None and name not in known and name not in self.given and not self._may_lack(name):
                has = f"There are: {', '.join(known)}." if known else "There are none."
                raise DdfileError(f"{self.place}: {self.label} reads {name!r}. {has}{did_you_mean(name, known)}")

    def _may_lack(self, name: str) -> bool:
        """Tell whether a template itself asks if a variable is defined, or gives it a default."""
        from jinja2 import nodes

        for text in self._texts.values():
            tree = self._parse(text)
            asks = [t.node for t in tree.find_all(nodes.Test) if t.name in ("defined", "undefined")]
            asks += [f.node for f in tree.find_all(nodes.Filter) if f.name in ("default", "d")]
            if any(isinstance(node, nodes.Name) and node.name == name for node in asks):
                return True
        return False

    @cached_property
    def _compiled(self) -> Any:
        return _environment(self.folder).from_string(self.text)

    def _check(self) -> None:
        from jinja2 import TemplateError

        for name, text in self._texts.items():
            try:
                _environment(self.folder).compile(text, name or None)
            except TemplateError as error:
                raise DdfileError(f"{self.place}: {self.label}: {error}.") from None

    def _parse(self, text: str) -> "nodes.Template":
        from jinja2 import TemplateSyntaxError

        try:
            return _environment(self.folder).parse(text)
        except TemplateSyntaxError as error:
            raise DdfileError(f"{self.place}: {self.label}, line {error.lineno}: {error.message}.") from None

    def _source(self, name: str) -> str:
        return find(name, self.folder, self.place)


def template(path: str) -> Template:
    """Return the template in a file, looked up in `templates/` beside the Ddfile, then in ddmake's own.

    Raises DdfileError where there is none, or it can't be parsed.
    """
    root, place = workflow("template()").root, here()
    return Template(find(path, root, place), path, root, place)


def find(name: str, folder: Path | None, place: str) -> str:
    """Return a template's text by name."""
    from jinja2 import TemplateNotFound

    environment = _environment(folder)
    try:
        return environment.loader.get_source(environment, name)[0]
    except TemplateNotFound:
        near = did_you_mean(name, environment.list_templates())
        raise DdfileError(
            f"{place}: there is no template {name!r} in templates/ beside the Ddfile, nor among ddmake's own.{near}"
        ) from None


def _environment(folder: Path | None) -> Any:
    from ddmake.ddfile.jinja import environment

    return environment(folder)


def _bound(part: "nodes.Node") -> set[str]:
    """Return the names that a part of a template binds; of a loop at its top none, since they end with it."""
    from jinja2 import nodes

    found: set[str] = set()
    whole = isinstance(part, nodes.Template)
    for one in [part, *part.find_all((nodes.Import, nodes.FromImport, nodes.Macro, nodes.Name) if whole else nodes.Name)]:
        if isinstance(one, nodes.FromImport):
            found.update(name if isinstance(name, str) else name[1] for name in one.names)
        elif isinstance(one, nodes.Import):
            found.add(one.target)
        elif isinstance(one, nodes.Macro):
            found.add(one.name)
        elif isinstance(one, nodes.Name) and one.ctx != "load" and (whole or isinstance(part, nodes.Assign | nodes.AssignBlock)):
            found.add(one.name)
    return found


def _turns(pieces: list[str]) -> Iterator[dict[str, str]]:
    """Yield messages of a text that was split at its marks: text, role, turn, text, role, turn, …, text."""
    for at in range(0, len(pieces), 3):
        if pieces[at].strip():
            yield {"role": "user", "content": pieces[at].strip()}
        if at + 2 < len(pieces):
            yield {"role": pieces[at + 1], "content": pieces[at + 2].strip("\n")}
