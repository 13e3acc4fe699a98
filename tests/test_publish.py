"""Publishing, against a server that speaks the Hub's API: what is sent, what is refused, and what a break leaves."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import pyarrow as pa
import pytest
import yaml
from conftest import Project, Result
from fake_hub import DIES, READER, FakeHub, Fault

from ddmake.cards import hub as sending
from ddmake.cards import parquet

TOKEN = "hf_the_writer_of_these_tests"
DDFILE = """\
    from pathlib import Path
    cfg = config(more="")
    base = rows("data/base", values=[{"text": f"word {n}{cfg.more}", "n": n, "tags": ["a", str(n)]} for n in range(20)])
    asked = transform("data/asked", base, llm=llm("echo"), prompt="Say {{ text }}", column="said")
    parts = split("parts", asked, validation=0.25)
    lines = copy("out/lines.jsonl", asked)

    @train("models/whole", asked)
    def whole(rows, output: Path):
        (output / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        (output / "model.safetensors").write_bytes(bytes([2, *[0] * 7]) + b"{}" + bytes(100))
        (output / "training_args.bin").write_bytes(b"pickled")

    @step("out/note.md", base)
    def note(rows, output: Path):
        output.write_text("a note")

    publish("published/asked", asked, repo="me/asked")
    publish("published/parts.json", parts, repo="me/parts", license="cc-by-4.0", private=False)
    publish("published/model", whole, repo="me/model")
"""


class Place:
    """A project, and a Hub that it talks to from processes of its own."""

    def __init__(self, project: Project, hub: FakeHub):
        self.project, self.hub = project, hub

    def run(self, *args: str, **env: str) -> Result:
        """Run ddmake, and return how it ended."""
        process = self.project.command(*args, **{"HF_ENDPOINT": self.hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
                                                 "HF_HOME": str(self.project.root / "cache"), "HF_TOKEN": TOKEN,
                                                 "NO_PROXY": "127.0.0.1", **env})
        output = process.communicate(timeout=120)[0]
        assert "Traceback" not in output
        return Result(process.returncode, output)

    def make(self, *args: str) -> Result:
        """Run ddmake, which must succeed."""
        result = self.run(*args)
        assert result.code == 0, f"{result.output}\n{self.project.logs()}"
        return result

    def files(self, path: str, branch: str = "main") -> dict[str, bytes]:
        """Return the files of a repository."""
        repo = self.hub.repos[path]
        return repo.commits[repo.branches[branch]]

    def meta(self, path: str) -> dict:
        """Return the metadata of a repository's README."""
        return yaml.safe_load(self.files(path)["README.md"].decode().split("---\n")[1])


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The workflow, made once."""
    project = Project(tmp_path_factory.mktemp("once")).ddfile(DDFILE)
    project.make()
    return project.root


@pytest.fixture
def place(once, tmp_path):
    hub = FakeHub()
    hub.tokens = (TOKEN, READER)
    yield Place(Project(shutil.copytree(once, tmp_path / "made")), hub)
    hub.close()


@pytest.mark.slow
def test_a_dataset_is_published_and_read_back(place):
    told = place.make("publish", "data/asked", "--repo", "me/asked").output
    sha = place.hub.repos["datasets/me/asked"].branches["main"]
    assert told.startswith(f"published data/asked: {place.hub.url}/datasets/me/asked\n  3 files, ") and sha[:12] in told
    assert "private" in told and place.hub.repos["datasets/me/asked"].private
    assert set(place.files("datasets/me/asked")) == {".gitattributes", "README.md", "card.json", "data/train-00000-of-00001.parquet"}
    card = json.loads(place.files("datasets/me/asked")["card.json"])
    assert card["published"] == {"repo": "me/asked", "splits": {"train": 20}} and card["steps"] == ["data/base", "data/asked"]
    meta, text = place.meta("datasets/me/asked"), place.files("datasets/me/asked")["README.md"].decode()
    assert "synthetic" in meta["tags"] and "ddmake" in meta["tags"]
    assert text.count('load_dataset("me/asked", split="train")') == 1 and "# `me/asked`" in text

    place.project.ddfile('back = hub("data/back", repo="me/asked")')
    place.make("data/back")
    assert place.project.rows("data/back") == place.project.rows("data/asked")


@pytest.mark.slow
def test_a_file_of_rows_becomes_parquet(place):
    place.make("publish", "out/lines.jsonl", "--repo", "me/lines")
    place.project.ddfile('back = hub("data/back", repo="me/lines")')
    place.make("data/back")
    assert place.project.rows("data/back") == place.project.lines("out/lines.jsonl")


def test_a_dry_run_lists_what_would_be_sent_and_asks_nobody(place):
    lines = place.run("publish", "parts", "--repo", "me/parts", "-n", "--public", HF_TOKEN="").output.splitlines()
    assert lines[0] == "would publish parts/train, parts/validation to the dataset me/parts (public):"
    assert [re.sub(r" +[\d.]+ k?B$", "", line).strip() for line in lines[1:-1]] == [
        "README.md", "card.json", "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"]
    assert re.fullmatch(r"4 files, [\d.]+ kB; what is there already isn't sent again. Nothing was sent.", lines[-1])
    of_a_rule = place.make("publish", "published/model", "-n").output
    assert of_a_rule.startswith("would publish models/whole to the model me/model (private if it is new, else as it is):")
    assert "training_args.bin" not in of_a_rule and "model.safetensors" in of_a_rule
    assert place.hub.asked == []


@pytest.mark.slow
def test_a_rule_publishes_when_named_and_is_never_restored(place):
    """An effect: fresh only if the last that was done has today's key."""
    assert place.make("-n").verdicts()["published/asked"] == "manual"
    listed = place.make("published/asked", "-n").output
    assert "would publish data/asked to the dataset me/asked (private if it is new" in listed and "card.json" in listed
    assert f"published/asked  {place.hub.url}/datasets/me/asked; " in place.make("published/asked").output
    repo, told = place.hub.repos["datasets/me/asked"], json.loads((place.project.root / "published/asked/published.json").read_text())
    assert (told["commit"], told["repo"], told["private"]) == (repo.branches["main"], "me/asked", True)
    assert set(told["of"]) == {"data/asked"} and set(told["files"]) == set(place.files("datasets/me/asked")) - {".gitattributes"}
    asked = len(place.hub.asked)
    assert "Nothing to do" in place.make("published/asked").output and len(place.hub.asked) == asked

    assert "published/asked: what it sends to me/asked is known once all before it is made" in \
        place.make("published/asked", "more=x", "-n").output
    place.make("published/asked", "more=x")
    assert len(repo.commits) == 3, "made, then both"
    back = place.make("published/asked", "-n")
    assert back.verdicts()["published/asked"] in ("make", "maybe")
    place.make("published/asked")
    assert len(repo.commits) == 4 and repo.branches["main"] != told["commit"]
    shutil.rmtree(place.project.root / "published/asked")
    assert "isn't restored" in place.make("published/asked", "-n").why("published/asked")
    place.make("published/asked")
    assert len(repo.commits) == 4, "what is there already is no new commit"


@pytest.mark.slow
def test_parts_are_splits(place):
    place.make("published/parts.json")
    repo, meta = place.hub.repos["datasets/me/parts"], place.meta("datasets/me/parts")
    assert not repo.private and json.loads((place.project.root / "published/parts.json").read_text())["private"] is False
    assert meta["license"] == "cc-by-4.0" and meta["size_categories"] == ["n<1K"]
    assert meta["configs"] == [{"config_name": "default", "data_files": [
        {"split": "train", "path": "data/train-*"}, {"split": "validation", "path": "data/validation-*"}]}]
    assert "as its publisher states" in place.files("datasets/me/parts")["README.md"].decode()
    place.project.ddfile('back = hub("data/back", repo="me/parts", split="validation")')
    place.make("data/back")
    assert place.project.rows("data/back") == place.project.rows("parts/validation")


def test_parts_of_several_chains_share_a_card(project):
    """What is synthetic in one part is so in the whole; each job of the chains stands there once."""
    project.ddfile("""
        one = rows("data/one", values=[{"text": "a"}])
        two = generate("data/two", n=2, llm=llm("echo"), prompt="x", column="text")
        three = rows("data/three", values=[{"other": "a"}])
        made = rows("data/made", values=[{"text": "b"}])
        empty = copy("data/empty", made.take(0))
        publish("published/both", {"train": one, "test": two, "rest": empty}, repo="me/both")
        publish("published/not", {"train": one, "test": three}, repo="me/not")
    """)
    project.make()
    place = Place(project, FakeHub())
    place.make("published/both")
    card = json.loads(place.files("datasets/me/both")["card.json"])
    assert card["synthetic"] and card["rows"] == 3 and card["published"]["splits"] == {"train": 1, "test": 2, "rest": 0}
    assert card["steps"] == list(card["data_card"]) == ["data/one", "data/two", "data/made", "data/empty"]
    assert "synthetic" in place.meta("datasets/me/both")["tags"]
    differs = project.run("publish", "published/not", "-n")
    assert differs.code == 1 and "data/three has the columns other, and the first split text" in differs.output
    place.hub.close()


def test_large_datasets_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "SHARD", 1000)
    table = pa.table({"n": range(1001)})
    names = parquet.write(table, "train", tmp_path)
    assert names[0] == "data/train-00000-of-00009.parquet" and len(names) == 9
    assert pa.concat_tables([parquet.read(tmp_path / name) for name in names]).equals(table)


