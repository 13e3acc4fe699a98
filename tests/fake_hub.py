"""A small server that speaks as much of the Hub's API as huggingface_hub and datasets use to look up and fetch.

A repository is a list of commits, each a dict of files; a branch is a name for one of them. Nothing is kept on disk.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
GATED = "gated"  # a repository of this name is shown to nobody


@dataclass
class Repo:
    """The commits of a repository, by their hash, and its branches."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """A Hub on a port of this machine, with what is pushed to it; `asked` are the requests it has had."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}  # by "models/org/name" or "datasets/org/name"
        self.asked: list[str] = []
        hub = self

        class Handler(_Handler):
            def version_string(self) -> str:
                return "fake-hub"

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def push(self, path: str, files: Files, branch: str = "main") -> str:
        """Add a commit to a repository, move a branch to it, and return its hash."""
        repo = self.repos.setdefault(path, Repo())
        told = [path, str(len(repo.commits)), *(f"{name} {hashlib.sha1(text).hexdigest()}" for name, text in sorted(files.items()))]
        sha = hashlib.sha1("\n".join(told).encode()).hexdigest()
        repo.commits[sha], repo.branches[branch] = files, sha
        return sha

    def push_folder(self, path: str, folder: Path, branch: str = "main", **files: bytes) -> str:
        """Push a folder's files, and others by name."""
        read = {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
        return self.push(path, read | files, branch)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.hub.asked.append(f"{self.command} {'/'.join(parts)}")
        if parts[0] == "api":
            self._api(parts[1], "/".join(parts[1:4]), parts[4:], body)
        elif "resolve" in parts:
            at = parts.index("resolve")
            path = "/".join(parts[:at]) if parts[0] == "datasets" else "/".join(["models", *parts[:at]])
            self._file(path, parts[at + 1], "/".join(parts[at + 2:]))
        else:
            self._refuse(404, "EntryNotFound")

    def _api(self, kind: str, path: str, rest: list[str], body: bytes) -> None:
        """Answer about a repository: itself, its tree, or some of its paths, at a revision."""
        verb, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        found = self._commit(path, revision)
        if found is None:
            return
        sha, files = found
        if verb == "revision":
            self._json({"id": path.partition("/")[2], "sha": sha, "private": False, "tags": [], "downloads": 0, "likes": 0,
                        "siblings": [{"rfilename": name} for name in files]})
        elif verb == "tree":
            self._json(_tree(files, "/".join(rest[2:])))
        elif verb == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else [part.partition("=")[2] for part in unquote(body.decode()).split("&") if part.startswith("paths=")]
            self._json([entry for entry in _entries(files) if entry["path"] in wanted])
        else:
            self._refuse(404, "EntryNotFound")

    def _file(self, path: str, revision: str, name: str) -> None:
        found = self._commit(path, revision)
        if found is None:
            return
        sha, files = found
        if name not in files:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
            return
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_oid(files[name])}"', "Accept-Ranges": "bytes"}
        self._send(200, files[name], headers)

    def _commit(self, path: str, revision: str) -> tuple[str, Files] | None:
        """Return the commit that a revision names; None once it has been refused."""
        repo = self.hub.repos.get(path)
        if GATED in path:
            self._refuse(403, "GatedRepo")
        elif repo is None:
            self._refuse(401, "RepoNotFound")
        elif repo.branches.get(revision, revision) not in repo.commits:
            self._refuse(404, "RevisionNotFound")
        else:
            sha = repo.branches.get(revision, revision)
            return sha, repo.commits[sha]
        return None

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        whole, asked = len(body), self.headers.get("Range", "")
        if status == 200 and asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last), whole - 1) if last else whole - 1
            status, body = 206, body[int(first):end + 1]
            headers = {**headers, "Content-Range": f"bytes {first}-{end}/{whole}"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entries(files: Files) -> list[dict[str, object]]:
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    return [*({"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders),
            *({"type": "file", "path": name, "oid": _oid(text), "size": len(text)} for name, text in files.items())]


def _tree(files: Files, under: str) -> list[dict[str, object]]:
    return [entry for entry in _entries(files) if not under or str(entry["path"]).startswith(f"{under}/")]
