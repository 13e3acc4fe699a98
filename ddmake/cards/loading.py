"""How an artifact is loaded, as a snippet that works with plain datasets, transformers and peft."""

import json
from pathlib import PurePosixPath
from typing import Any

from ddmake import toys
from ddmake.cards.card import Card
from ddmake.cards.folders import trained

READERS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
CLASSES = {"causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM",
           "classification": "AutoModelForSequenceClassification", "reward": "AutoModelForSequenceClassification"}
OPENAI = "https://api.openai.com/v1"  # where OpenAI's client asks unless told otherwise
TEMPLATED = "inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors=\"pt\")"
MOST_TOKENS = 256


def snippet(card: Card) -> str:
    """Return Python that loads an artifact; an empty string where there is no one way."""
    if card["type"] == "dataset":
        return _published(card["published"]) if "published" in card else _dataset(card["name"])
    if card["type"] != "model":
        return ""
    model, place = card["model"], card.get("published", {}).get("repo", card["name"])
    if model.get("task") == "hosted":
        return _hosted(model)
    if model.get("library") == "sentence-transformers":
        return _vectors(place, model)
    return _transformers(place, model, trained(card["model_card"], card["name"])) if model.get("task") in CLASSES else ""


def _published(place: dict[str, Any]) -> str:
    splits = list(place["splits"])
    rest = f", split={_text(splits[0])})" if len(splits) == 1 else f")  # has the splits {', '.join(splits)}"
    return f"from datasets import load_dataset\n\nrows = load_dataset({_text(place['repo'])}{rest}"


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
    head = f", num_labels={len(model.get('labels', '_'))}" if adapter and "SequenceClassification" in kind else ""
    load = [f"model = {kind}.from_pretrained({place if adapter else _text(path)}{head})"]
    load += [f"model = PeftModel.from_pretrained(model, {_text(path)})"] if adapter else []
    load += [f"tokenizer = AutoTokenizer.from_pretrained({_text(path)})"]
    ask = {"classification": _classify, "reward": _score}.get(model["task"], _ask)(model, entry)
    return "\n".join([*imports, "", *load, "", *ask])


def _classify(model: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Return how a text is classified."""
    pair = ', "…"' if "pair" in entry.get("settings", {}) else ""
    return [f'scores = model(**tokenizer("…"{pair}, return_tensors="pt")).logits[0]', *_labelled(model)]


def _labelled(model: dict[str, Any]) -> list[str]:
    """Return how labels are read off scores: the highest one's, or all that hold; of a model without labels the numbers."""
    if "labels" not in model:
        return ["print(scores.tolist())"]
    held = "[label for label, score in zip(labels, scores) if score > 0]"
    return [f"labels = {json.dumps(model['labels'], ensure_ascii=False)}",
            f"print({held if 'several' in model else 'labels[int(scores.argmax())]'})"]


def _score(model: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Return how an answer gets its reward."""
    if model["chat"]:
        given = ['chat = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]',
                 'inputs = tokenizer.apply_chat_template(chat, return_dict=True, return_tensors="pt")']
    else:
        given = [f'inputs = tokenizer("…" + {_text(entry.get("settings", {}).get("separator", ""))} + "…", return_tensors="pt")']
    return [*given, "print(float(model(**inputs).logits[0, 0]))"]


def _vectors(path: str, model: dict[str, Any]) -> str:
    """Return how texts become vectors, or labels by a head on these."""
    load = ["from sentence_transformers import SentenceTransformer", "", f"model = SentenceTransformer({_text(path)})"]
    if model["task"] == "classification":
        ask = ['scores = model.encode("…")', *_labelled(model)]
    else:
        ask = ['vectors = model.encode(["…", "…"])', "print(model.similarity(vectors, vectors))"]
    return "\n".join([*load, *ask])


def _hosted(model: dict[str, Any]) -> str:
    """Return how a model is asked that stays with the service that has tuned it."""
    where = "" if model.get("endpoint", OPENAI) == OPENAI else f"base_url={_text(model['endpoint'])}"
    return "\n".join([
        "from openai import OpenAI", "", f"client = OpenAI({where})  # the key is in OPENAI_API_KEY",
        'chat = [{"role": "user", "content": "…"}]',
        f"answer = client.chat.completions.create(model={_text(model['hosted'])}, messages=chat)",
        "print(answer.choices[0].message.content)"])


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
