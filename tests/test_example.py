"""The example, end to end, on the bundled toys: invented data, a student that learns from it, cards."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Project
from test_guards import RUN, loaded

from ddmake import toys

TOP = Path(__file__).parent.parent

pytestmark = pytest.mark.slow  # it makes the whole of it, once


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example, made once as it stands."""
    project = Project(tmp_path_factory.mktemp("example"))
    shutil.copy(TOP / "Ddfile.example", project.root / "Ddfile")
    shutil.copytree(TOP / "templates", project.root / "templates")
    print(project.make("all").output)
    return project


@pytest.fixture
def copy(example, tmp_path):
    return Project(shutil.copytree(example.root, tmp_path / "copy"))


def test_the_student_names_method_and_task_and_its_base_does_not(example):
    scores = {row["model"]: row for row in example.rows("results/scores")}
    for name, row in scores.items():
        print(f"{name}: method and task named in {row['names_method_and_task']:.0%} of {row['rows']} tweets, rouge_l {row['rouge_l']:.1f}")
    assert scores["tuned"]["names_method_and_task"] > 0.6
    assert scores["base"]["names_method_and_task"] < 0.05
    assert scores["tuned"]["rouge_l"] > 2 * scores["base"]["rouge_l"]


def test_the_student_loads_with_plain_transformers_and_peft(example):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(example.root / "models" / "tweeter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(toys.folder("tiny-base")), folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = example.rows("data/validation")[0]
    inputs = tokenizer(row["abstract"] + "\n", return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=80, do_sample=False)[0][inputs["input_ids"].shape[1]:])
    print(row["abstract"], "->", text)
    assert len(text) > 20 and not text.startswith(row["abstract"][:20])


def test_what_was_made_is_labelled_a_toys_product(example):
    example.make("cards")
    for target in ("data/abstracts", "data/tweets", "data/train", "models/tweeter", "results/scores"):
        text = (example.root / "cards" / target / "README.md").read_text()
        assert "toy" in text.split("##")[0].lower() and "synthetic" in text, target
        assert str(example.root) not in text
    card = json.loads((example.root / "cards" / "models" / "tweeter" / "card.json").read_text())
    assert list(card["data_card"]) == ["data/abstracts", "data/tweets", "data/train"]
    readme = (example.root / "cards" / "models" / "tweeter" / "README.md").read_text()
    assert "names_method_and_task" in readme and "Sum up the work" in readme


def test_there_is_nothing_to_do_and_nothing_heavy_is_loaded_to_say_so(example):
    result = example.make("-n")
    assert "5 fresh (-v). Nothing to do." in result.output
    assert loaded(RUN.format(args=["-n"]), example.root) == set()


def test_an_edited_template_is_told_and_sends_only_what_changed(copy):
    template = copy.root / "templates" / "tweet.j2"
    template.write_text(template.read_text().replace("{{ abstract }}", "{{ abstract }}{% if 'BLEU' in abstract %} {% endif %}"))
    result = copy.run("-n", "-v")
    assert result.verdicts() == {"data/abstracts": "fresh", "data/tweets": "make", "data/train": "maybe", "data/validation": "maybe",
                                 "models/tweeter": "maybe", "results/scores": "maybe"}
    assert result.why("data/tweets") == "template tweet.j2 changed"
    changed = sum("BLEU" in row["abstract"] for row in copy.rows("data/abstracts"))
    output = copy.make("data/tweets").output
    assert 0 < changed and f"{changed} sent, " in output


def test_a_model_made_here_can_be_asked(copy):
    """As a model of its own, and as an adapter on its base: the same text, and an edge to the rule that makes it."""
    with (copy.root / "Ddfile").open("a") as file:
        file.write("""
some = parts.validation.take(3).select("abstract")
for name, asked in {"model": llm(tweeter, temperature=0), "adapter": llm("tiny-base", adapter=tweeter, temperature=0)}.items():
    transform(f"asked/{name}", some, llm=asked, column="tweet", prompt="{{ abstract }}")
""")
    assert copy.run("-n").verdicts() == {"asked/model": "make", "asked/adapter": "make"}
    copy.make("asked")
    rows = copy.rows("asked/model")
    print(rows[0])
    assert rows == copy.rows("asked/adapter") and all(len(row["tweet"]) > 20 for row in rows)
