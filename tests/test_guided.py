"""JSON schemas on local models: what is written fits, whatever the model would rather write; else it is asked for in words."""

import json
from typing import Literal

import pytest
import small_models
import torch

from ddmake import toys
from ddmake.backends import guided, structured
from ddmake.backends.base import Request
from ddmake.backends.guided import Guides, bounded, forbid, in_words
from ddmake.backends.hf import LocalModel
from ddmake.backends.loading import load_tokenizer
from ddmake.ddfile.structure import json_schema

KINDS = ("chat", "plain", "t5", "bart")
SHORT = {"type": "string", "maxLength": 6}
SCHEMAS = {
    "choices": json_schema({"verdict": Literal["good", "bad"], "score": Literal[1, 2, 3], "sure": bool}),
    "texts": {"type": "object", "properties": {"why": SHORT, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
              "required": ["why", "n"]},
    "nested": json_schema({"a": {"b": list[Literal["x", "y"]] | None}}) | {"description": "a list may be long"},
    "value": {"enum": ["red", 2, None, True]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    small_models.causal(made / "chat", chat=True)
    small_models.causal(made / "plain", chat=False)
    small_models.t5(made / "t5")
    small_models.bart(made / "bart")
    return made


@pytest.fixture(scope="module")
def toy():
    return load_tokenizer(toys.folder("tiny"))


def requests(schemas, count=16):
    """Return requests under the schemas in turn."""
    turns = [({"role": "user", "content": row["prompt"]},) for row in small_models.pairs(count)]
    return [(number, 1000 + number, Request(turn, schema=schemas[number % len(schemas)])) for number, turn in enumerate(turns)]


def ask(model, asked, **options):
    sampling = {"max_tokens": 80, **options.pop("sampling", {})}
    return dict(LocalModel(model, sampling=sampling, **options).answers(asked))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.5}, {"temperature": 0.8, "top_p": 0.9, "top_k": 5}],
                         ids=["greedy", "drawn", "drawn from a few"])
def test_what_is_written_fits_the_schema(folder, kind, sampling):
    schemas = [SCHEMAS["choices"], None, SCHEMAS["texts"], SCHEMAS["value"], SCHEMAS["nested"]]
    asked = requests(schemas)
    answers = ask(folder / kind, asked, sampling=sampling)
    for number, _, request in asked:
        if request.schema not in (None, SCHEMAS["nested"]) or request.schema and answers[number].finish_reason == "stop":
            assert structured.read(answers[number], request.schema)[1] is None, answers[number]
            json.loads(answers[number])
            assert answers[number].finish_reason == "stop"
    free = [(number, seed, request) for number, seed, request in asked if request.schema is None]
    assert {number: answers[number] for number, *_ in free} == ask(folder / kind, free, sampling=sampling)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_under_a_schema_does_not_depend_on_its_batch(folder, kind):
    asked = requests([SCHEMAS["choices"], SCHEMAS["texts"], None], 6)
    together = ask(folder / kind, asked)
    assert together == ask(folder / kind, list(reversed(asked)), batch_size=1) == ask(folder / kind, asked, batch_size=3)
    assert len(set(together.values())) > 2


def test_fields_are_written_in_the_order_of_the_schema(folder):
    for order in (["a", "b"], ["b", "a"]):
        schema = json_schema({name: Literal["x", "y"] for name in order})
        assert list(json.loads(ask(folder / "chat", requests([schema], 1))[0])) == order


@pytest.mark.parametrize("kind", KINDS)
def test_json_that_is_whole_with_the_last_token_is_not_cut(folder, kind):
    asked = requests([SCHEMAS["choices"]], 4)
    whole = ask(folder / kind, asked, sampling={"temperature": 0})
    for most in (max(answer.tokens_out for answer in whole.values()) - 1, min(answer.tokens_out for answer in whole.values()) - 2):
        for number, answer in ask(folder / kind, asked, sampling={"temperature": 0, "max_tokens": most}).items():
            fits = answer == whole[number]
            assert fits == (most >= whole[number].tokens_out - 1), "all but its end token"
            assert answer.finish_reason == ("stop" if fits else "length")