def test_the_lineage_is_of_the_cards_form(place):
    schema = json.loads((Path(__file__).parent.parent / "docs" / "card.schema.json").read_text())
    place.make("published/parts.json", "published/model")
    for path in ("datasets/me/parts", "models/me/model"):
        pytest.importorskip("jsonschema").validate(json.loads(place.files(path)["card.json"]), schema)


def test_what_an_earlier_publishing_left_goes_and_the_rest_stays(place):
    place.hub.push("datasets/me/asked", {"data/train-00001-of-00002.parquet": b"old", "LICENSE": b"mine"})
    place.make("publish", "data/asked", "--repo", "me/asked")
    assert set(place.files("datasets/me/asked")) == {"LICENSE", "README.md", "card.json", "data/train-00000-of-00001.parquet"}


@pytest.mark.parametrize(("before", "option", "after"), [
    (None, [], True), (None, ["--public"], False), (True, ["--public"], False), (False, [], False), (False, ["--private"], True)])
def test_private_and_public(place, before, option, after):
    if before is not None:
        place.hub.push("models/me/model", {})
        place.hub.repos["models/me/model"].private = before
    told = place.make("publish", "models/whole", "--repo", "me/model", *option).output
    assert place.hub.repos["models/me/model"].private is after and told.rstrip().endswith("private" if after else "public")
    lines = [line for line in place.hub.asked if re.search(r"settings|/commit/", line)]
    if before is not None and before is not after:
        assert [line.rpartition("/")[2] for line in lines] == (["settings", "main"] if after else ["main", "settings"])


