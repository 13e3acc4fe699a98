"""What a name of a model means, what lies in its folder, and how messages become its prompt. Loads no model."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ddmake import toys
from ddmake.errors import DdmakeError, MissingExtra
from ddmake.fingerprint import hashes

ADAPTER = "adapter_config.json"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
MEANING = (  # the files of a model folder that say what the model answers
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "config.json", "generation_config.json", ADAPTER,
    "adapter_model*.bin", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    # vocabularies, as the tokenizers of transformers name them
    "*vocab*", "merges.txt", "*.model", "*.spm", "*.tiktoken", "*.codes", "*.bpe", "dict*.txt", "normalizer.json", "tekken.json",
    "prophetnet.tokenizer", "byte_maps.json",
)
TOKENIZER = "tokenizer_config.json"
CLOCK = "strftime_now"  # by which a chat template asks for the day
SEPARATOR = "ddmake_separator"  # in a tokenizer's config: what ended a prompt in training, where that is no line break
QUANTIZERS = {  # how weights are made smaller: by which packages, the first that is installed
    "int8": ("torchao", "bitsandbytes"), "int4": ("torchao",), "nf4": ("bitsandbytes",), "fp4": ("bitsandbytes",),
}
PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT")
SILENT = ("transformers_version", "peft_version", "__version__", "_from_model_config", "_name_or_path", "base_model_name_or_path")


def need(package: str, extra: str, use: str) -> None:
    """Raise MissingExtra unless a package is installed; nothing is imported."""
    if find_spec(package) is None:
        raise MissingExtra(package, extra, use)


def resolve_base(name: str | Path) -> Path | str:
    """Return the folder that a model's name stands for, or the name itself if it is the Hub's.

    A toy's name is its bundled folder; a folder that exists is that folder; all else is a name on the Hub.
    """
    if str(name) in toys.NAMES:
        return toys.folder(str(name))
    return Path(name) if Path(name).is_dir() else str(name)


def base_name(base: Path | str) -> str:
    """Return the name by which a model folder's files may mention a model: no absolute path of this project.

    A toy's folder gives the toy's name, a folder its path as seen from the current directory, a Hub name itself.
    """
    if isinstance(base, str) and not Path(base).is_dir():
        return base
    folder = Path(base).resolve()
    named = next((toy for toy in toys.NAMES if toys.folder(toy).resolve() == folder), None)
    return named or Path(os.path.relpath(folder)).as_posix()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON file of a model folder; {} if it isn't there."""
    path = folder / name
    return _config(path) if path.is_file() else {}


def _config(path: Path) -> dict[str, Any]:
    """Return a config of a model. Raises DdmakeError for a file that is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DdmakeError(f"{path}: it isn't JSON ({error}). Mend it, or put the model there anew.") from None
    if not isinstance(found, dict):
        raise DdmakeError(f"{path}: it holds no JSON object. Mend it, or put the model there anew.")
    return found


def is_adapter(model: Path | str) -> bool:
    """Tell whether a model is a folder with a LoRA adapter alone."""
    return (Path(model) / ADAPTER).is_file()


def why_no_adapter(folder: Path | str) -> str | None:
    """Return a sentence for an adapter of a kind that isn't put on weights but before prompts; None for any other."""
    kind = str(read_json(Path(folder), ADAPTER).get("peft_type", "LORA")).upper()
    return f"the adapter {folder} is of the kind {kind}, which can't be asked here: it is put before prompts, and not on " \
           "weights. Take a LoRA adapter, or another that changes weights." if kind in PROMPTS else None


def adapter_base(folder: Path | str) -> tuple[Path | str, str | None]:
    """Return what an adapter folder names as its base, and of that the revision. Raises DdmakeError if it isn't there."""
    config = read_json(Path(folder), ADAPTER)
    name = config.get("base_model_name_or_path")
    if not name:
        raise DdmakeError(f"{folder}/{ADAPTER}: base_model_name_or_path is missing. Name the model it was made on.")
    base = resolve_base(name)
    if isinstance(base, str) and (name.startswith((".", "/")) or name.count("/") > 1):
        raise DdmakeError(f"{folder}/{ADAPTER}: its base {name!r} isn't there. Make it first, or give its folder.")
    return base, config.get("revision")


def is_encoder_decoder(model: Path | str, revision: str | None = None) -> bool:
    """Tell whether a model is an encoder-decoder (T5, BART); of a Hub name, its config is fetched."""
    if is_adapter(model):
        from ddmake.backends.hub import pinned_base  # which reads an adapter's base by this module

        return is_encoder_decoder(*pinned_base(model))
    if Path(model).is_dir():
        return bool(read_json(Path(model), "config.json").get("is_encoder_decoder", False))
    from transformers import AutoConfig

    return bool(AutoConfig.from_pretrained(str(model), revision=revision).is_encoder_decoder)


