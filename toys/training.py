"""How the toys are trained: plain loops over short texts, on a CPU, in float32.

Texts of about one length share a batch and are padded on the right, so that causal attention needs no mask and position
ids start at 0 for each. Matrices are trained with Muon (Keller Jordan, 2024), embeddings and norms with AdamW.
"""

import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizer import ASSISTANT, CHAT_TEMPLATE, END
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Tokenizer

from ddmake.toys import grammar

_REPEAT_WEIGHT = 3.0  # a fact that the text has said before: what a reader must get right
_SHARPNESS = 1.5  # scales the logits of `tiny`: the example samples at 1.2, where a small model loses its thread
_BATCH_TOKENS = 2048
_MUON_RATE, _ADAM_RATE = 0.02, 3e-3
_Example = tuple[Tensor, Tensor]  # token ids and their weights in the loss, both of shape (length,)


def _weights(tokenizer: Tokenizer, text: str, ids: list[int], offsets: list[tuple[int, int]], chat: bool) -> Tensor:
    """Weigh the tokens of a text: 1, more for repeated facts, 0 for what the assistant of a chat didn't say."""
    weights = torch.ones(len(ids))
    spans = iter(grammar.repeated(text))
    span = next(spans, None)
    for index, (start, end) in enumerate(offsets):
        while span and span[1] <= start:
            span = next(spans, None)
        if span and end > span[0]:
            weights[index] = _REPEAT_WEIGHT
    if chat:
        assistant, eos = tokenizer.convert_tokens_to_ids(ASSISTANT), tokenizer.eos_token_id
        speaking = False
        for index, token in enumerate(ids):
            weights[index] *= speaking
            speaking = token == assistant or (speaking and token != eos)
    return weights


def encode(tokenizer: Tokenizer, texts: list[str], chat: bool) -> list[_Example]:
    """Turn texts into token ids with weights."""
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [
        (torch.tensor(code.ids), _weights(tokenizer, text, code.ids, code.offsets, chat))
        for text, code in zip(texts, encodings, strict=True)
    ]


def batches(examples: list[_Example], rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and weights of shape (rows, length), padded to at most `_BATCH_TOKENS` in all, in random order."""
    order = sorted(range(len(examples)), key=lambda index: (len(examples[index][0]), rng.random()))
    groups, group = [], []
    for index in order:
        if group and (len(group) + 1) * len(examples[index][0]) > _BATCH_TOKENS:
            groups.append(group)
            group = []
        group.append(index)
    groups.append(group)
    rng.shuffle(groups)
    for group in groups:
        ids, weights = zip(*(examples[index] for index in group), strict=True)
        yield (
            torch.nn.utils.rnn.pad_sequence(list(ids), batch_first=True),
            torch.nn.utils.rnn.pad_sequence(list(weights), batch_first=True),
        )


def loss_of(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean loss of the next tokens."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    wanted, weight = ids[:, 1:], weights[:, 1:]
    counts = weight > 0  # the output layer is a quarter of the work: run it only where it is asked
    losses = functional.cross_entropy(model.lm_head(hidden[counts]), wanted[counts], reduction="none")
    return (losses * weight[counts]).sum() / weight.sum()


class Muon(torch.optim.Optimizer):
    """Muon in float32: torch's own computes in bfloat16, which many CPUs only emulate."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move each matrix along its orthogonalised momentum."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                updates = torch.stack([self._momentum(matrix, group["momentum"]) for matrix in matrices])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, update in zip(matrices, _orthogonal(updates), strict=True):
                    matrix.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """Update the running mean of a matrix' gradients and return it with Nesterov's look ahead."""
        mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
        mean.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)


def _orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices of shape (count, rows, columns) near 1, by Newton and Schulz' iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def _optimizers(model: LlamaForCausalLM, pace: float) -> list[torch.optim.Optimizer]:
    """Make the optimizers of a model's matrices and of its other parameters."""
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if parameter.ndim != 2 or "embed" in name]
    adam = torch.optim.AdamW(others, lr=_ADAM_RATE * pace, betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(matrices, lr=_MUON_RATE * pace), adam]


def fit(model: LlamaForCausalLM, examples: list[_Example], *, pace: float, seed: int) -> None:
    """Train a model once over the examples; `pace` scales the learning rates."""
    optimizers = _optimizers(model, pace)
    groups = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    plan = list(batches(examples, random.Random(f"fit {seed}")))
    started, tokens, mean = time.process_time(), 0, 0.0
    model.train()
    for step, (ids, weights) in enumerate(plan):
        for group, rate in groups:
            group["lr"] = rate * _schedule(step, len(plan))
        loss = loss_of(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += ids.numel()
        mean = 0.97 * mean + 0.03 * loss.item() if step else loss.item()
        if step % 100 == 0 or step == len(plan) - 1:
            used = time.process_time() - started
            print(f"step {step} of {len(plan)}: loss {mean:.3f}, {tokens:,} tokens, {used:.0f} CPU-s", flush=True)


def _schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: warm up, hold for 38 % of the way, go down linearly."""
    return min(1.0, (step + 1) / 30, 0.01 + 1.6 * (1 - step / steps))


def fresh_model(tokenizer: Tokenizer, *, hidden: int, inner: int, layers: int, heads: int) -> LlamaForCausalLM:
    """Make an untrained Llama with tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, output: Path) -> None:
    """Save a model in float16 with its tokenizer; its config says float32, so that a CPU computes in that."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=200
    )
    model.to(torch.float16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    config = Path(output) / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
    model.to(torch.float32)


def pretrain(
    words: Path,
    texts: list[str],
    output: Path,
    *,
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    seed: int,
) -> None:
    """Train a fresh model on documents, with the tokenizer in the folder `words`."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(words)
    model = fresh_model(tokenizer, hidden=hidden, inner=inner, layers=layers, heads=heads)
    fit(model, encode(tokenizer, [text + END for text in texts], chat=False), pace=1.0, seed=seed)
    save(model, tokenizer, output)


def instruct(base: Path, chats: list[list[dict[str, str]]], output: Path, *, seed: int) -> None:
    """Train a model on chats, on what the assistant says in them."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHAT_TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    fit(model, encode(tokenizer, texts, chat=True), pace=0.5, seed=seed)
    with torch.no_grad():
        model.model.norm.weight.mul_(_SHARPNESS)
    save(model, tokenizer, output)
