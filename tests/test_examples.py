"""The paper's Examples 1 and 5 in docs/examples, end to end; the others are run by the tests of their recipes."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import Project
from fake_hub import FakeHub

from ddmake import load

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
FOLDERS = sorted(file.parent.name for file in EXAMPLES.glob("*/Ddfile"))
CARD = b"---\nconfigs:\n- config_name: distractor\n  data_files:\n  - split: train\n    path: distractor/train-*\n---\n"
QUESTIONS = [f"Which came first, the year {year} or the film of that name?" for year in range(1990, 1998)]


def copied(name: str, root: Path) -> Project:
    return Project(Path(shutil.copytree(EXAMPLES / name, root / name)))


def planned(page: str) -> str:
    """Return the dry run that a README shows."""
    shown = re.search(r"    \$ ddmake -n.*\n((?:    .*\n)+)", (EXAMPLES / page / "README.md").read_text())[1]
    return re.sub("^    ", "", shown, flags=re.MULTILINE)


@pytest.mark.parametrize("name", FOLDERS)
def test_each_example_loads_and_is_listed(name):
    assert load(EXAMPLES / name / "Ddfile").targets
    assert f"[{name}]({name}/" in (EXAMPLES / "README.md").read_text()


@pytest.mark.slow
def test_a_model_learns_tweets_that_a_toy_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    project, small = copied("tweets", tmp_path), ("n=10", "llm=tiny", "base=tiny-base", "epochs=1")
    assert project.run("-n").output == planned("tweets")
    assert "made 5, fresh 0" in project.make(*small).output
    assert {column for row in project.rows("data/train") for column in row} == {"abstract", "tweet"}
    assert (len(project.rows("data/train")), len(project.rows("data/validation"))) == (9, 1)
    scores = project.rows("results/scores")
    assert [row["model"] for row in scores] == ["base", "tuned"] and all(0 <= row["rouge_l"] <= 100 for row in scores)
    assert (project.root / "models" / "tweeter" / "adapter_config.json").is_file()
    assert "5 fresh (-v). Nothing to do." in project.run("-n", *small).output
    assert set(project.run("-n", *small[1:], "n=20").verdicts().values()) == {"make", "maybe", "manual"}
    hub = FakeHub()
    ran(project, hub, "release", *small, HF_TOKEN="hf_any")
    hub.close()
    tweets, tweeter = (repo.commits[repo.branches["main"]] for repo in (
        hub.repos["datasets/me/abstracts-to-tweets"], hub.repos["models/me/abstracts-to-tweets-t5"]))
    assert "data/train-00000-of-00001.parquet" in tweets and "synthetic" in tweets["README.md"].decode()
    assert "adapter_model.safetensors" in tweeter and "model-index" in tweeter["README.md"].decode()


@pytest.mark.slow
def test_questions_of_the_hub_get_a_column_more(tmp_path):
    hub = FakeHub()
    rows = "".join(json.dumps({"id": str(at), "question": text, "answer": "-"}) + "\n" for at, text in enumerate(QUESTIONS))
    hub.push("datasets/hotpotqa/hotpot_qa", {"README.md": CARD, "distractor/train-0.jsonl": rows.encode()})
    project = copied("decompositions", tmp_path)
    ran(project, hub, "data/questions")
    assert numberless(ran(project, hub, "-n", "n=5")) == numberless(planned("decompositions"))
    assert "data/decompositions  5 rows; 5 sent" in ran(project, hub, "n=5", "llm=echo")
    assert "data/decompositions  8 rows; 3 sent, 5 cached" in ran(project, hub, "n=8", "llm=echo")
    hub.close()
    rows = project.rows("data/decompositions")
    assert [row["question"] for row in rows] == QUESTIONS and len(project.rows("data/questions")) == len(QUESTIONS)
    assert list(rows[0]) == ["question", "decomposition"] and all(row["decomposition"].endswith(row["question"]) for row in rows)


def numberless(text: str) -> str:
    """Return a dry run without the tokens, which depend on the questions."""
    return re.sub(r"~\d+", "~0", text)


def ran(project: Project, hub: FakeHub, *args: str, **env: str) -> str:
    """Run ddmake with a Hub and a cache of its own, which must succeed, and return what it says."""
    process = project.command(*args, **{"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "",
                                        "HF_HOME": str(project.root / "cache"), "NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": "none",
                                        **env})
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    return output
