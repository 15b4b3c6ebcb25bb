"""HTTP requests that no browser sends, by seed, to every path that the server has."""

import random
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUTE = re.compile(r'web\.(?:get|post|put|patch|delete|head)\("([^"]+)"')
METHODS = [
    "GET",
    "GET",
    "GET",
    "POST",
    "POST",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "PATCH",
    "TRACE",
    "get",
    "G\0T",
    "X" * 300,
]
IDS = ["rec_1", "%00", "%2e%2e%2f", "..", "x" * 3_000, "%ff", "a%20b", "'--", "{}", "%", "é", "\ud83d"]
QUERIES = [
    "", "?", "?limit=0", "?limit=-1", "?limit=9" + "9" * 40, "?limit=٣", "?limit=1&limit=2", "?cursor=", "?cursor=AAAA",
    "?cursor=%00", "?cursor=" + "A" * 5_000, "?cursor=WzksIngiXQ", "?cursor=WzEsIlx1ZDgwMCJd", "?ticket=",
    "?ticket=x.y.z", "?ticket=%00", "?room=", "?room=user:x", "?room=recording:x&room=recording:y", "?after_seq=-1",
    "?EIO=4", "?EIO=4&transport=websocket", "?EIO=4&transport=websocket&sid=x", "?EIO=3&transport=polling&j=x",
    "?sid=%00", "?&&==",
]  # fmt: skip
HEADERS = [
    "Authorization: Bearer", "Authorization: Bearer x.y.z", "Authorization: Bearer \xff\xfe", "Authorization: Basic x",
    "Range: bytes=", "Range: bytes=-", "Range: bytes=9-1", "Range: bytes=0-" + "9" * 30, "Range: x", "If-Range: x",
    "If-None-Match: *", "Last-Event-ID: -1", "Last-Event-ID: x", "X-Forwarded-For: " + "1.1.1.1, " * 400,
    "X-Forwarded-For: \xff", "Origin: null", "Origin: http://[", "Upgrade: websocket", "Connection: Upgrade",
    "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Extensions: permessage-deflate; x=\"",
    "Content-Type: application/json; charset=x", "Content-Type: multipart/form-data", "Content-Encoding: gzip",
    "Content-Encoding: deflate", "Transfer-Encoding: chunked", "Content-Length: -1", "Content-Length: 99999999999",
    "Content-Length: 10", "Expect: 100-continue", "Cookie: =;=;", "Accept: text/event-stream", "Host: [",
    "X: " + "y" * 9_000, "no colon", " folded", "\0: \0",
]  # fmt: skip
BODIES = [
    b"", b"{}", b"[]", b"null", b"7", b'"x"', b"{", b"[" * 60_000, b'{"a":' * 9_000, b"\xff\xfe", b"9" * 60_000,
    b"1e999", b'{"code":"x"}', b'{"code":"\\ud800"}', b'{"code":"\\u0000"}', b'{"code":7}',
    b'{"path":"/v1/recordings/x/media"}', b'{"path":"/v1/events?room=x"}', b'{"path":{}}', b"x" * 70_000,
    b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffff\r\nx",
]  # fmt: skip


def routes() -> list[str]:
    """Every path pattern of the server's doors."""
    found: set[str] = {"/socket.io/", "/assets/x", "/nothing"}
    for path in (ROOT / "server" / "edge").glob("*.py"):
        found.update(ROUTE.findall(path.read_text(encoding="utf-8")))
    return sorted(found)


LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LYING = re.compile(rb"(?im)^(content-length: (-|1|9)|transfer-encoding|expect|content-encoding| )")


def request(seed: str, token: str) -> tuple[bytes, bool]:
    """One request, or what pretends to be one; and whether what follows it may be taken for a part of it."""
    rng = random.Random(seed)
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(1, 400)) + b"\r\n\r\n", True
    target = rng.choice(routes()).replace("{id}", rng.choice(IDS)).replace("{segment_id}", rng.choice(IDS))
    lines = [
        f"{rng.choice(METHODS)} {target}{rng.choice(QUERIES)} {rng.choice(['HTTP/1.1'] * 9 + ['HTTP/9.9'])}",
        "Host: x",
    ]
    if rng.random() < 0.6:
        lines.append(f"Authorization: Bearer {token}")
    lines += rng.sample(HEADERS, rng.choice([0, 0, 1, 2, 4]))
    body = rng.choice(BODIES) if rng.random() < 0.5 else b""
    if body and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    return head + body, LYING.search(head) is not None
