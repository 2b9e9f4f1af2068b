"""A Hugging Face Hub on 127.0.0.1 with the repositories of one test: listings, files with ranges, gates, cut lines."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Its files by revision; the first revision is `main`. `gated` and `private` ones ask for the token "secret"."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a commit or the beginning of none is."""
        names = list(self.revisions)
        name = names[0] if revision == "main" else revision
        return next((_commit(known) for known in names if name in (known, _commit(known))), None)

    def files(self, commit: str) -> dict[str, bytes]:
        return next(files for name, files in self.revisions.items() if _commit(name) == commit)


@dataclass
class FakeHub:
    """Use as a context manager; `url` is its HF_ENDPOINT. A transfer longer than `stall_after` bytes stops there."""

    repositories: dict[str, Repository]
    stall_after: int | None = None
    damages: str | None = None  # the ending of files that come with other bytes
    transfers: list[tuple[str, int, int]] = field(default_factory=list)  # (file, first byte, bytes sent)
    stalled: threading.Event = field(default_factory=threading.Event)  # set when a transfer has stopped
    resumed: threading.Event = field(default_factory=threading.Event)  # set it to let such a transfer break off
    url: str = ""

    def __enter__(self) -> "FakeHub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.resumed.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, rest = "/".join(parts[2:4]), parts[4:]
            revision = "/".join(rest[1:]) if rest[:1] in (["revision"], ["tree"]) else "main"
            if repository := self._allowed(name, open_to_all=True):
                self._describe(name, repository, revision, as_tree=rest[:1] == ["tree"])
        elif len(parts) > 4 and parts[2] == "resolve":
            if repository := self._allowed("/".join(parts[:2])):
                self._send_file(repository, parts[3], "/".join(parts[4:]), with_body)
        else:
            self._refuse(404, "EntryNotFound")

    def _allowed(self, name: str, open_to_all: bool = False) -> Repository | None:
        """A gated repository's description is open, its files are not; a private one is as if it weren't there."""
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == "Bearer secret"
        if repository is None or (repository.private and not known):
            self._refuse(401, "RepoNotFound")
            return None
        if repository.gated and not known and not open_to_all:
            self._refuse(401, "GatedRepo")
            return None
        return repository

    def _describe(self, name: str, repository: Repository, revision: str, as_tree: bool) -> None:
        commit = repository.commit(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = repository.files(commit).items()
        siblings = [_sibling(path, data) for path, data in files]
        described = {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
        body = json.dumps([_entry(path, data) for path, data in files] if as_tree else described).encode()
        self._headers(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_file(self, repository: Repository, revision: str, path: str, with_body: bool) -> None:
        commit = repository.commit(revision)
        data = repository.files(commit).get(path) if commit else None
        if commit is None or data is None:
            self._refuse(404, "EntryNotFound" if commit else "RevisionNotFound")
            return
        first = int((self.headers.get("Range") or "bytes=0-").partition("=")[2].partition("-")[0])
        headers = {
            "X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes",
            "Content-Length": str(len(data) - first), "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}",
        }  # fmt: skip
        self._headers(206 if first else 200, headers)
        if not with_body:
            return
        sent = data[first:]
        stalls = self.hub.stall_after is not None and len(sent) > self.hub.stall_after
        if self.hub.damages and path.endswith(self.hub.damages):
            sent = bytes(len(sent))
        if stalls:
            sent = sent[: self.hub.stall_after]
        self.wfile.write(sent)
        self.hub.transfers.append((path, first, len(sent)))
        if stalls:
            self.hub.stalled.set()
            self.hub.resumed.wait()
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self._headers(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"})

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    """What the Hub says of a file: its checksum in git, and of a large one, its own."""
    described = {"rfilename": path, "size": len(data)}
    if not path.endswith(".safetensors"):
        return described | {"blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    return described | {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """The same in the listing of a commit."""
    told = _sibling(path, data)
    large = {"lfs": {**told["lfs"], "oid": told["lfs"]["sha256"]}} if "lfs" in told else {}
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} | large


def _commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()
