"""How an artifact is loaded, as a snippet that works with plain datasets, transformers and peft."""

import json
from pathlib import PurePosixPath
from typing import Any

from ddmake import toys
from ddmake.cards.card import Card, trained

READERS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
CLASSES = {"causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM",
           "classification": "AutoModelForSequenceClassification"}
TEMPLATED = "inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors=\"pt\")"
MOST_TOKENS = 256


def snippet(card: Card) -> str:
    """Return Python that loads an artifact; an empty string where there is no one way."""
    if card["type"] == "dataset":
        return _dataset(card["name"])
    if card["type"] != "model":
        return ""
    model = card["model"]
    if model.get("library") == "sentence-transformers":
        return f"from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer({_text(card['name'])})"
    return _transformers(card["name"], model, trained(card["model_card"], card["name"])) if model.get("task") in CLASSES else ""


def _dataset(path: str) -> str:
    reader = READERS.get(PurePosixPath(path).suffix)
    if reader is None:
        return f"from datasets import load_from_disk\n\nrows = load_from_disk({_text(path)})"
    return f'from datasets import load_dataset\n\nrows = load_dataset("{reader}", data_files={_text(path)}, split="train")'


def _transformers(path: str, model: dict[str, Any], entry: dict[str, Any]) -> str:
    kind, base, adapter = CLASSES[model["task"]], model.get("base", ""), model["library"] == "peft"
    toy = adapter and base in toys.NAMES
    imports = ["from peft import PeftModel"] if adapter else []
    imports += [f"from transformers import {kind}, AutoTokenizer"]
    imports += ["", "from ddmake import toys  # has the base's folder"] if toy else []
    place = f"toys.folder({_text(base)})" if toy else _text(model.get("base_hub") or base)
    load = [f"model = {kind}.from_pretrained({place if adapter else _text(path)})"]
    load += [f"model = PeftModel.from_pretrained(model, {_text(path)})"] if adapter else []
    load += [f"tokenizer = AutoTokenizer.from_pretrained({_text(path)})"]
    ask = [] if model["task"] == "classification" else ["", *_ask(model, entry)]
    return "\n".join([*imports, "", *load, *ask])


def _ask(model: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Return how a prompt is put as it was in training, and the answer read."""
    if model["chat"]:
        given = ['chat = [{"role": "user", "content": "…"}]', TEMPLATED]
    else:
        separator = entry.get("settings", {}).get("separator", "") if model["task"] == "causal" else ""
        given = [f'prompt = "…"{f" + {_text(separator)}  # what stands between prompt and answer" if separator else ""}',
                 'inputs = tokenizer(prompt, return_tensors="pt")']
    asked = f"ids = model.generate(**inputs, max_new_tokens={MOST_TOKENS}, do_sample=False)"
    start = '[inputs["input_ids"].shape[1]:]' if model["task"] == "causal" else ""
    return [*given, asked, f"print(tokenizer.decode(ids[0]{start}, skip_special_tokens=True))"]


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
