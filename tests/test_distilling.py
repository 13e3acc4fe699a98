"""Distillation: the student comes near to its teacher, a killed run ends in the weights of a whole one.

`distill_runs.py` trains everything once; the tests look at what it left.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import small_models
import torch
from conftest import Project
from trained import log, metrics, train_all

from ddmake.backends.models import files_sha

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("distill_runs.py", tmp_path_factory.mktemp("distilled"))


def test_killed_run_ends_in_the_same_weights_and_curves(runs):
    assert (runs / "killed.first").read_text() == "-9"
    whole, killed = ({name: value for name, value in metrics(runs, name).items() if name != "runtime_s"}
                     for name in ("whole", "killed"))
    assert whole == killed and len(whole["loss_curve"]) == 24
    assert files_sha(runs / "killed") == files_sha(runs / "whole")


def test_validation_only_watches(runs):
    assert files_sha(runs / "watched") == files_sha(runs / "whole")
    assert metrics(runs, "watched")["eval_loss"] < metrics(runs, "watched")["loss_curve"][0][1]


@pytest.mark.parametrize("name, base, reverse", [("whole", "chat", False), ("full", "plain", False), ("reverse", "plain", True)])
def test_the_student_comes_near_to_its_teacher_on_held_out_rows(runs, name, base, reverse):
    """By models that plain transformers and peft load; learning the answers alone doesn't bring it there."""
    before, after = (away(runs, model, base, reverse) for model in (None, name))
    assert after < 0.8 * before, (before, after)
    if base == "plain":
        assert after < away(runs, "labels", base, reverse) - 0.5


