"""Names on the Hub are pinned: Ddfile.lock says which commit each stands for, and only --update-hub asks again."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import Project, Result
from fake_hub import GATED, FakeHub

from ddmake import toys
from ddmake.ddfile import lock
from ddmake.ddfile.lock import HubName, Pin

DDFILE = """\
    from ddmake.ddfile.inputs import Model

    rows = hub("rows", repo="org/rows")

    @step("seen", model="org/model")
    def seen(*, model: Model):
        yield {"files": sorted(file.name for file in model.iterdir()), "text": (model / "config.json").read_text()}
"""
ONE = b'{"x": "a", "n": 1}\n{"x": "b", "n": 2}\n'
TWO = b'{"x": "c", "n": 3}\n'
CONFIG = {"config.json": b"{}", "model.safetensors": b"w"}


class Place:
    """A project, and a Hub that it talks to from processes of its own, with a cache of its own."""

    def __init__(self, project, hub):
        self.project, self.hub = project, hub
        self.cache = project.root / "cache"
        self.lock = project.root / "Ddfile.lock"

    def run(self, *args: str, offline: bool = False) -> Result:
        """Run ddmake, and return how it ended."""
        process = self.project.command(*args, HF_ENDPOINT=self.hub.url, HF_HUB_OFFLINE="01"[offline], HF_HOME=str(self.cache),
                                       HF_TOKEN="", NO_PROXY="127.0.0.1")
        output = process.communicate(timeout=120)[0]
        return Result(process.returncode, output)

    def make(self, *args: str, offline: bool = False) -> Result:
        """Run ddmake, which must succeed."""
        result = self.run(*args, offline=offline)
        assert result.code == 0, f"{result.output}\n{self.project.logs()}"
        return result

    def asked(self) -> list[str]:
        """Return what the Hub was asked about commits and files since the last time."""
        asked, self.hub.asked[:] = [line for line in self.hub.asked if "/org/" in line or " org/" in line], []
        return asked


@pytest.fixture
def place(project):
    hub = FakeHub()
    yield Place(project, hub)
    hub.close()


def pushed(place):
    """Push the first commits of a model and a dataset."""
    place.model, place.rows = place.hub.push("models/org/model", CONFIG), place.hub.push("datasets/org/rows", {"train.jsonl": ONE})
    return place


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A workflow that uses them, made once."""
    hub = FakeHub()
    place = pushed(Place(Project(tmp_path_factory.mktemp("once")), hub))
    place.project.ddfile(DDFILE)
    place.make()
    yield place.project.root
    hub.close()


@pytest.fixture
def made(once, tmp_path):
    """A copy of that workflow, with its cache, and a Hub that has the same commits."""
    hub = FakeHub()
    yield pushed(Place(Project(shutil.copytree(once, tmp_path / "made", symlinks=True)), hub))
    hub.close()


def moved(place):
    """Move both branches."""
    return (place.hub.push("models/org/model", {**CONFIG, "config.json": b"[]"}), place.hub.push("datasets/org/rows", {"train.jsonl": TWO}))


def test_the_lock_is_text_that_merges(made):
    assert made.lock.read_text() == (
        "# What names on the Hub stand for. Commit this file; `ddmake --update-hub` asks the Hub again.\n"
        f'\n[dataset]\n"org/rows@main" = "{made.rows}"\n\n[model]\n"org/model@main" = "{made.model}"\n')


def test_a_branch_that_moves_changes_nothing(made):
    """Row 24: the lock says what is meant, and nobody is asked."""
    before = made.lock.read_bytes()
    moved(made)
    assert made.run("-n", "-v").verdicts() == {"rows": "fresh", "seen": "fresh"}
    made.make()
    assert made.lock.read_bytes() == before and made.asked() == []


