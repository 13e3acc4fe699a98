"""A card of each kind of artifact, from real runs: it fits its schema, the Hub reads it, and its snippet runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Project
from test_hosted import KEY, Tuning

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
SCHEMA = TESTS.parent / "docs" / "card.schema.json"
BASES = """
from pathlib import Path
import small_models
small_models.causal(Path("bases/plain"), chat=False)
small_models.t5(Path("bases/t5"))
small_models.bert(Path("bases/bert"))
"""
DDFILE = """
    said = jsonl("data/said", "said.jsonl")
    kinds = jsonl("data/kinds", "kinds.jsonl")
    jsonl("data/kinds.csv", "kinds.jsonl")
    alike = jsonl("data/alike", "alike.jsonl")
    short = dict(epochs=1, batch_size=4)
    whole = finetune("models/whole", said, base="./bases/plain", prompt="Say {{ q }}", completion="a", **short)
    adapter = finetune("models/adapter", said, base="tiny", peft=lora(r=2), prompt="{{ q }}", completion="a", **short)
    merge("models/merged", adapter)
    finetune("models/again", said, base=whole, prompt="{{ q | upper }}", completion="a", **short)
    finetune("models/t5", said, base="./bases/t5", prompt="{{ q }}", completion="a", **short)
    train_classifier("models/kinds", kinds, base="./bases/bert", **short)
    train_classifier("models/kinds_adapter", kinds, base="./bases/plain", peft=lora(r=2), **short)
    few_shot_classifier("models/few", kinds, base="./bases/bert", rounds=1, **short)
    train_embedder("models/near", alike, base="./bases/bert", **short)
    reward_model("models/reward", said, base="tiny", peft=lora(r=2), prompt="{{ q }}", chosen="a", rejected="worse", **short)
    reward_model("models/reward_whole", said, base="./bases/plain", prompt="{{ q }}", chosen="a", rejected="worse", **short)
    finetune_hosted("models/hosted", said, base=llm("openai/gpt-4.1-mini", base_url="URL", api_key_env="FT_KEY"), prompt="{{ q }}",
                    completion="a")
    evaluate("scores", {"tuned": adapter, "plain": whole}, said.take(2), prompt="{{ q }}", reference="a", metrics=["f1", "bleu"],
             max_tokens=4)
    facts("said.jsonl", license="cc0-1.0", citation="@misc{said}", url="https://example.org/said")
    facts(whole, license="mit")
"""
RUN = """
import json, sys, traceback
for name, python in json.load(open("snippets.json")).items():
    print(f"--- {name}")
    try:
        exec(compile(python, name, "exec"), {})
    except Exception:
        traceback.print_exc(file=sys.stdout)
"""


def child(root: Path, *args: str, **env: str) -> str:
    done = subprocess.run([sys.executable, *args], cwd=root, text=True, capture_output=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a model of each kind; it is in a git repository."""
    project, service = Project(tmp_path_factory.mktemp("kinds")), Tuning()
    (project.root / "bases").mkdir()
    child(project.root, "-c", BASES, PYTHONPATH=str(TESTS))
    rows = [{"q": f"what is {n}?", "a": f"it is {n}", "worse": "no"} for n in range(12)]
    project.write("said.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    project.write("kinds.jsonl", "".join(json.dumps({"text": f"{word} {n}", "label": kind}) + "\n"
                                         for n in range(3) for kind, word in (("pet", "cat"), ("colour", "red"), ("outdoors", "tree"))))
    project.write("alike.jsonl", "".join(json.dumps({"anchor": f"cat {n}", "positive": f"dog {n}"}) + "\n" for n in range(8)))
    project.ddfile(DDFILE.replace("URL", service.url))
    for command in (("init", "-q"), ("add", "Ddfile"), ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "First.")):
        subprocess.run(["git", *command], cwd=project.root, check=True)
    run = project.command("-j1", FT_KEY=KEY)
    told = run.communicate()[0]
    assert run.returncode == 0, told + project.logs()
    child(project.root, "-m", "ddmake", "cards")
    project.url, project.service = service.url, service
    yield project
    service.process.kill()
    service.process.wait()


def cards(project: Project) -> dict[str, dict]:
    return {file.parent.relative_to(project.root / "cards").as_posix(): json.loads(file.read_text())
            for file in sorted((project.root / "cards").glob("**/card.json"))}


def readme(project: Project, target: str) -> str:
    return (project.root / "cards" / target / "README.md").read_text()


def test_each_fits_the_schema_and_the_hub_reads_it(made):
    from huggingface_hub import DatasetCard, ModelCard

    validator = pytest.importorskip("jsonschema").Draft202012Validator(json.loads(SCHEMA.read_text()))
    found = cards(made)
    assert len(found) == 17
    for name, card in found.items():
        assert not [error.message for error in validator.iter_errors(card)], name
        data = (ModelCard if card["type"] == "model" else DatasetCard)(readme(made, name)).data
        assert "ddmake" in data.tags and (data.get("pretty_name") == name or card["type"] == "model")


