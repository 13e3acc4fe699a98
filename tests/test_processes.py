"""Trainings in two processes: the same model as in one, killed and gone on with to the bit, and nobody is left behind.

`process_runs.py` trains everything once; the tests look at what it left.
"""

import json
from pathlib import Path

import psutil
import pytest
import small_models
from accelerate.data_loader import BatchSamplerShard
from conftest import Project
from process_runs import EVALUATED, KINDS
from safetensors.torch import load_file
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from trained import log, metrics, train_all

from ddmake.backends.models import files_sha
from ddmake.trainers import ranks

pytestmark = pytest.mark.slow

DDFILE = """
cfg = config(processes=1)
first, second = "red green blue cat dog bird tree stone".split(), "sky sea sun moon".split()
rows = rows("data/rows", values=[{"ask": f"say {first[i % 8]}", "chosen": f"{second[i // 8]} {i}", "rejected": first[i % 8 - 1]}
                                 for i in range(24)])
parts = {"train": rows.take(22), "validation": rows.take(21)}
common = dict(epochs=2, learning_rate=1e-3, processes=cfg.processes)
orpo("models/orpo", {**parts, "train": rows}, base="./chat", peft=lora(r=4), prompt="{{ ask }}", batch_size=8, micro_batch=2, **common)
train_embedder("models/finder", parts, base="./bert", anchor="ask", positive="chosen", batch_size=6, **common)
train_embedder("models/triplets", parts, base="./bert", anchor="ask", positive="chosen", negative="rejected", loss="triplet",
               batch_size=6, micro_batch=1, **common)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train all models, in a process of their own."""
    return train_all("process_runs.py", tmp_path_factory.mktemp("processes"))


def processes(runs: Path, name: str) -> int:
    """Return in how many processes a training's newest checkpoint was made."""
    newest = max((runs / f"{name}.checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return json.loads((newest / "COMPLETE").read_text())["circumstances"]["processes"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_make_the_model_that_one_makes(runs, kind):
    one, two = metrics(runs, f"{kind}-1"), metrics(runs, f"{kind}-2")
    was, now = (load_file(runs / f"{kind}-{count}" / "adapter_model.safetensors") for count in (1, 2))
    assert all((was[name] - now[name]).abs().max() < 1e-5 for name in was)
    assert max(weight.abs().max() for name, weight in now.items() if "lora_B" in name) > 1e-3, "something was learned"
    for curve in ("loss_curve", "accuracy_curve", "margin_curve"):
        assert [value for _, value in two.get(curve, [])] == pytest.approx([value for _, value in one.get(curve, [])], abs=1e-5)
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], abs=1e-5)


@pytest.mark.parametrize("kind", EVALUATED)
def test_an_evaluation_does_not_depend_on_how_it_is_cut(runs, kind):
    """The last batch has one row of nine, rows have one word or 25, and each of them counts once."""
    found = [{name: value for name, value in metrics(runs, f"{kind}-{how}").items() if name.startswith("eval_")}
             for how in ("evaluated", "cut")]
    told = {"causal": [], "seq2seq": [], "kto": ["margin"], "classes": ["accuracy", "f1"]}.get(kind, ["accuracy", "margin"])
    names = [f"eval_{name}" for name in ("loss", *told)]
    for one in found:
        assert one.keys() == {*names, *(f"{name}_curve" for name in names)}
        assert [one[f"{name}_curve"] for name in names] == [[[1, one[name]]] for name in names]
    assert found[1]["eval_loss"] == pytest.approx(found[0]["eval_loss"], rel=1e-6)
    if kind != "sft":  # of a model that has learned nothing, which prefers neither
        assert [found[1][name] for name in names] == pytest.approx([found[0][name] for name in names], abs=1e-6)