@pytest.mark.slow
def test_update_hub_looks_again(made):
    model, rows = moved(made)
    told = [f"datasets/org/rows@main: {made.rows[:7]} -> {rows[:7]}", f"org/model@main: {made.model[:7]} -> {model[:7]}"]
    before = made.lock.read_bytes()
    dry = made.make("-n", "--update-hub")
    assert dry.output.splitlines()[:2] == told
    assert dry.why("rows") == f"datasets/org/rows@main {made.rows[:16]} -> {rows[:16]}"
    assert dry.why("seen") == f"org/model@main {made.model[:16]} -> {model[:16]}"
    assert made.lock.read_bytes() == before, "a dry run writes nothing"

    assert made.make("--update-hub").output.splitlines()[:2] == told
    assert made.project.rows("rows") == [{"x": "c", "n": 3}]
    assert made.project.rows("seen")[0]["text"] == "[]"
    after = made.lock.read_bytes()
    assert rows.encode() in after and model.encode() in after
    again = made.make("--update-hub")
    assert again.output.startswith("On the Hub nothing has moved.\n") and "Nothing to do" in again.output
    assert made.lock.read_bytes() == after


def test_the_lock_is_kept_whatever_is_made(made):
    """Also where nothing is to be done, or only what doesn't use the name that has moved."""
    before = made.lock.read_text()
    made.lock.unlink()
    assert "Nothing to do" in made.make().output and made.lock.read_text() == before
    model, rows = moved(made)
    assert "made 1" in made.make("seen", "--update-hub").output
    assert model in made.lock.read_text() and rows in made.lock.read_text()


@pytest.mark.slow
def test_a_lock_that_is_taken_back_restores(made):
    before = made.lock.read_bytes()
    moved(made)
    made.make("--update-hub")
    made.lock.write_bytes(before)
    assert "restored 2" in made.make(offline=True).output
    assert made.project.rows("rows") == [{"x": "a", "n": 1}, {"x": "b", "n": 2}]


def forget(place):
    """Take away what was made, so that it has to be made again."""
    for name in ("rows", "seen", ".ddmake"):
        shutil.rmtree(place.project.root / name)


def test_locked_and_cached_is_enough(made):
    forget(made)
    assert "made 2" in made.make(offline=True).output
    assert made.project.rows("rows") == [{"x": "a", "n": 1}, {"x": "b", "n": 2}]


@pytest.mark.slow
def test_never_another_commit_than_the_locks(made):
    """load_dataset by itself takes the newest commit that it has cached where the Hub can't be reached."""
    before = made.lock.read_bytes()
    moved(made)
    made.make("--update-hub")
    made.lock.write_bytes(before)
    forget(made)
    result = made.run(offline=True)
    assert result.code == 1
    assert f"datasets/org/rows@main: commit {made.rows[:7]} isn't in the local cache, and the Hub can't be reached." in result.output
    assert json.loads(made.project.rows("seen")[0]["text"]) == {}


def test_a_dry_run_changes_nothing(place):
    place.project.ddfile(DDFILE)
    place.hub.push("models/org/model", CONFIG)
    place.hub.push("datasets/org/rows", {"train.jsonl": ONE})
    assert place.make("-n").verdicts() == {"rows": "make", "seen": "make"}
    assert not place.lock.exists() and not place.cache.exists()


def test_offline_and_nowhere_noted(place):
    place.project.ddfile('rows = hub("rows", repo="org/rows")')
    result = place.run("-n", offline=True)
    assert result == Result(2, "Ddfile:3: rows: the dataset datasets/org/rows@main isn't in Ddfile.lock, and the Hub can't be reached. "
                               "Run ddmake once with the network on (HF_HUB_OFFLINE unset), or give a whole commit as revision=.\n")


def test_offline_the_local_cache_knows_a_branch(place):
    place.project.ddfile('rows = hub("rows", repo="org/rows", revision="dev")')
    branch = place.cache / "hub" / "datasets--org--rows" / "refs" / "dev"
    branch.parent.mkdir(parents=True)
    branch.write_text("a" * 40)
    place.run(offline=True)
    assert place.lock.read_text().endswith(f'[dataset]\n"org/rows@dev" = "{"a" * 40}"\n')


def test_update_hub_needs_the_hub(made):
    before = made.lock.read_bytes()
    made.hub.close()
    result = made.run("--update-hub")
    assert result.code == 2 and "Ddfile:5: rows: the dataset 'org/rows' can't be looked up: the Hub can't be reached" in result.output
    assert made.lock.read_bytes() == before


