"""Tokens per second of a local model: ddmake's loop beside transformers' `generate`, unsorted and sorted, and `generate_batch`.

    python benchmarks/local.py [--ways ddmake,sorted,…] [--prompts 512] [--rows 8,32,64,128] [--temperature 1] [--times 1]
    python benchmarks/local.py --model hidden=2048,layers=16 --dtype bfloat16      # a random Llama of a billion parameters
    python benchmarks/local.py --second 10                                         # how soon a second job on a model begins

The requests are a mix of lengths as people have them: prompts of 20 to 600 tokens and answers of 5 to 250, both log-normal,
drawn with a fixed seed. How long an answer is belongs to its request: no way is told before, a row's end token comes when its
time has come, and never earlier. (`generate_batch` alone is told, as it takes no such rule.) Figures are tokens written per CPU
second of a process, on a GPU per second; each way runs in a process of its own, on one thread. Compare ratios within one run.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

WAYS = ("unsorted", "sorted", "generate_batch", "ddmake")
PROMPT, ANSWER = (20, 600), (5, 250)  # tokens, the least and the most
TWEET = "Write a tweet that sums up this: "


def drawn(rng: random.Random, least: int, most: int) -> int:
    """Draw a length: log-normal, and its bounds lie two standard deviations from its median."""
    while True:
        length = round(exp(rng.gauss(log(least * most) / 2, log(most / least) / 4)))
        if least <= length <= most:
            return length


def mix(count: int, tokenizer: Any) -> tuple[list[str], list[int]]:
    """Return prompts, and how many tokens the answer to each takes, its end included."""
    from ddmake.toys import grammar

    rng, texts, answers = random.Random(0), [], []
    frame = len(_ids(tokenizer, ""))
    for _ in range(count):
        length, about = drawn(rng, *PROMPT) - frame, TWEET
        while len(tokens := tokenizer(about, add_special_tokens=False)["input_ids"]) < length:
            about += grammar.abstract(rng, grammar.facts(rng)) + " "
        texts.append(tokenizer.decode(tokens[:max(1, length)]))
        answers.append(drawn(rng, *ANSWER))
    return texts, answers


def _ids(tokenizer: Any, text: str) -> list[int]:
    from ddmake.backends.models import prompt_ids

    return prompt_ids(tokenizer, [{"role": "user", "content": text}], "\n", False)


def due(logits: Any, here: list[bool], ends: list[int]) -> Any:
    """Leave rows (rows × vocabulary) whose time has come the end alone, and keep the others from it."""
    import torch

    at = torch.tensor(here, device=logits.device)
    with torch.inference_mode():
        logits[:, ends] = float("-inf")
        logits[at] = float("-inf")
        logits[at, ends[0]] = 0.0
    return logits


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


@dataclass(frozen=True)
class Asked:
    """What is measured: a model, how many requests, how many rows at once, and how tokens are drawn."""

    folder: Path
    count: int
    rows: int
    temperature: float
    dtype: str | None


Run = Callable[[int], int]  # answers the first so many requests, and returns how many tokens it wrote


def ddmake(asked: Asked) -> Run:
    """Return what answers by ddmake's loop."""
    from ddmake.backends.base import Request
    from ddmake.backends.decoding import Writer
    from ddmake.backends.hf import LocalModel

    sampling = {"temperature": asked.temperature, "max_tokens": ANSWER[1]}
    model = LocalModel(asked.folder, dtype=asked.dtype, batch_size=asked.rows, sampling=sampling)
    texts, lengths = mix(asked.count, model.tokenizer)
    requests = [(number, number, Request(({"role": "user", "content": text},))) for number, text in enumerate(texts)]

    class Ending(Writer):
        def pick(self, rows: Any, written: Any, logits: Any) -> Any:
            here = [len(tokens) + 1 == lengths[row.number] for row, tokens in zip(rows, written)]
            return super().pick(rows, written, due(logits, here, model.ends))

    made = model._decoders

    def decoders() -> Any:
        found = made()
        for decoder in found:
            decoder.writer = Ending(model.tokenizer, model.sampling, frozenset(model.ends), model.guides)
        return found

    model._decoders = decoders
    return lambda count: sum(answer.tokens_out for _, answer in model.answers(requests[:count]))


