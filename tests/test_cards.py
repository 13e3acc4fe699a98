"""Cards tell the whole chain behind an artifact, and nothing that isn't known or isn't theirs to tell."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ddmake.artifacts import rows
from ddmake.backends.base import Answer, Request
from ddmake.calls.usage import Usage
from ddmake.cards import models, papers
from ddmake.cards.card import card
from ddmake.cards.lineage import Lineage
from ddmake.cards.markdown import code, fence
from ddmake.cards.plain import shown
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
    names = ["data/labels", "data/parts/train", "data/parts/validation", "data/topics", "data/tweets"]
    assert sorted(cards_in(made)) == names
    lines = (made / "printed").read_text().splitlines()
    assert [line.split()[0] for line in lines] == names
    assert len({line.index("dataset") for line in lines}) == 1
    assert "6 rows; 2 steps; synthetic; toy" in lines[4] and lines[4].endswith("cards/data/tweets/README.md")


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
    assert topics["examples"] == [{"model": "echo", "row": 0, "messages": [{"role": "user", "content": PROMPT}], "answer": PROMPT}]
    assert (tweets["inputs"][0]["rows"], parts["inputs"][0]["rows"]) == (6, 6)
    assert found["spent"]["sent"] == 12 and found["spent"]["cost"] == 0 and found["spent"]["seconds"] > 0
    assert found["hardware"]["cores"] >= 1 and "hardware" not in topics
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
    (["unmade"], 2, "Nothing is made at 'unmade'. Do: ddmake unmade. (Of an alias, name the targets: the Ddfile isn't run for this.)"),
    (["data/labls"], 2, "Did you mean 'data/labels'?"),
    (["--to", "."], 2, "would lie in data/labels, which would count as edited"),
    (["data/labels", "--to", "data"], 0, "data/data/labels/README.md"),
    (["./data/labels", "data/parts"], 0, "data/parts/validation"),
    (["data/t*"], 0, "data/tweets"),
    (["data/labels", "n=3"], 0, "Knobs count for nothing here"),
])
def test_what_is_asked_for(made, args, code, told):
    done = ddmake(made, "cards", *args)
    assert (done.returncode, told in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def test_what_was_deleted_has_a_card_by_its_name_alone(project):
    project.write("in.jsonl", '{"a": 1}\n')
    project.ddfile(SAYING, "").make()
    shutil.rmtree(project.root / "data/more")
    assert [line.split()[0] for line in project.make("cards").output.splitlines()] == ["data/rows"]
    assert "deleted since" in project.make("cards", "data/more").output


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
    assert papers.ROUGE in scores["data_card"]["results/scores"]["Citation Information"]
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
    assert model == {"name": "openai/gpt-4o", "card": "https://example.org/m", "license": "MIT", "endpoint": "https://host:8000/v1",
                     "sampling": {"extra": {"api_key": "[secret left out]", "effort": "low"}}}
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


HELD = "---\nlicense: cc-by-4.0\n---\n# A model\n\n```bash\npip\n```\n\n```bibtex\n@misc{some,\n  title = {A}\n}\n```\n"


@pytest.mark.parametrize(("kind", "revision"), [("model", None), ("model", "1a2b" * 10), ("dataset", "1a2b" * 4)])
def test_licence_and_citation_are_read_from_the_hubs_cache(tmp_path, monkeypatch, kind, revision):
    repo = tmp_path / f"{kind}s--some--name"
    (repo / "snapshots" / ("1a2b" * 10)).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("1a2b" * 10)
    (repo / "snapshots" / ("1a2b" * 10) / "README.md").write_text(HELD)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    known = models.dataset("some/name", revision) if kind == "dataset" else models.known("some/name", asked=False, revision=revision)
    assert (known.license, known.citation) == ("cc-by-4.0", "@misc{some,\n  title = {A}\n}")


def test_each_paper_that_a_recipe_names_can_be_cited():
    import ddmake.rules
    from ddmake.ddfile.recipe import Recipe

    recipes = [one for one in map(vars(ddmake.rules).get, ddmake.rules.__all__) if isinstance(one, Recipe)]
    named = {name: papers.NUMBER.findall(recipe.function.__doc__) for recipe in recipes for name in [recipe.name]}
    assert sum(map(len, named.values())) > 40
    assert not {name: lacking for name, found in named.items() if (lacking := set(found) - papers.ARXIV.keys())}


@pytest.mark.parametrize(("doc", "arguments", "keys"), [
    ("As Rafailov et al. 2023, arXiv 2305.18290.", {}, ["rafailov2023dpo"]),
    ("Broken\n    (arXiv\n    2101.06804)", {"embedder": {"…": 1}}, ["liu2021examples"]),
    ("arXiv 2101.06804", {}, []),
    ("arXiv 2305.18290", {"method": "supervised"}, []),
    ("With an adapter, arXiv 2106.09685", {"peft": None}, []),
    ("", {"peft": {"lora": {"r": 8}}}, ["hu2021lora"]),
    ("arXiv 1606.05250, arXiv 1804.08771", {"metrics": ["f1", "rouge_l"]}, ["rajpurkar2016squad", "lin-2004-rouge"]),
    ("arXiv 1804.08771", {"metrics": ["chrf"]}, ["post2018bleu", "popovic-2015-chrf"]),
    ("arXiv 9999.99999", {}, []),
])
def test_methods_are_cited_where_they_were_used(doc, arguments, keys):
    assert [text.partition("{")[2].partition(",")[0] for text in papers.cited(doc, arguments)] == keys


SAYING = """
from ddmake import facts
from ddmake.rules import jsonl, transform
from ddmake import llm
rows = jsonl("data/rows", "in.jsonl")
more = transform("data/more", rows, llm=llm("echo"), prompt="{{ a }}", column="b")
"""


def test_what_is_said_later_counts_after_the_next_run_and_makes_nothing_stale(project):
    project.write("in.jsonl", '{"a": 1}\n')
    project.ddfile(SAYING, "").make()
    card = lambda: json.loads(project.make("cards", "data/more", "--json").output)
    assert card()["licenses"] == {"in.jsonl": "unknown", "echo": "apache-2.0"}
    project.ddfile(SAYING + 'facts("./in.jsonl", license="mit", url="https://a.b")\nfacts("echo", license="mit")\n', "")
    assert project.make("-n", "-v").verdicts() == {"data/rows": "fresh", "data/more": "fresh"}
    assert "Nothing to do" in project.make().output
    found = card()
    assert found["licenses"] == {"in.jsonl": "mit", "echo": "mit"} and found["license"] == "mit"
    assert found["data_card"]["data/rows"]["URL"] == ["https://a.b"]
    project.ddfile(SAYING + 'facts(rows, license="mit", citation="@misc{rows}")\nfacts(more, license="cc0-1.0")\n', "").make()
    found = card()
    assert found["licenses"] == {"in.jsonl": "mit", "data/rows": "mit", "echo": "apache-2.0", "data/more": "cc0-1.0"}
    assert found["license"] == "cc0-1.0" and "@misc{rows}" in found["data_card"]["data/rows"]["Citation Information"]
    project.ddfile(SAYING, "").make()
    assert card()["licenses"] == {"in.jsonl": "unknown", "echo": "apache-2.0"}, "what isn't said any more doesn't count"


SEEN = """
from ddmake import llm, step
from ddmake.rules import jsonl, transform

