"""Fine-tuning through a service: what is sent, that no job is begun twice, and how a tuned model is asked."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from ddmake import llm
from ddmake.errors import ProviderError

KEY = "sk-secret"
ROWS = "".join(json.dumps({"q": f"what is {n}?", "a": f"it is {n}", "worse": "no"}) + "\n" for n in range(12))
HEAD = """\
    data = jsonl("data", "in.jsonl")
    gpt = llm("openai/gpt-4.1-mini", base_url="URL", api_key_env="FT_KEY")
"""
TUNED = HEAD + '    tuned = finetune_hosted("tuned", data, base=gpt, prompt="{{ q }}", completion="a")\n'


class Tuning:
    """The fake service, in a process of its own."""

    def __init__(self):
        script = str(Path(__file__).with_name("fake_finetuning.py"))
        self.process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        self.root = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"{self.root}/v1"

    def state(self) -> dict:
        with urllib.request.urlopen(f"{self.root}/state") as reply:
            return json.load(reply)

    def jobs(self) -> list[dict]:
        return self.state()["jobs"]

    def control(self, **changes) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.root}/controls", data=json.dumps(changes).encode())).close()


@pytest.fixture
def there(monkeypatch):
    monkeypatch.setenv("FT_KEY", KEY)
    found = Tuning()
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture
def soon(monkeypatch):
    """Let nobody wait long."""
    from openai import _base_client

    from ddmake.trainers import hosted

    monkeypatch.setattr(hosted, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr(hosted, "FIRST", 0.05)
    monkeypatch.setattr(hosted, "GROWTH", 1)
    monkeypatch.setattr(hosted, "TRIES", 3)
    monkeypatch.setattr(_base_client, "INITIAL_RETRY_DELAY", 0.01)


def tune(there, folder: Path, told: list | None = None, rows: int = 12, base_url: str | None = None, **changes):
    """Have the service train, in this process."""
    from ddmake.trainers import hosted

    order = {"method": "supervised", "hyperparameters": {"n_epochs": 2}, "seed": 3, "mark": "the key", **changes}
    spec = llm("openai/gpt-4.1-mini", base_url=base_url or there.url, api_key_env="FT_KEY")
    folder.mkdir(exist_ok=True)
    progress = lambda *news: (told if told is not None else []).append(news)
    return hosted.tune(spec, hosted.Order(**order), {"train": b"{}\n" * rows}, folder, progress)


CREATE, LIST, UPLOAD = "POST /fine_tuning/jobs", "GET /fine_tuning/jobs", "POST /files"
FAULTS = {  # how requests end, and how many jobs and files of rows there are then
    "nothing": ({}, 1, 1),
    "refused for a while": ({CREATE: ["429", "503"]}, 1, 1),
    "lost before it was begun": ({CREATE: ["before"]}, 1, 1),
    "lost after it was begun": ({CREATE: ["after"]}, 1, 1),
    "all else in trouble": ({LIST: ["500"], "GET /files": ["429"], "GET /fine_tuning/jobs/ftjob-1": ["502", "before"]}, 1, 1),
    "no events": ({"GET /fine_tuning/jobs/ftjob-1/events": ["404"] * 9}, 1, 1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_job_is_begun_once_whatever_happens_to_requests(there, tmp_path, soon, name):
    faults, jobs, files = FAULTS[name]
    there.control(faults=faults)
    found = tune(there, tmp_path / "kept")
    state = there.state()
    assert (len(state["jobs"]), state["requests"][UPLOAD]) == (jobs, files)
    assert found["model"] == "ft:gpt-4.1-mini:org::1" and found["trained_tokens"] == 240
    assert found["curves"] == {"loss_curve": [[1, 1.0], [2, 0.5], [3, pytest.approx(1 / 3)]], "eval_loss_curve": [[3, 0.75]]}


def test_what_was_begun_is_found_by_its_mark_alone(there, tmp_path, soon):
    """The checkpoints are lost; the service lists all of an account's jobs, a page at a time, and filters nothing."""
    there.control(plain=True)
    first = tune(there, tmp_path / "one")
    for number in range(3):
        tune(there, tmp_path / f"other {number}", mark=f"another {number}")
    assert tune(there, tmp_path / "two") == first
    assert tune(there, tmp_path / "three", mark="one more")["job"] == "ftjob-5"
    state = there.state()
    assert len(state["jobs"]) == 5 and state["requests"][UPLOAD] == 1, "equal rows are sent once"


