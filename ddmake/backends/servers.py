"""Servers that ddmake starts: which kinds there are, the command line of each, and what of one enters the keys of calls.

`server/vllm:Qwen/Qwen3-8B` is that model behind a vLLM of its own. Facts of November 2026. Imports nothing heavy: plans read
it; serving.py starts and stops servers.
"""

import math
import os
import posixpath
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddmake import toys
from ddmake.backends.models import ADAPTER, files_sha, is_adapter, read_json, weights_sha
from ddmake.ddfile.specs import SERVER, is_path, served_model
from ddmake.errors import DdmakeError, did_you_mean
from ddmake.fingerprint import hashes
from ddmake.store import secrets

if TYPE_CHECKING:
    from ddmake.ddfile.specs import LLM

HOST = "127.0.0.1"
OURS = {"host", "port", "model", "model-path", "served-model-name", "alias", "revision", "tokenizer-revision", "dtype",
        "enable-lora", "lora-modules"}
ADAPTED = "adapted"  # what requests call a model with its adapter
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of a LoRA adapter, as vLLM's --max-lora-rank takes them
START = 1800.0  # seconds until a server has to be ready, which may fetch its model first; DDMAKE_SERVER_START says otherwise


@dataclass(frozen=True)
class Kind:
    """A kind of server: the words of its command line.

    {model} is the model's name or its folder, {pinned} that with its revision, {name} what the Ddfile calls it, {adapter} a LoRA
    adapter's folder and {rank} its rank; {host}, {port}, {revision} and {dtype} are what they say. `at_once` is how many requests
    it works on at once, where it doesn't find that out by itself.
    """

    program: str
    arguments: str
    revision: str = ""
    dtype: str = ""
    adapter: str = ""
    files: bool = False  # whether it takes a file, and no name on the Hub
    at_once: int | None = None


KINDS = {
    "vllm": Kind("vllm serve", "{model} --host {host} --port {port} --served-model-name {name}",
                 "--revision {revision} --tokenizer-revision {revision}", "--dtype {dtype}",
                 f"--enable-lora --max-lora-rank {{rank}} --lora-modules {ADAPTED}={{adapter}}"),
    "transformers": Kind("transformers serve", "{pinned} --host {host} --port {port}", dtype="--dtype {dtype}", at_once=1),
    "sglang": Kind("sglang serve", "--model-path {model} --host {host} --port {port} --served-model-name {name}",
                   "--revision {revision}", "--dtype {dtype}"),
    "llamacpp": Kind("llama-server", "--model {model} --host {host} --port {port} --alias {name}", files=True),
}


@dataclass(frozen=True)
class Launch:
    """What tells a server from every other; llms of which all this is the same share one."""

    kind: str
    model: str  # as the Ddfile names it
    revision: str | None
    dtype: str | None
    adapter: str | None  # the folder of a LoRA adapter
    flags: tuple[str, ...]  # words of its command line

    @property
    def called(self) -> str:
        """Return what is started, for messages."""
        return KINDS[self.kind].program

    def place(self, root: Path) -> str:
        """Return the folder or file of the model, for a project's folder; its name, if it is the Hub's."""
        if self.model in toys.NAMES:
            return str(toys.folder(self.model))
        return str((root / self.model).resolve()) if is_path(self.model) else self.model

    def name(self, root: Path) -> str:
        """Return what requests call the model: transformers knows it by its place and revision, others by what they are told."""
        if self.adapter:
            return ADAPTED
        return self._pinned(root) if self.kind == "transformers" else self.model

    def program(self) -> list[str]:
        """Return the command that starts it, up to its arguments. Raises DdmakeError where it isn't there."""
        first, *rest = _program(self.kind)
        if (found := _found(first)) is None:
            raise DdmakeError(missing(self.kind) or first)
        return [found, *rest]

    def arguments(self, root: Path, port: int) -> list[str]:
        """Return the arguments that it is started with."""
        kind = KINDS[self.kind]
        template = [kind.arguments, kind.revision if self.revision else "", kind.dtype if self.dtype else "",
                    kind.adapter if self.adapter else ""]
        values = {"model": self.place(root), "pinned": self._pinned(root), "name": self.model, "host": HOST, "port": port,
                  "revision": self.revision, "dtype": self.dtype}
        if self.adapter:
            folder = (root / self.adapter).resolve()
            values |= {"adapter": folder, "rank": _rank(folder)}
        return [*(word.format(**values) for word in " ".join(template).split()), *self.flags]

    def _pinned(self, root: Path) -> str:
        return f"{self.place(root)}@{self.revision}" if self.revision else self.place(root)