def static(asked: Asked, by_length: bool) -> Run:
    """Return what answers by `generate` in fixed batches."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    from ddmake.backends.hf import end_tokens

    model, tokenizer, requests, how = _plain(asked)
    requests = sorted(requests, key=lambda request: len(request[0])) if by_length else requests
    tokenizer.padding_side, ends = "left", end_tokens(model.generation_config, tokenizer)

    class Ending(LogitsProcessor):
        def __init__(self, last: list[int]):
            self.last = last  # how many tokens there are when a row's end is due

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return due(scores, [last == input_ids.shape[1] for last in self.last], ends)

    def run(count: int) -> int:
        for at in range(0, count, asked.rows):
            ids, lengths = zip(*requests[:count][at:at + asked.rows])
            batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(model.device)
            ending = Ending([batch["input_ids"].shape[1] + length - 1 for length in lengths])
            with torch.inference_mode():
                whole = model.generate(**batch, max_new_tokens=ANSWER[1], logits_processor=LogitsProcessorList([ending]), **how)
            tokenizer.batch_decode(whole[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)
        return sum(length for _, length in requests[:count])

    return run


def continuous(asked: Asked) -> Run:
    """Return what answers by transformers' continuous batching."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    model, _, requests, how = _plain(asked)
    config = GenerationConfig(max_new_tokens=ANSWER[1], eos_token_id=-1, pad_token_id=model.generation_config.pad_token_id, **how)
    blocks = ContinuousBatchingConfig(num_blocks=asked.rows * 24, max_batch_tokens=asked.rows * 8)

    def run(count: int) -> int:
        total = waiting = 0
        with model.continuous_batching_context_manager(config, continuous_batching_config=blocks) as manager:
            for ids, length in requests[:count]:
                waiting += manager.add_request(ids, max_new_tokens=length) is not None
            while waiting:
                done = manager.get_result(timeout=1)
                if done is not None and done.is_finished():
                    total, waiting = total + len(done.generated_tokens), waiting - 1
        return total

    return run


def _plain(asked: Asked) -> tuple[Any, Any, list[tuple[list[int], int]], dict[str, Any]]:
    """Return a model, its tokenizer, requests as tokens with the length of their answer, and how tokens are drawn."""
    from ddmake.backends.loading import load_model, load_tokenizer

    model, tokenizer = load_model(asked.folder, dtype=asked.dtype, device_map=_device()).eval(), load_tokenizer(asked.folder)
    texts, lengths = mix(asked.count, tokenizer)
    requests = [(_ids(tokenizer, text), length) for text, length in zip(texts, lengths)]
    sampled = {"do_sample": True, "temperature": asked.temperature, "top_k": 0}
    return model, tokenizer, requests, sampled if asked.temperature else {"do_sample": False}


def _device() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else None


def measure(way: str, asked: Asked) -> dict[str, Any]:
    """Run one way, and return what it wrote and took; a few requests are answered before the clock starts."""
    import torch

    torch.set_num_threads(1)
    run = {"ddmake": ddmake, "generate_batch": continuous}.get(way, lambda asked: static(asked, way == "sorted"))(asked)
    run(4)
    started, used = time.perf_counter(), time.process_time()
    tokens = run(asked.count)
    seconds = time.perf_counter() - started if torch.cuda.is_available() else time.process_time() - used
    return {"tokens": tokens, "seconds": seconds}


def second(times: int) -> None:
    """Print how soon jobs after the first on one model give a first token, each as its worker opens it: wall, and CPU."""
    import torch

    from ddmake import llm, toys
    from ddmake.backends.base import Request
    from ddmake.backends.local import open_local

    torch.set_num_threads(1)
    for number in range(times + 1):
        started, used = time.perf_counter(), time.process_time()
        model = open_local(llm("tiny", max_tokens=1), toys.folder("tiny"), None)
        list(model.answers([(0, number, Request(({"role": "user", "content": f"Write paper {number}."},)))]))
        wall, cpu = time.perf_counter() - started, time.process_time() - used
        print(f"job {number + 1:3} {wall:7.3f} s {cpu:7.3f} CPU-s", flush=True)
        model.close()


def main() -> None:
    """Print a line for each way and number of rows."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--ways", default=",".join(WAYS))
    given.add_argument("--prompts", type=int, default=512)
    given.add_argument("--rows", default="8,32,64,128")
    given.add_argument("--temperature", type=float, default=1.0)
    given.add_argument("--model", default="", help="hidden=2048,layers=16: a random model instead of the toy")
    given.add_argument("--dtype")
    given.add_argument("--times", type=int, default=1, help="runs of all ways in turn")
    given.add_argument("--second", type=int, default=0, help="measure so many jobs after the first, and nothing else")
    given.add_argument("--one", help=argparse.SUPPRESS)  # a child's way, folder and rows
    asked = given.parse_args()
    if asked.second:
        second(asked.second)
    elif asked.one:
        way, folder, rows = asked.one.split(":")
        print(json.dumps(measure(way, Asked(Path(folder), asked.prompts, int(rows), asked.temperature, asked.dtype))))
    else:
        table(asked)


def table(asked: argparse.Namespace) -> None:
    """Measure every way with every number of rows, each in a process of its own, and print a line for each."""
    from ddmake import toys

    with tempfile.TemporaryDirectory() as scratch:
        folder = made(asked.model, Path(scratch)) if asked.model else toys.folder("tiny")
        print(f"{'way':15} {'rows':>5} {'tokens':>8} {'seconds':>8} {'tokens/s':>9}")
        turns = [(rows, way) for _ in range(asked.times) for rows in asked.rows.split(",") for way in asked.ways.split(",")]
        for rows, way in turns:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", f"{way}:{folder}:{rows}"]
            done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            found = json.loads(done.stdout.splitlines()[-1])
            speed = found["tokens"] / found["seconds"]
            print(f"{way:15} {rows:>5} {found['tokens']:>8} {found['seconds']:>8.1f} {speed:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
