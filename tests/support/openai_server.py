"""A small real server with OpenAI's `POST /v1/audio/transcriptions`: it hears tone words, and misbehaves on command."""

import asyncio
import io
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from tests.fakes.tones import hear, labels_of

KEY = "sk-test-secret"


class Asked(msgspec.Struct, frozen=True):
    """One request: its form without the file, the file's samples (16 kHz mono), and who asked."""

    fields: dict[str, list[str]]
    audio: Any
    authorization: str


Answer = Callable[[Asked], Awaitable[web.StreamResponse]]


class OpenAIServer:
    """`answers`: how the next requests are answered, one each; then as a healthy server does. `text_of`: what a healthy
    server makes of words."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.answers: list[Answer] = []
        self.always: Answer | None = None
        self.text_of: Callable[[list[str]], str] = " ".join
        self.verbose = True
        self.busy = self.busy_max = 0

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        fields: dict[str, list[str]] = {}
        audio = np.empty(0, np.int16)
        async for part in await request.multipart():
            data = await part.read()
            if part.name == "file":
                assert part.filename
                with wave.open(io.BytesIO(data)) as file:
                    assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
                    audio = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            else:
                fields.setdefault(part.name, []).append(data.decode())
        asked = Asked(fields, audio, request.headers.get("Authorization", ""))
        self.asked.append(asked)
        self.busy += 1
        self.busy_max = max(self.busy, self.busy_max)
        try:
            answer = self.answers.pop(0) if self.answers else self.always or self.healthy
            return await answer(asked)
        finally:
            self.busy -= 1

    async def healthy(self, asked: Asked) -> web.Response:
        if asked.authorization != f"Bearer {KEY}":
            return refusal(401)
        heard = hear(asked.audio, labels_of(asked.audio))
        text = self.text_of([word for word, _, _ in heard])
        if asked.fields["response_format"] == ["json"]:
            return web.json_response({"text": text})
        if not self.verbose:
            return refusal(400)
        words = [{"word": word, "start": start / 16_000, "end": end / 16_000} for word, start, end in heard]
        segment = {"id": 0, "seek": 0, "start": 0.0, "end": 1.0, "text": text, "tokens": [], "temperature": 0.0,
                   "avg_logprob": -0.25, "compression_ratio": 1.0, "no_speech_prob": 0.0}  # fmt: skip
        body = {"task": "transcribe", "language": "english", "duration": len(asked.audio) / 16_000, "text": text}
        return web.json_response({**body, "words": words, "segments": [segment]})


def refusal(status: int, **headers: str) -> web.Response:
    error = {"message": "No.", "type": "error", "param": None, "code": None}
    return web.json_response(
        {"error": error}, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def answering(status: int, **headers: str) -> Answer:
    async def answer(_: Asked) -> web.Response:
        return refusal(status, **headers)

    return answer


def saying(body: bytes, content_type: str = "application/json") -> Answer:
    async def answer(_: Asked) -> web.Response:
        return web.Response(body=body, content_type=content_type)

    return answer


async def never(_: Asked) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def openai_server() -> AsyncIterator[OpenAIServer]:
    server = OpenAIServer()
    app = web.Application(client_max_size=4 * 2**20)
    app.router.add_post("/v1/audio/transcriptions", server.transcriptions)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
