"""Schemas: one JSON schema whatever they are given as; and answers, read and checked against it."""

import enum
import json
from typing import Annotated, Literal

import pydantic
import pytest

from ddmake.backends import structured
from ddmake.ddfile import structure
from ddmake.errors import DdfileError


class Color(enum.Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Part(pydantic.BaseModel):
    x: int


class Review(pydantic.BaseModel):
    question: str
    score: Literal[1, 2, 3]
    only: Literal["a"] = "a"
    tags: list[str] = []
    note: str | None = None
    part: Part
    parts: list[Part]
    counts: dict[str, int]


class Tree(pydantic.BaseModel):
    name: str
    branches: list["Tree"]


SHORT = {"question": str, "score": Literal[1, 2, 3], "only": Literal["a"], "tags": list[str], "note": str | None,
         "part": {"x": int}, "parts": list[Part], "counts": dict[str, int]}


def test_a_model_a_dict_of_types_and_their_json_schema_are_one():
    told = json.dumps(structure.json_schema(SHORT))
    assert json.dumps(structure.json_schema(Review)) == told
    assert json.dumps(structure.json_schema(json.loads(told))) == told
    turned = dict(reversed(json.loads(told).items()))
    assert json.dumps(structure.json_schema(turned)) == told, "the order of a schema's words has no meaning"
    fields = {**turned, "properties": dict(reversed(turned["properties"].items()))}
    assert json.dumps(structure.json_schema(fields)) != told, "the order of fields has: a model writes them in it"


def test_types_of_columns():
    assert structure.fields(structure.json_schema(SHORT)) == {
        "question": "string", "score": "int64", "only": "string", "tags": ["string"], "note": "string",
        "part": {"x": "int64"}, "parts": [{"x": "int64"}], "counts": "json"}
    assert structure.fields(structure.json_schema(Tree)) == {"name": "string", "branches": ["json"]}
    assert structure.fields({"type": "array", "items": {"type": "number"}}) is None
    assert structure.kind({"type": "array", "items": {"type": "number"}}) == ["float64"]


KINDS = [  # a schema, and what its values are stored as
    ({"type": ["string", "null"]}, "string"), ({"enum": [1, None]}, "int64"), ({"const": True}, "bool"), ({"enum": [1, "a"]}, "json"),
    ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "float64"), ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "json"),
    ({"type": "object"}, "json"), ({}, "json"), (True, "json"), ({"$ref": "#/$defs/a"}, "json"), ({"type": "null"}, "json"),
    ({"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": True}, "json"),
]


@pytest.mark.parametrize("schema, kind", KINDS, ids=lambda one: json.dumps(one))
def test_kinds(schema, kind):
    assert structure.kind(schema) == kind


class Checked(pydantic.BaseModel):
    a: int

    @pydantic.field_validator("a")
    @classmethod
    def even(cls, value):
        return value


class Deep(pydantic.BaseModel):
    inner: list[Checked]


def small(value):
    return value


class Annotation(pydantic.BaseModel):
    a: Annotated[int, pydantic.Field(ge=1), pydantic.AfterValidator(small)]


MISTAKES = [
    (Checked, "Checked checks its values by even, which a JSON schema can't say"), (Deep, "Deep checks its values by even"),
    (Annotation, "by small"), ({}, "it is a dict of fields, a pydantic model or a JSON schema, not {}"), (str, "not <class 'str'>"),
    ({"score": "int"}, "score: 'int' is no type"), ({"a": int, "b": "str"}, "b: 'str' can't be asked for"),
    ({"a": {"b": set}}, "a.b: 'set' can't be asked for"), ({"a": list}, "a: 'list' can't be asked for"), ({1: int}, "1 is no field's name"),
    ({"a": Literal[b"x"]}, "a: a choice is of texts"), ({"type": "object", "properties": {"a": {"$ref": "http://x/y"}}}, "$ref 'http://x/y' refers to nothing"),
    ({"anyOf": [{"$ref": "#/$defs/a"}]}, "$ref '#/$defs/a' refers to nothing"),
]


@pytest.mark.parametrize("given, told", MISTAKES, ids=lambda one: str(one)[:40])
def test_what_is_no_schema(given, told):
    with pytest.raises(DdfileError) as error:
        structure.json_schema(given)
    assert "test_schema.py:" in str(error.value) and told in str(error.value)


def test_limits_and_descriptions_of_a_model_are_asked_for():
    class Limited(pydantic.BaseModel):
        a: int = pydantic.Field(ge=1, description="how many")
        c: Color

    assert structure.json_schema(Limited)["properties"] == {
        "a": {"description": "how many", "minimum": 1, "type": "integer"},
        "c": {"description": "A colour.", "enum": ["red", "blue"], "type": "string"}}


