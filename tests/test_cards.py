"""Cards tell the whole chain behind an artifact, and nothing that isn't known or isn't theirs to tell."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddmake.artifacts import rows
from ddmake.cards import models
from ddmake.cards.card import card
from ddmake.cards.facts import shown
from ddmake.cards.lineage import Lineage
from ddmake.cards.markdown import code, fence
from ddmake.cards.readme import readme
from ddmake.store import open_store

SCHEMA = Path(__file__).parent.parent / "docs" / "card.schema.json"
PROMPT = "Name a: topic | of 'NLP', #1."
TEMPLATE = "---\nlicense: mit\n---\n```python\nprint('{{ topic }}')\n````\n\n# Not a heading\n<b>{{ topic }}\n"
CITATION = "@misc{echo, title={A toy ``` that repeats}}"
DDFILE = f"""
from ddmake import llm, template
from ddmake.rules import generate, jsonl, split, transform

echo = llm("echo", temperature=0.5, max_tokens=64, citation={CITATION!r}, api_key_env="TEST_CARDS_KEY")
topics = generate("data/topics", llm=echo, n=6, column="topic", prompt={PROMPT!r}, about="Topics: none is new.")
tweets = transform("data/tweets", topics, llm=echo, column="a|b: *tweet*", prompt=template("tweet.j2"))
parts = split("data/parts", tweets, validation=0.2)
jsonl("data/labels", "labels.jsonl")
jsonl("data/unmade", "missing.jsonl")
"""


def ddmake(root, *args):
    env = {**os.environ, "TEST_CARDS_KEY": "sk-a-secret", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "ddmake", *args], cwd=root, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project that was made, with its cards."""
    root = tmp_path_factory.mktemp("project")
    (root / "Ddfile").write_text(DDFILE)
    (root / "templates").mkdir()
    (root / "templates" / "tweet.j2").write_text(TEMPLATE)
    (root / "labels.jsonl").write_text('{"label": 1}\n{"label": 2}\n')
    done = ddmake(root, "data/parts/train", "data/labels")
    assert done.returncode == 0, done.stdout + done.stderr
    done = ddmake(root, "cards")
    assert done.returncode == 0, done.stderr
    (root / "printed").write_text(done.stdout)
    return root


def cards_in(root):
    return {file.parent.relative_to(root / "cards").as_posix(): json.loads(file.read_text())
            for file in sorted((root / "cards").glob("**/card.json"))}


def text_of(root, target):
    return (root / "cards" / target / "README.md").read_text()


def tokens(text):
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])


def test_each_target_that_was_made_has_its_card_and_its_line(made):
    names = ["data/topics", "data/tweets", "data/parts/train", "data/parts/validation", "data/labels"]
    assert sorted(cards_in(made)) == sorted(names)
    lines = (made / "printed").read_text().splitlines()
    assert [line.split()[0] for line in lines] == names
    assert len({line.index("dataset") for line in lines}) == 1
    assert "6 rows; 2 steps; synthetic; toy" in lines[1] and lines[1].endswith("cards/data/tweets/README.md")


def test_a_card_tells_the_whole_chain(made):
    found = cards_in(made)["data/parts/train"]
    assert found["steps"] == ["data/topics", "data/tweets", "data/parts/train"]
    topics, tweets, parts = found["data_card"].values()
    assert topics["prompts"] == [{"argument": "prompt", "template": "inline", "text": PROMPT}]
    assert tweets["prompts"] == [{"argument": "prompt", "template": "tweet.j2", "text": TEMPLATE}]
    assert topics["models"][0]["sampling"] == {"temperature": 0.5, "max_tokens": 64}
    assert topics["Model Name"] == ["echo"] and topics["License Information"] == ["apache-2.0"]
    assert topics["Citation Information"] == [CITATION] and "URL" not in topics
    assert topics["usage"]["echo"]["sent"] + topics["usage"]["echo"]["cached"] == 6
    assert parts["settings"] == {"validation": 0.2, "test": 0.0, "seed": 0}
    assert parts["inputs"][0]["fingerprint"] == tweets["fingerprint"]
    assert {path: out["rows"] for path, out in parts["outputs"].items()} == {"data/parts/train": 5, "data/parts/validation": 1}
    assert found["rows"] == 5 and found["columns"] == {"topic": "string", "a|b: *tweet*": "string"}