def test_a_job_that_failed_is_told_and_another_run_begins_another(there, tmp_path, soon):
    there.control(end="failed")
    with pytest.raises(ProviderError) as told:
        tune(there, tmp_path / "kept")
    assert str(told.value) == ('openai/gpt-4.1-mini: ftjob-1 failed: "the file was refused by moderation". Run again, and '
                               "another job is begun.")
    there.control(end="cancelled")
    with pytest.raises(ProviderError, match="ftjob-2 was cancelled there. Run again"):
        tune(there, tmp_path / "kept")
    there.control(end="succeeded")
    assert tune(there, tmp_path / "kept")["job"] == "ftjob-3"


REFUSED = {
    "too few rows": ({"rows": 9}, {}, 'answered 400: "Training file has 9 example(s), but must have at least 10 examples.".'),
    "key": ({}, {"FT_KEY": "sk-wrong"}, 'answered 401: "Incorrect API key provided: Bearer …" (FT_KEY is set).'),
    "nobody there": ({"base_url": "http://127.0.0.1:9/v1"}, {}, "can't be reached at http://127.0.0.1:9/v1: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_told_in_a_sentence(there, tmp_path, soon, monkeypatch, name):
    changes, env, words = REFUSED[name]
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ProviderError) as told:
        tune(there, tmp_path / "kept", **changes)
    assert str(told.value).startswith(f"openai/gpt-4.1-mini {words}") and not there.jobs()


def test_what_the_service_has_lost_is_not_waited_for(there, tmp_path, soon):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "job.json").write_text('{"files": {}, "job": "ftjob-99"}')
    with pytest.raises(ProviderError, match='has no ftjob-99 any more: "Could not find fine tune: ftjob-99". Run again'):
        tune(there, tmp_path / "kept")
    assert tune(there, tmp_path / "kept")["job"] == "ftjob-1"


