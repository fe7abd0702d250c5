"""A hub on the loopback: enough of the API for the real client, over folders of tiny models.

Repositories are folders `ORG/NAME` below a root; a folder has one commit, which `main` and `v1`
name. Each is a model or a data set, as it is asked for. Every request is noted.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_of_a_reader"
REVISIONS = ("main", "v1")


@dataclass(kw_only=True)
class Hub:
    """What is served, and what was asked for."""

    root: Path
    url: str = ""
    gated: set[str] = field(default_factory=set)
    """Repositories whose files are given to `TOKEN` only."""
    cut_once: set[str] = field(default_factory=set)
    """Files whose connection is closed half-way the next time."""
    broken: set[str] = field(default_factory=set)
    """Files that get an error."""
    busy: dict[str, list[int]] = field(default_factory=dict)
    """File -> statuses of the next answers, before it is sent."""
    elsewhere: str = ""
    """Another host, to which whoever wants a file is sent."""
    tokens: list[str | None] = field(default_factory=list)
    """What each request for a file was authorised with."""
    served: list[tuple[str, str | None]] = field(default_factory=list)
    """Files in the order they were sent, each with the range that was asked for."""
    requests: int = 0

    def names(self) -> set[str]:
        """Files that were sent, or a part of them."""
        return {name for name, _ in self.served}


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """Serve the repositories below a folder."""
    hub = Hub(root=root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def use(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client of this process ask this hub, with a cache of its own and no token."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def commit_of(folder: Path) -> str:
    """One for all that the folder holds."""
    sizes = sorted((path.name, path.stat().st_size) for path in folder.rglob("*") if path.is_file())
    return hashlib.sha1(f"{folder.name} {sizes}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests += 1
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(/.*)?", path):
            self._api(found[1], found[2] or "")
        elif found := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        else:
            self._refuse(404, "NotFound")

    def do_POST(self) -> None:
        """What the hub says of some paths; its client asks so before it reads folders."""
        self.hub.requests += 1
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", self.path)
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        folder = self.hub.root / found[1] if found else self.hub.root
        paths = [folder / path for path in asked.get("paths", [])]
        self._json([_entry(folder, path) for path in paths if path.exists()])

    def _api(self, name: str, rest: str) -> None:
        folder = self.hub.root / name
        if not folder.is_dir():
            return self._refuse(401, "RepoNotFound")
        found = re.fullmatch(r"/(?:revision|tree)/([^/]+)(?:/(.+))?", rest)
        if found and found[1] not in (*REVISIONS, commit_of(folder)):
            return self._refuse(404, "RevisionNotFound")
        if rest == "/auth-check":
            return self._json({}) if self._may_read(name) else self._refuse(401, "GatedRepo")
        if rest.startswith("/tree/"):
            assert found
            within = folder / (found[2] or "")
            if not within.is_dir():
                return self._refuse(404, "EntryNotFound")
            is_deep = "recursive=true" in self.path.lower()
            listed = _files(within) if is_deep else sorted(within.iterdir())
            return self._json([_entry(folder, path) for path in listed])
        siblings = [_sibling(folder, path) for path in _files(folder)]
        gated = "manual" if name in self.hub.gated else False
        self._json({"id": name, "sha": commit_of(folder), "siblings": siblings, "gated": gated})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        folder = self.hub.root / name
        if not folder.is_dir():
            return self._refuse(401, "RepoNotFound")
        if not self._may_read(name):
            return self._refuse(401, "GatedRepo")
        if revision not in (*REVISIONS, commit_of(folder)):
            return self._refuse(404, "RevisionNotFound")
        if not (folder / file).is_file():
            return self._refuse(404, "EntryNotFound", commit_of(folder))
        self.hub.tokens.append(self.headers.get("Authorization"))
        if statuses := self.hub.busy.get(file):
            return self._refuse(statuses.pop(0), "Busy")
        if self.hub.elsewhere:
            return self._redirect(f"{self.hub.elsewhere}{self.path}")
        if file in self.hub.broken:
            return self._refuse(403, "Broken")  # an error that is not tried again
        self._send(folder, file)

    def _send(self, folder: Path, file: str) -> None:
        content = (folder / file).read_bytes()
        wanted = self.headers.get("Range")
        range_ = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "bytes=0-")
        assert range_
        size, begin = len(content), int(range_[1])
        content = content[: int(range_[2]) + 1] if range_[2] else content
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", commit_of(folder))
        self.send_header("ETag", f'"{_digest(folder / file)}"')
        self.send_header("Content-Length", str(len(content) - begin))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.hub.served.append((file, wanted))
        if file in self.hub.cut_once:
            self.hub.cut_once.remove(file)
            self.wfile.write(content[begin : (begin + len(content)) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content[begin:])

    def _may_read(self, name: str) -> bool:
        given = self.headers.get("Authorization", "")
        return name not in self.hub.gated or given == f"Bearer {TOKEN}"

    def _redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    """Of what its repository keeps: the pointer of a large file names its SHA-256."""
    kind = hashlib.sha256 if is_large(path) else hashlib.sha1
    return kind(path.read_bytes()).hexdigest()


def is_large(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name, size = path.relative_to(folder).as_posix(), path.stat().st_size
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": commit_of(path)}
    entry = {"type": "file", "path": name, "size": size, "oid": _pointer(path)}
    if is_large(path):
        entry["lfs"] = {"oid": _digest(path), "size": size, "pointerSize": 134}
    return entry


def _sibling(folder: Path, path: Path) -> dict[str, Any]:
    name, size = path.relative_to(folder).as_posix(), path.stat().st_size
    sibling = {"rfilename": name, "size": size, "blobId": _pointer(path)}
    if is_large(path):
        sibling["lfs"] = {"sha256": _digest(path), "size": size, "pointerSize": 134}
    return sibling


def _pointer(path: Path) -> str:
    return hashlib.sha1(_digest(path).encode()).hexdigest() if is_large(path) else _digest(path)