WRONG = {  # what is declared: what is said
    'hub("r", repo="org/none")': "Ddfile:3: r: the dataset 'org/none' isn't on the Hub, or you may not see it. Mend the name, set HF_TOKEN if it is private",
    'hub("r", repo="org/rows", revision="dev")': "Ddfile:3: r: the dataset 'org/rows' has no revision 'dev' on the Hub.",
    f'hub("r", repo="org/{GATED}")': f"Ddfile:3: r: the dataset 'org/{GATED}' is gated. Ask for access on its page on the Hub, then set HF_TOKEN.",
    'hub("r", repo="a/b/c")': "Ddfile:3: r: 'a/b/c' can't be a name on the Hub, which is written org/name. Mend it, or write ./a/b/c if it is a folder.",
    'generate("g", llm=llm("hf/org/none"), prompt="x", n=1)': "Ddfile:3: g: the model 'org/none' isn't on the Hub",
    'generate("g", llm=llm("tiny", adapter="org/none"), prompt="x", n=1)': "Ddfile:3: g: the model 'org/none' isn't on the Hub",
    'finetune("m", "in", base="org/none")': "Ddfile:3: m: the model 'org/none' isn't on the Hub",
    'evaluate("e", {"a": "tiny", "b": "org/none"}, "in", prompt="x", reference="x")': "Ddfile:3: e: the model 'org/none' isn't on the Hub",
}


@pytest.mark.parametrize("rule", WRONG)
def test_a_name_that_the_hub_does_not_give(place, rule):
    place.hub.push("datasets/org/rows", {"train.jsonl": ONE})
    place.project.ddfile(rule).write("in", "x")
    result = place.run("-n")
    assert result.code == 2 and result.output.startswith(WRONG[rule]) and len(result.output.splitlines()) == 1


@pytest.mark.slow
def test_a_whole_commit_needs_no_look_up(place):
    first = place.hub.push("datasets/org/rows", {"train.jsonl": ONE})
    place.hub.push("datasets/org/rows", {"train.jsonl": TWO})
    place.project.ddfile(f'hub("rows", repo="org/rows", revision="{first}", columns=["n"])')
    assert place.make("-n").verdicts() == {"rows": "make"}
    assert place.asked() == []
    place.make()
    assert place.project.rows("rows") == [{"n": 1}, {"n": 2}]
    assert not place.lock.exists()


def test_a_job_finds_the_lock_written(place):
    """Also one that is behind another, and so is decided on later."""
    sha = place.hub.push("models/org/model", CONFIG)
    place.project.ddfile("""
        from pathlib import Path
        from ddmake.ddfile.inputs import Model

        @step("first")
        def first():
            yield {"text": Path("Ddfile.lock").read_text()}

        @step("second", first, model="org/model", revision="main")
        def second(rows, *, model: Model, revision: str):
            yield {"folder": model.name}
    """)
    place.make()
    assert sha in place.project.rows("first")[0]["text"]
    assert place.project.rows("second") == [{"folder": sha}]
    assert len([line for line in place.asked() if "/revision/" in line]) == 1


@pytest.mark.slow
def test_weights_for_other_programs_are_left(place):
    other = {"tf_model.h5": b"x", "flax_model.msgpack": b"x", "onnx/model.onnx": b"x", "pytorch_model.bin": b"x"}
    place.hub.push("models/org/model", {**CONFIG, **other})
    place.project.ddfile(DDFILE)
    place.hub.push("datasets/org/rows", {"train.jsonl": ONE})
    place.make("seen")
    assert place.project.rows("seen")[0]["files"] == ["config.json", "model.safetensors"]
    place.hub.push("models/org/model", {"config.json": b"{}", **other})
    place.make("seen", "--update-hub")
    assert place.project.rows("seen")[0]["files"] == ["config.json", "pytorch_model.bin"]


