"""Finals by a remote service, asked over HTTP: its text, its times, and the local final whenever it fails."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.workers.remote import FINALS, RemoteFinals, RemoteService, RemoteText, RemoteWord, allowed, placed
from streaming.audio.endpoint import CONVERSATION
from streaming.errors import WorkerLost
from streaming.limits import LIMITS
from streaming.model import AudioFormat, Encoding, Final, Partial, Segment, UtteranceSpec, Word
from streaming.pipeline import Pipeline, StreamPlan
from streaming.tape import MarkKind, Tape
from tests.fakes.log import MemoryLog
from tests.fakes.recogniser import Call, Losing, ToneRecogniser
from tests.fakes.tones import talk
from tests.support.openai_server import KEY, OpenAIServer, answering, never, openai_server, saying

QUICK = msgspec.structs.replace(LIMITS, remote_final_ms_max=1_500)
PATIENT = msgspec.structs.replace(LIMITS, remote_final_ms_max=30_000)
"""For what is answered: on a machine that is busy 1.5 s may pass before anything was asked."""
WORDS = ("alpha", "bravo", "charlie")
SAID = talk([WORDS], silence_ms=200)
AUDIO = SAID.audio
START = 32_000


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with openai_server() as running:
        yield running


@pytest.fixture
async def service(server: OpenAIServer, request: pytest.FixtureRequest) -> AsyncIterator[RemoteService]:
    made = RemoteService(url=server.url, key=KEY, model="whisper-1", limits=getattr(request, "param", PATIENT))
    await made._connected()  # importing the package takes half a second of the first deadline
    yield made
    await made.close()


async def final(service: RemoteService, local: ToneRecogniser | None = None, **spec: Any) -> Final:
    recogniser = RemoteFinals(local or ToneRecogniser(), service)
    decoder = await recogniser.open(UtteranceSpec("u", START, **{"language": "en", **spec}))
    try:
        for at in range(0, len(AUDIO), 4_000):
            await decoder.feed(AUDIO[at : at + 4_000])
        assert (await decoder.partial()).fixed == 0
        return await decoder.final()
    finally:
        await decoder.discard()


def text_of(final: Final) -> str:
    return " ".join(word.text for word in final.hypothesis.words)


def taken(whose: str) -> float:
    return FINALS.labels(whose)._value.get()


LOCAL = " ".join(WORDS)


# --- a healthy service ------------------------------------------------------------------------------------------------
async def test_the_text_is_the_services_and_partials_are_local(server: OpenAIServer, service: RemoteService) -> None:
    server.text_of = lambda words: ", ".join(words).capitalize() + "."
    before = taken("remote")
    got = await final(service, vocabulary=("Parlance", "Weaviate"), context=b"4")
    assert text_of(got) == "Alpha, bravo, charlie."
    assert got.context == b"5", "the local engine's"
    assert got.hypothesis.confidence == pytest.approx(0.7788, abs=1e-3)
    assert taken("remote") == before + 1
    for word, said in zip(got.hypothesis.words, SAID.sentences[0], strict=True):
        assert abs(word.start_ms - 2_000 - said.start_ms) <= 10
        assert abs(word.end_ms - 2_000 - said.end_ms) <= 10
    (asked,) = server.asked
    assert np.array_equal(asked.audio, AUDIO)
    assert asked.authorization == f"Bearer {KEY}"
    assert asked.fields == {
        "model": ["whisper-1"], "language": ["en"], "prompt": ["Parlance, Weaviate"],
        "response_format": ["verbose_json"], "timestamp_granularities[]": ["word", "segment"],
    }  # fmt: skip


async def test_a_service_without_word_times_is_asked_for_plain_text_from_then_on(
    server: OpenAIServer, service: RemoteService
) -> None:
    server.verbose = False
    for _ in range(2):
        got = await final(service, language="auto")
        assert text_of(got) == LOCAL
    assert [asked.fields["response_format"] for asked in server.asked] == [["verbose_json"], ["json"], ["json"]]
    assert "language" not in server.asked[0].fields
    for word, said in zip(got.hypothesis.words, SAID.sentences[0], strict=True):
        assert abs(word.start_ms - 2_000 - said.start_ms) <= 10, "the times heard here"


async def test_its_empty_text_means_that_nothing_was_said(server: OpenAIServer, service: RemoteService) -> None:
    server.text_of = lambda _: " "
    assert (await final(service)).hypothesis.words == ()


async def test_nothing_is_committed_before_the_final() -> None:
    service = RemoteService(url="https://speech.example/v1", key=None, model="m", limits=QUICK)
    local = ToneRecogniser(notice="A modest engine.", holdback_words=2)
    capabilities = service.over(local).capabilities
    assert (capabilities.agreement, capabilities.holdback_words) == (0, 0)
    assert capabilities.notice == ("A modest engine. Audio leaves this server: speech.example makes the final text.")
    assert capabilities.languages == local.capabilities.languages


@pytest.mark.parametrize(
    ("tenants", "name", "expected"),
    [((), "a", False), (("a", "b"), "b", True), (("a",), "ab", False), (("*",), "a", True), (("*a",), "a", False)],
)
def test_only_named_tenants_are_allowed(tenants: tuple[str, ...], name: str, expected: bool) -> None:
    assert allowed(tenants, name) is expected


# --- a service that fails ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_passes_is_tried_again(server: OpenAIServer, service: RemoteService, status: int) -> None:
    server.text_of = lambda _: "remote"
    server.answers = [answering(status), answering(status)]
    assert text_of(await final(service)) == "remote"
    assert len(server.asked) == 3


async def test_the_service_says_when_to_come_back(server: OpenAIServer, service: RemoteService) -> None:
    server.text_of = lambda _: "remote"
    server.answers = [answering(429, Retry_After="0.7")]
    began = time.monotonic()
    assert text_of(await final(service)) == "remote"
    assert time.monotonic() - began >= 0.7
    server.answers = [answering(429, Retry_After="60")]
    assert text_of(await final(service)) == LOCAL, "that is later than anybody waits"
    assert text_of(await final(service)) == LOCAL
    assert len(server.asked) == 3, "nor is it asked again before"


@pytest.mark.parametrize(
    "answer",
    [
        answering(500), answering(400), answering(404), answering(302, Location="http://127.0.0.1:9/v1/steal"),
        saying(b"<html>"), saying(b'{"words": []}'), saying(b'{"text": 7}'), saying(b""),
        saying(b'{"text": "' + b"a" * QUICK.remote_answer_bytes_max + b'"}'), never,
    ],
    ids=["500", "400", "404", "redirect", "html", "no text", "wrong type", "nothing", "huge", "hangs"],
)  # fmt: skip
@pytest.mark.parametrize("service", [QUICK], indirect=True, ids=["quick"])
async def test_whatever_it_does_the_local_final_is_there(
    server: OpenAIServer, service: RemoteService, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.always = answer
    before = taken("local")
    assert text_of(await final(service)) == LOCAL
    assert taken("local") == before + 1
    told = [record for record in caplog.records if "local finals" in record.message]
    assert len(told) == 1
    assert LOCAL not in caplog.text
    assert KEY not in caplog.text


async def test_a_service_that_is_not_there_is_left_alone_after_some_finals(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    quick = msgspec.structs.replace(LIMITS, remote_final_ms_max=300)
    service = RemoteService(url="http://127.0.0.1:9/v1", key=KEY, model="m", limits=quick)
    for _ in range(3):
        assert text_of(await final(service)) == LOCAL
    assert service._rest_until > time.monotonic()
    asked = service._client
    await service.close()
    assert text_of(await final(service)) == LOCAL
    assert asked is not None
    assert service._client is None, "the fourth did not even open a connection"
    assert len([record for record in caplog.records if "local finals" in record.message]) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_told_once_and_to_whom_it_concerns(
    server: OpenAIServer, service: RemoteService, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.always = answering(status)
    for _ in range(3):
        assert text_of(await final(service)) == LOCAL
    assert len(server.asked) == 1, "audio is not sent for nothing"
    assert "refuses this server's key" in service.notice
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
    assert KEY not in caplog.text
    service._rest_until = 0.0  # the person has mended it
    server.always = None
    assert text_of(await final(service)) == LOCAL
    assert "refuses" not in service.notice


async def test_a_redirect_takes_the_key_nowhere(server: OpenAIServer, service: RemoteService) -> None:
    async with openai_server() as thief:
        server.always = answering(307, Location=f"{thief.url}/audio/transcriptions")
        assert text_of(await final(service)) == LOCAL
        assert thief.asked == []


async def test_a_key_of_another_service_in_the_environment_is_not_sent(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-somebody-elses")
    service = RemoteService(url=server.url, key=None, model="m", limits=QUICK)
    await final(service)
    await service.close()
    assert {asked.authorization for asked in server.asked} == {"Bearer none"}


async def test_only_so_many_finals_are_there_at_once(server: OpenAIServer) -> None:
    service = RemoteService(
        url=server.url, key=KEY, model="m", limits=msgspec.structs.replace(LIMITS, remote_calls_max=2)
    )

    async def slow(asked: Any) -> Any:
        await asyncio.sleep(0.05 * server.busy)
        return await server.healthy(asked)

    server.always = slow
    texts = await asyncio.gather(*(final(service) for _ in range(6)))
    await service.close()
    assert [text_of(one) for one in texts] == [LOCAL] * 6
    assert server.busy_max == 2


async def test_a_lost_local_worker_ends_the_question(server: OpenAIServer, service: RemoteService) -> None:
    server.always = never
    with pytest.raises(WorkerLost):
        await final(service, ToneRecogniser(Losing(Call.FINAL, {0})))
    assert text_of(await _healthy_again(server, service)) == LOCAL


async def _healthy_again(server: OpenAIServer, service: RemoteService) -> Final:
    server.always = None
    return await final(service)


# --- a whole stream ---------------------------------------------------------------------------------------------------
class Sink:
    def __init__(self) -> None:
        self.partials: list[Partial] = []
        self.finals: list[Segment] = []

    def partial(self, partial: Partial) -> None:
        self.partials.append(partial)

    async def final(self, segment: Segment, *, committed_sample: int, context: bytes, speakers: bytes) -> None:
        self.finals.append(segment)

    def flushed(self, marker: str) -> None:
        pass


class Sound:
    """A `SpeechDetector` that hears tones."""

    def is_speech(self, frame: Any, *, in_speech: bool) -> bool:
        return bool(np.abs(frame).max() > 500)

    def reset(self) -> None:
        pass


async def test_a_stream_shows_local_words_and_ends_with_remote_text(
    server: OpenAIServer, service: RemoteService
) -> None:
    said = talk([["one", "two", "three"], ["four", "five"], ["six"]])
    server.text_of = lambda words: "" if words == ["six"] else f"So, {' '.join(words)}!"
    server.answers = [answering(503)]
    data, log, sink = said.audio.tobytes(), MemoryLog(), Sink()
    tape = Tape(log, position=0, end=0, limits=LIMITS)
    plan = StreamPlan("r", AudioFormat(Encoding.PCM_S16LE, 16_000, 1), "en", (), CONVERSATION, 0, 1)
    pipeline = Pipeline(
        plan, tape=tape, recogniser=service.over(ToneRecogniser()), detector=Sound(), sink=sink, limits=LIMITS
    )
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(pipeline.run())
        for at in range(0, len(data), 3_200):
            tape.extend(log.append(data[at : at + 3_200]))
            for _ in range(20):  # the pipeline takes its turns, as if somebody spoke
                await asyncio.sleep(0)
        tape.mark(MarkKind.STOP)
    assert [segment.text for segment in sink.finals] == ["So, one two three!", "So, four five!"]
    assert [segment.ordinal for segment in sink.finals] == [1, 2]
    assert {partial.stable for partial in sink.partials} <= {""}
    assert sink.partials[-1].unstable == "", "the noise that the service did not hear is taken back"
    first = sink.finals[0]
    assert abs(first.words[1].start_ms - said.sentences[0][0].start_ms) < 200
    assert first.end_ms <= said.sentences[0][-1].end_ms + 50


# --- times ------------------------------------------------------------------------------------------------------------
LOCAL_WORDS = (Word("alpha", 1_000, 1_500), Word("beta", 1_600, 2_000))


def spread(text: str, *words: RemoteWord, local: tuple[Word, ...] = LOCAL_WORDS) -> list[tuple[str, int, int]]:
    got = placed(RemoteText(text, list(words) or None), local, 900, 2_400)
    return [(word.text, word.start_ms, word.end_ms) for word in got]


def test_words_take_the_services_times_punctuation_or_not() -> None:
    got = spread("Al, be!", RemoteWord("al", 0.1, 0.4), RemoteWord("be", 0.5, 0.8))
    assert got == [("Al,", 1_000, 1_300), ("be!", 1_400, 1_700)]


def test_else_they_are_spread_over_what_was_heard_here() -> None:
    assert spread("alpha beta") == [("alpha", 1_000, 1_500), ("beta", 1_600, 2_000)]
    assert spread("alphabeta") == [("alphabeta", 1_000, 2_000)]
    assert spread("al pha beta") == [("al", 1_000, 1_200), ("pha", 1_200, 1_500), ("beta", 1_600, 2_000)]
    assert spread("ab cd", local=()) == [("ab", 900, 1_650), ("cd", 1_650, 2_400)]
    assert spread("") == []


@pytest.mark.parametrize("times", [(float("nan"), 0.4), (0.5, 0.2), (-1.0, 0.2), (0.1, float("inf"))])
def test_times_that_make_no_sense_are_not_taken(times: tuple[float, float]) -> None:
    assert spread("alpha beta", RemoteWord("alpha", *times)) == spread("alpha beta")


@given(
    text=st.text("ab ,é1", max_size=40),
    remote=st.lists(st.tuples(st.text("ab ", max_size=4), st.floats(-1, 3), st.floats(-1, 3)), max_size=5),
    heard=st.integers(0, 2),
)
def test_words_always_run_forward_inside_the_utterance(text: str, remote: list[Any], heard: int) -> None:
    got = spread(text, *(RemoteWord(*word) for word in remote), local=LOCAL_WORDS[:heard])
    assert [word for word, _, _ in got] == text.split()
    edges = [edge for _, start, end in got for edge in (start, end)]
    assert edges == sorted(edges)
    assert all(900 <= edge <= 2_400 for edge in edges)
