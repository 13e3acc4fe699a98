"""Templates that are made of several: what they read, and which edits count."""

import pytest

DDFILE = """
rows = jsonl("rows", "in.jsonl")
transform("said", rows, llm=llm("echo/e"), prompt=template("main.j2"), column="y")
"""
MAIN = """\
{% extends 'base.j2' %}{% import 'macros.j2' as m %}{% from 'macros.j2' import bye as later %}{% set end = '.' %}
{% block body %}{{ m.hi(x) }}{{ later() }}{{ end }}{% for item in [1] %}{% include ['absent.j2', 'part.j2'] %}{% endfor %}{% endblock %}"""


@pytest.fixture
def made(project):
    project.write("in.jsonl", '{"x": "one"}\n')
    parts = {"main": MAIN, "base": "Say: {% block body %}{% endblock %}", "part": "{{ item }}{% include 'more.j2' ignore missing %}",
             "macros": "{% macro hi(v) %}hi {{ v }}{% endmacro %}{% macro bye() %}bye{% endmacro %}"}
    for name, text in parts.items():
        (project.root / "templates").mkdir(exist_ok=True)
        (project.root / "templates" / f"{name}.j2").write_text(text)
    project.ddfile(DDFILE).make("rows")
    project.make()
    return project


def test_names_that_parts_hand_to_one_another_are_no_columns(made):
    assert made.rows("said")[0]["y"].split() == "Say: hi onebye.1".split()


@pytest.mark.parametrize("part, text", [("base", "Tell: {% block body %}{% endblock %}"), ("part", "{{ item }}!"), ("absent", "here"), ("more", "here"),
                                        ("macros", "{% macro hi(v) %}ho{% endmacro %}{% macro bye() %}bye{% endmacro %}")])
def test_every_part_counts(made, part, text):
    (made.root / "templates" / f"{part}.j2").write_text(text)
    assert made.run("-n").verdicts() == {"said": "make"}


def test_a_column_that_a_part_reads_and_nobody_has_is_named(made):
    (made.root / "templates" / "part.j2").write_text("{{ nothing }}")
    assert "template main.j2 reads 'nothing'. There are: x." in made.run("-n").output