READ = {  # arguments: rows, or what is said
    'split="test"': [{"x": "c", "n": 3}],
    'split="train[:1]", columns=["x"]': [{"x": "a"}],
    "": "datasets/org/rows@main has the splits train, test: name one by split=.",
    'split="train", columns=["y"]': "datasets/org/rows@main has no column 'y'. Columns: x, n.",
    'split="tests"': "datasets/org/rows@main: Unknown split \"tests\"",
    'name="german", split="train"': "datasets/org/rows@main: BuilderConfig 'german' not found. Available: ['default']",
}


@pytest.mark.slow
def test_what_is_read_of_a_dataset(place):
    place.hub.push("datasets/org/rows", {"train.jsonl": ONE, "test.jsonl": TWO})
    place.project.ddfile("\n".join(f'hub("r{at}", repo="org/rows", {arguments})' for at, arguments in enumerate(READ)))
    result = place.run("-k", "-j", "1")
    for at, expected in enumerate(READ.values()):
        if isinstance(expected, str):
            assert expected in result.output and not (place.project.root / f"r{at}").exists()
        else:
            assert place.project.rows(f"r{at}") == expected


def test_a_folder_of_the_same_name_is_not_read(place):
    """load_dataset by itself prefers it; an output that is called like its repository is one."""
    place.project.ddfile('hub("org/rows", repo="org/rows")').write("org/rows/train.jsonl", '{"x": "mine"}\n')
    place.hub.push("datasets/org/rows", {"train.jsonl": ONE})
    place.make()
    assert place.project.rows("org/rows") == [{"x": "a", "n": 1}, {"x": "b", "n": 2}]


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n", '[dataset]\n"org/rows" = "abc"\n', '[paper]\n"org/rows@main" = "' + "a" * 40 + '"\n', "model = 1\n"])
def test_a_lock_that_cannot_be_read(place, text):
    place.project.ddfile('hub("rows", repo="org/rows")')
    place.lock.write_text(text)
    result = place.run("-n")
    assert result.code == 2 and result.output.startswith("Ddfile:3: rows: Ddfile.lock: ") and "delete it to have" in result.output


def test_names_out_of_use_stay_locked(place):
    """Another knob's value brings them back."""
    place.hub.push("models/org/a", CONFIG)
    place.hub.push("models/org/b", CONFIG)
    place.project.ddfile("""
        from ddmake.ddfile.inputs import Model
        cfg = config(base="org/b")
        @step("seen", model=cfg.base)
        def seen(*, model: Model):
            yield {"x": len(list(model.iterdir()))}
    """)
    place.make()
    place.make("base=org/a")
    assert [line.split("@")[0] for line in place.lock.read_text().splitlines()[-2:]] == ['"org/a', '"org/b']


ADAPTED = """\
    from ddmake.ddfile.inputs import Model

    cfg = config(revision="main")

    @step("seen", model="org/adapter", revision=cfg.revision)
    def seen(*, model: Model, revision: str):
        yield {"files": sorted(file.name for file in model.iterdir())}
"""


def push_adapter(place, base, **more):
    """Push an adapter that is put on a base."""
    config = json.dumps({"base_model_name_or_path": base, **more}).encode()
    return place.hub.push("models/org/adapter", {"adapter_config.json": config, "adapter_model.safetensors": b"w"})


def locked(place):
    """Return what the lock says of models."""
    return {str(name): str(pin) for name, pin in lock.read(place.project.root).items()}


@pytest.mark.slow
def test_an_adapter_by_itself_counts_with_its_base(place):
    """The adapter names a branch, which moves; the lock alone tells that there is a base, the cache need not."""
    base, adapter = place.hub.push("models/org/tiny", CONFIG), push_adapter(place, "org/tiny")
    place.project.ddfile(ADAPTED)
    place.make()
    assert locked(place) == {"org/adapter@main": f"{adapter} on org/tiny@main", "org/tiny@main": base}
    place.asked()
    moved = place.hub.push("models/org/tiny", {**CONFIG, "config.json": b"[]"})
    assert place.make("-n", "-v").verdicts() == {"seen": "fresh"} and place.asked() == []
    shutil.rmtree(place.cache)
    assert place.make("-n", "-v", offline=True).verdicts() == {"seen": "fresh"}
    dry = place.make("-n", "--update-hub")
    assert dry.output.startswith(f"org/tiny@main: {base[:7]} -> {moved[:7]}\n")
    assert dry.why("seen") == f"org/tiny@main {base[:16]} -> {moved[:16]}"
    place.make("--update-hub")
    assert locked(place)["org/tiny@main"] == moved


