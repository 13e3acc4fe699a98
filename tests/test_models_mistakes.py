"""What is wrong with a local model, told before it is asked, and before anything runs where its files tell it."""

import json
import shutil

import pytest
import small_models
from safetensors.torch import load_file, save_file
from test_local_models import adapter
from transformers import BertConfig, BertForMaskedLM

from ddmake import llm
from ddmake.backends.loading import load, load_model, load_tokenizer
from ddmake.errors import DdfileError, DdmakeError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two small models of unlike width, and an adapter on the first."""
    root = tmp_path_factory.mktemp("models")
    small_models.causal(root / "plain", chat=False)
    narrow = small_models.LlamaForCausalLM(small_models.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2))
    narrow.save_pretrained(root / "narrow")
    load_tokenizer(root / "plain").save_pretrained(root / "narrow")
    adapter(root / "plain", root / "on_plain", 1, "plain")
    return root


def without(made, file, *names):
    """Take weights out of a file."""
    weights = load_file(made / file)
    save_file({name: found for name, found in weights.items() if name not in names}, made / file, {"format": "pt"})


def test_weights_that_are_missing_are_not_made_up(folder, tmp_path):
    holed = shutil.copytree(folder / "plain", tmp_path / "holed")
    without(holed, "model.safetensors", "model.layers.1.mlp.down_proj.weight")
    with pytest.raises(DdmakeError, match=r"holed lacks weights, .* at random: model\.layers\.1\.mlp\.down_proj\.weight\."):
        load_model(holed)
    put = shutil.copytree(folder / "on_plain", tmp_path / "put")
    without(put, "adapter_model.safetensors", "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight")
    with pytest.raises(DdmakeError, match="put doesn't fit the model .*: Found missing adapter keys.*down_proj"):
        load(folder / "plain", put)


def test_an_encoder_writes_nothing(folder, tmp_path):
    BertForMaskedLM(BertConfig(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
                    ).save_pretrained(tmp_path / "bert")
    load_tokenizer(folder / "plain").save_pretrained(tmp_path / "bert")
    with pytest.raises(DdmakeError, match="bert is a bert encoder, which reads texts and writes none"):
        load_model(tmp_path / "bert")


@pytest.mark.parametrize("stated, told", [
    ({"temperature": -1.0}, "temperature=-1.0; it is at least 0"), ({"temperature": float("nan")}, "temperature=nan; it is at least 0"),
    ({"top_p": 2.0}, "top_p=2.0; it is from 0 to 1"), ({"top_p": -0.1}, "top_p=-0.1; it is from 0 to 1"),
    ({"top_k": -1}, "top_k=-1; it is at least 0"), ({"stop": ""}, "stop holds an empty text"), ({"stop": ["a", ""]}, "stop holds an empty text"),
    ({"dtype": "float8"}, "dtype='float8' is none of auto, float32"), ({"dtype": "bfloat"}, "Did you mean 'bfloat16'"),
    ({"temperature": 0, "top_p": 1.0, "top_k": 0, "stop": []}, None),
])
@pytest.mark.parametrize("name", ["openai/gpt-4o", "hf/org/model"])
def test_values_that_cannot_be_are_refused_for_every_backend(name, stated, told):
    if told is None:
        llm(name, **stated)
    else:
        with pytest.raises(DdfileError, match=told):
            llm(name, **stated)


@pytest.mark.parametrize("model, told", [
    ("llm('hf/./plain', revision='main')", "llm('plain'): revision= is for a name on the Hub, and this is a folder. Leave it out."),
    ("llm('hf/./narrow', adapter='./on_plain')", "the adapter on_plain was made on plain and doesn't fit narrow: model.layers.0.mlp.down_proj "
     "is 32 × 64 there, and 128 is asked for. Give the base that it was made for."),
    ("llm('hf/./narrow', adapter='./prompts')", "the adapter prompts is of the kind PROMPT_TUNING, which can't be asked here"),
    ("llm('hf/./plain', quantize='nf4')", "needs bitsandbytes"),
    ("llm('hf/./plain', adapter='./on_plain')", None), ("llm('hf/./on_plain', revision='main')", None),
])
def test_what_files_tell_is_told_before_anything_runs(project, folder, monkeypatch, model, told):
    for name in ("plain", "narrow", "on_plain"):
        (project.root / name).symlink_to(folder / name)
    (project.root / "prompts").mkdir()
    (project.root / "prompts/adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "plain"}))
    monkeypatch.setattr("ddmake.backends.models.find_spec", lambda package: None)
    result = project.ddfile(f"generate('said', llm={model}, prompt='x', n=1)").run("-n")
    assert (result.code == 0) == (told is None) and (told or "") in result.output, result.output
