"""The toys' tokenizer: whole words where they are frequent, bytes for the rest.

Invented names are cut between their two words, numbers before the point, so that neither has to be spelled.
"""

from collections import Counter
from collections.abc import Iterable
from math import log
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_PIECES = (
    r"\n+"  # blank lines
    r"| ?#\w+"  # tags
    r"| ?[A-Z]{2,}(?:-[A-Z]+)?(?![a-z])"  # BLEU, ROUGE-L
    r"| ?[A-Za-z][a-z]*(?:['-][A-Za-z]+)*"  # words, half a name in camel case
    r"|(?<=\d)\.\d+| ?\d+"  # 12 and .3
    r"| ?[^\sA-Za-z\d]|\s"  # one sign
)
_BYTE_SCORE = -30.0  # below any word's log probability: bytes only where no word fits


def _splitter() -> pre_tokenizers.PreTokenizer:
    """Cut text at `_PIECES`, then write each piece in the byte alphabet of GPT-2."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_PIECES), "isolated"), bytes_only])


def build(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer of `size` tokens with the most frequent pieces of the texts; it has no chat template."""
    splitter, alphabet = _splitter(), sorted(pre_tokenizers.ByteLevel.alphabet())
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    special = [PAD, END, SYSTEM, USER, ASSISTANT]
    frequent = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece))
    words = frequent[: size - len(special) - len(alphabet)]
    total = sum(counts.values())
    vocabulary = [(token, 0.0) for token in special] + [(byte, _BYTE_SCORE) for byte in alphabet]
    vocabulary += [(word, log(counts[word] / total)) for word in words]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="left", truncation_side="left",
        model_max_length=1024, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def save(texts: Iterable[str], size: int, output: Path) -> None:
    """Build a tokenizer and save it as a folder."""
    build(texts, size).save_pretrained(output)
