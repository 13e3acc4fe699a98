"""Sending to the Hugging Face Hub, as one commit, by huggingface_hub.

Contents go first, each under its hash, and the commit that names them last: a repository is never seen half-done, and after a
break only what lacks is sent. The commit says which one it follows, so that somebody else's in between is noticed. The token
is huggingface_hub's business: HF_TOKEN, or what `hf auth login` has kept.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from ddmake.cards.upload import Upload
from ddmake.errors import DdmakeError

if TYPE_CHECKING:
    from huggingface_hub import Discussion, HfApi
    from huggingface_hub.hf_api import CommitInfo, DatasetInfo, ModelInfo

# what an earlier publishing left and this one doesn't have would be loaded beside it
STALE = {"dataset": ("data/*.parquet",),
         "model": ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json", "chat_template.jinja")}
TRIES = 5
WAIT = 1.0  # seconds before the second try, doubled before each other one
REFUSED = 400  # the first status that says no
TRANSIENT = (408, 429, 500, 502, 503, 504)
MOVED = 412  # somebody else has committed meanwhile
KEPT = "What was sent is kept there: do the same again, and only the rest is sent."


@dataclass(frozen=True)
class Published:
    """What was published, and where."""

    repo: str
    kind: str
    url: str
    commit: str
    pull_request: str | None
    private: bool


def send(upload: Upload) -> Published:
    """Send an upload, and return where it is. Raises DdmakeError for whatever the Hub refuses, in words."""
    import httpx
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()
    if not get_token():
        raise DdmakeError("there is no token for the Hub. Set HF_TOKEN, or log in: hf auth login")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        return _send(api, upload)
    except OfflineModeIsEnabled:
        raise DdmakeError("the network is off (HF_HUB_OFFLINE, or --frozen). Nothing was sent.") from None
    except (HfHubHTTPError, httpx.HTTPError, RuntimeError, ValueError, KeyError, TypeError) as error:
        # an upload that fails is told as a RuntimeError, of which the cause says why
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error
        raise DdmakeError(_told(upload, cause)) from error


def _send(api: "HfApi", upload: Upload) -> Published:
    wanted, where = upload.wanted, {"repo_id": upload.wanted.repo, "repo_type": upload.kind}
    private = _opened(api, upload)
    if wanted.revision and not wanted.pull_request:
        _again(lambda: api.create_branch(**where, branch=wanted.revision, exist_ok=True))
    proposed = _again(lambda: _proposed(api, upload)) if wanted.pull_request else None
    done = _again(lambda: _commit(api, upload, proposed))
    if private and wanted.private is False:  # last, so that nobody sees what was there before
        _again(lambda: api.update_repo_settings(**where, private=False))
        private = False
    folder = "datasets/" if upload.kind == "dataset" else ""
    url, request = f"{api.endpoint}/{folder}{wanted.repo}", done.pr_url if proposed is None else proposed.url
    return Published(wanted.repo, upload.kind, url, done.oid, request, private)


def _opened(api: "HfApi", upload: Upload) -> bool:
    """See to it that the repository is there, private if it has to be before anything is sent; return whether it is."""
    wanted, where = upload.wanted, {"repo_id": upload.wanted.repo, "repo_type": upload.kind}
    there = _again(lambda: _info(api, upload))
    if there is None and not wanted.pull_request:
        _again(lambda: api.create_repo(**where, private=True, exist_ok=True))
        there = _again(lambda: _info(api, upload))
    if there is None:
        raise DdmakeError(f"the Hub has no {upload.kind} {wanted.repo}, or none that your token may see. "
                          "A proposal needs one: look at the name, or publish without pull_request=True (--pr), which makes it.")
    if wanted.private and not there.private:
        _again(lambda: api.update_repo_settings(**where, private=True))
    return bool(wanted.private or there.private)


def _info(api: "HfApi", upload: Upload, revision: str | None = None) -> "ModelInfo | DatasetInfo | None":
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.repo_info(upload.wanted.repo, repo_type=upload.kind, revision=revision)
    except RepositoryNotFoundError:
        return None


def _proposed(api: "HfApi", upload: Upload) -> "Discussion | None":
    """Return the token's own pull request of this name that is open: what is proposed again goes into that one."""
    if upload.wanted.revision:  # what a pull request is for, the Hub doesn't tell
        return None
    found = api.get_repo_discussions(upload.wanted.repo, repo_type=upload.kind, author=api.whoami()["name"],
                                     discussion_type="pull_request", discussion_status="open")
    return next((one for one in found if one.title == upload.message), None)