def test_a_number_that_could_go_on_is_cut(toy):
    guide = Guides(toy, [toy.eos_token_id], len(toy)).guide(WHOLE)
    assert not guide.ended(toy("12", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("refills", [True, False])
def test_a_model_without_end_tokens_ends_where_the_json_does(folder, refills):
    local = LocalModel(folder / "chat", sampling={"max_tokens": 80})
    local.refills = refills
    local.ends = []
    local.guides = Guides(local.tokenizer, [], local.guides.vocabulary)
    answers = dict(local.answers(requests([SCHEMAS["choices"]], 4)))
    assert all(structured.read(answer, SCHEMAS["choices"])[1] is None and answer.finish_reason == "stop"
               for answer in answers.values())


def test_a_schema_is_compiled_once(folder, monkeypatch):
    compiled = []
    compile_ = Guides._compile
    monkeypatch.setattr(Guides, "_compile", lambda self, schema: compiled.append(schema) or compile_(self, schema))
    ask(folder / "chat", requests([SCHEMAS["choices"], dict(SCHEMAS["choices"]), SCHEMAS["texts"]], 12))
    assert len(compiled) == 2


def allows(guides, schema, text):
    """Tell whether a guide lets a text be written, to its end."""
    guide, tokens = guides.guide(schema), guides._tokenizer(text, add_special_tokens=False)["input_ids"]
    for at, token in enumerate([*tokens, *guides._ends]):
        bits = guides.blank(1)
        guide.fill(bits[0], tokens[:at])
        if forbid(torch.zeros(1, guides.vocabulary), bits)[0, token] < 0:
            return False
    return True


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}


@pytest.mark.parametrize("schema, text, allowed", [
    (WHOLE, "12", True), (WHOLE, "-12", True), (WHOLE, "9" * 18, True), (WHOLE, "9" * 19, False),  # which no column holds
    (WHOLE, "012", False), (WHOLE, "1.5", False), (WHOLE | {"minimum": 1}, "0", False), (WHOLE | {"maximum": 10**30}, "9" * 19, False),
    ({"type": ["integer", "null"]}, "9" * 19, False), ({"type": ["integer", "null"]}, "null", True),
    ({"type": "number"}, "-1.5", True), ({"type": "number"}, "1e999", False), ({"type": "number"}, "NaN", False),
    ({"type": "integer", "enum": [1, 2]}, "2", True), ({"type": "integer", "enum": [1, 2]}, "3", False),
    (TEXT, '"é 😀"', True), (TEXT, '"a', False), (TEXT, '"\\ud800"', False), (TEXT | {"maxLength": 3}, '"abcd"', False),
    (TEXT | {"pattern": "^a+$"}, '"aa"', True), (TEXT | {"pattern": "^a+$"}, '"ab"', False),
    ({"type": "object", "properties": {"a": TEXT}}, '{"a": "x"}', True), ({"type": "object", "properties": {"a": TEXT}}, "{}", True),
    ({"type": "object", "properties": {"a": TEXT}}, '{"a": "x", "b": 1}', False),  # closed, as services close it
    ({"type": "object", "properties": {"a": TEXT}, "additionalProperties": WHOLE}, '{"a": "x", "b": 1}', True),
    ({"type": "object", "properties": {"enum": TEXT, "type": WHOLE}}, '{"enum": "x", "type": 1}', True),
    ({"type": "array", "items": WHOLE}, "[1, 2]", True), ({"type": "array", "items": WHOLE}, "[1,  2]", False),
    ({"not": TEXT}, '"left to the check"', True),
    ({"$defs": {"n": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}, "type": "array", "items": {"$ref": "#/$defs/n"}}, "[null]", True),
])
def test_what_a_schema_allows(toy, schema, text, allowed):
    assert allows(Guides(toy, [toy.eos_token_id], len(toy)), schema, text) is allowed


def test_enums_and_names_stay_as_they_are():
    given = {"properties": {"properties": {"enum": [{"properties": 1}]}}, "required": ["properties"]}
    assert bounded(given) == given | {"additionalProperties": False}


def test_logits_wider_than_the_tokenizer_are_masked_to_their_end(toy):
    guides = Guides(toy, [toy.eos_token_id], len(toy) + 100)
    bits = guides.blank(2)
    guides.guide(WHOLE).fill(bits[0], [])
    logits = forbid(torch.zeros(2, len(toy) + 100), bits)
    assert (logits[0, len(toy):] == float("-inf")).all() and 0 < (logits[0] == 0).sum() < 50 and (logits[1] == 0).all()


def test_without_the_library_json_is_asked_for_in_words(folder, monkeypatch, capsys):
    monkeypatch.setattr(guided, "find_spec", lambda name: None)
    asked = requests([SCHEMAS["choices"]], 4)
    answers = ask(folder / "chat", asked)
    worded = [(number, seed, Request(in_words(request))) for number, seed, request in asked]
    assert answers == ask(folder / "chat", worded)
    assert capsys.readouterr().out.count("not enforced: llguidance isn't installed. Do: pip install 'ddmake[local]'") == 1


def test_a_schema_beyond_the_library_is_asked_for_in_words(toy, capsys):
    guides = Guides(toy, [toy.eos_token_id], len(toy))
    assert guides.guide({"type": "string", "pattern": "(?=a)b"}) is None and guides.guide(WHOLE) is not None
    assert "not enforced: llguidance can't hold to this schema: regex parse error" in capsys.readouterr().out


def test_words_are_put_behind_the_last_message():
    parts = [{"type": "text", "text": "Look."}]
    system = {"role": "system", "content": "Be brief."}
    for content, first in (("Look.", "Look.\n\n"), (parts, parts[0])):
        before, last = in_words(Request((system, {"role": "user", "content": content}), schema=WHOLE))
        assert before == system and last["content"][:len(first) if isinstance(first, str) else 1] in (first, [first])
        assert '{"type": "integer"}' in str(last["content"])


@pytest.mark.slow
def test_the_toy_fills_a_schema(project):
    project.ddfile("""
        from typing import Literal
        texts = generate("texts", llm=llm("echo"), n=6, column="text", prompt="A short text.")
        transform("rated", texts, llm=llm("tiny", max_tokens=60), prompt="Rate this: {{ text }}",
                  schema={"score": Literal[1, 2, 3], "good": bool, "kind": Literal["tweet", "abstract"]})
    """)
    project.make()
    rows = project.rows("rated")
    assert len(rows) == 6 and {row["score"] for row in rows} <= {1, 2, 3} and {row["kind"] for row in rows} <= {"tweet", "abstract"}
    assert {type(row["good"]) for row in rows} == {bool}