def test_cards_fit_their_schema(made):
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json.loads(SCHEMA.read_text()))
    for name, found in cards_in(made).items():
        assert not [error.message for error in validator.iter_errors(found)], name


def test_the_hub_can_read_the_front_matter(made):
    from huggingface_hub import DatasetCard

    data = DatasetCard(text_of(made, "data/parts/train")).data
    assert data.tags == ["synthetic", "ddmake", "toy", "echo"]
    assert (data.license, data.size_categories, data.pretty_name) == ("apache-2.0", ["n<1K"], "data/parts/train")


def test_prompts_are_quoted_and_never_markup(made):
    found = tokens(text_of(made, "data/tweets"))
    headings = [found[at + 1].content for at, token in enumerate(found) if token.type == "heading_open"]
    assert "Not a heading" not in headings and "Citations" in headings
    fences = [token.content for token in found if token.type == "fence"]
    assert TEMPLATE in fences and PROMPT + "\n" in fences and CITATION + "\n" in fences
    assert not [token for token in found if token.type == "html_block"]
    cells = [found[at + 1].children for at, token in enumerate(found) if token.type == "td_open"]
    assert ["a|b: *tweet*"] in [[child.content for child in cell] for cell in cells]


def test_what_a_toy_made_says_so_at_its_top(made):
    text = text_of(made, "data/parts/train").split("---\n", 2)[2]
    assert "A toy's product" in text.split("\n\n")[1] and "is synthetic" in text
    assert "Topics: none is new." in text


def test_a_source_of_unknown_licence_leaves_the_field_out(made):
    from huggingface_hub import DatasetCard

    found, text = cards_in(made)["data/labels"], text_of(made, "data/labels")
    assert found["data_card"]["data/labels"]["Dataset Name"] == ["labels.jsonl"]
    assert found["data_card"]["data/labels"]["License Information"] == ["unknown"]
    assert found["licenses"] == {"labels.jsonl": "unknown"} and not found["synthetic"] and not found["toys"]
    assert DatasetCard(text).data.license is None and DatasetCard(text).data.tags == ["ddmake"]
    assert "states no licence" in text


def test_cards_hold_no_secret_and_no_path_of_the_machine(made):
    private = ["sk-a-secret", "TEST_CARDS_KEY", str(made), str(made.resolve()), sys.prefix, str(Path.home()) + "/", os.uname().nodename]
    for file in (made / "cards").glob("**/*.*"):
        assert not [word for word in private if word in file.read_text()], file


def test_cards_are_the_same_when_written_again_elsewhere_or_printed(made):
    done = ddmake(made, "cards", "--to", "again")
    assert done.returncode == 0
    files = sorted(path for path in (made / "cards").glob("**/*") if path.is_file())
    assert len(files) == 10
    for file in files:
        assert (made / "again" / file.relative_to(made / "cards")).read_bytes() == file.read_bytes()
    before = sorted(made.glob("**/*.json"))
    printed = [json.loads(line) for line in ddmake(made, "cards", "--json").stdout.splitlines()]
    assert {found["name"]: found for found in printed} == cards_in(made) and sorted(made.glob("**/*.json")) == before


@pytest.mark.parametrize(("args", "code", "told"), [
    (["data/unmade"], 2, "data/unmade isn't made yet. Do: ddmake data/unmade"),
    (["data/labls"], 2, "Did you mean 'data/labels'?"),
    (["--to", "."], 2, "would lie in data/topics, which would count as edited"),
    (["data/labels", "--to", "data"], 0, "data/data/labels/README.md"),
    (["./data/labels", "data/parts"], 0, "data/parts/validation"),
])
def test_what_is_asked_for(made, args, code, told):
    done = ddmake(made, "cards", *args)
    assert (done.returncode, told in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def test_nothing_is_written_where_nothing_is_made(tmp_path):
    (tmp_path / "Ddfile").write_text(DDFILE)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "tweet.j2").write_text(TEMPLATE)
    done = ddmake(tmp_path, "cards")
    assert done.returncode == 1 and "Nothing of Ddfile is made yet" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Ddfile", "templates"]