@pytest.mark.slow
def test_an_adapter_that_moves_may_name_another_base(place):
    first, other = place.hub.push("models/org/tiny", CONFIG), place.hub.push("models/org/other", CONFIG)
    adapter = push_adapter(place, "org/tiny")
    place.project.ddfile(ADAPTED)
    place.make()
    moved = push_adapter(place, "org/other", revision="main")
    told = place.make("--update-hub").output.splitlines()
    assert told[:2] == [f"org/adapter@main: {adapter[:7]} -> {moved[:7]}", f"org/other@main: {other[:7]}"]
    assert locked(place) == {"org/adapter@main": f"{moved} on org/other@main", "org/other@main": other, "org/tiny@main": first}


@pytest.mark.parametrize("kept", (True, False), ids=("cached", "not cached"))
def test_the_base_of_an_adapter_at_a_whole_commit_is_pinned_too(place, kept):
    base, adapter = place.hub.push("models/org/tiny", CONFIG), push_adapter(place, "org/tiny")
    place.project.ddfile(ADAPTED)
    place.make(f"revision={adapter}")
    assert locked(place) == {f"org/adapter@{adapter}": f"{adapter} on org/tiny@main", "org/tiny@main": base}
    place.lock.unlink()
    if not kept:
        shutil.rmtree(place.cache)
    place.asked()
    assert place.make("-n", "-v", f"revision={adapter}").verdicts() == {"seen": "fresh"}
    assert any("org/adapter" in line for line in place.asked()) is not kept
    told = place.make("-n", "--update-hub", f"revision={adapter}").output
    assert told.startswith(f"org/tiny@main: {base[:7]}\n")


@pytest.mark.slow
def test_a_base_that_stays_put_is_no_name_to_look_up(place):
    base = place.hub.push("models/org/tiny", CONFIG)
    for more in ({"base": "org/tiny", "revision": base}, {"base": "tiny-base"}):
        adapter = push_adapter(place, **more)
        place.project.ddfile(ADAPTED)
        place.make("--update-hub")
        assert locked(place) == {"org/adapter@main": adapter}


def test_the_base_of_an_adapter_in_a_folder_is_moved_too(place):
    base = place.hub.push("models/org/tiny", CONFIG)
    place.project.write("tuned/adapter_config.json", '{"base_model_name_or_path": "org/tiny"}')
    place.project.write("tuned/adapter_model.safetensors", "w")
    place.project.ddfile(ADAPTED.replace('"org/adapter", revision=cfg.revision', '"./tuned", revision="main"'))
    place.make()
    assert locked(place) == {"org/tiny@main": base}
    moved = place.hub.push("models/org/tiny", {**CONFIG, "config.json": b"[]"})
    assert place.make("-n", "--update-hub").why("seen") == f"org/tiny@main {base[:16]} -> {moved[:16]}"


def test_an_adapter_on_a_named_model_is_moved_and_its_own_base_is_not_asked_for(place):
    place.hub.push("models/org/tiny", CONFIG)
    adapter = push_adapter(place, "org/none")
    place.project.ddfile('generate("g", llm=llm("hf/org/tiny", adapter="org/adapter"), prompt="x", n=1)')
    lock.write(place.project.root, {HubName("model", "org/adapter"): Pin("a" * 40)})
    told = place.make("-n", "--update-hub").output.splitlines()
    assert told[0] == f"org/adapter@main: {'a' * 7} -> {adapter[:7]}" and told[1].startswith("org/tiny@main: ")