def is_served(spec: "LLM") -> bool:
    """Tell whether an llm stands behind a server that ddmake starts."""
    return isinstance(spec.name, str) and spec.name.startswith(SERVER)


def parts(name: str) -> tuple[str, str]:
    """Return the kind of server and the model that a name holds."""
    kind, _, model = name.removeprefix(SERVER).partition(":")
    return kind, model


def path(spec: "LLM") -> str | None:
    """Return where a served model lies, without detours; None for one that a name stands for, or that isn't served."""
    model = served_model(spec.name) if isinstance(spec.name, str) else None
    return posixpath.normpath(model) if model and is_path(model) else None


def on_hub(spec: "LLM") -> str | None:
    """Return the name on the Hub of a served model; None for one that isn't the Hub's, or that isn't served."""
    kind, model = parts(spec.name) if is_served(spec) else ("", "")
    return None if not model or is_path(model) or model in toys.NAMES else model


def launch_of(spec: "LLM") -> Launch:
    """Return the server that an llm stands behind."""
    return Launch(*parts(spec.name), spec.revision, spec.dtype, spec.adapter, _words(spec.flags or {}))


def identity(spec: "LLM") -> dict[str, object]:
    """Return what of a served llm enters its calls' keys: the kind of server, the model, and what the server is told.

    Never its port, nor the command that stands in the environment. Raises DdmakeError where the model's files aren't there.
    """
    launch = launch_of(spec)
    told = {"revision": launch.revision, "dtype": launch.dtype, "flags": launch.flags, "api": spec.api,
            "adapter": launch.adapter and _adapter_sha(launch.adapter)}
    model = {"model": launch.model} if on_hub(spec) else {"weights": _sha(launch)}
    return {"server": spec.identity or launch.kind, **model, **{name: value for name, value in told.items() if value}}


def wrong_name(name: str, base_url: str | None) -> str | None:
    """Return what is wrong with a served llm's name as a sentence, or None."""
    kind, model = parts(name)
    if kind not in KINDS:
        return f"llm({name!r}): there is no server {kind!r}. There are {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"
    if not model:
        return f"llm({name!r}) names no model: write server/{kind}:org/model."
    if base_url is not None:
        return (f"llm({name!r}): base_url= is for a server that runs already, and this one is started. Leave it out, or write "
                f"{kind}/{model}.")
    if KINDS[kind].files and not is_path(model):
        return f"llm({name!r}): {KINDS[kind].program} is given a file here: write server/{kind}:./model.gguf."
    return None


def unsupported(spec: "LLM") -> str | None:
    """Return what a served llm states that its server doesn't take, as a sentence; None where it takes all."""
    kind, _ = parts(spec.name)
    where = f"llm({spec.name!r})"
    if spec.adapter is not None and not KINDS[kind].adapter:
        return f"{where}: {kind} is started without adapter=. Ask vLLM, or hf/… in process, or give it a merged model."
    if isinstance(spec.adapter, str) and not is_path(spec.adapter):
        return f"{where}: adapter={spec.adapter!r} is neither a target nor a folder. Write ./{spec.adapter} if it is one."
    for name in ("quantize", "device_map", "truncate"):
        if getattr(spec, name) is not None:
            return f"{where}: {name}= is for a model in process. Give the server a flag of its own, by flags={{…}}."
    if spec.batch:
        return f"{where}: a server that ddmake starts has no batch API. Leave batch= out."
    if spec.revision is not None and not on_hub(spec):
        return f"{where}: revision= is for a name on the Hub, and this is none. Leave it out."
    if spec.dtype is not None and not KINDS[kind].dtype:
        return f"{where}: {kind} takes no dtype: it is the file's."
    for flag in spec.flags or {}:
        if _dashed(flag) in OURS:
            return f"{where}: the flag {flag!r} is ddmake's to set. Leave it out."
        if secrets.is_named(_dashed(flag), spec.flags[flag]):
            return f"{where}: the flag {flag!r} would put a secret into keys and records. Give it by the environment."
    return _unreliable(spec, where) if kind == "transformers" else None