class Traces:
    """Writes traces by hand."""

    def __init__(self, root):
        self.store = open_store(root)

    def add(self, path, recipe="transform", kind="step", made_of=(), before=(), digest=None, manifest=None, used=(), **more):
        """Commit the trace of a job that has made one output from the outputs of others."""
        given = [{"path": out["path"], "trace": trace.id, "digest": out["digest"]["sha"]}
                 for trace in before for out in trace.outputs.values()]
        digest = digest or {"kind": "dataset", "sha": f"{len(path):08x}", "rows": 3, "columns": {"text": {"type": "string", "hash": "1"}}}
        record = {
            "ingredients": {"schema": 1, "kind": kind, "code": {}, "outputs": {}, **dict(made_of)},
            "recipe": {"name": recipe, "kind": kind, "module": "m", "doc": "Do it.", "about": None, "place": "Ddfile:1"},
            "inputs": given, "models": list(used), "usage": {}, "started": 0.0, "seconds": 1.5,
            "environment": {"python": "3.11.7", "interpreter": "CPython", "system": "Linux", "machine": "x86_64", "cpus": 2},
            "packages": {"ddmake": "0.1.0"}, **more,
        }
        outputs = {"": {"path": path, "digest": digest, "manifest": manifest or {}}}
        fingerprint = f"{self.store.traces.db.total_changes:016x}"
        return self.store.traces.commit(f"key of {path}", f"key of {path}", 0, fingerprint, outputs, record, {}, {})

    def placed(self, trace):
        """Note that a trace's output lies at its path."""
        self.store.traces.place(trace, {name: out["path"] for name, out in trace.outputs.items()})
        return trace

    def card(self, path):
        """Return the card of a path."""
        return card(self.store, Lineage(self.store.traces), path)

    def write(self, path, lines):
        """Write a dataset, and return its manifest."""
        rows.write(lines, self.store.root / path)
        return self.store.files.manifest(path)


@pytest.fixture
def traces(tmp_path):
    return Traces(tmp_path)


def asked(name, **fields):
    return {"arguments": {"llm": {"llm": {"name": name, **fields}}, "prompt": {"template": {"": "Hi"}}}}


def named(name, **said):
    return {"name": name, "license": None, "citation": None, "url": None, "revision": None, "sampling": {}, **said}


T5 = {"base": {"model": "google/t5-v1_1-base"}, "peft": {"class": "Lora", "fields": {"r": 8}}, "seed": 0}


def tuned(traces, sha="abc"):
    """Commit a chain that ends in an adapter for T5, trained on what GPT-4o wrote."""
    adapter = traces.store.root / "models" / "tweeter" / "adapter_config.json"
    adapter.parent.mkdir(parents=True, exist_ok=True)
    adapter.write_text('{"task_type": "SEQ_2_SEQ_LM"}')
    usage = {"openai/gpt-4o": {"sent": 2, "cached": 1, "failed": 1, "cut": 0, "tokens_in": 5, "tokens_out": None,
                               "models": ["gpt-4o-2024-08-06"]}}
    data = traces.add("data/tweets", made_of=asked("openai/gpt-4o", temperature=1.2), used=[named("openai/gpt-4o")], usage=usage)
    watched = traces.add("data/validation", digest={"kind": "dataset", "sha": "eee", "rows": 1, "columns": {}})
    read = {"parts": {"dict": [["train", {name: data.outputs[""]["digest"][name] for name in ("kind", "rows", "columns")}]]}}
    return traces.placed(traces.add(
        "models/tweeter", "finetune", "train", {"inputs": read, "arguments": T5}, [data, watched], {"kind": "model", "sha": sha},
        traces.store.files.manifest(str(adapter.parent)), [{"name": "google/t5-v1_1-base"}],
        metrics={"train_loss": 1.25, "steps": 40, "loss_curve": [[1, 2.0]]},
    ))


def evaluated(traces, model, sha="abc"):
    made_of = {"inputs": {"models": {"dict": [["base", {"model": "google/t5-v1_1-base"}], ["tuned", {"kind": "model", "sha": sha}]]}},
               "arguments": {"metrics": ["rouge_l"], "reference": "tweet"}}
    manifest = traces.write("results/scores", [{"model": "base", "rouge_l": 12.5, "rows": 3}, {"model": "tuned", "rouge_l": 41.2, "rows": 3}])
    traces.placed(traces.add("results/scores", "evaluate", made_of=made_of, before=[model], manifest=manifest,
                             used=[{"name": "google/t5-v1_1-base"}]))


