"""Finals by a remote OpenAI-compatible service; everything else by the local recogniser.

Policy: partials and the shape of utterances are local; the text of a final comes from the service. A final must begin
with what was committed before it, which the service knows nothing of: such a stream commits nothing before its final
(`agreement` 0, `fixed` 0). The service gets `remote_final_ms_max` for all its tries, with pauses that it may ask for
(Retry-After); then the local final is taken, so nothing is lost and nobody waits for ever. A service that keeps
failing, or refuses the key, is left alone for a while. Its empty text is an answer: there was no speech.

Boundary: the openai package, imported at the first final (0.5 s). Audio and key go to the configured host and nowhere
else: redirects are not followed. Invariant: neither speech nor key is ever written to the log.
"""

import asyncio
import contextlib
import io
import logging
import math
import secrets
import time
import wave
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from prometheus_client import Counter

from server.telemetry import METRICS
from streaming.limits import Limits
from streaming.model import SAMPLE_RATE, Capabilities, Final, Hypothesis, UtteranceSpec, Word, ms_of
from streaming.ports import Pcm16, Recogniser, UtteranceDecoder

if TYPE_CHECKING:
    from openai import AsyncOpenAI

RETRY_S_MIN, RETRY_S_MAX = 0.2, 2.0
"""Between tries; each pause is drawn from half to all of it, so that streams do not come back together."""
FAILURES_MAX = 3
REST_S = 30.0
"""After so many finals in a row without an answer the next ones do not wait for one, for this long."""
REFUSED_REST_S = 300.0
"""A refused key is a person's work: audio need not be sent for nothing meanwhile."""
LOG_EVERY_S = 60.0
PROMPT_CHARS_MAX = 800
"""Services read the last 224 tokens of a prompt."""
UNANSWERABLE = frozenset({400, 404, 415, 422})
"""What a service says that does not know word times or `verbose_json`."""

log = logging.getLogger(__name__)

FINALS = Counter(
    "parlance_remote_finals", "Finals of streams with a remote service, by whose text was taken", ["text"],
    registry=METRICS.registry,
)  # fmt: skip


def allowed(tenants: Collection[str], tenant_name: str) -> bool:
    """Whether this tenant's audio may go to the remote service. `tenants`: names, or "*" for all."""
    return "*" in tenants or tenant_name in tenants


class RemoteWord(msgspec.Struct, frozen=True):
    word: str
    start: float
    end: float


class RemoteSegment(msgspec.Struct, frozen=True):
    avg_logprob: float | None = None


class RemoteText(msgspec.Struct, frozen=True):
    """An answer: `json` has the text only. Times in seconds from the beginning of the audio."""

    text: str
    words: list[RemoteWord] | None = None
    segments: list[RemoteSegment] | None = None

    @property
    def confidence(self) -> float:
        """The mean probability of its segments' tokens; 1 where it does not tell."""
        told = [s.avg_logprob for s in self.segments or () if s.avg_logprob is not None]
        return min(1.0, math.exp(sum(told) / len(told))) if told else 1.0


