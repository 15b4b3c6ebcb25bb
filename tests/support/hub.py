"""A small Hugging Face hub: a real HTTP server that speaks the part of its API that is used.

`/api/models/REPO` (with and without a revision) tells commit, sizes and checksums; `/REPO/resolve/REV/FILE` answers
HEAD and GET, small files itself and large ones by a redirect to `/cdn/SHA256`, with ranges. Faults can be set: a
connection that is cut, bytes that are wrong, an answer that stalls.
"""

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

LARGE_BYTES = 100_000
"""Files from this size on are "LFS" files: SHA-256 and a redirect."""
PIECE_BYTES = 64 * 1024
HANG_S = 60.0


class Requested(msgspec.Struct, frozen=True):
    """`range_from`: the first byte asked for, None for a whole file."""

    method: str
    path: str
    range_from: int | None


class Hub:
    """`repos`: name -> file name -> content. Every GET of a file's content is in `fetched`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[Requested] = []
        self.status: int | None = None
        self.cut_at: dict[str, int] = {}
        self.cuts = 0
        """How many answers are still cut."""
        self.wrong: dict[str, int] = {}
        """File name -> how many answers still have a flipped byte."""
        self.stall_at: dict[str, int] = {}
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self.url = ""

    def add(self, repo: str, folder: Path) -> None:
        """Put a folder's files into a repository."""
        self.repos[repo] = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}

    def contents(self, name: str) -> list[Requested]:
        """The GETs of a file's content, in order."""
        paths = {f"/cdn/{hashlib.sha256(files[name]).hexdigest()}" for files in self.repos.values() if name in files}
        return [r for r in self.requests if r.method == "GET" and (r.path in paths or r.path.endswith("/" + name))]

    def commit(self, repo: str) -> str:
        digest = hashlib.sha1()
        for name, content in self.repos[repo].items():
            digest.update(name.encode() + content)
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """The tests' output stays quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        first = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.hub.requests.append(Requested(self.command, path, int(first[1]) if first else None))
        if self.hub.status is not None:
            self._send(self.hub.status, b"{}", {}, body)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", path):
            self._tell(found[1], body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[3], body)
        elif found := re.fullmatch(r"/cdn/(\w+)", path):
            self._cdn(found[1], body)
        else:
            self._send(404, b"{}", {}, body)

    def _tell(self, repo: str, body: bool) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            return
        siblings = []
        for name, content in files.items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob_id(content)}
            if len(content) >= LARGE_BYTES:
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        answer = {"id": repo, "modelId": repo, "sha": self.hub.commit(repo), "siblings": siblings}
        self._send(200, msgspec.json.encode(answer), {"Content-Type": "application/json"}, body)

    def _resolve(self, repo: str, name: str, body: bool) -> None:
        content = self.hub.repos.get(repo, {}).get(name)
        if content is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
            return
        headers = {"X-Repo-Commit": self.hub.commit(repo), "Accept-Ranges": "bytes"}
        if len(content) >= LARGE_BYTES:
            sha256 = hashlib.sha256(content).hexdigest()
            headers["X-Linked-Etag"] = f'"{sha256}"'
            headers["X-Linked-Size"] = str(len(content))
            self._send(302, b"", {**headers, "Location": f"{self.hub.url}/cdn/{sha256}"}, body)
        else:
            self._content(name, content, {**headers, "ETag": f'"{blob_id(content)}"'}, body)

    def _cdn(self, sha256: str, body: bool) -> None:
        for files in list(self.hub.repos.values()):
            for name, content in files.items():
                if hashlib.sha256(content).hexdigest() == sha256:
                    self._content(name, content, {"ETag": f'"{sha256}"'}, body)
                    return
        self._send(404, b"", {}, body)

    def _content(self, name: str, content: bytes, headers: dict[str, str], body: bool) -> None:
        begin = (self.hub.requests[-1].range_from or 0) if "Range" in self.headers else 0
        if body and self.hub.wrong.get(name, 0) > 0:
            self.hub.wrong[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        if begin >= len(content) > 0:
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"}, body)
            return
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._send(206 if "Range" in self.headers else 200, content[begin:], headers, body, name=name, begin=begin)

    def _send(
        self, status: int, payload: bytes, headers: dict[str, str], body: bool, *, name: str = "", begin: int = 0
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if not body:
            return
        for offset in range(0, len(payload), PIECE_BYTES):
            at = begin + offset
            if self.hub.cuts > 0 and name in self.hub.cut_at and at >= self.hub.cut_at[name]:
                self.hub.cuts -= 1
                self.wfile.flush()
                self.close_connection = True
                return
            if name in self.hub.stall_at and at >= self.hub.stall_at[name]:
                self.wfile.flush()
                self.hub.stalled.set()
                self.hub.go_on.wait(HANG_S)
            self.wfile.write(payload[offset : offset + PIECE_BYTES])


def blob_id(content: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that are killed in the middle are what the tests are about."""


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub at `hub.url`."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            server.shutdown()
            thread.join(HANG_S)
