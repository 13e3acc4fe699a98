"""Local models: known by their files before they are loaded, kept for the next job, their bases shared by adapters."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_models
import torch
from conftest import Project, Result
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from ddmake import llm, toys
from ddmake.backends import local
from ddmake.backends.base import Request
from ddmake.backends.hf import LocalModel
from ddmake.backends.loading import Manner, load, load_model, load_tokenizer, roughness
from ddmake.backends.models import read_json, weights_sha
from ddmake.backends.unopened import identity_by_files
from ddmake.ddfile.specs import LLM
from ddmake.errors import DdmakeError, MissingExtra
from ddmake.fingerprint import hashes
from ddmake.trainers.common import keep_separator

ASKED = [(number, number, Request(({"role": "user", "content": f"red green {word}"},)))
         for number, word in enumerate(small_models.WORDS)]


def adapter(base: Path, folder: Path, seed: int, named: str, dtype=torch.float32) -> Path:
    """Make a LoRA adapter of random weights."""
    torch.manual_seed(seed)
    model = get_peft_model(load_model(base, dtype=str(dtype).removeprefix("torch.")),
                           LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = named
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small models of every kind, beside one another."""
    root = tmp_path_factory.mktemp("models")
    small_models.causal(root / "chat", chat=True)
    small_models.causal(root / "plain", chat=False)
    small_models.t5(root / "t5")
    small_models.bart(root / "bart")
    (root / "deep").mkdir()
    for number in (1, 2):
        adapter(root / "plain", root / f"on_plain{number}", number, str(root / "plain"))
    adapter(root / "chat", root / "on_chat", 3, str(root / "chat"))
    tuned = shutil.copytree(root / "on_chat", root / "whole")  # with a tokenizer and a config of its own, as a training leaves it
    for file in ("tokenizer_config.json", "tokenizer.json", "generation_config.json"):
        shutil.copy(root / "plain" / file, tuned / file)
    parted = json.loads((root / "plain/tokenizer_config.json").read_text()) | {"ddmake_separator": " ### "}
    for place in ("parted", "parted_adapter"):
        shutil.copytree(root / ("plain" if place == "parted" else "whole"), root / place)
        (root / place / "tokenizer_config.json").write_text(json.dumps(parted))
    many = shutil.copytree(root / "chat", root / "many")
    (many / "additional_chat_templates").mkdir()
    (many / "additional_chat_templates/tool_use.jinja").write_text("{{ messages }}")
    old = shutil.copytree(root / "chat", root / "old")  # the template within the tokenizer's config, as older ones have it
    config = json.loads((old / "tokenizer_config.json").read_text())
    (old / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": (old / "chat_template.jinja").read_text()}))
    (old / "chat_template.jinja").unlink()
    return root


def answers(model: LocalModel) -> list[str]:
    found = dict(model.answers(ASKED))
    return [str(found[number]) for number in range(len(ASKED))]


KINDS = [("chat", None, {}), ("plain", None, {}), ("t5", None, {}), ("bart", None, {}), ("many", None, {}), ("old", None, {}),
         ("plain", "on_plain1", {}), ("on_plain1", None, {}), ("whole", None, {}), ("chat", "whole", {}), ("on_plain1", "on_plain2", {}),
         ("parted", None, {}), ("parted_adapter", None, {}), ("plain", "parted_adapter", {}), ("chat", None, {"dtype": "bfloat16"}),
         ("plain", None, {"revision": "abc"})]


@pytest.mark.parametrize(("name", "on", "how"), KINDS, ids=str)
def test_files_tell_the_identity_that_the_loaded_model_has(folder, name, on, how):
    put = None if on is None else folder / on
    told = identity_by_files(llm("x/y", **how), folder / name, put, None, None, hashes.of_file)
    assert told == LocalModel(folder / name, adapter=put, **how).identity()


def test_a_toy_is_told_by_its_files():
    told = identity_by_files(llm("tiny"), toys.folder("tiny"), None, None, None, hashes.of_file)
    assert told == LocalModel("tiny").identity()


@pytest.mark.parametrize(("name", "on", "separator"), [
    ("plain", None, "\n"), ("parted", None, " ### "), ("parted_adapter", None, " ### "), ("plain", "parted_adapter", " ### "),
    ("parted", "on_plain1", " ### "), ("parted", "whole", "\n")])
def test_a_separator_is_the_one_of_the_training(folder, name, on, separator):
    put = None if on is None else folder / on
    spec = llm("x/y", temperature=0)
    assert LocalModel(folder / name, adapter=put).separator == local.open_local(spec, folder / name, put).separator == separator
    assert local.open_local(spec, folder / name, put, separator="!").separator == "!"


@pytest.fixture
def loads(monkeypatch):
    """What is read from disk, as it is."""
    local.let_go()
    read = []
    monkeypatch.setattr("ddmake.backends.loading.load_model", lambda model, *how: read.append(Path(model).name) or load_model(model, *how))
    yield read
    local.let_go()


def test_adapters_change_places_on_one_base(folder, loads):
    """Each gives the very weights and texts that it gives alone, and the base stays what it is."""
    spec = LLM("x/y", temperature=0, max_tokens=12)
    alone = {put: answers(LocalModel(folder / "plain", adapter=put and folder / put, sampling=spec.sampling()))
             for put in (None, "on_plain1", "on_plain2")}
    assert len(set(map(tuple, alone.values()))) == 3
    loads.clear()
    for put in ("on_plain1", None, "on_plain2", "on_plain1", None):
        opened = local.open_local(spec, folder / "plain", put and folder / put)
        assert answers(opened) == alone[put]
        opened.close()
    again = local.open_local(spec, folder / "on_plain2", None)  # by itself it finds the base that it names
    assert answers(again) == alone["on_plain2"] and loads == ["plain"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_under_a_swapped_adapter_are_those_of_a_fresh_one(folder, loads, dtype):
    spec, put = LLM("x/y", dtype=dtype), folder / "on_plain1"
    local.open_local(spec, folder / "plain", folder / "on_plain2")
    swapped = local.open_local(spec, folder / "plain", put).model.state_dict()
    fresh = load(folder / "plain", put, None, Manner(dtype)).model.state_dict()
    assert swapped.keys() == fresh.keys() and all(torch.equal(swapped[name], fresh[name]) for name in fresh)
    base = local.open_local(spec, folder / "plain", None).model.state_dict()
    plain = load_model(folder / "plain", dtype=dtype).state_dict()
    assert base.keys() == plain.keys() and all(torch.equal(base[name], plain[name]) for name in plain)


@pytest.mark.parametrize("trained", [{"bias": "none"}, {"bias": "all"}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}, "embeddings"])
def test_an_adapter_that_brings_weights_of_the_base_leaves_that_as_it_is(tmp_path, loads, trained):
    torch.manual_seed(0)
    base, put = tmp_path / "base", tmp_path / "put"
    Qwen2ForCausalLM(Qwen2Config(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                                 num_key_value_heads=2, tie_word_embeddings=True)).save_pretrained(base)
    small_models.ending_tokenizer().save_pretrained(base)
    told = {} if trained == "embeddings" else trained
    tuned = get_peft_model(load_model(base), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **told))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if weight.requires_grad or "embed_tokens" in name and trained == "embeddings":
                weight.add_(torch.randn_like(weight))
    tuned.save_pretrained(put, save_embedding_layers=trained == "embeddings")
    spec = LLM("x/y", temperature=0)
    kept = {name: weight.clone() for name, weight in local.open_local(spec, base, None).model.state_dict().items()}
    shared = local.open_local(spec, base, put).model.state_dict()
    after = local.open_local(spec, base, None).model.state_dict()
    assert loads == ["base"] and all(torch.equal(kept[name], after[name]) for name in kept)
    fresh = load(base, put).model.state_dict()
    assert all(torch.equal(shared[name], fresh[name]) for name in fresh) and any(not torch.equal(kept[name], fresh[name]) for name in kept)