class _Failed(Exception):
    """No text. `reason` names the kind of failure, never what was said. `retry`: another try may help, after `after_s`
    when the service wants it so."""

    def __init__(self, reason: str, *, status: int = 0, retry: bool = True, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.retry = retry
        self.after_s = after_s


class RemoteService:
    """The configured service, one for all streams of a node. `url`: its base, such as `https://api.openai.com/v1`."""

    def __init__(self, *, url: str, key: str | None, model: str, limits: Limits) -> None:
        self.host = urlsplit(url).hostname or url
        self.model = model
        self._url = url
        self._key = key or "none"  # never None: the package would take a key of another service from the environment
        self._limits = limits
        self._client: AsyncOpenAI | None = None
        self._places = asyncio.Semaphore(limits.remote_calls_max)
        self._opening = asyncio.Lock()
        self._plain = False
        self._failures = 0
        self._rest_until = 0.0
        self._refused = False
        self._logged_at = -LOG_EVERY_S
        self._unlogged = 0

    @property
    def notice(self) -> str:
        """What a person whose audio goes there should know."""
        text = f"Audio leaves this server: {self.host} makes the final text."
        return f"{text} It refuses this server's key at present; finals are local." if self._refused else text

    def over(self, local: Recogniser) -> "RemoteFinals":
        """`local` with finals of this service."""
        return RemoteFinals(local, self)

    async def text_of(self, audio: Pcm16, *, language: str, vocabulary: Sequence[str]) -> RemoteText | None:
        """What was said, None when the service does not tell in time. Never raises for what the service does."""
        deadline = time.monotonic() + self._limits.remote_final_ms_max / 1000
        if time.monotonic() < self._rest_until:
            return None
        try:
            async with asyncio.timeout(self._limits.remote_final_ms_max / 1000), self._places:
                answer = await self._tries(wav_of(audio), language, vocabulary, deadline)
        except TimeoutError:
            self._note(_Failed("no answer in time"))
            return None
        except _Failed as failure:
            self._note(failure)
            return None
        self._failures, self._refused = 0, False
        return answer

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _tries(self, wav: bytes, language: str, vocabulary: Sequence[str], deadline: float) -> RemoteText:
        pause_s = RETRY_S_MIN
        plain = self._plain
        while True:
            try:
                answer = await self._ask(wav, language, vocabulary, plain=plain)
                self._plain = plain
                return answer
            except _Failed as failure:
                if failure.status in UNANSWERABLE and not plain:
                    plain = True  # perhaps it was asked for more than it knows
                    continue
                wait_s = max(failure.after_s, pause_s * (0.5 + secrets.randbelow(500) / 1000))
                if not failure.retry or time.monotonic() + wait_s >= deadline:
                    raise
                await asyncio.sleep(wait_s)
                pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def _ask(self, wav: bytes, language: str, vocabulary: Sequence[str], *, plain: bool) -> RemoteText:
        """One request. Raises `_Failed`."""
        client = await self._connected()
        import httpx
        import openai

        wanted: dict[str, Any] = {"response_format": "json"}
        if not plain:
            wanted = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}
        if language != "auto":
            wanted["language"] = language.partition("-")[0].lower()
        if vocabulary:
            wanted["prompt"] = ", ".join(vocabulary)[:PROMPT_CHARS_MAX]
        body = bytearray()
        try:
            async with client.audio.transcriptions.with_streaming_response.create(
                file=("audio.wav", wav, "audio/wav"), model=self.model, **wanted
            ) as response:
                async for piece in response.iter_bytes():
                    body += piece
                    if len(body) > self._limits.remote_answer_bytes_max:
                        raise _Failed("the answer is too large", retry=False)
        except openai.APIStatusError as error:
            raise _failure_of(error.status_code, error.response.headers) from None
        except (openai.APIError, httpx.HTTPError) as error:  # connection, timeout
            raise _Failed(type(error).__name__) from None
        try:
            return msgspec.json.decode(body, type=RemoteText)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Failed("the answer makes no sense") from None

    async def _connected(self) -> "AsyncOpenAI":
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._connect)
            return self._client

    def _connect(self) -> "AsyncOpenAI":
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
        return AsyncOpenAI(
            base_url=self._url,
            api_key=self._key,
            max_retries=0,
            timeout=self._limits.remote_final_ms_max / 1000,
            http_client=DefaultAsyncHttpxClient(follow_redirects=False),
        )

    def _note(self, failure: _Failed) -> None:
        """Count a final without an answer; rest when it is not the first, tell about it once a minute."""
        now = time.monotonic()
        self._failures += 1
        if failure.status in (401, 403):
            self._rest_until = now + REFUSED_REST_S
            if not self._refused:
                self._refused = True
                log.error("remote service refuses the key: PARLANCE_REMOTE_KEY", extra={"host": self.host})
            return
        if self._failures >= FAILURES_MAX:
            self._rest_until = now + REST_S
        self._rest_until = max(self._rest_until, now + failure.after_s)
        self._unlogged += 1
        if now - self._logged_at >= LOG_EVERY_S:
            fields = {"host": self.host, "reason": failure.reason, "status": failure.status, "finals": self._unlogged}
            log.warning("remote service gave no text, local finals are taken", extra=fields)
            self._logged_at, self._unlogged = now, 0


def _failure_of(status: int, headers: Any) -> _Failed:
    retry = status in (408, 409, 429) or status >= 500
    return _Failed(
        "refused", status=status, retry=retry, after_s=_seconds(headers.get("retry-after")) if retry else 0.0
    )


def _seconds(retry_after: str | None) -> float:
    """Retry-After in seconds; a date (nobody sends one here) counts as none."""
    with contextlib.suppress(TypeError, ValueError):
        seconds = float(retry_after or 0)
        return min(seconds, REFUSED_REST_S) if seconds > 0 else 0.0
    return 0.0