@pytest.mark.slow
def test_a_pull_request_needs_no_right_to_write(place):
    place.hub.push("models/me/model", {"config.json": b"old"})
    told = place.run("publish", "models/whole", "--repo", "me/model", "--pr", HF_TOKEN=READER)
    assert told.code == 0 and f"published models/whole: {place.hub.url}/models/me/model/discussions/1" in told.output
    assert place.files("models/me/model") == {"config.json": b"old"}
    assert set(place.files("models/me/model", "refs/pr/1")) == {"README.md", "card.json", "config.json", "model.safetensors"}
    again = place.run("publish", "models/whole", "--repo", "me/model", "--pr", HF_TOKEN=READER)
    assert again.code == 0 and f"{place.hub.url}/me/model/discussions/1" in again.output and len(place.hub.repos["models/me/model"].proposed) == 1
    other = place.run("publish", "models/whole", "--repo", "me/model", "--pr", "--message", "Another", HF_TOKEN=READER)
    assert "discussions/2" in other.output
    nowhere = place.run("publish", "models/whole", "--repo", "me/none", "--pr")
    assert nowhere.code == 1 and "has no model me/none" in nowhere.output and "publish without" in nowhere.output


def test_a_branch(place):
    place.make("publish", "models/whole", "--repo", "me/model", "--revision", "v2", "--message", "Second try")
    assert set(place.files("models/me/model")) == {".gitattributes"}
    assert "model.safetensors" in place.files("models/me/model", "v2")


