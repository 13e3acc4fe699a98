"""A small server that speaks as much of the Hub's API as huggingface_hub and datasets use to look up, fetch and upload.

A repository is a list of commits, each a dict of files; a branch is a name for one of them. Large contents come by the LFS protocol:
the newer Xet has a server of its own, so clients are to have HF_HUB_DISABLE_XET=1. Nothing is kept on disk.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
GATED = "gated"  # a repository of this name is shown to nobody
LARGE = (".parquet", ".safetensors")  # what goes by LFS
READER = "hf_reader"  # a token that may not write
DIES = 0  # instead of a status: the connection breaks off in the middle of a request


@dataclass
class Repo:
    """The commits of a repository, by their hash, and its branches."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    proposed: list[str] = field(default_factory=list)  # what pull requests are called


@dataclass
class Fault:
    """Requests that go wrong: those whose line fits an expression, so many times."""

    line: str
    status: int
    times: int = 1


class FakeHub:
    """A Hub on a port of this machine, with what is pushed to it; `asked` are the requests it has had."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}  # by "models/org/name" or "datasets/org/name"
        self.asked: list[str] = []
        self.objects: dict[str, bytes] = {}  # large contents that were uploaded, by their hash
        self.sent: list[str] = []  # hashes of those, as often as they were sent
        self.tokens: tuple[str, ...] = ()  # those that are known; none lets everybody in
        self.faults: list[Fault] = []
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

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.hub.asked.append(f"{self.command} {'/'.join(parts)}")
        fault = next((one for one in self.hub.faults if one.times and re.search(one.line, self.hub.asked[-1])), None)
        if fault is not None and fault.status == DIES:
            fault.times -= 1
            self.rfile.read(size // 2)
            self.close_connection = True
            return
        body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(size)
        if fault is not None:
            fault.times -= 1
            self._send(fault.status, b"{}", {"Content-Type": "application/json"})
        elif parts[0] == "lfs":
            self._receive(parts[1], body)
        elif self.hub.tokens and self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.hub.tokens:
            self._send(401, b'{"error": "Invalid username or password."}', {"Content-Type": "application/json"})
        elif self.command in ("POST", "PUT") and not parts[-2:-1] == ["paths-info"] and self._write(parts, body):
            return
        elif parts[0] == "api":
            self._api(parts[1], "/".join(parts[1:4]), parts[4:], body)
        elif "resolve" in parts:
            at = parts.index("resolve")
            path = "/".join(parts[:at]) if parts[0] == "datasets" else "/".join(["models", *parts[:at]])
            self._file(path, parts[at + 1], "/".join(parts[at + 2:]))
        else:
            self._refuse(404, "EntryNotFound")

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _receive(self, oid: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.hub.sent.append(oid)
        self._send(200, b"", {})

    def _write(self, parts: list[str], body: bytes) -> bool:
        """Answer what changes something, or prepares it; return whether it was that."""
        line = "/".join(parts)
        path = "/".join(parts[1:4])
        if line == "api/validate-yaml":
            self._json({})
        elif self.headers.get("Authorization") == f"Bearer {READER}" and not self._proposes(line, body):
            self._send(403, b'{"error": "You do not have write access."}', {"Content-Type": "application/json"})
        elif line == "api/repos/create":
            self._create(json.loads(body))
        elif line.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif path not in self.hub.repos:
            return False
        elif parts[4] == "settings":
            self.hub.repos[path].private = json.loads(body)["visibility"] == "private"
            self._json({})
        elif parts[4] == "branch":
            self._branch(self.hub.repos[path], parts[5])
        elif parts[4] == "preupload":
            self._preupload(path, "/".join(parts[5:]), json.loads(body)["files"])
        elif parts[4] == "commit":
            self._take_commit(path, "/".join(parts[5:]), [json.loads(line) for line in body.splitlines()])
        else:
            return False
        return True

    def _proposes(self, line: str, body: bytes) -> bool:
        """Tell whether something takes no right to write: what belongs to a pull request, new or there, whose contents name no branch."""
        if line.endswith("objects/batch"):
            return json.loads(body).get("ref", {"name": "refs/pr/"})["name"].startswith("refs/pr/")
        return "create_pr=1" in self.path or "/refs/pr/" in line

    def _create(self, told: dict[str, str]) -> None:
        path = f"{told.get('type', 'model')}s/{told['organization']}/{told['name']}"
        if path in self.hub.repos:
            self._send(409, b'{"error": "You already created this repo"}', {"Content-Type": "application/json"})
            return
        self.hub.push(path, {".gitattributes": b""})
        self.hub.repos[path].private = told.get("visibility") == "private"
        self._json({"url": f"{self.hub.url}/{path}"})

    def _branch(self, repo: Repo, name: str) -> None:
        if name in repo.branches:
            self._send(409, b'{"error": "Reference already exists"}', {"Content-Type": "application/json"})
            return
        repo.branches[name] = repo.branches["main"]
        self._json({})

    def _batch(self, told: dict) -> None:
        new = [{**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}} for one in told["objects"]
               if one["oid"] not in self.hub.objects]
        known = [one for one in told["objects"] if one["oid"] in self.hub.objects]
        self._json({"transfer": "basic", "objects": [*known, *new]})

    def _preupload(self, path: str, revision: str, files: list[dict]) -> None:
        found = self._commit(path, revision)
        if found is not None:
            self._json({"files": [{"path": one["path"], "shouldIgnore": False, "oid": _named(one["path"], found[1]),
                                   "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular"} for one in files]})

    def _take_commit(self, path: str, revision: str, lines: list[dict]) -> None:
        repo, parent = self.hub.repos[path], lines[0]["value"].get("parentCommit")
        head = repo.branches[revision]
        if parent not in (None, head):
            self._send(412, b'{"error": "A commit has happened since. Please refresh and try again."}', {"Content-Type": "application/json"})
            return
        files = dict(repo.commits[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        propose = "create_pr=1" in self.path
        sha = self.hub.push(path, files, f"refs/pr/{len(repo.proposed) + 1}" if propose else revision)
        repo.proposed += [lines[0]["value"]["summary"]] if propose else []
        url = f"{self.hub.url}/{path}"
        self._json({"commitOid": sha, "commitUrl": f"{url}/commit/{sha}", "pullRequestUrl": f"{url}/discussions/{len(repo.proposed)}"})

    def _api(self, kind: str, path: str, rest: list[str], body: bytes) -> None:
        """Answer about a repository: itself, its tree, or some of its paths, at a revision."""
        if kind == "whoami-v2":
            self._json({"name": self.headers["Authorization"].rpartition("_")[2], "type": "user"})
            return
        if rest == ["discussions"]:
            self._json(self._discussions(kind, path))
            return
        verb, revision = (rest[0], "/".join(rest[1:]) if rest[0] == "revision" else rest[1]) if len(rest) > 1 else ("revision", "main")
        found = self._commit(path, revision)
        if found is None:
            return
        sha, files = found
        if verb == "revision":
            self._json({"id": path.partition("/")[2], "sha": sha, "private": self.hub.repos[path].private, "tags": [], "downloads": 0, "likes": 0,
                        "siblings": [{"rfilename": name} for name in files]})
        elif verb == "tree":
            self._json(_tree(files, "/".join(rest[2:])))
        elif verb == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else [part.partition("=")[2] for part in unquote(body.decode()).split("&") if part.startswith("paths=")]
            self._json([entry for entry in _entries(files) if entry["path"] in wanted])
        else:
            self._refuse(404, "EntryNotFound")

    def _discussions(self, kind: str, path: str) -> dict[str, object]:
        found = [{"title": title, "num": number, "author": {"name": "reader"}, "createdAt": "2026-01-01T00:00:00.000Z", "status": "open",
                  "repo": {"name": path.partition("/")[2], "type": kind.removesuffix("s")}, "isPullRequest": True}
                 for number, title in enumerate(self.hub.repos[path].proposed, 1)]
        return {"discussions": found, "count": len(found), "start": 0}

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


def _named(path: str, files: Files) -> str | None:
    """Return how a file that is there is known: by its own hash where it is large, else by git's."""
    if path not in files:
        return None
    return hashlib.sha256(files[path]).hexdigest() if path.endswith(LARGE) else _oid(files[path])


def _entries(files: Files) -> list[dict[str, object]]:
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    return [*({"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders),
            *({"type": "file", "path": name, "oid": _oid(text), "size": len(text)} for name, text in files.items())]


def _tree(files: Files, under: str) -> list[dict[str, object]]:
    return [entry for entry in _entries(files) if not under or str(entry["path"]).startswith(f"{under}/")]