SCHEMA = structure.json_schema({"n": Literal[1, 2], "t": list[str]})
GOOD = {"n": 1, "t": ["a"]}
TEXTS = {  # what a model says: what is read, or a part of why nothing is
    '{"n": 1, "t": ["a"]}': GOOD,
    ' \n{"n": 1, "t": ["a"]}\n': GOOD,
    'Sure:\n```json\n{"n": 1, "t": ["a"]}\n```\nAnything else?': GOOD,
    'Of {n}, see [1], I say {"n": 1, "t": ["a"]}.': GOOD,
    '{"n": 7, "t": []} no: {"n": 1, "t": ["a"]}': GOOD,
    '{"n": 1, "t": ["a"': "not JSON: Expecting",
    '{"n": {"n": 1, "t": ["a"]}, "t"': "not JSON",
    '{"n": 3, "t": []}': "n: 3 is not one of [1, 2]",
    '{"n": 1, "t": ["a", 5]}': "t[1]: 5 is not of type 'string'",
    '{"n": 1}': "'t' is a required property",
    '{"n": true, "t": []}': "n: True is not one of [1, 2]",
    '{"n": 1, "t": [], "x": 0}': "'x' was unexpected",
    '{"n": NaN, "t": []}': "NaN is no number of JSON",
    '{"n": 9223372036854775808, "t": []}': "9223372036854775808 is larger than a column's numbers",
    '["a"]': "is not of type 'object'",
    "": "not JSON",
    "[" * 20_000: "not JSON",
}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:30])
def test_reading(text):
    data, problem = structured.read(text, SCHEMA)
    if isinstance(TEXTS[text], dict):
        assert (data, problem) == (TEXTS[text], None)
    else:
        assert data is None and TEXTS[text] in problem


CASES = [None, True, 1, 1.0, 1.5, "a", [], [1], ["a"], {}, {"a": 1}, {"a": "x"}, {"a": 1, "b": 2}, {"b": 2}, [None], [{"a": 1}]]
SCHEMAS = [
    {"type": "integer"}, {"type": "number"}, {"type": "string"}, {"type": ["string", "null"]}, {"type": "boolean"}, {"type": "null"},
    {"enum": [1, "a"]}, {"enum": [True]}, {"enum": [1.0]}, {"type": "array", "items": {"type": "integer"}}, {"items": {"type": "integer"}},
    {"type": "object", "properties": {"a": {"type": "integer"}}}, {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}, {"additionalProperties": {"type": "integer"}},
    {"anyOf": [{"type": "null"}, {"type": "integer"}]}, {"minimum": 2}, {"type": "array", "items": {"anyOf": [{"type": "null"}]}}, {},
    {"properties": {"a": False}}, {"type": "object", "items": False}, {"required": ["b"], "anyOf": [{}]},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_the_short_way_agrees_with_the_library(schema):
    """What is told to fit without asking the library does fit, as the library says."""
    import jsonschema

    library = jsonschema.Draft202012Validator(schema)
    for data in CASES:
        assert not structured.fits(data, schema) or library.is_valid(data), data
        assert (structured.wrong(data, schema) is None) == library.is_valid(data), data


def test_nothing_is_fetched_that_a_schema_refers_to():
    with pytest.raises(Exception, match="http://127.0.0.1:9/x"):
        structured.wrong({}, {"$ref": "http://127.0.0.1:9/x"})


def test_a_model_is_the_dict_of_its_fields_in_a_rule(project):
    header = "import pydantic\nfrom ddmake import *\nfrom ddmake.rules import *\n"
    text = """generate("g", llm=llm("echo"), prompt='{"a": 1, "b": "x"}', n=1, schema=%s)"""
    project.ddfile("class M(pydantic.BaseModel):\n    a: int\n    b: str = 'no'\n\n" + text % "M", header).make()
    assert project.ddfile(text % '{"a": int, "b": str}', header).run("-n").verdicts() == {}
    assert project.ddfile(text % '{"b": str, "a": int}', header).run("-n").verdicts() == {"g": "make"}
    result = project.ddfile(text % '{"a": "int"}', header).run("-n")
    assert (result.code, "Ddfile:4: schema: a: 'int' is no type" in result.output) == (2, True)


VALUES = [  # a type, a value in JSON, and what the column holds
    ("int", "2.0", 2), ("int", "9007199254740993", 9007199254740993), ("float", "9007199254740993", 9007199254740992.0),
    ("float", "1", 1.0), ("str", '"\\ud83d!"', "\ufffd!"), ("str", '"\\ud83d\\ude00"', "\U0001f600"),
    ("dict[str, int]", '{"a": 1}', '{"a": 1}'), ("list[str]", '["\\ud83d", "b"]', ["\ufffd", "b"]), ("bool", "true", True),
]


def test_values_that_columns_are_particular_about(project):
    """What a column can hold arrives in it."""
    lines = [f"""generate("g{at}", llm=llm("echo"), n=2, variables={{"v": {value!r}}}, schema={{"a": {kind}}}, prompt='{{"a": {{{{ v }}}}}}')"""
             for at, (kind, value, _) in enumerate(VALUES)]
    project.ddfile("\n".join(lines)).make()
    for at, (_, _, held) in enumerate(VALUES):
        assert project.rows(f"g{at}") == [{"a": held}] * 2


def test_a_number_that_no_column_holds_breaks_the_schema():
    schema = structure.json_schema({"a": int})
    assert structured.read('{"a": 1e30}', schema) == (None, "a: 1e+30 is not of type 'integer'")
    assert structured.read('{"a": 1e15}', schema) == ({"a": 1e15}, None)
