"""Tokens per second of a local model: ddmake's loop beside transformers' `generate`, unsorted and sorted, and `generate_batch`.

    python benchmarks/local.py [--ways ddmake,sorted,…] [--prompts 512] [--rows 8,32,64,128] [--temperature 1]
    python benchmarks/local.py --model hidden=2048,layers=16 --dtype bfloat16      # a random Llama of a billion parameters

The requests are a natural mix for the bundled toy: short prompts with long answers, long prompts with short ones. A model
made from a config writes at random, and one in a hundred of its tokens is an end. Figures are tokens written per CPU second of
a process, on a GPU per second; each way runs in a process of its own, on one thread. Compare ratios within one run.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = ("unsorted", "sorted", "generate_batch", "ddmake")
MOST = 250  # tokens of an answer
ABSTRACT = "Write the abstract of an NLP paper as it might stand on arXiv. Only the abstract."
TWEET = "Write a tweet that sums up this abstract: "


def prompts(count: int) -> list[str]:
    """Return prompts of 20 to 200 tokens: abstracts to be written, and one or two abstracts to be summed up."""
    from ddmake.toys import grammar

    rng, found = random.Random(0), []
    for _ in range(count):
        about = " ".join(grammar.abstract(rng, grammar.facts(rng)) for _ in range(rng.choice((0, 0, 1, 1, 2))))
        found.append(TWEET + about if about else ABSTRACT)
    return found


def made(shape: str, folder: Path) -> Path:
    """Make a random Llama with the toy's tokenizer from numbers such as hidden=2048,layers=16."""
    import torch
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    from ddmake import toys

    given = {"hidden": 2048, "layers": 16} | {name: int(value) for name, value in (pair.split("=") for pair in shape.split(","))}
    tokenizer = AutoTokenizer.from_pretrained(str(toys.folder("tiny")))
    config = LlamaConfig(vocab_size=32_000, hidden_size=given["hidden"], intermediate_size=4 * given["hidden"],
                         num_hidden_layers=given["layers"], num_attention_heads=given["hidden"] // 64,
                         num_key_value_heads=max(1, given["hidden"] // 256), max_position_embeddings=2048)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    GenerationConfig(eos_token_id=list(range(1, 321)), pad_token_id=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ddmake(folder: Path, texts: list[str], rows: int, temperature: float, dtype: str | None) -> Callable[[], int]:
    """Return what answers the texts by ddmake's loop, and counts tokens."""
    from ddmake.backends.base import Request
    from ddmake.backends.hf import LocalModel

    model = LocalModel(folder, dtype=dtype, batch_size=rows, sampling={"temperature": temperature, "max_tokens": MOST})
    asked = [(number, number, Request(({"role": "user", "content": text},))) for number, text in enumerate(texts)]
    return lambda: sum(answer.tokens_out for _, answer in model.answers(asked))


def static(folder: Path, texts: list[str], rows: int, temperature: float, dtype: str | None,
           by_length: bool) -> Callable[[], int]:
    """Return what answers the texts by `generate` in fixed batches, and counts tokens."""
    import torch

    from ddmake.backends.hf import end_tokens

    model, tokenizer, ids, drawn = _plain(folder, texts, temperature, dtype)
    ids = sorted(ids, key=len) if by_length else ids
    tokenizer.padding_side, ends = "left", end_tokens(model.generation_config, tokenizer)

    def run() -> int:
        total = 0
        for at in range(0, len(ids), rows):
            batch = tokenizer.pad({"input_ids": ids[at:at + rows]}, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                whole = model.generate(**batch, max_new_tokens=MOST, **drawn)
            total += sum(_length(new, ends) for new in whole[:, batch["input_ids"].shape[1]:].tolist())
        return total

    return run


def continuous(folder: Path, texts: list[str], rows: int, temperature: float, dtype: str | None) -> Callable[[], int]:
    """Return what answers the texts by transformers' continuous batching, and counts tokens."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    model, _, ids, drawn = _plain(folder, texts, temperature, dtype)
    config = GenerationConfig(max_new_tokens=MOST, eos_token_id=model.generation_config.eos_token_id,
                              pad_token_id=model.generation_config.pad_token_id, **drawn)
    blocks = ContinuousBatchingConfig(num_blocks=rows * 24, max_batch_tokens=rows * 8)
    return lambda: sum(len(done.generated_tokens) for done in model.generate_batch(
        ids, generation_config=config, continuous_batching_config=blocks, progress_bar=False).values())


def _plain(folder: Path, texts: list[str], temperature: float, dtype: str | None) -> tuple[Any, Any, list[list[int]], dict]:
    from ddmake.backends.loading import load_model, load_tokenizer
    from ddmake.backends.models import prompt_ids

    model, tokenizer = load_model(folder, dtype=dtype, device_map=_device()).eval(), load_tokenizer(folder)
    ids = [prompt_ids(tokenizer, [{"role": "user", "content": text}], "\n", False) for text in texts]
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    return model, tokenizer, ids, drawn


def _device() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else None


def _length(tokens: list[int], ends: list[int]) -> int:
    return next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))


def measure(way: str, folder: Path, count: int, rows: int, temperature: float, dtype: str | None) -> dict[str, float]:
    """Run one way, and return what it wrote and took; the first few prompts are answered before the clock starts."""
    import torch

    torch.set_num_threads(1)
    make = {"ddmake": ddmake, "generate_batch": continuous}.get(way)
    texts = prompts(count)
    given = (rows, temperature, dtype)
    build = (lambda t: make(folder, t, *given)) if make else (lambda t: static(folder, t, *given, by_length=way == "sorted"))
    build(texts[:4])()
    run = build(texts)
    started, used = time.perf_counter(), time.process_time()
    tokens = run()
    seconds = time.perf_counter() - started if torch.cuda.is_available() else time.process_time() - used
    return {"way": way, "rows": rows, "tokens": tokens, "seconds": seconds}


def main() -> None:
    """Print a line for each way and number of rows."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--ways", default=",".join(WAYS))
    given.add_argument("--prompts", type=int, default=512)
    given.add_argument("--rows", default="8,32,64,128")
    given.add_argument("--temperature", type=float, default=1.0)
    given.add_argument("--model", default="", help="hidden=2048,layers=16: a random model instead of the toy")
    given.add_argument("--dtype")
    given.add_argument("--one", help=argparse.SUPPRESS)  # a child's way, folder and rows
    asked = given.parse_args()
    if asked.one:
        way, folder, rows = asked.one.split(":")
        print(json.dumps(measure(way, Path(folder), asked.prompts, int(rows), asked.temperature, asked.dtype)))
        return
    from ddmake import toys

    with tempfile.TemporaryDirectory() as scratch:
        folder = made(asked.model, Path(scratch)) if asked.model else toys.folder("tiny")
        print(f"{'way':15} {'rows':>5} {'tokens':>8} {'seconds':>8} {'tokens/s':>9}")
        for way in asked.ways.split(","):
            for rows in asked.rows.split(","):
                command = [sys.executable, __file__, *sys.argv[1:], "--one", f"{way}:{folder}:{rows}"]
                done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                found = json.loads(done.stdout.splitlines()[-1])
                speed = found["tokens"] / found["seconds"]
                print(f"{way:15} {rows:>5} {found['tokens']:>8} {found['seconds']:>8.1f} {speed:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