def _commit(api: "HfApi", upload: Upload, proposed: "Discussion | None") -> "CommitInfo":
    """Send what isn't there yet, and commit all of it: what is new, and that what is stale goes."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    wanted = upload.wanted
    revision = proposed.git_reference if proposed is not None else wanted.revision
    there = _info(api, upload, revision)
    names = [sibling.rfilename for sibling in there.siblings or ()] if there is not None else []
    adds = [CommitOperationAdd(file.name, file.place) for file in upload.files]
    for add, file in zip(adds, upload.files, strict=True):
        add.upload_info.sha256 = bytes.fromhex(file.sha)  # known already: else each try would read all of it again
    deletes = [CommitOperationDelete(name) for name in _stale(upload, names)]
    return api.create_commit(wanted.repo, [*adds, *deletes], commit_message=upload.message, repo_type=upload.kind,
                             revision=revision, create_pr=wanted.pull_request and proposed is None,
                             parent_commit=there.sha if there is not None else None)


def _stale(upload: Upload, names: Iterable[str]) -> list[str]:
    """Return those files of an earlier publishing that would be loaded beside, or in place of, what comes now."""
    coming = {file.name for file in upload.files}
    return [name for name in names if name not in coming and any(fnmatch(name, one) for one in STALE[upload.kind])]


def _again(ask: Callable[[], Any]) -> Any:
    """Ask the Hub, and again where it was busy, out of reach, or somebody else committed meanwhile."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    broken = (httpx.TransportError, json.JSONDecodeError)  # the second of a busy Hub's page, where huggingface_hub reads JSON
    for number in range(TRIES):
        try:
            return ask()
        except (HfHubHTTPError, *broken) as error:
            if number == TRIES - 1 or not (_status(error) in (*TRANSIENT, MOVED) or isinstance(error, broken)):
                raise
        time.sleep(WAIT * 2**number)
    return None


def _status(error: BaseException) -> int:
    """Return the status that the Hub answered with; 0 where it didn't answer."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _told(upload: Upload, error: BaseException) -> str:
    """Return what went wrong, and what to do, in a sentence or two."""
    repo, status = upload.wanted.repo, _status(error)
    said = str(getattr(error, "server_message", None) or type(error).__name__).strip().rstrip(".")
    remedies = {
        401: "The token isn't valid. Renew it: HF_TOKEN, or hf auth login.",
        403: f"The token may not write to {repo}. Give it that right at https://huggingface.co/settings/tokens, or publish "
             "elsewhere; whoever may not write can propose: pull_request=True, or --pr.",
        404: f"There is no {upload.kind} {repo}, or no branch {upload.wanted.revision or 'main'}, that your token may see.",
        409: "Something of that name is there, or being made, that is in the way. Look at it, or take another name.",
        MOVED: f"Somebody else commits to {repo} all the time. {KEPT}",
    }
    if status in remedies:
        return f"the Hub answered {status} for {repo}: {said}. {remedies[status]}"
    if status in TRANSIENT:
        return f"the Hub answered {status} for {repo}, {TRIES} times. {KEPT}"
    if status >= REFUSED:
        return f"the Hub answered {status} for {repo}: {said}."
    if isinstance(error, (KeyError, TypeError)):  # a page of somebody's who stands in between, say
        return f"{os.environ.get('HF_ENDPOINT', 'the Hub')} doesn't answer as the Hub does. Is HF_ENDPOINT right? {KEPT}"
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):  # metadata that it doesn't take
        return f"the Hub doesn't take it: {' '.join(str(error).split())}"
    name = type(error).__name__
    if name.startswith("Connect"):
        return f"{os.environ.get('HF_ENDPOINT', 'the Hub')} can't be reached ({name}). Is the network on? {KEPT}"
    return f"the connection to the Hub broke off ({name}). {KEPT}"