def long(row):
    return len(row["a"]) > 1

def upper(text, row):
    return text.upper()

rows = jsonl("data/rows", "in.jsonl")

@step("data/some.csv", rows.take(3).filter(long).select("a"))
def some(rows):
    return rows

@step("data/filled.csv", rows)
def filled(rows, output):
    output.write_text("a\\n1\\n")

both = transform("data/both", rows.filter(lambda row: row["a"] != "b"), llm=llm("echo"), prompt="{{ a }}", parse=upper)
"""


@pytest.fixture
def seen(project):
    """A project whose rules see their inputs through views, and that makes files of rows."""
    project.write("in.jsonl", "".join(f'{{"a": "{a}", "n": 1}}\n' for a in ("b", "cc", "dd", "ee", "f")))
    project.ddfile(SEEN, "").make()
    return project


def card_of(project, target):
    found = json.loads(project.make("cards", target, "--json").output)
    pytest.importorskip("jsonschema").Draft202012Validator(json.loads(SCHEMA.read_text())).validate(found)
    return found


def readme_of(project, target):
    project.make("cards", target)
    return text_of(project.root, target)


def test_a_view_is_told_and_never_taken_for_all_rows(seen):
    view = ".take(3).filter(long).select('a')"
    given, = card_of(seen, "data/some.csv")["data_card"]["data/some.csv"]["inputs"]
    assert (given["rows"], given["views"]) == (5, [view])
    text = readme_of(seen, "data/some.csv")
    assert f"made by `some` from `data/rows` (`{view}` of the 5 rows)" in text
    assert f"| `data/rows` `{view}` |" in text and f"- rows: read `{view}` of the 5 of `data/rows`; made 2" in text
    entry = card_of(seen, "data/both")["data_card"]["data/both"]
    assert entry["inputs"][0]["views"] == [".filter(…)"], "a lambda has no name"
    assert entry["settings"]["parse"] == "(the function upper)"
    assert "views" not in card_of(seen, "data/filled.csv")["data_card"]["data/filled.csv"]["inputs"][0]


def test_rows_of_a_file_are_counted_where_they_passed_through(seen):
    found = card_of(seen, "data/some.csv")
    assert found["rows"] == 2 and found["data_card"]["data/some.csv"]["outputs"]["data/some.csv"]["rows"] == 2
    assert "size_categories:\n- n<1K\n" in readme_of(seen, "data/some.csv")
    assert "rows" not in card_of(seen, "data/filled.csv"), "a file that its recipe wrote wasn't counted"
    listed = {one.split()[1]: one for one in seen.make("list").output.splitlines()[1:]}
    assert " 2 rows " in listed["data/some.csv"] and " file " in listed["data/filled.csv"]
    (seen.root / "data/some.csv").write_text("a\ncc\n")
    seen.make("--adopt")
    assert "rows" not in card_of(seen, "data/some.csv"), "nobody has counted what was written by hand"


def test_answers_that_were_known_are_told_beside_those_that_were_sent(seen):
    assert card_of(seen, "data/both")["spent"].keys() >= {"sent", "cost"}
    assert "cached" not in card_of(seen, "data/both")["spent"] and "known already" not in readme_of(seen, "data/both")
    seen.write("Ddfile", SEEN.replace("text.upper()", "text.lower()"))
    seen.make("data/both")
    assert card_of(seen, "data/both")["spent"].keys() == {"seconds", "cached"}
    assert "s of jobs, and 4 answers that were known already\n" in readme_of(seen, "data/both")


@pytest.mark.slow
def test_what_was_edited_by_hand_is_never_told_as_its_recipes(seen):
    """Neither in its own card nor in that of what was made of it."""
    assert "edited" not in card_of(seen, "data/both")
    shutil.rmtree(seen.root / "data/rows")
    rows.write([{"a": "by hand", "n": 1}], seen.root / "data/rows")
    seen.make("--adopt")
    found = card_of(seen, "data/rows")
    assert found["edited"] == ["data/rows"] and found["data_card"]["data/rows"]["edited"] is True
    assert "> **Edited by hand.** What lay at `data/rows` was changed" in readme_of(seen, "data/rows")
    assert "- edited by hand, and kept so 20" in readme_of(seen, "data/both")
    assert card_of(seen, "data/both")["edited"] == ["data/rows"]
    assert "; edited by hand " in seen.make("cards", "data/both").output
    assert "It was edited by hand" in (seen.make("report") and (seen.root / "report.html").read_text())


@pytest.mark.parametrize(("line", "told"), [
    ("facts('in.jsnl', license='mit')", "facts('in.jsnl'): no rule reads, makes or names it. Did you mean 'in.jsonl'?"),
    ("facts('in.jsonl')", "facts('in.jsonl') needs texts for license=, citation= or url="),
    ("facts('in.jsonl', license=' ')", "needs texts for"),
    ("facts(3, license='mit')", "facts() takes a target or a name"),
    ("facts('data/{x}', license='mit')", "facts() takes a target or a name"),
])
def test_mistakes_in_what_is_said(project, line, told):
    project.write("in.jsonl", '{"a": 1}\n')
    done = project.ddfile(SAYING + line, "").run("-n")
    assert done.code == 2 and told in done.output and "Ddfile:7" in done.output


def test_an_example_holds_no_secret_and_no_folder_of_this_machine(project, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "quite-a-secret")
    monkeypatch.setenv("HOME", "/home/somebody")
    key = "sk-" + "a1" * 20
    pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----"
    project.write("in.jsonl", json.dumps({"a": f"{key} quite-a-secret /home/somebody/x {project.root}/y {pem} {'long ' * 900}"}) + "\n")
    project.ddfile(SAYING, "").make()
    project.make("cards")
    text = (project.root / "cards/data/more/card.json").read_text() + (project.root / "cards/data/more/README.md").read_text()
    assert not [word for word in (key, "quite-a-secret", "/home/somebody", str(project.root), "MIIEvQ") if word in text]
    assert "~/x" in text and "./y" in text and "[secret left out]" in text and "[…]" in text and text.count("long ") < 900


@pytest.mark.parametrize(("before", "changed"), [((), False), (("edit",), True), (("remove",), True)])
def test_a_job_tells_the_commit_of_its_ddfile(project, before, changed):
    git = lambda *args: subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=project.root, check=True,
                                       capture_output=True, text=True).stdout.strip()
    project.write("in.jsonl", '{"a": 1}\n')
    project.ddfile(SAYING, "")
    git("init", "-q")
    git("add", "Ddfile")
    git("commit", "-q", "-m", "First.")
    if "edit" in before:
        project.ddfile(SAYING + "# More.\n", "")
    if "remove" in before:
        git("rm", "--cached", "-q", "Ddfile")
    project.make("data/rows")
    found = json.loads(project.make("cards", "data/rows", "--json").output)
    assert found["git"] == {"commit": git("rev-parse", "HEAD"), "changed": changed}
    assert ("changed since" in readme(found)) is changed


def test_an_example_has_no_pictures_and_is_the_first_rows():
    used, answer = Usage(), Answer("yes")
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:…"}}]
    for number in (3, 1, 2):
        used.show(number, Request(({"role": "user", "content": [*parts, {"type": "text", "text": str(number)}]},)), answer)
    assert used.example == {"row": 1, "messages": [{"role": "user", "content": "What is it?\n[image_url]\n1"}], "answer": "yes"}
    used.show(0, Request(({"role": "user", "content": "\ud83d" + "x" * 2000},)), answer)
    told = used.example["messages"][0]["content"]
    assert told.startswith("\\ud83dxx") and told.endswith("x […]") and len(told) < 1020


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