def test_a_model_card_has_base_data_scores_and_papers(traces):
    from huggingface_hub import ModelCard

    evaluated(traces, tuned(traces))
    found = traces.card("models/tweeter")
    assert list(found["model_card"]) == ["models/tweeter"] and list(found["data_card"]) == ["data/tweets", "data/validation"]
    assert [given.get("observed", False) for given in found["model_card"]["models/tweeter"]["inputs"]] == [False, True]
    assert found["model_card"]["models/tweeter"]["metrics"] == {"train_loss": 1.25, "steps": 40}
    assert found["data_card"]["data/tweets"]["Model Card"] == ["https://platform.openai.com/docs/models/gpt-4o"]
    assert found["data_card"]["data/tweets"]["usage"]["openai/gpt-4o"]["tokens_out"] == "unknown"
    assert found["license"] == "several" and found["synthetic"] and not found["toys"]
    text = readme(found)
    data = ModelCard(text).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("google/t5-v1_1-base", "peft", "text2text-generation")
    assert "trained by `finetune` on `data/tweets` (3 rows)." in text
    assert data.license is None and data.tags == ["synthetic", "ddmake", "openai/gpt-4o"] and data.datasets is None
    assert [(result.metric_type, result.metric_value, result.dataset_name) for result in data.eval_results] == [
        ("rouge_l", 41.2, "unknown")]
    assert "| **`tuned`** | **41.2** | **3** |" in text and "toy" not in text.lower()
    for paper in ("2020t5", "openai2024gpt4o", "hu2021lora", "patel2024datadreamer"):
        assert text.count(f"{{{paper}") == 1
    python = text.split("```python\n")[1].split("```")[0]
    compile(python, "snippet", "exec")
    assert 'AutoModelForSeq2SeqLM.from_pretrained("google/t5-v1_1-base")' in python and "AutoPeft" not in python


def test_cards_by_hand_fit_the_schema(traces):
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json.loads(SCHEMA.read_text()))
    evaluated(traces, tuned(traces))
    for path in ("models/tweeter", "results/scores"):
        assert not [error.message for error in validator.iter_errors(traces.card(path))]
    scores = traces.card("results/scores")
    assert models.ROUGE in scores["data_card"]["results/scores"]["Citation Information"]
    assert scores["synthetic"] and "models/tweeter" in scores["model_card"]


def test_scores_of_another_model_at_the_same_path_are_not_this_ones(traces):
    evaluated(traces, tuned(traces))
    tuned(traces, sha="def")
    assert "evaluations" not in traces.card("models/tweeter")


def test_results_that_were_edited_are_not_shown(traces):
    evaluated(traces, tuned(traces))
    traces.write("results/other", [{"model": "tuned", "rouge_l": 99.0}])
    for file in (traces.store.root / "results" / "other").iterdir():
        file.replace(traces.store.root / "results" / "scores" / file.name)
    text = readme(traces.card("models/tweeter"))
    assert "99" not in text and "don't lie there any more" in text and "model-index" not in text


def test_a_chain_of_a_thousand_rules_reads_each_trace_once(traces):
    db, before = traces.store.traces.db, []
    for number in range(1000):
        before = [traces.add(f"data/{number:04}", before=before)]
    traces.placed(before[0])
    reads = []
    db.set_trace_callback(reads.append)
    found = traces.card("data/0999")
    db.set_trace_callback(None)
    assert found["steps"] == [f"data/{number:04}" for number in range(1000)]
    assert sum("FROM traces WHERE id" in read for read in reads) == 1000 and len(reads) < 2010
    assert readme(found).count("\n### ") == 1000


def test_what_a_model_made_here_wrote_is_synthetic(traces):
    model = tuned(traces)
    made_of = asked({"kind": "model", "sha": "abc"}, temperature=0.0)
    usage = {"models/tweeter": {"sent": 3, "cached": 0, "failed": 0, "cut": 0, "tokens_in": 1, "tokens_out": 1, "models": ["tuned"]}}
    traces.placed(traces.add("data/more", made_of=made_of, before=[model], usage=usage))
    found = traces.card("data/more")
    more = found["data_card"]["data/more"]
    assert more["Model Name"] == ["models/tweeter"] and "License Information" not in more
    assert more["models"] == [{"name": "models/tweeter", "card": "made here; see its entry in this card", "made_here": True,
                               "sampling": {"temperature": 0.0}}]
    assert found["synthetic"] and list(found["model_card"]) == ["models/tweeter"]
    assert set(found["licenses"]) == {"openai/gpt-4o", "google/t5-v1_1-base"}


