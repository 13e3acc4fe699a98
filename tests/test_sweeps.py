"""Results in one table, the best model chosen, and the sweep of docs/examples."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import Project

pytestmark = pytest.mark.slow

SWEEP = Path(__file__).parent.parent / "docs" / "examples" / "sweep" / "Ddfile"
RESULTS = [{"model": "a", "base": "x", "seed": 0, "score": 1.0}, {"model": "b", "base": "x", "seed": 1, "score": 4.0},
           {"model": "c", "base": "y", "seed": 0, "score": 4.0}, {"model": "d", "base": "y", "seed": 1, "score": None},
           {"model": "other", "base": "z", "seed": 0, "score": 9.0}]

CHOICE = """
@train
def made(*, weights, settings, output):
    (output / "config.json").write_text('{"model_type": "llama"}')
    (output / "model.safetensors").write_bytes(weights.encode())
    (output / "metrics.json").write_text(settings)

models = {name: made(f"models/{name}", weights=name * 9, settings='{"train_loss": 1.5, "settings": {"seed": 3}}') for name in "abcd"}
results = jsonl("results", "results.jsonl")
"""


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def compared(project):
    project.write("results.jsonl", lines(RESULTS))
    return project


def test_results_are_united(compared):
    """By name or in a list, to rows or a file; what a result lacks is null."""
    compared.write("more.jsonl", lines([{"model": "e", "score": 2, "rows": 7}])).with_name("none.jsonl").write_text("")
    compared.ddfile("""
        one, two = jsonl("one", "results.jsonl"), jsonl("two", "more.jsonl")
        table("named", {"first": one.take(1), "second": two})
        table("listed", [one.take(1), two, one.filter(lambda row: False)])
        table("table.csv", {"first": one.take(1), "second": two}, name="run")
    """).make()
    first, second = compared.rows("named")
    assert first == {"name": "first", "model": "a", "base": "x", "seed": 0, "score": 1.0, "rows": None}
    assert second == {"name": "second", "model": "e", "base": None, "seed": None, "score": 2.0, "rows": 7}
    assert [list(row.values()) for row in compared.rows("listed")] == [list(row.values())[1:] for row in (first, second)]
    with (compared.root / "table.csv").open() as file:
        assert next(csv.DictReader(file)) == {"run": "first", "model": "a", "base": "x", "seed": "0", "score": "1", "rows": ""}


def test_means_are_taken_by_what_stays(compared):
    compared.ddfile("""
        one = jsonl("one", "results.jsonl")
        table("means", [one], by="base", mean=["score"])
        table("named", {"a": one.take(1), "b": one.take(3)}, by=["name"], mean="score")
    """).make()
    assert compared.rows("means") == [
        {"base": "x", "score": 2.5, "score_sd": pytest.approx(4.5 ** 0.5), "n": 2}, {"base": "y", "score": 4.0, "score_sd": None, "n": 2},
        {"base": "z", "score": 9.0, "score_sd": None, "n": 1}]
    assert [(row["name"], row["score"], row["n"]) for row in compared.rows("named")] == [("a", 1.0, 1), ("b", 3.0, 3)]


CHOSEN = {  # what follows choose("best", models, results, : which, and of the results what
    'metric="score"': ("b", "score of 4 is the highest of 3"),  # of equals the first; null and models that aren't offered never win
    'metric="score", lowest=True': ("a", "score of 1 is the lowest of 3"),
    'metric="seed"': ("b", "seed of 1 is the highest of 4"),
}


@pytest.mark.parametrize("call", CHOSEN)
def test_the_best_is_copied(compared, call):
    name, why = CHOSEN[call]
    compared.ddfile(CHOICE + f'choose("best", models, results, {call})').make()
    assert (compared.root / "best/model.safetensors").read_text() == name * 9
    told = json.loads((compared.root / "best/metrics.json").read_text())
    assert told["chosen"] == name and told["candidates"] == 4 and told["settings"] == {"seed": 3}
    assert f"choose: {name}, whose {why}" in compared.logs()


def test_a_better_score_of_the_same_model_makes_nothing_behind_it_again(compared):
    text = CHOICE + """
best = choose("best", models, results, metric="score")

@step("behind", best)
def behind(best):
    yield {"size": (best / "model.safetensors").stat().st_size}