@pytest.mark.parametrize("results", ["base64", "events", "gone"])
def test_losses_are_read_as_the_service_gives_them(there, tmp_path, soon, results):
    there.control(results=results, step=0.5)
    told = []
    curves = tune(there, tmp_path / "kept", told)["curves"]
    assert [loss for _, loss in curves["loss_curve"]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert ("eval_loss_curve" in curves) == (results == "base64")
    assert (0, 0, "job ftjob-1: validating files") in told and (3, 3, "loss 0.333") in told


@pytest.mark.slow
def test_a_training_in_a_ddfile(project, there):
    """The plan says what it costs, the tuned model is asked, tuned further, compared, carded; and nothing is done twice."""
    project.write("in.jsonl", ROWS + json.dumps({"q": "x", "a": None, "worse": "x"}) + "\n")
    text = (HEAD + """
    tuned = finetune_hosted("tuned", {"train": data, "validation": data.take(3)}, base=gpt, prompt="{{ q }}", completion="a",
                            price=25, suffix="dd", batch_size=4)
    liked = finetune_hosted("liked", data, base=llm(tuned), prompt="{% system %}Be brief.{% endsystem %}{{ q }}", method="dpo",
                            chosen="a", rejected="worse", epochs=1, beta=0.5)
    transform("answers", data.take(2), llm=llm(tuned, temperature=0), prompt="{{ q }}", column="answer")
    evaluate("scores", {"tuned": tuned, "liked": llm(liked)}, data.take(2), prompt="{{ q }}", reference="a", metrics=["f1"])
    """).replace("URL", there.url)
    project.ddfile(text).make("data")
    planned = project.run("-n")
    assert re.search(r"make   tuned    +1 +0 +~\d+ / 0 +~0.0\d+ +never made", planned.output), planned.output
    assert re.search(r"maybe  answers +\? +\? +\? +\? +behind tuned", planned.output)
    limited = project.run("--max-cost", "5")
    assert limited.code == 2 and "liked: what this training costs isn't known, so --max-cost can't hold it." in limited.output
    limited = project.run("tuned", "--max-cost", "0.0001")
    assert limited.code == 2 and re.search(r"tuned: training costs about \$0.0\d+, which is more than --max-cost", limited.output)

    made = project.make()
    assert "at least $0.0090 now, at least $0.0090 in all" in made.output, made.output
    assert "finetune_hosted: 1 of 13 rows of train left out: null in a" in project.logs()
    first, second = there.jobs()
    sent = {name: first["body"][name] for name in ("model", "seed", "suffix", "method")}
    assert sent == {"model": "gpt-4.1-mini", "seed": 0, "suffix": "dd",
                    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4}}}}
    assert second["model"] == "ft:gpt-4.1-mini:org:dd:1" and second["method"]["dpo"]["hyperparameters"]["beta"] == 0.5
    learned, watched, preferred = (there.state()["contents"][job] for job in (
        first["training_file"], first["validation_file"], second["training_file"]))
    assert len(learned.splitlines()) == 12 and len(watched.splitlines()) == 3
    assert json.loads(learned.splitlines()[1]) == {"messages": [{"role": "user", "content": "what is 1?"},
                                                                {"role": "assistant", "content": "it is 1"}]}
    assert json.loads(preferred.splitlines()[1]) == {
        "input": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what is 1?"}]},
        "preferred_output": [{"role": "assistant", "content": "it is 1"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}]}

    assert [row["answer"] for row in project.rows("answers")] == [f"ft:gpt-4.1-mini:org:dd:1: what is {n}?" for n in (0, 1)]
    assert set(there.state()["asked"]) == {job["fine_tuned_model"] for job in there.jobs()}, "and never the base"
    told = json.loads((project.root / "tuned" / "model.json").read_text())
    assert told == {"model": "ft:gpt-4.1-mini:org:dd:1", "base": "openai/gpt-4.1-mini", "base_url": there.url, "job": "ftjob-1",
                    "made": "2025-10-09T08:53:20Z", "seed": 0, "trained_tokens": 360,
                    "hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.8}}
    metrics = json.loads((project.root / "tuned" / "metrics.json").read_text())
    assert metrics["settings"]["epochs"] == 3 and metrics["eval_loss"] == 0.75 and len(metrics["loss_curve"]) == 3
    scores = {row["model"]: row for row in project.rows("scores")}
    assert (scores["tuned"]["method"], scores["liked"]["method"]) == ("supervised", "dpo")
    assert re.search(r"tuned +openai/gpt-4.1-mini +\S+ +1 +\? +0.0090\n", project.run("cost").output), project.run("cost").output
    project.make("cards")
    assert "`openai/gpt-4.1-mini`" in (project.root / "cards" / "answers" / "README.md").read_text()

    project.ddfile(text.replace('suffix="dd"', 'suffix="other"').replace("price=25", "price=30"))
    assert set(project.run("-n", "-v").verdicts().values()) == {"fresh"}
    assert not [path for path in project.root.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_killed_run_takes_up_its_job(project, there):
    """It is killed before it knows the job's number, and again while it waits; then it is stopped, and ends as asked."""
    project.write("in.jsonl", ROWS)
    project.ddfile(TUNED.replace("URL", there.url)).make("data")
    there.control(step=None, faults={CREATE: ["slow"]})
    first = project.command("tuned")
    wait_for(lambda: there.jobs())
    kill(first)
    second = project.command("tuned")
    wait_for(lambda: list(project.root.glob(".ddmake/scratch/*/checkpoints/job.json"))
             and '"ftjob-1"' in next(project.root.glob(".ddmake/scratch/*/checkpoints/job.json")).read_text())
    kill(second)
    third = project.command("tuned")
    looked = there.state()["requests"].get("GET /fine_tuning/jobs/ftjob-1", 0)
    wait_for(lambda: there.state()["requests"].get("GET /fine_tuning/jobs/ftjob-1", 0) >= looked + 2)
    time.sleep(0.5)
    third.send_signal(signal.SIGINT)
    assert f"job ftjob-1 goes on at {there.url}; ddmake takes it up when it is run again" in third.communicate(timeout=60)[0]
    there.control(step=0.01)
    project.make()
    state = there.state()
    assert len(state["jobs"]) == 1 and state["requests"][UPLOAD] == 1
    assert project.run("-n", "-v").verdicts()["tuned"] == "fresh"


def wait_for(there) -> None:
    until = time.monotonic() + 60
    while not there():
        assert time.monotonic() < until, "it didn't come"
        time.sleep(0.05)


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
    time.sleep(0.5)  # its workers die with it


READ = HEAD + "    M = 'tuned'\n    "
MISTAKES = {
    'finetune_hosted(M, data, base="openai/gpt-4.1")': "finetune_hosted's base takes LLM, not 'openai/gpt-4.1' (str). Write "
                                                       "llm('openai/gpt-4.1').",
    'finetune_hosted(M, data, base=llm("tiny"), prompt="{{ q }}")': "base llm('tiny') isn't tuned that way. Fine-tuning goes through "
                                                                    "services that speak as OpenAI's does",
    'finetune_hosted(M, data, base=llm("anthropic/claude-sonnet-4-5"))': "base llm('anthropic/claude-sonnet-4-5') isn't tuned that way",
    'finetune_hosted(M, data, base=gpt, prompt="{{ q }}", completion="answer")': "there is no column 'answer' to learn from. There are: q, "
                                                                                 "a, worse.",
    'finetune_hosted(M, data, base=gpt, prompt="{{ q }}", completion="a", beta=0.1)': 'beta= is of method="dpo". Leave it out.',
    'finetune_hosted(M, data, base=gpt, prompt="{{ q }}", method="dpo", chosen="a")': "there is no column 'rejected' to learn from",
    'finetune_hosted(M, data, base=gpt, messages="a", prompt="{{ q }}")': "learns from messages=, or from a prompt and what follows it",
    'finetune_hosted(M, data, base=gpt, prompt="{{ q }}", completion="a", epochs=0)': "epochs=0; it is above 0.",
    'transform("x", data, llm=llm(finetune_hosted(M, data, base=gpt, prompt="{{ q }}", completion="a"), adapter="y"), prompt="x", '
    'column="y")': "it is asked over a network and takes no adapter=",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    from conftest import Project

    found = Project(tmp_path_factory.mktemp("planned"))
    found.write("in.jsonl", ROWS)
    found.ddfile(HEAD).make("data")
    return found


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes_are_told_as_the_training_is_planned(planned, monkeypatch, call):
    monkeypatch.setenv("FT_KEY", KEY)
    result = planned.ddfile(READ.replace("URL", "http://127.0.0.1:9/v1") + call).run("-n")
    assert (result.code, "Traceback" in result.output) == (2, False), result.output
    assert MISTAKES[call] in result.output, result.output


def test_a_missing_key_is_told_before_anything_is_sent(planned):
    assert "FT_KEY" not in os.environ
    result = planned.ddfile(TUNED.replace("URL", "http://127.0.0.1:9/v1")).run()
    assert result.code == 2 and "tuned: openai/gpt-4.1-mini needs an API key: set FT_KEY" in result.output