def test_after_a_break_only_what_lacks_is_sent(place):
    place.hub.faults = [Fault("^PUT lfs/", 403)]
    broken = place.run("publish", "parts", "--repo", "me/parts")
    assert broken.code == 1 and "answered 403" in broken.output
    assert len(place.hub.sent) == 1 and "README.md" not in place.files("datasets/me/parts")
    place.make("publish", "parts", "--repo", "me/parts")
    assert len(place.hub.sent) == len(set(place.hub.sent)) == 2
    assert "data/validation-00000-of-00001.parquet" in place.files("datasets/me/parts")


@pytest.mark.parametrize("fault", [
    Fault("^PUT lfs/", DIES), Fault("^PUT lfs/", 503), Fault("/commit/", 503), Fault("/commit/", DIES), Fault("/commit/", 412),
    Fault("validate-yaml", 502), Fault("^GET api", 500), Fault("repos/create", 503)], ids=lambda f: f"{f.line} {f.status}")
def test_what_passes_is_tried_again(place, fault):
    place.hub.faults = [fault]
    place.make("publish", "models/whole", "--repo", "me/model")
    assert fault.times == 0 and "model.safetensors" in place.files("models/me/model")


def test_it_is_not_tried_for_ever(monkeypatch):
    tries, slept = [], []
    monkeypatch.setattr(sending.time, "sleep", slept.append)

    def ask():
        tries.append(1)
        raise httpx.ConnectError("no")

    with pytest.raises(httpx.ConnectError):
        sending._again(ask)
    assert len(tries) == sending.TRIES and slept == [1, 2, 4, 8]


@pytest.mark.parametrize(("error", "told"), [
    (httpx.ConnectError("no"), "http://hub can't be reached (ConnectError). Is the network on?"),
    (httpx.ReadError("no"), "the connection to the Hub broke off (ReadError)."),
], ids=["out of reach", "broken off"])
def test_a_hub_that_was_never_reached_is_told_from_one_that_broke_off(monkeypatch, error, told):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub")
    upload = SimpleNamespace(kind="model", wanted=SimpleNamespace(repo="me/x", revision=None))
    assert sending._told(upload, error).startswith(told)


@pytest.mark.parametrize(("faults", "env", "told"), [
    ([], {"HF_TOKEN": ""}, "there is no token for the Hub. Set HF_TOKEN, or log in: hf auth login"),
    ([], {"HF_TOKEN": "hf_wrong"}, "The token isn't valid. Renew it"),
    ([], {"HF_TOKEN": READER}, "answered 403 for me/model: You do not have write access. The token may not write to me/model"),
    ([Fault("/commit/", 403)], {}, "The token may not write to me/model"),
    ([Fault("settings", 403)], {}, ""),
    ([Fault("/commit/", 409)], {}, "answered 409 for me/model"),
    ([Fault("/commit/", 418)], {}, "answered 418 for me/model"),
    ([Fault("validate-yaml", 400)], {}, "the Hub doesn't take it: Invalid metadata in README.md."),
    ([], {"HF_HUB_OFFLINE": "1"}, "the network is off (HF_HUB_OFFLINE, or --frozen). Nothing was sent."),
], ids=str)
def test_what_the_hub_refuses(place, faults, env, told):
    place.hub.faults = faults
    result = place.run("publish", "models/whole", "--repo", "me/model", **env)
    if told:
        assert result.code == 1 and told in result.output and len(result.output.splitlines()) == 1
    else:
        assert result.code == 0, "nothing is set where nothing was asked for"