def test_a_ddfile_trains_the_same_in_two_processes(tmp_path):
    """The batches of an embedder too, which hold no text twice, and what is noted of all pairs."""
    found = []
    for count in (1, 2):
        project = Project(tmp_path / str(count))
        project.root.mkdir()
        small_models.causal(project.root / "chat", chat=True)
        config = small_models.bert(project.root / "bert") / "config.json"
        told = json.loads(config.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config.write_text(json.dumps(told))
        project.ddfile(DDFILE).make(f"processes={count}")
        read = {path.parent.name: json.loads(path.read_text()) for path in project.root.glob("models/*/metrics.json")}
        assert read.keys() == {"orpo", "finder", "triplets"}
        found.append({name: [metrics["steps"], metrics["eval_loss"], *(value for curve in ("loss", "accuracy", "margin", "eval_loss")
                             for _, value in metrics.get(f"{curve}_curve", []))] for name, metrics in read.items()})
    assert found[1] == {name: pytest.approx(values, abs=2e-3) for name, values in found[0].items()}


def test_a_rule_with_two_gpus_has_two_processes(runs):
    assert files_sha(runs / "granted") == files_sha(runs / "causal-2")
    assert "DDP constructor" in log(runs, "granted") and "DDP constructor" not in log(runs, "causal-1")


@pytest.mark.parametrize("name", ["one", "parent"])
def test_a_training_whose_process_was_killed_ends_in_the_same_weights(runs, name):
    assert files_sha(runs / name) == files_sha(runs / "whole")
    assert processes(runs, name) == processes(runs, "whole") == 2
    assert "reproducible" not in metrics(runs, name)


def test_a_killed_process_ends_the_training_with_its_name(runs):
    assert (runs / "one.status.first").read_text() == "2"
    assert "DdmakeError: process 1 of 2 was killed by SIGKILL." in (runs / "one.log.first").read_text()


def test_no_process_outlives_the_one_that_started_it(runs):
    assert (runs / "parent.status.first").read_text() == "-9" and "Stopped" in log(runs, "stopping")
    for name in ("orphans", "stopped"):
        pids = json.loads((runs / name).read_text())
        assert len(pids) == 2 and not any(psutil.pid_exists(pid) for pid in pids)


def test_another_number_of_processes_goes_on_and_is_told(runs):
    found = metrics(runs, "other-one")
    assert found["reproducible"] is False and "processes 2, now 1" in found["why_not"]


@pytest.mark.parametrize("name, told", [
    ("boom", "process 1 of 2 failed: ValueError: boom"),
    ("sharded", "sharded=True needs GPUs, and there is none here."),
    ("odd", "batch_size=7 can't be cut into 2 processes"),
])
def test_what_one_process_raises_ends_all(runs, name, told):
    assert (runs / f"{name}.status").read_text() == "2" and f"DdmakeError: {told}" in log(runs, name)


def test_a_spawned_process_finds_functions_of_the_ddfile(runs):
    assert json.loads((runs / "spawned.json").read_text()) == [
        {"enough": True, "threads": 3, "processes": 1}, [1, 1, "here"]]
    assert "DdmakeError: many processes on GPUs take functions by their names, at the Ddfile's top level" in log(runs, "spawning")


@pytest.mark.parametrize("kind, count, rows, batches", [
    (ranks.Dealt, 2, 8, [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]),
    (ranks.Dealt, 2, 6, [[[0, 1], [4]], [[2, 3], [5]]]),
    (ranks.Dealt, 3, 10, [[[0, 1], [6, 7]], [[2, 3], [8]], [[4, 5], [9]]]),
    (ranks.Dealt, 3, 8, [[[0, 1], [6]], [[2, 3], [7]], [[4, 5], [0]]]),
    (ranks.Alike, 2, 7, [[[0, 1], [4, 5]], [[2, 3], [6, 0]]]),
    (ranks.Alike, 2, 6, [[[0, 1], [4]], [[2, 3], [5]]]),
    (ranks.Whole, 2, 5, [[[0, 1], [4]], [[2, 3], [0, 1]]]),
    (ranks.Whole, 2, 3, [[[0, 1]], [[2]]]),
])
def test_examples_are_dealt(kind, count, rows, batches):
    found = []
    for index in range(count):
        shard = BatchSamplerShard(BatchSampler(SequentialSampler(range(rows)), 2, False), count, index)
        loader = DataLoader(list(range(rows)), batch_sampler=shard)
        dealt = ranks.whole(loader) if kind is ranks.Whole else ranks.dealt(loader, kind is ranks.Alike)
        found.append(list(dealt.batch_sampler))
        assert len(dealt.batch_sampler) == len(found[-1])
    assert found == batches