PIPELINES = {
    "models/whole": ("transformers", "causal", "text-generation", {"text": "Say what is 0?"}),
    "models/adapter": ("peft", "causal", "text-generation", {"text": "what is 0?"}),
    "models/merged": ("transformers", "causal", "text-generation", {"text": "what is 0?"}),
    "models/again": ("transformers", "causal", "text-generation", None),  # its template does more than to name columns
    "models/t5": ("transformers", "seq2seq", "text2text-generation", {"text": "what is 0?"}),
    "models/kinds": ("transformers", "classification", "text-classification", {"text": "cat 0"}),
    "models/kinds_adapter": ("peft", "classification", "text-classification", {"text": "cat 0"}),
    "models/few": ("sentence-transformers", "classification", "text-classification", {"text": "cat 0"}),
    "models/near": ("sentence-transformers", "embedding", "sentence-similarity",
                    {"source_sentence": "cat 0", "sentences": ["dog 0", "dog 1", "dog 2"]}),
    "models/reward": ("peft", "reward", "text-classification", None),
    "models/reward_whole": ("transformers", "reward", "text-classification", None),
    "models/hosted": (None, "hosted", "text-generation", None),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_what_a_model_is(made, name):
    from huggingface_hub import ModelCard

    library, task, pipeline, example = PIPELINES[name]
    model, data = cards(made)[name]["model"], ModelCard(readme(made, name)).data
    assert (model.get("library"), model["task"], data.library_name, data.pipeline_tag) == (library, task, library, pipeline)
    assert data.get("widget") == ([example] if example else None)


def test_snippets_run(made):
    pieces = {name: text.split("```python\n")[1].split("```")[0] for name in cards(made) if "```python" in (text := readme(made, name))}
    assert len(pieces) == 17
    (made.root / "snippets.json").write_text(json.dumps(pieces))
    told = child(made.root, "-c", RUN, OPENAI_API_KEY=KEY, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    said = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in told.split("--- ")[1:]}
    assert not {name: out for name, out in said.items() if "Traceback" in out}
    for name in ("models/kinds", "models/kinds_adapter", "models/few"):
        assert said[name] in ("pet", "colour", "outdoors"), name
    for name in ("models/reward", "models/reward_whole"):
        float(said[name].splitlines()[-1])
    assert "tensor" in said["models/near"] and "ft:" in said["models/hosted"]


def test_results_metrics_and_papers_stand_in_the_cards(made):
    from huggingface_hub import ModelCard

    found = cards(made)
    for name in (name for name in PIPELINES if name not in ("models/merged",)):
        metrics = found[name]["model_card"][name]["metrics"]
        assert any(isinstance(value, (int, float)) for value in metrics.values()), name
    data = ModelCard(readme(made, "models/adapter")).data
    assert {result.metric_type for result in data.eval_results} == {"f1", "bleu"} and data.model_name == "models/adapter"
    papers = {"models/adapter": ("loshchilov2017adamw", "hu2021lora"), "models/few": ("tunstall2022setfit",), "models/near": ("reimers2019sbert",), "models/reward": ("ouyang2022instructgpt",),
              "scores": ("rajpurkar2016squad", "papineni-etal-2002-bleu", "post2018bleu")}
    for name, keys in papers.items():
        assert not [key for key in keys if f"{{{key}," not in readme(made, name)], name
    assert "hu2021lora" not in readme(made, "models/whole") and "rafailov2023dpo" not in readme(made, "models/hosted")


def test_licences_are_those_that_are_said(made):
    from huggingface_hub import ModelCard

    found = cards(made)
    assert found["data/said"]["license"] == "cc0-1.0" and "@misc{said}" in readme(made, "data/said")
    assert found["data/said"]["data_card"]["data/said"]["URL"] == ["https://example.org/said"]
    assert found["models/whole"]["licenses"] == {"said.jsonl": "cc0-1.0", "bases/plain": "unknown", "models/whole": "mit"}
    assert ModelCard(readme(made, "models/whole")).data.license == "mit" and "as its maker states" in readme(made, "models/whole")
    assert found["models/again"]["licenses"]["models/whole"] == "mit" and found["models/again"]["license"] == "unknown"


def test_what_ran_it_and_of_which_commit(made):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=made.root, capture_output=True, text=True).stdout.strip()
    found = cards(made)["models/merged"]
    assert found["git"] == {"commit": head, "changed": False} and f"commit `{head}`" in readme(made, "models/merged")
    assert found["hardware"]["cores"] >= 1 and found["hardware"]["memory"] > 2**28 and found["hardware"]["cpu"]
    assert not any("git" in entry for entry in found["data_card"].values()), "it is told where it differs"


def test_a_model_at_a_service_is_no_synthetic_one(made):
    found = cards(made)["models/hosted"]
    assert not found["synthetic"] and found["model"]["hosted"].startswith("ft:") and found["model"]["endpoint"] == made.url
    assert KEY not in json.dumps(found) and cards(made)["scores"]["synthetic"]


def test_no_card_names_a_folder_of_this_machine(made):
    for file in (made.root / "cards").glob("**/*.[mj]*"):
        assert not [word for word in (str(made.root), sys.prefix, os.uname().nodename, KEY) if word in file.read_text()], file