def test_the_token_is_stored_nowhere(place):
    place.make("published/model")
    found = [file for file in place.project.root.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert found == [] and all(TOKEN.encode() not in text for text in place.files("models/me/model").values())


LEAKY = """\
    from pathlib import Path

    @train
    def model(*, config: str, header: int = 0, output: Path):
        (output / "config.json").write_text(config)
        (output / "model.safetensors").write_bytes(bytes([header, *[0] * 7]) + b"hf_" + b"a" * (header - 3))

    rows("data/key", values=[{"a": 1, "t": "b"}, {"a": 2, "t": "key sk-proj-1234567890abcdefghijkl"}])
    rows("data/path", values=[{"t": [{"u": "in PLACE/secret.txt"}]}])
    rows("data/token", values=[{"t": "TOKEN"}])
    model("models/path", config='{"of":\\n "PLACE"}')
    model("models/key", config="{}", header=40)
"""


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """A workflow with what shouldn't get out, made."""
    project = Project(tmp_path_factory.mktemp("leaky"))
    project.ddfile(LEAKY.replace("PLACE", str(project.root)).replace("TOKEN", TOKEN)).make()
    return project


@pytest.mark.parametrize(("target", "told"), [
    ("data/key", "data/key: row 1, column 't', holds an API key. Nothing was sent."),
    ("data/path", "data/path: row 0, column 't', holds a path of this machine."),
    ("data/token", "data/token: row 0, column 't', holds the value of HF_TOKEN."),
    ("models/path", "config.json:2 holds a path of this machine."),
    ("models/key", "model.safetensors:1 holds a token of the Hub."),
])
def test_secrets_and_paths_are_refused(leaky, monkeypatch, target, told):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for dry in ([], ["-n"]):
        result = leaky.run("publish", target, "--repo", "me/x", *dry)
        assert result.code == 1 and told in result.output and TOKEN not in result.output, result.output


def test_texts_that_only_follow_one_another_hold_no_secret(project):
    project.ddfile("""rows("data/x", values=[{"t": " sk-"}, {"t": "a1b2c3d4e5f6a7b8c9d0e1f2"}])""")
    project.make()
    project.make("publish", "data/x", "--repo", "me/x", "-n")


@pytest.mark.parametrize(("args", "code", "told"), [
    (["data/asked"], 2, "needs to know where to: ddmake publish data/asked --repo me/name"),
    (["data/asked", "data/base", "--repo", "me/x"], 2, "takes one target"),
    (["data/asked", "--repo", "tweets"], 2, "'tweets' can't be a repository's name on the Hub. Name its owner and it: me/tweets."),
    (["data/asked", "--repo", "me/a--b"], 2, "can't be a repository's name"),
    (["data/asked", "--repo", "me/a/b"], 2, "can't be a repository's name"),
    (["data/asked", "--repo", "me/x", "--pr", "--private"], 2, "a pull request leaves the repository as private or public as it is"),
    (["data/asked", "--repo", "me/x", "more=z"], 1, "data/base is stale: "),
    (["data/asked", "--repo", "me/x", "--merged"], 2, "this is a dataset: leave it out"),
    (["models/whole", "--repo", "me/x", "--merged"], 1, "models/whole is no adapter"),
    (["out/note.md", "--repo", "me/x"], 1, "out/note.md is of the kind files"),
    (["published/asked", "--repo", "me/x"], 2, "published/asked is a rule that publishes"),
    (["published/asked"], 2, "Do: ddmake published/asked"),
    (["data/askd", "--repo", "me/x"], 2, "Did you mean 'data/asked'?"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_mistakes_of_a_command(place, args, code, told):
    result = place.project.run("publish", *args)
    assert (result.code, told in result.output) == (code, True), result.output


def test_what_was_edited_isn_t_published(place):
    (place.project.root / "models/whole/config.json").write_text("{}")
    for names in (["publish", "models/whole", "--repo", "me/x"], ["published/model"]):
        result = place.project.run(*names)
        assert result.code == 1 and "edited" in result.output


@pytest.mark.parametrize(("line", "told"), [
    ('publish("p", base, repo="tweets")', "Ddfile:4: publish: 'tweets' can't be a repository's name"),
    ('publish("p", base.take(1), repo="me/x")', "Ddfile:4: publish takes a target, or a dict of them by split. A view has no card"),
    ('publish("p", base, repo="me/x", pull_request=True, private=True)', "Ddfile:4: publish: a pull request leaves"),
    ('publish("p", base, repo="me/x", privat=True)', "Did you mean 'private'?"),
])
def test_mistakes_of_a_rule(project, line, told):
    project.ddfile(f"""base = rows("b", values=[{{"x": 1}}])\n{line}""")
    result = project.run("-n")
    assert result.code == 2 and told in result.output


def test_a_source_has_no_card(project):
    project.write("data.jsonl", '{"x": 1}\n')
    project.ddfile('publish("p", "data.jsonl", repo="me/x")')
    result = project.run("p")
    assert result.code == 1 and "no rule has made data.jsonl" in result.output


@pytest.mark.slow
def test_adapters_go_alone_or_merged_with_their_results(project):
    project.ddfile("""
        base = rows("data/base", values=[{"q": f"say {n}", "a": f"{n}"} for n in range(8)])
        tuned = finetune("models/tuned", base, base="tiny-base", peft=lora(r=2), prompt="{{ q }}", completion="a", epochs=1)
        scores = evaluate("results/scores", {"base": "tiny-base", "tuned": tuned}, base.take(2), prompt="{{ q }}", reference="a",
                          metrics=["exact_match"], max_tokens=4)
        others = evaluate("results/others", {"base": "tiny-base"}, base.take(2), prompt="{{ q }}", reference="a",
                          metrics=["exact_match"], max_tokens=4)
        publish("published/adapter", tuned, repo="me/adapter", results=[scores])
        publish("published/merged", tuned, repo="me/merged", merged=True)
        publish("published/wrong", tuned, repo="me/wrong", results=[others])
    """)
    place = Place(project, FakeHub())
    place.make("published/adapter", "published/merged")
    alone, whole = place.files("models/me/adapter"), place.files("models/me/merged")
    assert "adapter_model.safetensors" in alone and "model.safetensors" not in alone
    assert "model.safetensors" in whole and "adapter_config.json" not in whole and "config.json" in whole
    assert len(whole["model.safetensors"]) > len(alone["adapter_model.safetensors"])
    results = place.meta("models/me/adapter")["model-index"][0]["results"]
    assert [metric["type"] for metric in results[0]["metrics"]] == ["exact_match"]
    assert place.meta("models/me/merged")["library_name"] == "transformers" and place.meta("models/me/adapter")["library_name"] == "peft"
    assert 'from_pretrained("me/merged")' in whole["README.md"].decode() and "PeftModel" not in whole["README.md"].decode()
    wrong = place.run("published/wrong")
    assert wrong.code == 1 and "results/others isn't what `evaluate` has made of models/tuned" in wrong.output
    place.make("publish", "models/tuned", "--repo", "me/adapter", "--merged")
    assert "adapter_config.json" not in place.files("models/me/adapter"), "what would be loaded in its place is gone"
    place.hub.close()
