"""Random models of a few thousand parameters, made offline in a moment: a causal one with a chat template, one without, a T5,
a BART (which, unlike T5, counts positions from the left), a BERT."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

torch.set_num_threads(1)  # two under contention take many times as long

SPECIAL = ["<pad>", "</s>", "<|im_start|>", "<|im_end|>"]
WORDS = "red green blue cat dog bird tree stone river cloud".split()
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pairs(count: int) -> list[dict[str, str]]:
    """Return rows of a task that is quickly learned: say the words again."""
    draw = random.Random(0)
    return [{"prompt": f"repeat: {words}", "completion": words}
            for words in (" ".join(draw.choices(WORDS, k=draw.randint(1, 6))) for _ in range(count))]


def bpe() -> Tokenizer:
    """Return a byte-level tokenizer of a few hundred tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [row["prompt"] for row in pairs(200)] + ["user assistant system"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def causal(folder: Path, chat: bool, positions: int = 256) -> Path:
    """Make a small Llama, with a chat template or without."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe(), pad_token="<pad>", eos_token="<|im_end|>" if chat else "</s>")
    tokenizer.chat_template = CHAT if chat else None
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=positions, pad_token_id=0, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, initializer_range=0.1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    """Make a small T5."""
    tokenizer = ending_tokenizer()
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.1,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, feed_forward_proj="gated-gelu"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bart(folder: Path) -> Path:
    """Make a small BART."""
    tokenizer = ending_tokenizer()
    torch.manual_seed(0)
    model = BartForConditionalGeneration(BartConfig(
        vocab_size=len(tokenizer), d_model=64, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=128, decoder_ffn_dim=128,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=256, init_std=0.3, pad_token_id=0,
        bos_token_id=None, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    """Make a small BERT, an encoder without a head."""
    tokenizer = ending_tokenizer()
    torch.manual_seed(0)
    model = BertModel(BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, initializer_range=0.1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ending_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of an encoder-decoder, which ends each text."""
    raw = bpe()
    raw.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", model_max_length=256)
