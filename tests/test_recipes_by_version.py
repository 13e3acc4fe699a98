"""Packaged recipes count by their version: their code doesn't change under it, unless the change is marked as neutral."""

import shutil

import pytest
from recipe_hashes import PACKAGE, State, changelog, problems, recorded, states


def test_no_recipe_changes_under_its_version():
    assert list(problems(recorded(), states(), changelog())) == []


OLD = {"transform": State("1", "aa")}
CASES = {  # what became of transform: (its state, the changelog, a part of what is said; None: all is well)
    "nothing": (State("1", "aa"), {}, None),
    "edited": (State("1", "bb"), {}, "--neutral transform"),
    "raised": (State("2", "bb"), {"transform": {"2": "Better."}}, "isn't recorded at version 2"),
    "raised without a sentence": (State("2", "bb"), {}, 'add [transform] "2"'),
    "without a version": (State(None, "aa"), {}, "has no version"),
}


@pytest.mark.parametrize("name", CASES)
def test_problems(name):
    state, told, said = CASES[name]
    found = list(problems(OLD, {"transform": state}, told))
    assert found == [] if said is None else len(found) == 1 and said in found[0]


def test_new_and_gone_recipes_are_told():
    found = list(problems(OLD, {"generate": State("1", "cc")}, {}))
    assert [line.partition(" ")[0] for line in found] == ["generate", "transform"]


@pytest.fixture
def package(tmp_path):
    for room in ("rules", "trainers"):
        shutil.copytree(PACKAGE / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


ANSWERED = {"attributed", "faithful", "few_shot", "generate", "judge", "judge_pairs", "keep_if", "magpie", "personas", "questions",
            "rag", "rank", "rate", "rate_together", "transform"}
TRAINED = {"distill", "dpo", "few_shot_classifier", "finetune", "grpo", "kto", "orpo", "ppo", "reward_model", "rloo", "train_classifier",
           "train_embedder"}
EDITS = {  # name: (file, old, new, the recipes whose code changes)
    "recipe": ("rules/sources.py", "if line.strip())", "if line)", {"jsonl"}),
    "helper": ("rules/reading.py", "found = json.loads(line)", "found = dict(json.loads(line))", {"jsonl"}),
    "shared helper": ("rules/answering.py", "self.usable += fine.count(True)", "self.usable += 1", ANSWERED),
    "comment": ("rules/sources.py", "found = reading.files(file, \"jsonl\")", "found = reading.files(file, \"jsonl\")  # one or more", set()),
    "docstring": ("rules/prompting.py", "Ask an llm about each row", "Ask it about each row", set()),
    "trainer that the body imports": ("trainers/causal.py", "max_length=None", "max_length=9", {"finetune"}),
    "what trainers share": ("trainers/common.py", "def hush(", "def hush(*_, ", {*TRAINED, "merge", "publish"}),
    "trainer of preferences": ("trainers/dpo.py", "discopop_tau=0.05", "discopop_tau=0.5", {"dpo"}),
    "formula of one trainer": ("trainers/advantages.py", "error * answers / horizon", "error * answers", {"ppo"}),
    "constant": ("rules/training.py", "2e-5", "3e-5", {"finetune"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_what_it_reaches(package, name):
    path, old, new, changed = EDITS[name]
    before, file = states(package), package / path
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert {name for name, state in states(package).items() if state != before[name]} == changed
