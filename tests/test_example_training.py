"""The paper's Examples 2, 3 and 4 in docs/examples, and the best of n: each end to end on a toy, with rows of a Hub made here."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub
from test_examples import EXAMPLES, copied, planned

from ddmake.toys import folder
from ddmake.toys.grammar import abstract, facts, tweet

pytestmark = pytest.mark.slow

LIKED = "New paper:"  # how the tweets begin that are preferred: an eighth of what the toy writes does
ASKED = "Sum up the work in this abstract as a tweet that names its method and its task. Only the tweet.\n\nAbstract: "


def papers(count: int) -> Iterator[dict[str, str]]:
    """Yield made-up papers: what is asked about one, a tweet that begins as is liked, and one that doesn't."""
    draw = random.Random(0)
    for _ in range(count):
        known = facts(draw)
        tweets = {text.startswith(LIKED): text for text in (tweet(draw, known) for _ in range(99))}
        yield {"question": ASKED + abstract(draw, known), "chosen": tweets[True], "rejected": tweets[False]}


@pytest.fixture(scope="module")
def hub():
    """A Hub with the datasets of the examples, of our own rows."""
    found = FakeHub()
    pairs = [{"system": "", **row} for row in papers(120)]
    taught = [{"instruction": row["question"], "input": "", "output": row["chosen"]} for row in pairs]
    for repo, rows in {"Intel/orca_dpo_pairs": pairs, "yahma/alpaca-cleaned": taught}.items():
        found.push(f"datasets/{repo}", {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})
    for base, toy in {"TinyLlama-1.1B-Chat-v1.0": "tiny", "TinyLlama-1.1B-intermediate-step-1431k-3T": "tiny-base"}.items():
        found.push_folder(f"models/TinyLlama/{base}", folder(toy))
    yield found
    found.close()


class Example:
    """A copy of an example, run with a Hub and a cache of its own."""

    def __init__(self, name: str, root: Path, hub: FakeHub):
        self.name, self.hub, self.project = name, hub, copied(name, root)

    def small(self) -> str:
        """Run what the page advises where there is no GPU."""
        page = (EXAMPLES / self.name / "README.md").read_text()
        return self.run(*re.search(r"^    ddmake (.* gpus=0 .*)$", page, re.MULTILINE)[1].split())

    def run(self, *args: str, gpus: str = "", code: int = 0) -> str:
        process = self.project.command(*args, HF_ENDPOINT=self.hub.url, HF_HUB_OFFLINE="0", HF_TOKEN="", NO_PROXY="127.0.0.1",
                                       HF_HOME=str(self.project.root / "cache"), CUDA_VISIBLE_DEVICES=gpus)
        output = process.communicate(timeout=400)[0]
        assert process.returncode == code, output + self.project.logs()
        return output


def likely(root: Path, adapter: str | None, base: str, pairs: list[tuple[str, str]]) -> list[float]:
    """Return how likely a toy finds answers to prompts, by transformers and peft alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder(base)), AutoTokenizer.from_pretrained(folder(base))
    model = (PeftModel.from_pretrained(model, root / adapter) if adapter else model).eval()

    def told(prompt: str, answer: str) -> float:
        turns = [{"role": "user", "content": prompt}]
        if tokenizer.chat_template:
            prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        before, after = (tokenizer(text)["input_ids"] for text in (prompt, answer + tokenizer.eos_token))
        with torch.no_grad():
            scores = model(torch.tensor([before + after])).logits[0, len(before) - 1:-1].log_softmax(-1)
        return scores.gather(1, torch.tensor(after)[:, None]).sum().item()

    return [told(*pair) for pair in pairs]


def margins(root: Path, adapter: str | None, rows: list[dict[str, str]]) -> list[float]:
    """Return how much likelier a toy finds the chosen answer of each row than the rejected one."""
    sides = ([(row["question"], row[side]) for row in rows] for side in ("chosen", "rejected"))
    return [one - other for one, other in zip(*(likely(root, adapter, "tiny", side) for side in sides), strict=True)]


@pytest.mark.parametrize("name", ["instruct", "align", "self_reward", "best_of_n"])
def test_a_page_shows_the_dry_run(tmp_path, hub, name):
    """It is that of a machine with two GPUs. Of a long one the page leaves out the middle."""
    example = Example(name, tmp_path, hub)
    begins, _, ends = planned(name).partition("…\n")
    told = example.run("-n", gpus="0,1")
    assert told.startswith(begins) and told.endswith(ends)


def test_too_few_gpus_are_told_before_anything_runs(tmp_path, hub):
    told = Example("align", tmp_path, hub).run(code=2)
    assert told == "Ddfile:12: models/aligned asks for gpus=2, and ddmake sees none here. Ask for less, or run it where there is more.\n"


def test_a_base_learns_from_instructions(tmp_path, hub):
    example = Example("instruct", tmp_path, hub)
    example.small()
    held = [(f"### Instruction:\n{row['instruction']}\n\n### Response:\n", row["output"])
            for row in example.project.rows("data/validation")]
    before, after = (likely(example.project.root, model, "tiny-base", held) for model in (None, "models/instruct"))
    assert len(held) == 4 and all(new > old + 20 for old, new in zip(before, after, strict=True))


def test_a_chat_model_is_aligned(tmp_path, hub):
    example = Example("align", tmp_path, hub)
    example.small()
    held = example.project.rows("data/validation")
    before, after = (margins(example.project.root, model, held) for model in (None, "models/aligned"))
    assert len(held) == 4 and all(new > old + 5 for old, new in zip(before, after, strict=True))


def test_a_model_learns_from_its_own_verdicts_in_rounds(tmp_path, hub):
    """Round 2's answers are the first adapter's: they are likelier under it than under the base, those of round 1 less likely."""
    example = Example("self_reward", tmp_path, hub)
    example.small()
    root, rows, gained = example.project.root, example.project.rows, []
    for here in ("round-1", "round-2"):
        pairs = rows(f"{here}/train")
        assert len(pairs) >= 4 and all(row["chosen"] == row[row["winner"]] != row["rejected"] for row in pairs)
        before, after = (sum(margins(root, model, pairs)) for model in (None, f"{here}/adapter"))
        assert after > before + 2 * len(pairs)
        said = [(row["question"], row[side]) for row in rows(f"{here}/answers") for side in ("a", "b") if row[side]]
        by_base, by_first = (sum(likely(root, model, "tiny", said)) for model in (None, "round-1/adapter"))
        gained.append(by_first - by_base)
    assert gained[0] < -10 and gained[1] > 10
    assert not {row["question"] for row in rows("round-1/answers")} & {row["question"] for row in rows("round-2/answers")}


def test_a_model_learns_from_the_best_of_its_answers(tmp_path, hub):
    """Answers that begin as is liked are few, more among the best of four, and most of the tuned model's."""
    example = Example("best_of_n", tmp_path, hub)
    example.small()
    rows = example.project.rows
    assert {name: len(rows(f"data/{name}")) for name in ("answers", "scored", "best")} == {"answers": 96, "scored": 96, "best": 24}
    liked = {name: sum(row["answer"].startswith(LIKED) for row in rows(name) if row["answer"])
             for name in ("data/best", "test/base", "test/tuned")}
    assert liked["test/base"] + 4 <= liked["data/best"] and liked["test/base"] + 8 <= liked["test/tuned"], liked
    base, tuned = rows("results/scores")
    assert (base["name"], tuned["name"]) == ("base", "tuned") and tuned["score"] > base["score"] + 0.2
