"""Record the fixtures of this folder anew: what browsers really send, from speech of our own.

    python tests/data/containers/make.py

espeak-ng speaks; a page plays it into a MediaRecorder (pieces of 250 ms) and posts every piece back to a small server
on this machine. Needs espeak-ng, Chromium and Firefox; both run without a window. Firefox's audio clock stands still
without a sound card: where there is none, start a sound server with an empty sink first
(`pulseaudio -n --load=module-native-protocol-unix --load=module-null-sink`).

Written: `NAME.webm`, `NAME.opus` (Ogg) and `pieces.json`: the sizes of the pieces in which each one came.
"""

import io
import json
import shutil
import subprocess
import tempfile
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec

HERE = Path(__file__).parent
TEXT = (
    "This is a short talk about rivers. A river begins as a small spring in the hills, "
    "and other streams join it on its way to the sea."
)
BITS_PER_SECOND = 48_000
"""Eight seconds stay below 50 kB."""
HANG_S = 90

PAGE = """<!doctype html><title>recorder</title><script>
const ask = new URLSearchParams(location.search);
(async () => {
  const context = new AudioContext({sampleRate: 48000});
  const speech = await context.decodeAudioData(await (await fetch("speech.wav")).arrayBuffer());
  const player = new AudioBufferSourceNode(context, {buffer: speech});
  const out = new MediaStreamAudioDestinationNode(context, {channelCount: Number(ask.get("channels"))});
  player.connect(out);
  const recorder = new MediaRecorder(out.stream, {mimeType: ask.get("mime"), audioBitsPerSecond: BITS});
  let sent = Promise.resolve();
  const post = (path, body) => { sent = sent.then(() => fetch(path, {method: "POST", body})); };
  recorder.ondataavailable = (event) => { if (event.data.size) post("piece", event.data); };
  recorder.onstop = () => post("done", "");
  player.onended = () => recorder.stop();
  context.resume();
  recorder.start(250);
  player.start();
})().catch((error) => fetch("failed", {method: "POST", body: String(error)}));
</script>"""

FIREFOX_PREFERENCES = """
user_pref("media.autoplay.default", 0);
user_pref("media.autoplay.blocking_policy", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.reportingpolicy.firstRun", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("app.update.auto", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
"""
CHROMIUM = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)


class Shape(msgspec.Struct, frozen=True):
    name: str
    browser: str
    mime: str
    channels: int


SHAPES = (
    Shape("chromium.webm", "chromium", "audio/webm;codecs=opus", 2),
    Shape("chromium-mono.webm", "chromium", "audio/webm;codecs=opus", 1),
    Shape("firefox.webm", "firefox", "audio/webm;codecs=opus", 1),
    Shape("firefox.opus", "firefox", "audio/ogg;codecs=opus", 2),
)


class Recording:
    """The pieces that a page has posted so far."""

    def __init__(self, speech: bytes) -> None:
        self.speech = speech
        self.pieces: list[bytes] = []
        self.error = ""
        self.done = threading.Event()


class Answer(BaseHTTPRequestHandler):
    def __init__(self, recording: Recording, *rest: object) -> None:
        self._recording = recording
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/speech.wav":
            self._say(self._recording.speech, "audio/wav")
        elif path == "/" and parse_qs(urlsplit(self.path).query):
            self._say(PAGE.replace("BITS", str(BITS_PER_SECOND)).encode(), "text/html")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/piece":
            self._recording.pieces.append(body)
        else:
            self._recording.error = body.decode() if self.path == "/failed" else ""
            self._recording.done.set()
        self._say(b"", "text/plain")

    def _say(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def speech() -> bytes:
    said = subprocess.run(
        [program("espeak-ng"), "-v", "en-us", "-s", "150", "--stdout", TEXT], capture_output=True, check=True
    )
    with wave.open(io.BytesIO(said.stdout)) as told:  # espeak-ng does not know the length when it writes the header
        rate, frames = told.getframerate(), told.readframes(1 << 24)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(frames)
    return out.getvalue()


def program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise SystemExit(f"{names[0]} is not installed")
    return found


@contextmanager
def browsing(browser: str, url: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        if browser == "firefox":
            Path(profile, "user.js").write_text(FIREFOX_PREFERENCES)
            command = [program("firefox-esr", "firefox"), "--headless", "--no-remote", "--profile", profile, url]
        else:
            command = [program("chromium", "google-chrome"), *CHROMIUM, f"--user-data-dir={profile}", url]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            running.terminate()
            running.wait()


def record(shape: Shape, said: bytes) -> list[bytes]:
    recording = Recording(said)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Answer, recording)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        query = f"mime={shape.mime.replace(';', '%3B')}&channels={shape.channels}"
        with browsing(shape.browser, f"http://127.0.0.1:{server.server_port}/?{query}"):
            heard = recording.done.wait(HANG_S)
        server.shutdown()
    if not heard or recording.error:
        raise SystemExit(f"{shape.name}: {recording.error or 'the page never finished'}")
    return recording.pieces


def main() -> None:
    said = speech()
    sizes: dict[str, list[int]] = {}
    for shape in SHAPES:
        pieces = record(shape, said)
        (HERE / shape.name).write_bytes(b"".join(pieces))
        sizes[shape.name] = [len(piece) for piece in pieces]
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in sizes.items())
    (HERE / "pieces.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