def _unreliable(spec: "LLM", where: str) -> str | None:
    """Return what `transformers serve` would take and not do, or do otherwise."""
    if spec.api == "responses":
        return f"{where}: transformers streams what api=\"responses\" asks. Leave it out."
    batching = (spec.flags or {}).get("continuous-batching", (spec.flags or {}).get("continuous_batching"))
    if batching and spec.stop is not None:
        return f"{where}: transformers ignores stop with continuous batching. Leave one of them out."
    if spec.seed is not None and (batching or (spec.concurrency or 1) > 1):
        return f"{where}: transformers seeds the whole server, so seed= holds for one request at a time only. Leave it out, or " \
               "leave concurrency= and continuous batching out."
    return None


def at_once(spec: "LLM") -> int | None:
    """Return how many requests an llm is sent at once: as stated, else what its server works on, if that is known."""
    if spec.concurrency is not None or not is_served(spec):
        return spec.concurrency
    batching = "--continuous-batching" in launch_of(spec).flags
    return None if batching else KINDS[parts(spec.name)[0]].at_once


def missing(kind: str) -> str | None:
    """Return a sentence where a server can't be started: its program isn't there, or a variable can't be read."""
    variable = _variable(kind)
    try:
        program = _program(kind)[0]
        start_limit()
    except DdmakeError as error:
        return str(error)
    if _found(program):
        return None
    if os.environ.get(variable):
        return f"{variable} names {program!r}, which isn't there. Mend it."
    return (f"server/{kind} needs the command {program!r}, which isn't there. Install {kind}, if need be in an environment of "
            f"its own, and set {variable} to the command there: {variable}=\"/path/to/bin/{KINDS[kind].program}\".")


def _program(kind: str) -> list[str]:
    """Return the command of a kind of server, before its arguments: the environment's, else its usual one.

    Raises DdmakeError for one that can't be read.
    """
    variable = _variable(kind)
    try:
        return shlex.split(os.environ.get(variable, "")) or KINDS[kind].program.split()
    except ValueError as error:
        told = f"{error}".removesuffix(".")
        raise DdmakeError(f"{variable} is no command: {told} in {os.environ[variable]!r}. Mend it.") from None


def start_limit() -> float:
    """Return the seconds that a server has to become ready. Raises DdmakeError where the environment says no such number."""
    told = os.environ.get("DDMAKE_SERVER_START") or START
    try:
        limit = float(told)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise DdmakeError(f"DDMAKE_SERVER_START={told} is no number of seconds above 0. Mend it, or unset it.")
    return limit


def _variable(kind: str) -> str:
    return f"DDMAKE_SERVER_{kind.upper()}"


def _found(program: str) -> str | None:
    """Return where a program lies: beside this Python, else on the path."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(program, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))


def _words(flags: Mapping[str, Any]) -> tuple[str, ...]:
    """Return flags as words of a command line, by name: True and False as --flag and --no-flag, a list as several words."""
    words: list[str] = []
    for name, value in sorted(flags.items()):
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{_dashed(name)}")
        else:
            words += [f"--{_dashed(name)}", *map(_word, value if isinstance(value, (list, tuple)) else [value])]
    return tuple(words)


def _dashed(flag: str) -> str:
    return flag.lstrip("-").replace("_", "-")


def _word(value: Any) -> str:
    """Return a value as a word of a command line: what is nested is JSON."""
    import json

    return json.dumps(value) if isinstance(value, dict) else str(value)


def _adapter_sha(folder: str) -> str:
    if not is_adapter(folder):
        raise DdmakeError(f"{folder} holds no LoRA adapter: {ADAPTER} isn't there. Name the folder of one as adapter=.")
    return files_sha(folder)


def _rank(adapter: Path) -> int:
    """Return the least rank that vLLM can be started for and that an adapter fits into."""
    own = read_json(adapter, ADAPTER).get("r", 0)
    return next((rank for rank in RANKS if rank >= own), own)


def _sha(launch: Launch) -> str:
    """Return the hash of a model's files."""
    place = Path(launch.place(Path.cwd()))
    if not place.exists():
        raise DdmakeError(f"llm('{SERVER}{launch.kind}:{launch.model}'): {launch.model} isn't there. Mend the path, which is "
                          "read from the Ddfile's folder.")
    return hashes.of_file(place) if place.is_file() else weights_sha(place)