@pytest.mark.parametrize("file", ["source.spm", "vocab.json", "dict.txt", "bpe.codes", "tokenizer.model", "cl100k.tiktoken"])
def test_vocabularies_count(folder, tmp_path, file):
    made = shutil.copytree(folder / "plain", tmp_path / "made")
    (made / file).write_text("a")
    before = weights_sha(made)
    (made / file).write_text("b")
    assert weights_sha(made) != before


@pytest.mark.slow
def test_as_many_models_are_kept_as_there_is_room_for(folder, loads, monkeypatch):
    spec = LLM("x/y", temperature=0, max_tokens=2)
    for name in ("plain", "chat", "plain", "chat"):
        held = local.open_local(spec, folder / name, None)
    assert loads == ["plain", "chat"]
    size = local._bytes([next(iter(local._kept.values()))])
    monkeypatch.setattr(local, "_bound", lambda: 5 * size // 2)
    for name in ("many", "chat", "plain", "chat", "many"):  # the third is loaded, and the one used longest ago goes
        local.open_local(spec, folder / name, None)
    assert loads[2:] == ["many", "plain", "many"]
    monkeypatch.setattr(local, "_bound", lambda: 0)
    local.open_local(spec, folder / "old", None)
    assert len(local._kept) == 1 and answers(held), "who holds a model can use it on"


def test_a_base_that_fits_only_once_is_used_up(folder, loads, monkeypatch):
    spec = LLM("x/y", temperature=0, max_tokens=12)
    expected = answers(LocalModel(folder / "plain", adapter=folder / "on_plain1", sampling=spec.sampling()))
    loads.clear()
    monkeypatch.setattr(local, "_bound", lambda: 0)
    assert answers(local.open_local(spec, folder / "plain", folder / "on_plain1")) == expected
    assert len(local._kept) == 1
    local.open_local(spec, folder / "plain", None)
    assert loads == ["plain", "plain"]


def test_a_model_that_changed_on_disk_is_loaded_again(folder, loads, tmp_path):
    place, spec = shutil.copytree(folder / "plain", tmp_path / "m"), LLM("x/y")
    local.open_local(spec, place, None)
    os.utime(place / "model.safetensors")
    local.open_local(spec, place, None)
    assert loads == ["m", "m"]


def test_who_rounds_says_so(folder):
    assert roughness(load_model(folder / "plain")) is None
    assert roughness(load_model(folder / "plain", dtype="bfloat16")) == "bfloat16"


def test_what_cannot_be_loaded_is_told_in_a_sentence(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text("{}")
    with pytest.raises(DdmakeError, match="the model .*empty can't be loaded: "):
        load_model(tmp_path / "empty")
    with pytest.raises(DdmakeError, match="the adapter .*on_plain1 doesn't fit the model that it is put on: .*Give the one"):
        load(folder / "t5", folder / "on_plain1")


DDFILE = """
    import os, sys

    @step("words")
    def words():
        for word in "red green blue cat".split():
            yield {"word": word, "same": word}

    ask = dict(temperature=0, max_tokens=6)
    models = {"plain": llm("hf/./plain", **ask), "tuned": llm("hf/./plain", adapter="./on_plain1", **ask), "chat": llm("hf/chat", **ask)}
    said = [transform(f"{name}{number}", words, llm=model.using(stop=str(number)), prompt="say {{ word }}", column="said", accept={"length"})
            for number in (1, 2) for name, model in models.items()]

    def length(answer, row):
        return len(answer)

    scores = evaluate("scores", {"plain": "./plain", "tuned": "./on_plain1"}, words, prompt="say {{ word }}", reference="same", max_tokens=6,
                      metrics=[length])

    half = transform("half", words, llm=models["plain"].using(dtype="bfloat16"), prompt="say {{ word }}", column="said", accept={"length"})

    @step("process", said, scores, half)
    def process(said, scores, half):
        local = sys.modules.get("ddmake.backends.local")
        yield {"pid": os.getpid(), "kept": len(local._kept) if local else 0, "torch": "torch" in sys.modules}
"""


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """A project with models of its own, made once by one worker."""
    project = Project(tmp_path_factory.mktemp("made"))
    for name in ("plain", "on_plain1", "chat"):
        shutil.copytree(folder / name, project.root / name)
    config = json.loads((project.root / "on_plain1/adapter_config.json").read_text())
    (project.root / "on_plain1/adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "plain"}))
    project.ddfile(DDFILE).make("words")
    project.counted = counts(project.make("-n"))
    project.make("-j", "1")
    return project


@pytest.fixture
def copied(made, project):
    """A copy of it, to be changed."""
    shutil.copytree(made.root, project.root, dirs_exist_ok=True)
    return project


def counts(result):
    """Return of a dry run what each rule would send, and what is known."""
    return {line.split()[1]: tuple(line.split()[2:4]) for line in result.output.splitlines() if line.startswith("make")}


def test_a_worker_keeps_the_models_of_its_jobs(made):
    """Three bases and an adapter, which `evaluate` finds there too; the adapter by itself has another tokenizer."""
    assert made.rows("process")[0]["kept"] == 5


def test_a_card_says_where_rows_may_bear_on_one_another(made):
    made.make("cards")
    said = "answers may depend on the rows asked beside them (bfloat16)"
    cards = {file.parent.name: file.read_text() for file in made.root.glob("cards/**/*.md")}
    assert {name for name, text in cards.items() if said in text} >= {"half"} and said not in cards["plain1"]


def test_a_card_says_so_too_where_all_answers_were_known(copied):
    copied.ddfile(DDFILE.replace('"said", accept={"length"})\n\n    @step("process"', '"heard", accept={"length"})\n\n    @step("process"'))
    told = copied.make("-j", "1", "half", "process").output
    assert "0 sent, 4 cached" in told and copied.rows("process")[0]["torch"] is False
    copied.make("cards", "half")
    assert "4 cached" in (card := next(copied.root.glob("cards/half/*.md")).read_text())
    assert "answers may depend on the rows asked beside them (bfloat16)" in card


def test_models_answer_as_they_do_without_a_workflow(made, folder):
    for name, put in (("plain", None), ("tuned", folder / "on_plain1"), ("chat", None)):
        model = LocalModel(folder / name.replace("tuned", "plain"), adapter=put, sampling={"temperature": 0, "max_tokens": 6})
        asked = [(n, 0, Request(({"role": "user", "content": f"say {row['word']}"},))) for n, row in enumerate(made.rows("words"))]
        texts = [str(answer) for _, answer in sorted(model.answers(asked))]
        assert [row["said"] for row in made.rows(f"{name}1")] == texts
        if name != "chat":
            score = next(row for row in made.rows("scores") if row["model"] == name)
            assert score["length"] == sum(map(len, texts)) / len(texts)


def test_a_dry_run_counts_what_local_models_would_be_asked(copied, made):
    assert made.counted["plain1"] == made.counted["tuned2"] == ("4", "0") and made.counted["scores"] == ("8", "0")
    known = {"plain1": ("0", "4"), "tuned2": ("0", "4"), "scores": ("0", "8")}
    assert counts(copied.make("-n", "--force", "plain1", "tuned2", "scores", "--only")) == known


def test_models_that_are_compared_as_they_are_need_not_be_loaded_to_be_counted(copied):
    """By name, by folder, or made here."""
    copied.ddfile("""
        import shutil

        rows = jsonl("rows", "in.jsonl")

        @train("own", "./plain")
        def own(source, *, output):
            shutil.copytree(source, output, dirs_exist_ok=True)

        evaluate("toy", {"toy": "tiny"}, rows, prompt="{{ x }}", reference="x", max_tokens=4)
        evaluate("folder", {"a": "./plain", "b": "./on_plain1"}, rows, prompt="{{ x }}", reference="x", max_tokens=4)
        evaluate("made", {"tuned": own}, rows, prompt="{{ x }}", reference="x", max_tokens=4)
    """).write("in.jsonl", '{"x": "a"}\n{"x": null}\n{"x": "b"}\n')
    behind = {line.split()[1]: line.split()[2:4] for line in copied.make("-n").output.splitlines() if line.startswith("maybe")}
    assert behind["made"] == behind["toy"] == ["?", "?"]
    copied.make("rows", "own")
    script = ("import sys\nfrom ddmake.cli.main import main\ntry: main(['-n'])\nexcept SystemExit: pass\n"
              "print('torch' in sys.modules, 'transformers' in sys.modules)")
    told = subprocess.run([sys.executable, "-c", script], cwd=copied.root, capture_output=True, text=True).stdout
    assert counts(Result(0, told)) == {"toy": ("2", "0"), "folder": ("4", "0"), "made": ("0", "2")}, "the last is the same as a"
    assert told.splitlines()[-1] == "False False"


def test_answers_that_are_known_need_no_model(copied):
    told = copied.make("-j", "1", "--force", "plain1", "tuned1", "scores", "process", "--only").output
    assert copied.rows("process")[0]["torch"] is False
    assert "plain: 0 sent, 4 cached" in told and "on_plain1: 0 sent, 4 cached" in told


def test_what_lies_in_a_folder_counts(copied):
    (copied.root / "plain/README.md").write_text("no weights")
    assert set(copied.make("-n", "-v").verdicts().values()) == {"fresh"}
    config = json.loads((copied.root / "plain/config.json").read_text())
    (copied.root / "plain/config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    plan = copied.make("-n", "-v")
    stale = {target for target, verdict in plan.verdicts().items() if verdict == "make"}
    assert stale == {"plain1", "plain2", "tuned1", "tuned2", "half", "scores"} and plan.why("plain1") == "llm: the contents of plain changed"


def test_a_folder_that_is_not_there_is_named(project):
    result = project.ddfile("""generate("a", llm=llm("hf/./nowhere"), prompt="x", n=1)""").run("a")
    assert result.code == 2 and result.output.startswith("Ddfile:3: a needs nowhere, which isn't there and which no rule makes.")


def test_smaller_weights_need_their_package(folder, monkeypatch):
    monkeypatch.setattr("ddmake.backends.models.find_spec", lambda package: None)
    for quantize, package in (("int8", "torchao"), ("nf4", "bitsandbytes")):
        with pytest.raises(MissingExtra, match=rf"quantize='{quantize}'\) needs {package}, .* pip install 'ddmake\[quantize\]'"):
            identity_by_files(llm("x/y", quantize=quantize), folder / "plain", None, None, None, hashes.of_file)


def test_smaller_weights_have_an_identity_of_their_own(folder, monkeypatch):
    monkeypatch.setattr("ddmake.backends.models.find_spec", lambda package: package == "bitsandbytes" or None)
    told = [identity_by_files(llm("x/y", quantize=how), folder / "plain", None, None, None, hashes.of_file) for how in (None, "int8", "nf4")]
    assert [one.get("quantize") for one in told] == [None, "int8 by bitsandbytes", "nf4 by bitsandbytes"]


def test_int8_by_torchao(folder, loads):
    pytest.importorskip("torchao")
    spec = LLM("x/y", temperature=0, max_tokens=12, quantize="int8")
    model = local.open_local(spec, folder / "plain", folder / "on_plain1")
    assert model.roughness == "quantised" and len(answers(model)) == len(ASKED) and len(local._kept) == 1


def test_int4_by_torchao_names_what_it_needs(folder, loads):
    pytest.importorskip("torchao")
    with pytest.raises(DdmakeError, match="quantize='int4' needs a GPU and the package mslk"):
        local.open_local(LLM("x/y", quantize="int4"), folder / "plain", None)


@pytest.mark.parametrize("model, stated, refused", [
    ("openai/gpt-4o", "quantize='int8'", "quantize"), ("openai/gpt-4o", "dtype='bfloat16'", "dtype"),
    ("vllm/org/model", "device_map='auto'", "device_map"), ("openrouter/org/model", "revision='main'", "revision"),
    ("anthropic/claude-sonnet-4-5", "adapter='./lora'", "adapter"), ("anthropic/claude-sonnet-4-5", "quantize='nf4'", "quantize"),
    ("my/model", "base_url='http://127.0.0.1:9/v1', quantize='int8'", "quantize"), ("server/vllm:org/model", "quantize='int8'", "quantize"),
    ("hf/./plain", "reasoning='low'", "reasoning"), ("hf/./plain", "extra={'n': 1}", "extra"),
    ("hf/./plain", "base_url='http://127.0.0.1:9/v1'", "base_url"), ("hf/./plain", "api='completion'", "api"),
    ("hf/./plain", "dtype='bfloat16', batch_size=4", None), ("tiny", "reasoning='low', quantize='int8'", None),
    ("echo", "dtype='bfloat16'", None), ("openai/gpt-4o", "batch_size=4", None),
])
def test_what_a_model_cannot_be_told_is_refused(project, folder, monkeypatch, model, stated, refused):
    """Where weights are loaded says which fields count there; toys stand in for any model, and `batch_size` counts nowhere."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (project.root / "plain").symlink_to(folder / "plain")
    (project.root / "lora").symlink_to(folder / "on_plain1")
    result = project.ddfile(f"generate('said', llm=llm({model!r}, {stated}), prompt='x', n=1)").run("-n")
    told = f"llm('{model.removeprefix('hf/./')}'): " in result.output and f" {refused}=" in result.output and "Leave it out" in result.output.replace(
        "Give the server a flag of its own", "Leave it out")
    assert (result.code == 2) == told == (refused is not None), result.output


def test_a_training_records_its_separator(folder, tmp_path):
    tokenizer = load_tokenizer(folder / "plain")
    for separator, recorded in ((" ### ", " ### "), ("\n", None)):
        keep_separator(tokenizer, separator)
        tokenizer.save_pretrained(tmp_path)
        assert read_json(tmp_path, "tokenizer_config.json").get("ddmake_separator") == recorded
        assert load_tokenizer(tmp_path).init_kwargs.get("ddmake_separator") == recorded
    chat = load_tokenizer(folder / "chat")
    keep_separator(chat, " ### ")
    assert "ddmake_separator" not in chat.init_kwargs, "its template says how turns are parted"
