"""A small package index: a real HTTP server with one wheel that is made on the fly, and requirements that pin it.

Faults can be set: an answer for everything, a wheel that stalls in the middle.
"""

import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, VERSION = "parlance_tiny", "1.0"
WHEEL = f"{NAME}-{VERSION}-py3-none-any.whl"
METADATA = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n"
PAYLOAD_BYTES = 3_000_000
PIECE_BYTES = 64 * 1024
HANG_S = 60.0


def wheel() -> bytes:
    """A wheel with one module and enough bytes to be announced by the installer and to stall inside."""
    info = f"{NAME}-{VERSION}.dist-info"
    files = {
        f"{NAME}/__init__.py": b"ANSWER = 42\n",
        f"{NAME}/payload.bin": hashlib.shake_128(b"payload").digest(PAYLOAD_BYTES),
        f"{info}/METADATA": METADATA.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + f"{info}/RECORD,,\n"
    files[f"{info}/RECORD"] = record.encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()


class Index:
    """`stall`: a wheel stops in its middle until `go_on`; `status`: the answer to everything."""

    def __init__(self) -> None:
        self.wheel = wheel()
        self.sha256 = hashlib.sha256(self.wheel).hexdigest()
        self.url = ""
        self.status: int | None = None
        self.stall = False
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self.asked = threading.Event()

    def requirements(self, *, sha256: str | None = None) -> str:
        """Pinned, with its hash, from this index alone."""
        return f"--index-url {self.url}/simple\n{NAME}=={VERSION} --hash=sha256:{sha256 or self.sha256}\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    index: Index

    def log_message(self, *_: object) -> None:
        """The tests' output stays quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        index = self.index
        index.asked.set()
        if index.status is not None:
            self._send(index.status, b"", body)
        elif self.path.endswith(f"/{WHEEL}"):
            self._send(200, index.wheel, body, stall=index.stall)
        elif self.path.endswith(".metadata"):
            self._send(200, METADATA.encode(), body)
        elif self.path.startswith("/simple/parlance-tiny"):
            digest = hashlib.sha256(METADATA.encode()).hexdigest()
            link = f'<a href="/files/{WHEEL}" data-core-metadata="sha256={digest}">{WHEEL}</a>'
            self._send(200, f"<!DOCTYPE html><html><body>{link}</body></html>".encode(), body)
        else:
            self._send(404, b"", body)

    def _send(self, status: int, payload: bytes, body: bool, *, stall: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if not body:
            return
        for at in range(0, len(payload), PIECE_BYTES):
            if stall and at > len(payload) // 2:
                self.wfile.flush()
                self.index.stalled.set()
                self.index.go_on.wait(HANG_S)
            self.wfile.write(payload[at : at + PIECE_BYTES])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Installers that are killed in the middle are what the tests are about."""


@contextlib.contextmanager
def serving() -> Iterator[Index]:
    """An index at `index.url`."""
    index = Index()
    handler = type("Handler", (_Handler,), {"index": index})
    with _Server(("127.0.0.1", 0), handler) as server:
        index.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield index
        finally:
            index.go_on.set()
            server.shutdown()
            thread.join(HANG_S)
