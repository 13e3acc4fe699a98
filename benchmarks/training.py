"""What a training costs beside the library's own script: CPU seconds of a fine-tuning with LoRA, ddmake's and TRL's, in turn.

    python benchmarks/training.py [--rows 1200] [--epochs 2] [--batch 8] [--times 5] [--base tiny-base] [--short]
    python benchmarks/training.py --imports 3       # what is imported until a training could begin

One process imports the libraries and forks a child for each training, so that imports count for nothing; both load the base,
tokenise the rows, take the same steps on the same examples, and save the adapter. The script is what TRL's documentation has,
with ddmake's hyperparameters: it logs every tenth step, where ddmake draws a curve of 200 points. One thread. Compare ratios.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

CODE = {
    "trl": "import datasets, peft, transformers; from trl import SFTConfig, SFTTrainer",
    "ddmake": "from ddmake.trainers import causal; from ddmake.trainers.launch import launch",
}


def rows(count: int, shorter: bool) -> list[dict[str, str]]:
    """Return abstracts and tweets, as the toys' grammar writes them; or tweets alone, whose steps cost less."""
    import random

    from ddmake.toys import grammar

    draw, found = random.Random(0), []
    for _ in range(count):
        facts = grammar.facts(draw)
        asked = grammar.tweet if shorter else grammar.abstract
        found.append({"prompt": asked(draw, facts), "completion": grammar.tweet(draw, facts)})
    return found


def ours(given: Any, output: Path) -> None:
    """Train as `finetune` does."""
    from datasets import Dataset

    from ddmake.ddfile.specs import Lora
    from ddmake.toys import folder
    from ddmake.trainers import causal
    from ddmake.trainers.common import Settings
    from ddmake.trainers.launch import launch

    settings = Settings(folder(given.base), given.base, 2e-3, peft=Lora(16, 32, 0.0, "all-linear"), epochs=given.epochs,
                        batch_size=given.batch, micro_batch=given.batch)
    shown = [{"prompt": [{"role": "user", "content": row["prompt"]}], "completion": row["completion"]}
             for row in rows(given.rows, given.short)]
    kept = output / "checkpoints"
    kept.mkdir()
    launch(causal.train, Dataset.from_list(shown), None, settings, output / "model", kept, lambda done, total, note: None)


def library(given: Any, output: Path) -> None:
    """Train as a script with TRL alone does."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from ddmake.toys import folder

    shown = [{"prompt": row["prompt"] + "\n", "completion": row["completion"]} for row in rows(given.rows, given.short)]
    trainer = SFTTrainer(
        model=str(folder(given.base)), train_dataset=Dataset.from_list(shown),
        args=SFTConfig(
            output_dir=str(output), num_train_epochs=given.epochs, per_device_train_batch_size=given.batch, learning_rate=2e-3,
            warmup_steps=0.03, max_length=1024, seed=0, bf16=False, use_cpu=True, gradient_checkpointing=False,
            save_strategy="no", report_to="none", model_init_kwargs={"dtype": "float32"}),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(str(output / "model"))


def forked(work: Callable[[Any, Path], None], given: Any) -> float:
    """Do something in a forked child, and return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                silent = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silent, 1)
                work(given, Path(folder))
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit(f"{work.__name__} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(given: Any) -> dict[str, Any]:
    """Train in both ways by turns, and return the CPU seconds of each and the ratios of neighbours."""
    for code in CODE.values():
        exec(code)
    found: dict[str, list[float]] = {"trl": [], "ddmake": []}
    for turn in range(given.times):
        for name in ("trl", "ddmake") if turn % 2 else ("ddmake", "trl"):
            found[name].append(round(forked({"trl": library, "ddmake": ours}[name], given), 2))
    ratios = [round(one / other, 3) for one, other in zip(found["ddmake"], found["trl"], strict=True)]
    return {**found, "ratios": ratios, "median": median(ratios)}


def imports(times: int) -> dict[str, list[float]]:
    """Return the CPU seconds of new processes that import what a training needs."""
    found: dict[str, list[float]] = {"trl": [], "ddmake": []}
    for _ in range(times):
        for name, code in CODE.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found[name].append(round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2))
    return found


def main() -> None:
    """Measure, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--base", default="tiny-base")
    parser.add_argument("--short", action="store_true", help="prompts of some 23 tokens, not of 72")
    parser.add_argument("--imports", type=int)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    print(json.dumps(imports(given.imports) if given.imports else compare(given)))


if __name__ == "__main__":
    main()