def test_a_base_that_is_not_there(place):
    push_adapter(place, "org/none")
    place.project.ddfile('generate("g", llm=llm("hf/org/adapter"), prompt="x", n=1)')
    result = place.run("-n")
    assert result.code == 2 and result.output.startswith("Ddfile:3: g: the model 'org/none' isn't on the Hub")


def test_processes_that_write_the_lock_at_once_lose_nothing(tmp_path):
    script = ("import sys\nfrom pathlib import Path\nfrom ddmake.ddfile import lock\nsys.stdin.readline()\n"
              "for n in range(40): lock.write(Path('.'), {lock.HubName('model', f'org/{sys.argv[1]}{n}'): lock.Pin('a' * 40)})")
    writers = [subprocess.Popen([sys.executable, "-c", script, name], cwd=tmp_path, stdin=subprocess.PIPE, text=True) for name in "xy"]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(lock.read(tmp_path)) == 80


@pytest.mark.slow
def test_an_adapter_by_itself_answers_on_the_base_that_is_locked(place):
    """What it was put on first, it is put on later."""
    from peft import LoraConfig, get_peft_model

    from ddmake.backends.loading import load_model

    first = place.hub.push_folder("models/org/tiny", toys.folder("tiny-base"))
    tuned = get_peft_model(load_model(toys.folder("tiny-base")), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    tuned.peft_config["default"].base_model_name_or_path = "org/tiny"
    tuned.save_pretrained(place.project.root / "tuned", save_embedding_layers=False)
    place.hub.push_folder("models/org/adapter", place.project.root / "tuned")
    ask = 'generate("said%d", llm=llm("hf/org/adapter", temperature=0, max_tokens=4), prompt="x%d", n=1, accept={"length"})\n'
    place.project.ddfile(ask % (1, 1))
    place.make()
    assert locked(place)["org/tiny@main"] == first
    place.hub.push_folder("models/org/tiny", toys.folder("tiny"))
    loads = """
@step("loaded", model="org/adapter")
def loaded(*, model: Model):
    from ddmake.backends.loading import load_model, load_tokenizer
    yield {"layers": len(load_model(model).model.layers), "words": len(load_tokenizer(model))}
"""
    place.project.ddfile("from ddmake.ddfile.inputs import Model\n" + ask % (1, 1) + ask % (2, 2) + loads)
    place.asked()
    place.make()
    assert not any("/resolve/" in line and f"/resolve/{first}/" not in line for line in place.asked() if "org/tiny" in line)
    again = place.make("-n", "--force", "said1", "--only", offline=True)
    assert again.output.splitlines()[-2].split()[:4] == ["make", "said1", "0", "1"]
    assert place.make("-n", "--update-hub").verdicts() == {"said1": "make", "said2": "make", "loaded": "make"}


@pytest.mark.slow
def test_a_tuned_model_names_its_base_by_name_and_commit(place):
    first = place.hub.push_folder("models/org/tiny", toys.folder("tiny-base"))
    second = place.hub.push_folder("models/org/tiny", toys.folder("tiny"))
    place.project.ddfile("""
        tuned = finetune("tuned", jsonl("rows", "in.jsonl"), base="org/tiny", revision="v1", peft=lora(r=2), epochs=1)
        ask = dict(max_tokens=4, temperature=0)

        @step("said", llms=[llm(tuned, **ask), llm("hf/org/tiny", **ask)])
        def said(*, llms):
            return ({"text": llm.complete(["x"])[0]} for llm in llms)
    """).write("in.jsonl", '{"prompt": "a", "completion": "b"}\n' * 8)
    place.hub.repos["models/org/tiny"].branches["v1"] = first
    place.make()
    config = json.loads((place.project.root / "tuned" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", first)
    for file in (place.project.root / "tuned").glob("*.json"):
        assert str(place.cache) not in file.read_text(), file
    assert len(place.project.rows("said")) == 2
    fetched = [line for line in place.asked() if "/resolve/" in line]
    assert fetched and all(f"/resolve/{first}/" in line or f"/resolve/{second}/" in line for line in fetched)
    assert place.run("-n", "-v", offline=True).verdicts() == {"rows": "fresh", "tuned": "fresh", "said": "fresh"}