"""
    compared.ddfile(text).make()
    compared.write("results.jsonl", lines([{**RESULTS[0], "score": 0.5}, {**RESULTS[1], "score": 5.0}]))
    output = compared.make().output
    assert "made best" in output and "made behind" not in output
    assert json.loads((compared.root / "best/metrics.json").read_text())["score"] == 5.0


def test_a_chosen_models_card_tells_of_the_chosen_one_alone(compared):
    compared.ddfile(CHOICE + 'choose("best", models, results, metric="score")').make()
    compared.make("cards")
    card = json.loads((compared.root / "cards/best/card.json").read_text())
    assert list(card["model_card"]) == ["models/b", "best"] and card["type"] == "model"
    text = (compared.root / "cards/best/README.md").read_text()
    assert "chosen from 4 by `choose`: the one called `b`, for its `score` of 4." in text and "models/c" not in text.split("## How it was made")[0]


MISTAKES = {
    'choose("s", models, results, metric="scor")': "there is no column 'scor' to choose by. There are: model, base, seed, score. Did you mean 'score'?",
    'choose("s", models, results, metric="score", by="name")': "there is no column 'name' that names models.",
    'choose("s", list(models.values()), results, metric="score")': "choose takes a dict of models by their names in the results, and at least one.",
    'choose("s", {"z": models["a"]}, results, metric="score")': "none of z has a score in the results, whose column 'model' names a, b, c, d, other.",
    'choose("s", {"d": models["d"]}, results, metric="score")': "none of d has a score in the results",
    'choose("s", models, results, metric="base")': "the column 'base' holds 'x', and scores are numbers.",
    'choose("s", {"a": llm("echo")}, results, metric="score")': "'a' is no model folder that could be copied.",
    'choose("s", {"a": results}, results, metric="score")': "'a' is no model folder that could be copied.",
    'table("s", results)': "table takes a list of results, or a dict of them by name, and at least one.",
    'table("s", {"a": results}, name="model")': "table adds a column 'model', and there is one already: .rename() it.",
    'table("s", [results], by="base")': "by= names the columns that rows are put together by, and mean= those that means are taken of",
    'table("s", [results], by="bas", mean="score")': "there is no column 'bas' to put rows together by.",
    'table("s", [results], by="base", mean="model")': "table: column 'model' holds 'a', and means are of numbers.",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a project whose models and results are made."""
    project = Project(tmp_path_factory.mktemp("models"))
    project.write("results.jsonl", lines(RESULTS))
    project.ddfile(CHOICE).make()
    return project


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes(models, call):
    result = models.ddfile(CHOICE + call).run()
    assert result.code in (1, 2) and MISTAKES[call] in " ".join(result.output.split()), result.output


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("sweep"))
    shutil.copy(SWEEP, project.root)
    project.make("-j", "2", "n=12", "test=4", "epochs=1", "max_tokens=8")
    return project


def test_a_sweep_tells_what_was_varied_and_chooses_the_best(sweep):
    scores, means = sweep.rows("results/scores"), sweep.rows("results/means")
    assert [list(row)[-3:] for row in scores] == [["base", "learning_rate", "seed"]] * 18
    assert len({(row["base"], row["learning_rate"], row["seed"]) for row in scores}) == 18
    assert len(means) == 9 and {row["n"] for row in means} == {2} and all(row["perplexity_sd"] >= 0 for row in means)
    best = max(scores, key=lambda row: row["rouge_l"])
    told = json.loads((sweep.root / "models/best/metrics.json").read_text())
    assert told["chosen"] == best["model"] and told["settings"]["learning_rate"] == best["learning_rate"]


def test_a_chosen_adapter_is_asked_tuned_and_compared_as_any_model(sweep):
    """It answers as the one that it was copied from, which costs nothing more: their answers are the same calls."""
    chosen = json.loads((sweep.root / "models/best/metrics.json").read_text())["chosen"]
    text = SWEEP.read_text().replace('choose("models/best"', 'best = choose("models/best"')
    sweep.ddfile(text + f'\nagain = evaluate("results/again", {{"best": best, "same": models["{chosen}"], "asked": llm(best, temperature=0.0, max_tokens=8)}}, '
                 'parts.test, prompt="{{ abstract }}", reference="tweet", max_tokens=8)\n', header="")
    output = sweep.make("results/again", "n=12", "test=4", "epochs=1", "max_tokens=8").output
    rows = sweep.rows("results/again")
    assert "0 sent" in output and rows[0]["rouge_l"] == rows[1]["rouge_l"] == rows[2]["rouge_l"]