class RemoteFinals(Recogniser):
    """`streaming.ports.Recogniser` around the local one."""

    def __init__(self, local: Recogniser, service: RemoteService) -> None:
        self._local = local
        self._service = service

    @property
    def capabilities(self) -> Capabilities:
        local = self._local.capabilities
        notice = " ".join(filter(None, (local.notice, self._service.notice)))
        return msgspec.structs.replace(
            local,
            name=f"{local.name}+remote",
            agreement=0,
            holdback_words=0,
            notice=notice,
            in_order=False,  # The next captions do not wait for the service.
        )

    async def open(self, spec: UtteranceSpec) -> UtteranceDecoder:
        return _Decoder(await self._local.open(spec), spec, self._service)


class _Decoder(UtteranceDecoder):
    """Holds the utterance's audio (30 s at most, the pipeline's promise) for the service."""

    def __init__(self, local: UtteranceDecoder, spec: UtteranceSpec, service: RemoteService) -> None:
        self._local = local
        self._spec = spec
        self._service = service
        self._audio: list[Pcm16] = []

    async def feed(self, audio: Pcm16) -> None:
        await self._local.feed(audio)
        self._audio.append(audio)

    async def partial(self) -> Hypothesis | None:
        hypothesis = await self._local.partial()
        return None if hypothesis is None else msgspec.structs.replace(hypothesis, fixed=0)

    async def final(self) -> Final:
        """The remote text over the local context; the local final where there is none."""
        audio = np.concatenate(self._audio) if self._audio else np.empty(0, np.int16)
        try:
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(
                    self._service.text_of(audio, language=self._spec.language, vocabulary=self._spec.vocabulary)
                )
                local = await self._local.final()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        answer = asked.result()
        FINALS.labels("local" if answer is None else "remote").inc()
        if answer is None:
            return msgspec.structs.replace(local, hypothesis=msgspec.structs.replace(local.hypothesis, fixed=0))
        start_ms = ms_of(self._spec.start_sample)
        words = placed(answer, local.hypothesis.words, start_ms, start_ms + ms_of(len(audio)))
        heard = msgspec.structs.replace(local.hypothesis, words=words, confidence=answer.confidence, fixed=0)
        return msgspec.structs.replace(local, hypothesis=heard)

    async def discard(self) -> None:
        await self._local.discard()


# --- text and times ---------------------------------------------------------------------------------------------------
def wav_of(audio: Pcm16) -> bytes:
    """A WAV file, 16 kHz mono."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(audio.astype("<i2").tobytes())
    return file.getvalue()


def placed(answer: RemoteText, local: Sequence[Word], start_ms: int, end_ms: int) -> tuple[Word, ...]:
    """The words of the remote text: its own times where it gives any, else spread over the words heard here, letter by
    letter; over the utterance where nothing was heard."""
    texts = answer.text.split()
    rule = _remote_rule(answer.words or (), start_ms, end_ms) or [
        (_letters(word.text), word.start_ms, word.end_ms) for word in local
    ]
    rule = rule or [(1, start_ms, end_ms)]
    scale = sum(letters for letters, _, _ in rule) / max(1, sum(map(_letters, texts)))
    words, at = [], 0
    for text in texts:
        begin, at = at, at + _letters(text)
        words.append(Word(text, _time(rule, begin * scale, first=True), _time(rule, at * scale), answer.confidence))
    return tuple(words)


def _remote_rule(words: Sequence[RemoteWord], start_ms: int, end_ms: int) -> list[tuple[int, int, int]]:
    """(letters, start_ms, end_ms) of the service's words; empty where its times make no sense."""
    edges = [edge for word in words for edge in (word.start, word.end)]
    if not all(map(math.isfinite, edges)) or edges != sorted(edges) or (edges and edges[0] < 0):
        return []
    limit = end_ms - start_ms
    return [
        (
            _letters(word.word),
            start_ms + min(limit, round(word.start * 1000)),
            start_ms + min(limit, round(word.end * 1000)),
        )
        for word in words
    ]


def _letters(text: str) -> int:
    """Length without punctuation, which one of two texts may lack; at least 1."""
    return max(1, sum(char.isalnum() for char in text))


def _time(rule: Sequence[tuple[int, int, int]], at: float, *, first: bool = False) -> int:
    """When letter `at` is said. Between two words: the later one's start for a word that begins (`first`), else the
    earlier one's end."""
    passed = 0.0
    for letters, start_ms, end_ms in rule:
        if at < passed + letters - 1e-6 or (not first and at <= passed + letters + 1e-6):
            share = max(0.0, at - passed) / letters
            return round(start_ms + (end_ms - start_ms) * share)
        passed += letters
    return rule[-1][2]


__all__ = ["RemoteFinals", "RemoteService", "RemoteText", "allowed", "placed"]
