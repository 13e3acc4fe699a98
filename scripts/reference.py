"""Write docs/reference.md: what each recipe takes and makes, read from the code. Run as: python scripts/reference.py

What a recipe makes is its docstring, and how it is called its signature. A parameter's sentence stands in
rules/parameters.toml or in the docstring, that of a field of llm() or of a rule option in the comment behind it. Columns are
asked of the recipe itself: a rule of it is declared, and its inputs get the columns that it says are missing.
"""

import argparse
import ast
import inspect
import re
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_origin

import ddmake
from ddmake import rules
from ddmake.ddfile import specs
from ddmake.ddfile.inputs import GIVEN, PROMPT, marked
from ddmake.ddfile.recipe import Recipe
from ddmake.ddfile.rule import Options
from ddmake.ddfile.target import Viewable
from ddmake.ddfile.template import FILE
from ddmake.engine.schema import columns_of
from ddmake.errors import DdfileError

OUT = Path(__file__).parent.parent / "docs" / "reference.md"
TABLE = Path(rules.__file__).with_name("parameters.toml")
GROUPS = {
    "Sources": ("sources", "hub"),
    "Rows and datasets": ("data",),
    "Prompts": ("prompting", "examples", "rag", "attributes", "filtering"),
    "Judges": ("judging", "feedback", "comparing"),
    "Vectors and classifiers": ("retrieval", "classifying", "rewarding"),
    "Instructions and personas": ("instructions", "evolving", "magpie", "personas"),
    "Documents and duplicates": ("documents", "questions", "duplicates"),
    "Training": ("training", "distilling", "hosted", "aligning", "labelling", "embedding", "merging"),
    "Evaluation": ("evaluation", "ranking", "results"),
    "Commands": ("shell",),
    "Publishing": ("publishing",),
    "Pipelines": ("pipelines",),
}  # the modules of rules/; one that isn't here makes a group of its own
OUTPUT, TEXT, READ = '"out"', '"-"', "what_the_prompt_reads"
ASKING = f'"{{{{ {READ} }}}}"'
GIVE = {
    "llm": 'llm("tiny")', "embedder": 'embedder("all-minilm")', "model": '"./model"', "models": '{"a": "tiny"}', "base": '"tiny"',
    "teacher": '"tiny"', "finetune_hosted.base": 'llm("openai/gpt-4.1-mini")',
    "prompt": ASKING, "transform.prompt": ASKING, "finetune.prompt": ASKING, "generate.prompt": TEXT,
    "attributed.prompt": TEXT, "rubric": TEXT, "rate.rubric": TEXT, "n": "3", "answers": '["a", "b"]',
    "columns": '["a", "b"]', "sampled.columns": '{"…": [0]}', "values": '[{"…": 0}]', "attributes": '{"…": ["-"]}',
    "concat.parts": '["a", "b"]', "zipped.parts": '["a", "b"]', "table.results": '{"a": "a"}', "repo": '"org/name"',
    "reference": '"reference"', "metric": '"metric"', "cmd": '"{input} {output}"',
}  # to ask a recipe for its columns: arguments that must be given, of all recipes or of one, and others that one is given
OTHERS = "(others)"  # stands for the columns of an input that a recipe doesn't name
SPECS = {"llm(name, …)": specs.LLM, "embedder(name, …)": specs.Embedder, "Options of any rule": Options}
INTRO = """# Reference

Written by `scripts/reference.py` from the code; a test compares the two. A recipe is called as it stands here: first the path
that it makes, then its inputs, then its arguments by name. Each takes the [options of any rule](#options-of-any-rule), too.
*Needs* are the columns that an input must have, *makes* those that the output has, by the names that they have unless
arguments say others. `a` and `b` may stand for columns that you name, and `…` stands for those that you make up.
"""
SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z`])")
SEEN = re.compile(r"(The )?prompt sees", re.IGNORECASE)
COMMENT = re.compile(r"^    (\w+): .*?  # (.+)$", re.MULTILINE)
NAME = re.compile(r"\b[A-Z]\w*\b")
MISSING = re.compile(r"(?:there is no column|reads) '([^']+)'")
WORDS = {"LLM": "llm", "Embedder": "embedder", "Lora": "lora", "Model": "model", "Prompt": "prompt", "Schema": "schema",
         "Parse": "function", "Sequence": "list", "Collection": "list", "Mapping": "dict", "DatasetName": "str",
         "Written": "dict", "Paths": "list", "Message": "str | None", "Free": "int",
         "Given": "dict | list"}  # types in the words of the page


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=(__doc__ or "").partition(" Run as")[0]).parse_args()
    OUT.write_text(page(), encoding="utf-8")
    print(f"{OUT.name}: {len(rules.__all__)} recipes")


def page() -> str:
    """Return the page's text."""
    parts = [INTRO, *(f"- [{title}](#{_anchor(title)}): {_links(names)}" for title, names in groups().items()), ""]
    for title, names in groups().items():
        parts += [f"## {title}\n", *("\n".join(_recipe(Told(name))) for name in names)]
    return "\n".join([*parts, *_views(), *_specs()])


@dataclass(frozen=True)
class Told:
    """A recipe of the library, by name."""

    name: str

    @cached_property
    def function(self) -> Callable[..., Any]:
        """Return the function that it is."""
        return inspect.unwrap(getattr(self.one, "function", self.one))

    @property
    def one(self) -> Any:
        """Return the recipe, or the function of a pipeline."""
        return getattr(rules, self.name)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Return what a user gives, without the outputs."""
        signature = self.one.signature if isinstance(self.one, Recipe) else inspect.signature(self.function)
        return {name: one for name, one in signature.parameters.items() if name not in GIVEN}

    @property
    def prompts(self) -> dict[str, str]:
        """Return the packaged templates that are the defaults of parameters."""
        return {name: one.default for name, one in self.parameters.items()
                if isinstance(one.default, str) and marked(one.annotation, PROMPT) and FILE.fullmatch(one.default)}

    def sentence(self, parameter: str) -> str | None:
        """Return what a parameter means, or None where nobody tells."""
        table = sentences()
        own = table.get(self.name, {}).get(parameter)
        return own or next(_naming(self.function, parameter), None) or table["shared"].get(parameter)


@cache
def sentences() -> dict[str, dict[str, str]]:
    """Return the table of sentences: by recipe, and those that are shared."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def _naming(function: Callable[..., Any], parameter: str) -> Iterator[str]:
    """Yield the sentences of a docstring that name a parameter, but for those that tell what the prompt sees."""
    for text in SENTENCE.split(" ".join((inspect.getdoc(function) or "").split())):
        if re.search(rf"`{parameter}(=[^`]*)?`", text) and not SEEN.search(text):
            yield text


def groups() -> dict[str, list[str]]:
    """Return the recipes' names by group, in the order of their modules and then as they stand there."""
    titles = {module: title for title, modules in GROUPS.items() for module in modules}
    found: dict[str, list[str]] = {title: [] for title in GROUPS}
    place = {name: (_module(name), Told(name).function.__code__.co_firstlineno) for name in rules.__all__}
    order = list(titles)
    for name in sorted(place, key=lambda name: (order.index(place[name][0]) if place[name][0] in order else 99, place[name])):
        found.setdefault(titles.get(place[name][0], place[name][0].capitalize()), []).append(name)
    return {title: names for title, names in found.items() if names}


def _module(name: str) -> str:
    return Told(name).function.__module__.rpartition(".")[2]


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _links(names: list[str]) -> str:
    return " ".join(f"[{name}](#{name})" for name in names)


def _recipe(told: Told) -> Iterator[str]:
    """Yield the lines of a recipe's part."""
    yield from (f"### {told.name}\n", "```python", _call(told), "```\n", inspect.getdoc(told.function) or "", "")
    yield from _columns(told)
    by_sentence: dict[str, list[str]] = {}
    for parameter in told.parameters:
        by_sentence.setdefault(told.sentence(parameter) or "", []).append(f"`{parameter}`")
    for text, names in by_sentence.items():
        listed = "" if text.startswith(names[0]) else f"{', '.join(names)}: "
        yield f"- {listed}{text}{_packaged(told, names[0].strip('`'))}"
    if isinstance(told.one, Recipe):
        yield f"\nVersion {told.one.options.version}."
    yield ""


def _packaged(told: Told, parameter: str) -> str:
    """Return a sentence on the template that is a parameter's default, or nothing."""
    file = told.prompts.get(parameter)
    return f" By default [{file}](../templates/{file}), which reads {_listed(variables(told, parameter))}." if file else ""


def variables(told: Told, parameter: str) -> list[str]:
    """Return what the template reads that is a parameter's default."""
    return sorted(declared(told).rules[0].arguments[parameter].variables)


def _call(told: Told) -> str:
    """Return a recipe's call, outputs first, in lines that aren't too long."""
    pieces = [] if "folder" in told.parameters and not isinstance(told.one, Recipe) else ["outputs"]
    types = _types(told.function)
    for name, one in told.parameters.items():
        if one.kind is one.KEYWORD_ONLY and "*" not in pieces:
            pieces.append("*")
        pieces.append(_argument(name, types.get(name, ""), one.default))
    return _filled(f"{told.name}(", pieces)


def _filled(start: str, pieces: list[str]) -> str:
    """Return a call's pieces in lines of at most 100 characters."""
    lines, indent = [start], " " * len(start)
    for number, piece in enumerate(pieces):
        more = piece + (", " if number < len(pieces) - 1 else ")")
        if len(lines[-1]) + len(more.rstrip()) > 100:
            lines.append(indent)
        lines[-1] += more
    return "\n".join(line.rstrip() for line in lines)


def _argument(name: str, kind: str, default: Any) -> str:
    if default is inspect.Parameter.empty:
        return name if kind in ("", name) else f"{name}: {kind}"
    return f"{name}: {kind} = {_default(default)}" if kind else f"{name}={_default(default)}"


def _default(value: Any) -> str:
    """Return a default as a Ddfile would write it; what is long is left out."""
    text = repr(value) if '"' in str(value) else repr(value).replace("'", '"')
    return text if len(text) <= 60 else "…"


def _types(function: Callable[..., Any]) -> dict[str, str]:
    """Return the types of a function's arguments as a few words; of some there is nothing to say."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    written = {one.arg: ast.unparse(one.annotation) for one in tree.args.kwonlyargs if one.annotation is not None}
    return {name: _short(text, function.__globals__) for name, text in written.items()}


def _short(text: str, known: Mapping[str, Any]) -> str:
    """Return a type in the words of this page; `known` holds the names that stand for types."""
    text = NAME.sub(lambda name: str(known[name[0]]) if get_origin(known.get(name[0])) is Literal else name[0], text)
    text = re.sub(r"(?:typing\.)?Literal\[([^\]]+)\]", lambda found: found[1].replace("'", '"').replace(", ", " | "), text)
    text = re.sub(r"Callable\[(\[.*?\]|\.\.\.), .*?\]", "function", text)
    text = re.sub(r"Annotated\[(.+), Free\]", r"\1", text)
    text = NAME.sub(lambda name: WORDS.get(name[0], name[0]), text)
    return text if text != "Any" else ""


def _columns(told: Told) -> Iterator[str]:
    """Yield a line of the columns that a recipe needs and makes, where it tells them."""
    if not isinstance(told.one, Recipe) or told.one.columns is None:
        return
    needs, made = columns(told)
    for name, its in needs.items():
        named = [column for column in its if column != READ]
        words = [*([_listed(named)] if named else []), *(["what the prompt reads"] if READ in its else [])]
        if words:
            yield f"- *Needs* in `{name}`: {', and '.join(words)}"
    if made is not None:
        yield f"- *Makes*: {_made(made, needs)}"


def _made(made: list[str], needs: Mapping[str, list[str]]) -> str:
    """Return the columns of an output in words: those of an input, and more."""
    passed = next((name for name in needs if f"{OTHERS} {name}" in made), None)
    if passed is None:
        return _listed(made)
    added = [name for name in made if name not in (*needs[passed], f"{OTHERS} {passed}")]
    return f"the columns of `{passed}`{', then ' + _listed(added) if added else ''}"


def columns(told: Told) -> tuple[dict[str, list[str]], list[str] | None]:
    """Return the columns that a recipe needs of its inputs, by input, and those that it makes, where it tells these.

    The inputs get the columns that are missing until the recipe is content; then those are taken away that it doesn't miss.
    """
    needs: dict[str, list[str]] = {take.name: [] for take in told.one.shape.inputs}
    flow = declared(told)
    while (missing := _missing(flow, needs)) is not None:
        lacking = next((its for its in needs.values() if missing not in its), None)
        if lacking is None:
            raise SystemExit(f"{told.name} misses the column {missing!r} in no input of its own: give it an argument in GIVE.")
        lacking.append(missing)
    for name, its in needs.items():
        for column in list(its):
            fewer = {**needs, name: [one for one in needs[name] if one != column]}
            needs = needs if _missing(flow, fewer) else fewer
    return needs, _asked(flow, needs)


def _missing(flow: ddmake.Workflow, needs: Mapping[str, list[str]]) -> str | None:
    """Return a column that a recipe misses in its inputs. Raises DdfileError where it is something else."""
    try:
        _asked(flow, needs)
    except DdfileError as error:
        missing = MISSING.search(str(error))
        if missing is None:
            raise
        return missing[1]
    return None


def _asked(flow: ddmake.Workflow, needs: Mapping[str, list[str]]) -> list[str] | None:
    def known(path: str) -> list[str] | None:
        return [*needs[path], f"{OTHERS} {path}"] if path in needs else None

    return next(iter(columns_of(flow, flow.rules[0], known).values()), None)


@cache
def declared(told: Told) -> ddmake.Workflow:
    """Return a workflow with one rule of a recipe, whose inputs lie at their names."""
    give = {**GIVE, **{key.partition(".")[2]: text for key, text in GIVE.items() if key.startswith(f"{told.name}.")}}
    inputs = [give.get(take.name, f'"{take.name}"') for take in told.one.shape.inputs]
    wanted = [name for name, take in told.one.shape.arguments.items()
              if take.required or name == "embedder" or f"{told.name}.{name}" in GIVE]
    arguments = [f"{name}={give.get(name, TEXT)}" for name in wanted]
    call = f"{told.name}({', '.join([OUTPUT, *inputs, *arguments])})"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "Ddfile")
        file.write_text(f"from ddmake import *\nfrom ddmake.rules import *\n{call}\n", encoding="utf-8")
        return ddmake.load(file)


def _listed(names: Iterable[str]) -> str:
    """Return names in code: `a`, `b` and `c`."""
    *others, last = (f"`{name}`" for name in names)
    return f"{', '.join(others)} and {last}" if others else last


def _views() -> Iterator[str]:
    """Yield the lines on views."""
    yield from ("## Views", "", "Of a target or of another view. They are lazy and make no artifact; see [data.md](data.md).", "")
    for name, one in vars(Viewable).items():
        if not name.startswith("_"):
            signature = inspect.signature(one, eval_str=True)
            given = [_written(each) for each in list(signature.parameters.values())[1:]]
            yield f"- `.{name}({', '.join(given)})`: {inspect.getdoc(one)}"
    yield ""


def _written(one: inspect.Parameter) -> str:
    """Return a parameter without its type."""
    star = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    return f"{star}{one.name}" + ("" if one.default is one.empty else f"={_default(one.default)}")


def _specs() -> Iterator[str]:
    """Yield the lines on dataclasses that a Ddfile fills by keywords: models, and the options of rules."""
    for title, one in SPECS.items():
        yield from (f"## {title}", "", inspect.getdoc(one) or "", "")
        yield from (f"- `{name}`: {text}" for name, text in fields_of(one).items())
        yield ""


def fields_of(one: type) -> dict[str, str]:
    """Return what is said of a dataclass' fields: in the comment behind one, else in the table of sentences."""
    behind = dict(COMMENT.findall(inspect.getsource(one)))
    told = {each.name: behind.get(each.name) or sentences()["models"].get(each.name, "") for each in fields(one)}
    return {name: f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else "" for name, text in told.items()}


if __name__ == "__main__":
    main()
