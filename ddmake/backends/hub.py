"""Names on the Hub: the commit that each stands for, and local copies of that commit.

A name is looked up in Ddfile.lock, else asked of the Hub, else, where that can't be reached, of the Hub's local cache.
What was asked is remembered for this process, and written to the lock by whoever begins a run. What a model is that a whole
commit names stands in its files alone, and so the cache is asked before the Hub.
"""

import re
from pathlib import Path
from typing import Any

from ddmake.backends.models import ADAPTER, adapter_base, is_adapter
from ddmake.ddfile import lock
from ddmake.ddfile.lock import MAIN, HubName, Pin, Pins
from ddmake.errors import DdfileError, DdmakeError

TIMEOUT = 10.0  # seconds that the Hub may take to say which commit it is
OTHERS = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite", "*.gguf", "*.mlmodel", "onnx/*", "openvino/*", "coreml/*",
          "original/*")  # the same weights for other programs
WHOLE = "config.json"  # of a model that needs no base
CONFIGS = (WHOLE, ADAPTER, "tokenizer_config.json", "chat_template.jinja")
PICKLES = ("*.bin", "*.pt", "*.pth")  # the same weights again, where there are safetensors
SNAPSHOT = re.compile(r".*/models--(.+)/snapshots/([0-9a-f]{40})")

_asked: dict[tuple[Path, HubName], Pin] = {}  # by project; before the lock, which may be about to be rewritten


class Unreachable(DdfileError):
    """The Hub can't be asked now."""


def commit(root: Path, name: HubName) -> str:
    """Return the commit that a name stands for in the project at `root`.

    Raises DdfileError for a name that the Hub doesn't have or doesn't give, and where nobody can be asked.
    """
    return name.revision if name.is_commit else _pin(root, name).commit


def base(root: Path, name: HubName) -> HubName | None:
    """Return the branch or tag on the Hub that a model's base is on, where the model is an adapter by itself; None for others.

    Raises DdfileError as `commit` does, also for a whole commit that was never looked at.
    """
    return _pin(root, name).base


def base_of(folder: Path) -> HubName | None:
    """Return the branch or tag on the Hub that the base of an adapter in a folder is on; None for what lies or stays put."""
    try:
        name, revision = adapter_base(folder) if is_adapter(folder) else (folder, None)
    except (DdmakeError, ValueError):  # it names none, or one that isn't there: the job that opens it tells that
        return None
    found = HubName("model", name, revision or MAIN) if isinstance(name, str) else None
    return None if found is None or found.is_commit else found


def pinned_base(folder: Path | str) -> tuple[Path | str, str | None]:
    """Return what an adapter's folder names as its base, and on the Hub the commit that Ddfile.lock here has for it."""
    name, revision = adapter_base(folder)
    moving = base_of(Path(folder))
    return name, revision if moving is None else commit(Path.cwd(), moving)


def ask_again(root: Path, name: HubName) -> str:
    """Return the commit that a name stands for today, whatever the lock says. Raises DdfileError as `commit` does."""
    _asked[root, name] = found = ask(name)
    return found.commit


def _pin(root: Path, name: HubName) -> Pin:
    found = _asked.get((root, name)) or lock.read(root).get(name)
    if found is None:
        found = _asked[root, name] = _ask_or_recall(name)
    return found


def keep(root: Path) -> None:
    """Write to the lock what was asked."""
    pins: Pins = {name: found for (project, name), found in _asked.items() if project == root}
    if pins:
        lock.write(root, pins)
    for name in pins:
        del _asked[root, name]


