"""Whether rewards rise over seeds while the divergence stays bounded: a small random model learns to write vowels.

    python benchmarks/reinforcing.py [--kinds ppo free rloo grpo] [--seeds 10] [--prompts 32] [--epochs 25]

The model is a Llama of 64 dimensions with a toy's tokenizer; the reward of an answer of at most eight tokens is a quarter of its
vowels. Each seed is one training of all weights and an evaluation before and after it: an answer each to prompts that no
training has seen. Told are the mean rewards, the one-sided t-test over seeds of the logarithm of how many times the reward is,
the greatest divergence on the way in nats of an answer, and CPU seconds. The kind `free` is PPO without a price on the
divergence. One thread.
"""

import argparse
import json
import math
import os
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


def vowels(answer: str, row: dict[str, Any]) -> float:
    """A quarter of the vowels."""
    return sum(letter in "aeiou" for letter in answer) / 4


def questions(count: int, seed: int) -> list[Any]:
    """Return prompts as the toys know them."""
    from ddmake.toys import grammar
    from ddmake.trainers.rewards import Question

    draw = random.Random(seed)
    texts = [f"Write a tweet about this abstract.\n\n{grammar.abstract(draw, grammar.facts(draw))}" for _ in range(count)]
    return [Question([{"role": "user", "content": text}], {"prompt": text}, number) for number, text in enumerate(texts)]


def small(folder: Path) -> Path:
    """Make a random model with a toy's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from ddmake.toys import folder as toy

    tokenizer = AutoTokenizer.from_pretrained(toy("tiny"))
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id, initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trainers(given: argparse.Namespace, base: Path) -> dict[str, tuple[Any, Any]]:
    """Return what trains, with its settings, by name."""
    from ddmake.trainers import grpo, ppo, rloo

    shared = dict(base=base, base_name="small", rewards=("vowels",), weights=(1.0,), learning_rate=1e-3, batch_size=32,
                  micro_batch=32, max_tokens=8)
    held = ppo.Proximal(**shared, epochs=given.epochs, kl=0.2, kl_target=4.0, kl_horizon=1000)
    grouped = dict(**shared, epochs=given.epochs / 4, samples=8)
    return {"ppo": (ppo, held), "free": (ppo, replace(held, kl=0.0, kl_target=None)),
            "rloo": (rloo, rloo.LeaveOneOut(**grouped)), "grpo": (grpo, grpo.GroupRelative(**grouped))}


def one(kind: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train once, and return its metrics with the rewards of held-out prompts before and after."""
    from ddmake.trainers.rewards import Task

    with tempfile.TemporaryDirectory() as folder:
        trainer, settings = trainers(given, small(Path(folder, "small")))[kind]
        began = time.process_time()
        kept, output = Path(folder, "checkpoints"), Path(folder, "model")
        kept.mkdir()
        trainer.train(Task(questions(given.prompts, seed), [vowels]), None, replace(settings, seed=seed), output, kept,
                      lambda done, total, note: None)
        found = json.loads((output / "metrics.json").read_text()) | {"cpu": time.process_time() - began}
        return {**found, "before": worth(settings.base, settings, seed), "after": worth(output, settings, seed)}


def worth(model: Path, settings: Any, seed: int) -> float:
    """Return the mean reward of a model's answers to prompts that it wasn't trained on."""
    from ddmake.trainers import common, online

    settings = replace(settings, base=model, seed=seed, peft=None)
    tokenizer, loaded = common.load_training_tokenizer(settings), common.load_base(settings)
    answering = online.Answering(online.rewards_of([vowels], settings), tokenizer, online.stops_of(loaded, tokenizer), settings)
    return answering.worth(loaded, online.encoded(questions(96, 10_000), settings, loaded, tokenizer), 32)[0]


def main() -> None:
    """Print a line for each kind of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["ppo", "free", "rloo", "grpo"], choices=["ppo", "free", "rloo", "grpo"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=25)
    given = parser.parse_args()
    from scipy.stats import ttest_1samp

    for kind in given.kinds:
        runs = [one(kind, seed, given) for seed in range(given.seeds)]
        first, last = ([run[name] for run in runs] for name in ("before", "after"))
        chance = ttest_1samp([math.log(end / begin) for begin, end in zip(first, last)], 0.0, alternative="greater").pvalue
        far = max(value for run in runs for _, value in run["kl_curve"])
        print(f"{kind:5} reward {fmean(first):6.2f} -> {fmean(last):6.2f} ({min(last):.2f} to {max(last):.2f})  "
              f"p {chance:.1e}  kl at most {far:5.2f}, {fmean(run['kl'] for run in runs):5.2f} at the end  "
              f"{fmean(run['cpu'] for run in runs):5.1f} CPU s each, {runs[0]['steps']} steps", flush=True)


if __name__ == "__main__":
    main()