def identity(model: Path | str, adapter: Path | str | None, *, commit: str | None, dtype: str | None, quantize: str | None,
             template: object, separator: str, sha: Callable[[str], str] = hashes.of_file) -> dict[str, object]:
    """Return what tells a model from every other: its weights by content or commit, and how it is loaded and asked; no path.

    `commit` is that of a model on the Hub, or of the one that an adapter's folder names as its base. Reads files alone.
    """
    if is_adapter(model) and adapter is None:
        (model, _), adapter = adapter_base(model), model
    local = Path(model).is_dir()
    told = {
        "model": "" if local else str(model),
        "weights": weights_sha(model, sha) if local else commit,
        "adapter": files_sha(adapter, sha) if adapter is not None else None,
        "dtype": dtype,
        "template": hashlib.sha256(str(template).encode()).hexdigest() if template else None,
        "separator": None if template else separator,
    }
    if CLOCK in str(template):
        told["day"] = date.today().isoformat()
    return told if quantize is None else {**told, "quantize": f"{quantize} by {quantizer(quantize)}"}


def quantizer(quantize: str) -> str:
    """Return the package that makes weights smaller in a way. Raises MissingExtra where none is installed."""
    packages = QUANTIZERS[quantize]
    found = next((package for package in packages if find_spec(package) is not None), None)
    if found is None:
        raise MissingExtra(packages[0], "quantize", f"llm(…, quantize={quantize!r})")
    return found


def chat_template(folder: Path) -> str | dict[str, str] | None:
    """Return the chat template in a model's folder, as its tokenizer has it: one, several by name, or none."""
    told = read_json(folder, TOKENIZER).get("chat_template")
    files = {path.stem: path for path in folder.glob("additional_chat_templates/*.jinja")}
    if (folder / "chat_template.jinja").is_file():
        files = {"default": folder / "chat_template.jinja", **files}
    found = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    if found:
        return found["default"] if found.keys() == {"default"} else found
    return {one["name"]: one["template"] for one in told} if isinstance(told, list) else told


def separator_of(told: Mapping[str, Any]) -> str:
    """Return what ends a prompt where there is no chat template, as a tokenizer's config tells it."""
    return told.get(SEPARATOR, "\n")


def weights_bytes(folder: Path) -> int:
    """Return the size of the weights in a folder."""
    files = {path for pattern in WEIGHTS for path in folder.glob(pattern)}
    return sum(path.stat().st_size for path in files)


def has_tokenizer(folder: Path | str) -> bool:
    """Tell whether a tokenizer lies in a folder."""
    return (Path(folder) / TOKENIZER).is_file()


def weights_sha(folder: Path | str, sha: Callable[[str], str] = hashes.of_file) -> str:
    """Return the sha256 over what a model folder answers by: its files, and under an adapter its base's.

    A base on the Hub counts by its name and revision. `sha` hashes a file, or remembers its hash.
    """
    if not is_adapter(folder):
        return files_sha(folder, sha)
    base, revision = adapter_base(folder)
    under = weights_sha(base, sha) if Path(base).is_dir() else f"{base}@{revision}"
    return hashlib.sha256(f"{files_sha(folder, sha)} on {under}".encode()).hexdigest()


def files_sha(folder: Path | str, sha: Callable[[str], str] = hashes.of_file) -> str:
    """Return the sha256 over the files that say what a model answers: weights, tokenizer, configs; by name and content.

    READMEs, metrics and other files that lie beside them count for nothing.
    """
    total = hashlib.sha256()
    for path in sorted({path for pattern in MEANING for path in Path(folder).glob(pattern) if path.is_file()}):
        content = config_sha(path) if path.name.endswith("config.json") else sha(str(path))
        total.update(f"{path.name}\0{content}\n".encode())
    return total.hexdigest()


def config_sha(path: Path) -> str:
    """Return the sha256 of a config's values, whatever their order, without who wrote it and where the base lies."""
    values = _config(path)
    meant = {name: value for name, value in values.items() if name not in SILENT}
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()


def plain_text(messages: Sequence[Mapping[str, str]], separator: str, encoder_decoder: bool) -> str:
    """Return chat messages as text for a model without a chat template.

    Their contents are joined by the separator, which also ends the prompt, so that what the model writes begins there;
    an encoder reads a whole text: contents joined by a line break, nothing after the last.
    """
    contents = [message["content"] for message in messages]
    return "\n".join(contents) if encoder_decoder else separator.join([*contents, ""])


def takes_tools(template: str | Mapping[str, str] | None) -> bool:
    """Tell whether a chat template has a place for tools: one of several may be there for them."""
    return template is not None and ("tool_use" in template if isinstance(template, Mapping) else "tools" in template)


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]], separator: str, encoder_decoder: bool,
               tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
    """Return the tokens that a model is given for chat messages: one way for training and for asking."""
    if tokenizer.chat_template:
        turns = [dict(message) for message in messages]
        return tokenizer.apply_chat_template(turns, tools=list(tools) or None, add_generation_prompt=True, tokenize=True,
                                             return_dict=False)
    ids = tokenizer(plain_text(messages, separator, encoder_decoder))["input_ids"]
    # some tokenizers end every text; a decoder's prompt is no finished text
    return ids[:-1] if not encoder_decoder and ids and ids[-1] == tokenizer.eos_token_id else ids