def ask(name: HubName) -> Pin:
    """Return what the Hub says a name stands for.

    Raises Unreachable where it doesn't answer, DdfileError where it has no such thing or doesn't give it.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    what = f"the {name.kind} {name.repo!r}"
    try:
        told = HfApi().repo_info(name.repo, repo_type=name.kind, revision=name.revision, timeout=TIMEOUT)
    except HFValidationError:
        raise DdfileError(f"{name.repo!r} can't be a name on the Hub, which is written org/name. Mend it, or write "
                          f"./{name.repo} if it is a folder.") from None
    except GatedRepoError:
        raise DdfileError(f"{what} is gated. Ask for access on its page on the Hub, then set HF_TOKEN.") from None
    except RevisionNotFoundError:
        raise DdfileError(f"{what} has no revision {name.revision!r} on the Hub.") from None
    except RepositoryNotFoundError:
        raise DdfileError(f"{what} isn't on the Hub, or you may not see it. Mend the name, set HF_TOKEN if it is private, "
                          f"or write ./{name.repo} if it is a folder.") from None
    except (OSError, httpx.HTTPError) as error:
        if _status(error) in (401, 403):
            raise DdfileError(f"{what} was refused by the Hub ({_status(error)}). Check HF_TOKEN.") from None
        raise Unreachable(f"{what} can't be looked up: the Hub can't be reached ({type(error).__name__}). "
                          "Run ddmake again with the network on.") from None
    files = {file.rfilename for file in told.siblings or ()}
    return _with_base(name, told.sha, fetch=True) if ADAPTER in files and WHOLE not in files else Pin(told.sha)


def _with_base(name: HubName, sha: str, fetch: bool) -> Pin:
    """Return the pin of an adapter by itself. Raises Unreachable where its config is to be fetched and can't be."""
    config = _config(name, sha, ADAPTER, fetch)
    if config is None and fetch:
        raise Unreachable(f"the model {name}, commit {sha[:7]}: its {ADAPTER} can't be fetched. Run ddmake again.")
    return Pin(sha, None if config is None else base_of(config.parent))


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _ask_or_recall(name: HubName) -> Pin:
    known = _cached(name) if name.is_commit else None
    try:
        known = known or ask(name)
    except Unreachable:
        known = None if name.is_commit else _cached(name)
    if known is None:
        other = "" if name.is_commit else ", or give a whole commit as revision="
        raise Unreachable(f"the {name.kind} {name} isn't in {lock.FILE}, and the Hub can't be reached. Run ddmake once with "
                          f"the network on (HF_HUB_OFFLINE unset){other}.")
    return known


def _cached(name: HubName) -> Pin | None:
    """Return what a name stands for as the Hub's local cache has it; None where that knows nothing."""
    sha = name.revision if name.is_commit else _branch(name)
    if sha is None:
        return None
    if name.kind != "model" or _config(name, sha, WHOLE, fetch=False):
        return Pin(sha)
    return None if name.is_commit and not _config(name, sha, ADAPTER, fetch=False) else _with_base(name, sha, fetch=False)


def _branch(name: HubName) -> str | None:
    """Return the commit of a branch that the Hub's local cache has noted."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=name.repo, repo_type=name.kind)
    try:
        return Path(constants.HF_HUB_CACHE, folder, "refs", name.revision).read_text().strip()
    except OSError:
        return None


def snapshot(root: Path, name: HubName) -> Path:
    """Return the folder that holds a model of the Hub at its commit, fetched if it isn't there.

    Weights for other programs are left out, and pickled ones where there are safetensors. Raises DdmakeError where the
    model isn't there and can't be fetched.
    """
    sha = commit(root, name)
    folder = _fetched(name, sha, (*OTHERS, *PICKLES))
    return folder if any(folder.glob("**/*.safetensors")) else _fetched(name, sha, OTHERS)


def configs(root: Path, name: HubName, fetch: bool) -> Path | None:
    """Return the folder where a model's configs and chat template lie, its weights perhaps not.

    None where they aren't in the local cache, unless to `fetch` them. Raises DdmakeError where they can't be fetched.
    """
    sha = commit(root, name)
    places = [_config(name, sha, file, fetch) for file in CONFIGS]
    found = next(filter(None, places), None)
    if found is None and fetch:
        raise DdmakeError(f"the {name.kind} {name}, commit {sha[:7]}, has no {CONFIGS[0]} in the local cache, and none can be "
                          "fetched. Run ddmake again with the network on, or mend the name.")
    return None if found is None else found.parent


def file_of(root: Path, name: HubName, file: str, fetch: bool) -> Path | None:
    """Return where a file of a model lies; None for one that it hasn't, or that isn't in the local cache, without `fetch`."""
    return _config(name, commit(root, name), file, fetch)


def _config(name: HubName, sha: str, file: str, fetch: bool) -> Path | None:
    """Return where a file of a model lies, None for one that it hasn't, or that can't be fetched."""
    import httpx
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    found = try_to_load_from_cache(name.repo, file, revision=sha)
    if found is not None or not fetch:
        return Path(found) if isinstance(found, str) else None
    try:
        return Path(hf_hub_download(name.repo, file, revision=sha))
    except (EntryNotFoundError, OSError, httpx.HTTPError):
        return None


def _fetched(name: HubName, sha: str, left_out: tuple[str, ...]) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(snapshot_download(name.repo, repo_type=name.kind, revision=sha, ignore_patterns=list(left_out)))
    except (OSError, httpx.HTTPError) as error:
        why = "the Hub can't be reached" if _status(error) is None else f"the Hub answered {_status(error)}"
        raise DdmakeError(f"the {name.kind} {name}, commit {sha[:7]}, isn't whole in the local cache, and {why}. "
                          "Run ddmake again with the network on.") from None


def name_of(folder: Any) -> HubName | None:
    """Return which model of the Hub a folder is the snapshot of, or None: how a card may speak of it."""
    found = SNAPSHOT.fullmatch(Path(folder).as_posix())
    return HubName("model", found[1].replace("--", "/"), found[2]) if found else None
