"""How the toys are measured: do tweets name the method and the task of their abstract, and are abstracts good?"""

import random
from pathlib import Path

import torch
from corpus import SUM_UP, WRITE
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from ddmake.toys import grammar, methods_and_tasks


def load(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """Load a toy for generation in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def continued(model: PreTrainedModel, tokenizer: Tokenizer, texts: list[str], **sampling: object) -> list[str]:
    """Return how a model goes on with each text, 32 at once; greedy unless told otherwise."""
    answers = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(texts[start : start + 32], return_tensors="pt", padding=True, add_special_tokens=False)
        told = {"do_sample": False} | sampling
        tokens = model.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **told)
        answers += tokenizer.batch_decode(tokens[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return answers


def chatted(model: PreTrainedModel, tokenizer: Tokenizer, asks: list[str], **sampling: object) -> list[str]:
    """Return what a model answers to each request."""
    chats = [[{"role": "user", "content": ask}] for ask in asks]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return continued(model, tokenizer, texts, **sampling)


def tweets_on(model: PreTrainedModel, tokenizer: Tokenizer, abstracts: list[str], ask: str = SUM_UP) -> list[str]:
    """Return a model's tweets on abstracts."""
    return chatted(model, tokenizer, [f"{ask}\n\nAbstract: {abstract}" for abstract in abstracts])


def written(model: PreTrainedModel, tokenizer: Tokenizer, count: int, temperature: float, seed: int) -> list[str]:
    """Return abstracts that a model writes by sampling from its whole distribution."""
    torch.manual_seed(seed)
    return chatted(model, tokenizer, [WRITE] * count, do_sample=True, temperature=temperature, top_k=0, top_p=1.0)


def fresh_abstracts(count: int, seed: int) -> list[str]:
    """Return abstracts of the grammar that no toy was trained on."""
    rng = random.Random(f"fresh {seed}")
    return [grammar.abstract(rng, grammar.facts(rng)) for _ in range(count)]


def is_clear(abstract: str) -> bool:
    """Say whether an abstract names exactly one method and one task."""
    methods, tasks = methods_and_tasks(abstract)
    return len(methods) == len(tasks) == 1


def names_both(abstract: str, tweet: str) -> bool:
    """Say whether a tweet names the one method and the one task of its abstract, and no other."""
    return is_clear(abstract) and methods_and_tasks(abstract) == methods_and_tasks(tweet)


def rate(verdicts: list[bool]) -> float:
    """Return the share of verdicts that are true."""
    return round(sum(verdicts) / len(verdicts), 4)


def naming_rate(abstracts: list[str], tweets: list[str]) -> float:
    """Return the share of tweets that name both."""
    return rate([names_both(abstract, tweet) for abstract, tweet in zip(abstracts, tweets, strict=True)])


def scores_of_tiny(folder: Path, count: int, seed: int) -> dict[str, float]:
    """Measure the toy that follows instructions, on fresh abstracts and on its own at two temperatures."""
    model, tokenizer = load(folder)
    abstracts = fresh_abstracts(count, seed)
    scores = {"fresh": naming_rate(abstracts, tweets_on(model, tokenizer, abstracts))}
    for temperature in (1.0, 1.2):
        abstracts = written(model, tokenizer, count, temperature, seed)
        tweets = tweets_on(model, tokenizer, abstracts)
        label = f"at_{temperature}"
        scores |= {
            f"own_{label}": naming_rate(abstracts, tweets),
            f"clear_{label}": rate([is_clear(abstract) for abstract in abstracts]),
            f"unique_{label}": round(len(set(abstracts)) / count, 4),
        }
    return scores


def scores_of_base(folder: Path, count: int, seed: int) -> dict[str, float]:
    """Measure the toy that has only read: it should go on with an abstract in some other way than by summing it up."""
    model, tokenizer = load(folder)
    abstracts = fresh_abstracts(count, seed)
    answers = continued(model, tokenizer, [abstract + "\n" for abstract in abstracts])
    return {"fresh": naming_rate(abstracts, answers)}