def away(runs: Path, name: str | None, base: str, reverse: bool) -> float:
    """Return the mean divergence from the teacher of a student, the untaught one where there is no name; or the teacher's."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(runs / base)
    student, teacher = opened(runs, name, base), opened(runs, None, "teacher" if base == "chat" else "plain-teacher")
    found = []
    for row in small_models.pairs(80)[56:]:
        prompt, ids = tokens(tokenizer, base, row)
        with torch.no_grad():
            ours, theirs = (model(torch.tensor([ids])).logits[0, prompt - 1:-1, :len(tokenizer)].log_softmax(-1)
                            for model in (student, teacher))
        of, by = (ours, theirs) if reverse else (theirs, ours)
        found += (of.exp() * (of - by)).sum(-1).tolist()
    return sum(found) / len(found)


@cache
def opened(runs: Path, name: str | None, base: str):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if name is None or not (runs / name / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(runs / (name or base)).eval()
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(runs / base), runs / name).eval()


def tokens(tokenizer, base: str, row: dict[str, str]) -> tuple[int, list[int]]:
    """Return how many tokens a prompt has, and those of it with its answer."""
    if base == "plain":
        prompt = tokenizer(row["prompt"] + " => ")["input_ids"]
        return len(prompt), [*prompt, *tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
    turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    prompt, whole = (tokenizer.apply_chat_template(turns[:count], add_generation_prompt=count == 1, tokenize=True, return_dict=False)
                     for count in (1, 2))
    return len(prompt), whole


def test_the_loss_begins_as_the_divergence_of_both_models(runs):
    """It is a mean over the tokens of a whole batch: here of all rows, since the models still differ alike on each."""
    first = metrics(runs, "full")["loss_curve"][0][1]
    assert first == pytest.approx(away(runs, None, "plain", False), rel=0.1)


def test_how_a_batch_is_cut_changes_nothing_but_low_bits(runs):
    whole, cut = (metrics(runs, name)["loss_curve"] for name in ("full", "cut"))
    assert whole != cut and [loss for _, loss in cut[:9]] == pytest.approx([loss for _, loss in whole[:9]], rel=1e-4)


def test_an_adapter_teaches_and_what_is_left_out_is_told(runs):
    found = metrics(runs, "recipe")
    told = {name: found["settings"][name] for name in ("teacher_name", "temperature", "beta", "alpha", "examples")}
    assert told == {"teacher_name": "whole", "temperature": 2.0, "beta": 0.5, "alpha": 0.5, "examples": 16}
    assert "distill: 1 of 17 rows left out: null in messages" in log(runs, "recipe")
    assert not [path for path in (runs / "recipe").iterdir() if str(runs).encode() in path.read_bytes()]


@pytest.mark.parametrize("name, error", [
    ("strange", "DdmakeError: teacher tiny has another vocabulary (1,152 pieces) than base chat (314). Have it write answers by "
                "transform(), and finetune() on these."),
    ("encoder", "DdmakeError: distill: teacher t5 is an encoder-decoder; take a causal model."),
])
def test_teachers_that_can_teach_nothing(runs, name, error):
    assert (runs / f"{name}.status").read_text() == "2" and error in log(runs, name), log(runs, name)


def test_divergences_are_those_of_the_papers():
    from ddmake.trainers.distill import Distilled, divergence, taught

    teacher, student = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.2, 0.2, 0.6]])
    kl = lambda of, by: (of * (of / by).log()).sum().item()
    mixture = 0.3 * teacher + 0.7 * student
    for beta, expected in ((0, kl(teacher, student)), (1, kl(student, teacher)),
                           (0.3, 0.3 * kl(teacher, mixture) + 0.7 * kl(student, mixture))):
        assert divergence(student.log(), teacher.log(), beta).item() == pytest.approx(expected)
    cool = [(logits.log() / 2).softmax(-1) for logits in (teacher, student)]
    settings = Distilled(base="", base_name="", learning_rate=1, temperature=2.0, alpha=0.25)
    loss = taught(student.log(), teacher.log(), torch.tensor([2]), settings).item()
    assert loss == pytest.approx(0.25 * 4 * kl(*cool) - 0.75 * torch.tensor(0.6).log().item())


ROWS = '{"q": "x", "a": "y"}\n'
READ = "M, R = 'models/tuned', jsonl('data', 'in.jsonl')\n"
MISTAKES = {
    "distill(M, R, base='tiny', teacher='tiny', prompt='{{ q }}')": "there is no column 'completion' to learn from. There are: q, a.",
    "distill(M, R, base='tiny', teacher='tiny', completion='a')": "there is no column 'prompt' to learn from. There are: q, a.",
    "distill(M, R, base='tiny', teacher='tiny', prompt='{{ q }}', completion='a', beta=1.5)": "beta=1.5; it is from 0 to 1.",
    "distill(M, R, base='tiny', teacher='tiny', prompt='{{ q }}', completion='a', alpha=0.0)": "alpha=0 learns nothing of the teacher: "
                                                                                             "that is finetune().",
    "distill(M, R, base='tiny', teacher='tiny', prompt='{{ q }}', completion='a', temperature=0.0)": "temperature=0.0; it is above 0.",
    "distill(M, R, base='tiny', teacher='tiny', messages='a', prompt='{{ q }}')": "distill learns from messages=, or from prompt= and",
    "distill(M, R, base='tiny', prompt='{{ q }}', completion='a')": "teacher",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    found = Project(tmp_path_factory.mktemp("planned"))
    found.write("in.jsonl", ROWS)
    found.ddfile(READ).make()
    return found


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes_are_told_as_the_training_is_planned(planned, call):
    result = planned.ddfile(READ + call).run("-n")
    assert (result.code, "Traceback" in result.output) == (2, False), result.output
    assert MISTAKES[call] in result.output


def test_a_toy_is_taught_in_a_ddfile_and_its_teacher_is_an_ingredient(project):
    project.write("in.jsonl", "".join(json.dumps(row) + "\n" for row in small_models.pairs(16)))
    text = """
        data = jsonl("data", "in.jsonl")
        tuned = finetune("tuned", data, base="tiny-base", manual=True)
        distill("student", data, base="tiny-base", teacher=TEACHER, peft=lora(r=4), learning_rate=5e-3, epochs=2)
    """
    project.ddfile(text.replace("TEACHER", "'tiny'")).make()
    assert json.loads((project.root / "student" / "metrics.json").read_text())["settings"]["teacher_name"] == "tiny"
    assert project.run("-n", "-v").verdicts()["student"] == "fresh"
    assert project.ddfile(text.replace("TEACHER", "'tiny-base'")).run("-n").verdicts()["student"] == "make"
    behind = project.ddfile(text.replace("TEACHER", "tuned")).run("-n")
    assert (behind.verdicts()["student"], behind.why("student")) == ("maybe", "behind tuned")