def test_an_older_job_of_the_same_path_keeps_a_name_of_its_own(traces):
    old = traces.add("data/a")
    kept = traces.add("data/b", before=[old])
    new = traces.add("data/a")
    traces.placed(traces.add("data/c", before=[new, kept]))
    assert traces.card("data/c")["steps"] == [f"data/a@{old.fingerprint[:8]}", "data/b", "data/a", "data/c"]


def test_the_user_is_believed_and_others_are_unknown(traces):
    ours = named("openai/gpt-4o", license="MIT", url="https://example.org/m")
    server = asked("openai/gpt-4o", base_url="https://me:hunter2@host:8000/v1?key=hunter2",
                   extra={"dict": [["api_key", "hunter2"], ["effort", "low"]]})
    traces.placed(traces.add("data/x", made_of=server, used=[ours]))
    found = traces.card("data/x")
    model, = found["data_card"]["data/x"]["models"]
    assert model == {"name": "openai/gpt-4o", "card": "unknown", "license": "MIT", "sampling": {"extra": {"effort": "low"}},
                     "endpoint": "https://host:8000/v1"}
    assert found["data_card"]["data/x"]["URL"] == ["https://example.org/m"] and found["license"] == "MIT"
    assert "hunter2" not in json.dumps(found) + readme(found)


def test_a_model_folder_outside_of_the_project_is_named_by_its_last_part(traces):
    usage = {"hf//home/me/model": {"sent": 1, "cached": 0, "failed": 0, "cut": 0, "tokens_in": 1, "tokens_out": 1,
                                   "models": ["/home/me/model"]}}
    traces.placed(traces.add("data/x", made_of=asked("hf//home/me/model"), used=[named("hf//home/me/model")], usage=usage))
    found = traces.card("data/x")
    assert found["licenses"] == {"hf/model": "unknown"} and "/home/me" not in json.dumps(found) + readme(found)


@pytest.mark.parametrize(("name", "asked_", "card_", "licence", "toy"), [
    ("tiny", True, "TOY", "apache-2.0", True),
    ("tiny-base", False, "TOY", "apache-2.0", True),
    ("echo", True, "TOY", "apache-2.0", True),
    ("openai/gpt-4o-mini", True, "https://platform.openai.com/docs/models/gpt-4o-mini", "https://openai.com/policies/", False),
    ("hf/google/t5-v1_1-base", True, "https://huggingface.co/google/t5-v1_1-base", "apache-2.0", False),
    ("google/t5-v1_1-base", False, "https://huggingface.co/google/t5-v1_1-base", "apache-2.0", False),
    ("nobody/no-such-model", False, "https://huggingface.co/nobody/no-such-model", "unknown", False),
    ("hf/./models/mine", True, "unknown", "unknown", False),
    ("anthropic/claude", True, "unknown", "unknown", False),
])
def test_what_is_known_of_models(name, asked_, card_, licence, toy):
    found = models.known(name, asked=asked_)
    assert found.card.startswith(card_) and (found.license, found.toy) == (licence, toy)


def test_a_licence_is_read_from_the_hubs_cache(tmp_path, monkeypatch):
    repo = tmp_path / "models--some--model"
    (repo / "snapshots" / "1a2b").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("1a2b")
    (repo / "snapshots" / "1a2b" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A model\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert models.known("some/model", asked=False).license == "cc-by-4.0"


def test_a_file_has_a_card_too(traces):
    for path in ("plot.png", "rows.jsonl"):
        traces.placed(traces.add(path, "draw", digest={"kind": "file", "sha": "abc"}))
    assert traces.card("plot.png")["type"] == "files" and "How to load" not in readme(traces.card("plot.png"))
    assert 'load_dataset("json", data_files="rows.jsonl"' in readme(traces.card("rows.jsonl"))


@pytest.mark.parametrize(("path", "told"), [("data/x", "data/x"), ("/home/me/x.csv", "x.csv"), ("../x.csv", "x.csv")])
def test_of_paths_outside_only_the_last_part_is_shown(path, told):
    assert shown(path) == told


@pytest.mark.parametrize("text", ["plain", "a ``` b", "`````", "~~~\n```\n# x\n````", "ends with `"])
def test_a_fence_holds_any_text(text):
    from markdown_it import MarkdownIt

    block, = MarkdownIt().parse(fence(text))
    assert block.type == "fence" and block.content == f"{text}\n"
    inline = MarkdownIt().parse(code(text))[1].children
    assert [child.type for child in inline] == ["code_inline"]
