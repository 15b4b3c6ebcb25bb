"""The worker's way to share one model, in this process: a socket, a thread, engines that fail."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from streaming.model import UtteranceSpec
from streaming.protocol.frames import FrameReader
from streaming.recogniser import link, windows
from streaming.recogniser.engine import WindowEngine, is_window_engine
from streaming.recogniser.pocketsphinx import PocketSphinxEngine
from streaming.recogniser.shared import SharedModel
from tests.fakes import tones
from tests.fakes.windows import POISON, BatchToneEngine, HangingEngine, WindowToneEngine

HANG_S = 30.0
WORDS = ("alpha", "bravo")
TALK = tones.talk([WORDS], silence_ms=300)


class Serving:
    """A `SharedModel` in a thread and our end of its socket."""

    def __init__(self, engine: WindowEngine) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(HANG_S)
        self._frames = FrameReader(link.FRAME_BYTES_MAX)
        self._waiting: list[link.Answer] = []
        self.begun: list[tuple[int, ...]] = []
        """What the worker said it decodes."""
        self.status: Future[int] = Future()
        self._model = SharedModel(theirs, engine)
        threading.Thread(target=lambda: self.status.set_result(self._model.run()), daemon=True).start()
        assert isinstance(self.answer(), link.Hello)

    def close(self) -> int:
        """End the server's side; returns the status, and releases what a process that ends would not have to."""
        self.sock.close()
        status = self.status.result(HANG_S)
        self._model._thread.shutdown()
        for sock in (self._model._server.sock, self._model._wake, self._model._woken):
            sock.close()
        self._model._selector.close()
        return status

    def send(self, *requests: link.Request) -> None:
        self.sock.sendall(b"".join(map(link.frame, requests)))

    def answer(self) -> link.Answer:
        """The next one that is about an utterance."""
        while not self._waiting:
            data = self.sock.recv(65_536)
            assert data, "the worker ended"
            for payload in self._frames.feed(data):
                assert isinstance(payload, bytes)
                answer = link.decode_answer(payload)
                if isinstance(answer, link.Begun):
                    self.begun.append(answer.utterances)
                elif not isinstance(answer, link.Load):
                    self._waiting.append(answer)
        return self._waiting.pop(0)

    def final(self, utterance: int) -> tuple[str, ...]:
        """Words of the utterance's final; everything else that comes before it is passed over."""
        while not isinstance(answer := self.answer(), link.FinalReady) or answer.utterance != utterance:
            assert not isinstance(answer, link.Lost | link.Refused)
        return tuple(word.text for word in answer.final.hypothesis.words)


def opened(utterance: int, language: str = "en") -> list[link.Request]:
    audio: list[link.Request] = [link.Audio(utterance, pcm) for pcm in link.pcm_pieces(TALK.audio)]
    return [link.Open(utterance, UtteranceSpec("u", 0, language)), *audio]


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving(WindowToneEngine())
    yield made
    assert made.close() == 0


def test_kinds_of_engines() -> None:
    assert is_window_engine(WindowToneEngine())
    assert not is_window_engine(tones.ToneEngine())
    assert not is_window_engine(PocketSphinxEngine())


def test_utterances_side_by_side(serving: Serving) -> None:
    serving.send(*opened(1), *opened(2), link.AskPartial(1, 5), link.AskFinal(2))
    assert serving.final(2) == WORDS
    while not isinstance(answer := serving.answer(), link.PartialReady):
        pass
    assert (answer.utterance, answer.request) == (1, 5)
    serving.send(link.AskFinal(1))
    assert serving.final(1) == WORDS


def test_a_window_that_fails_loses_its_utterance_only(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    serving.send(*opened(1, POISON), *opened(2), link.AskFinal(1), link.AskFinal(2))
    while isinstance(answer := serving.answer(), link.Taken):
        pass
    assert answer == link.Lost(1, "the decoder failed")
    assert serving.final(2) == WORDS
    assert serving.begun == [(1,), (2,)]
    assert "decode failed: ValueError at windows.py" in caplog.text
    assert "something that was said" not in caplog.text


def test_a_bad_window_in_a_batch_loses_its_utterance_only() -> None:
    serving = Serving(BatchToneEngine())
    serving.send(*opened(1), *opened(2, POISON), *opened(3), link.Discard(9))
    while serving.answer() != link.Discarded(9):
        pass
    serving.send(link.AskFinal(1), link.AskFinal(2), link.AskFinal(3))  # one write, so they are read together
    ended = {}
    while len(ended) < 3:
        answer = serving.answer()
        if isinstance(answer, link.FinalReady | link.Lost):
            ended[answer.utterance] = type(answer)
    assert ended == {1: link.FinalReady, 2: link.Lost, 3: link.FinalReady}
    assert serving.begun == [(1, 2), (1,), (2,), (3,)], "together, then one by one"
    assert serving.close() == 0


def test_a_decode_begins_when_its_announcement_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker that dies of it leaves no trace of whom it died of."""
    decoded: list[int] = []
    serving = Serving(WindowToneEngine())
    peer, real = serving._model._server, serving._model._server.put

    def held(payload: bytes, *, urgent: bool = False) -> None:
        real(payload, urgent=urgent)
        if isinstance(link.decode_answer(payload), link.Begun):
            peer.waiting_bytes += 1  # as if the kernel had not taken all of it

    monkeypatch.setattr(serving._model._engine, "decode", lambda windows: decoded.append(len(windows)), raising=False)
    monkeypatch.setattr(peer, "put", held)
    serving.send(*opened(1), link.AskFinal(1), link.Discard(7))
    while serving.answer() != link.Discarded(7):
        pass
    serving.send(link.Discard(8))
    while serving.answer() != link.Discarded(8):
        pass
    assert serving.begun == [(1,)]
    assert decoded == []
    peer.waiting_bytes = 0
    assert serving.close() == 0


def test_garbage_is_refused_and_the_next_request_served(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    oversized = (link.FRAME_BYTES_MAX + 1).to_bytes(4, "little") + bytes(link.FRAME_BYTES_MAX + 1)
    for garbage in (link.frame_payload(b"secret words"), link.frame_payload(b""), oversized):
        serving.sock.sendall(garbage)
        assert isinstance(serving.answer(), link.Refused)
    serving.send(link.AskPartial(5, 1), *opened(6), link.AskFinal(6))
    assert serving.answer() == link.Lost(5, "no such utterance")
    assert serving.final(6) == WORDS
    assert "refused a frame" in caplog.text
    assert "secret" not in caplog.text


def test_a_model_that_hangs_ends_the_worker_and_discards_are_answered_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(windows, "STALL_S", 0.5)
    serving = Serving(HangingEngine())
    serving.send(*opened(1), link.AskPartial(1, 1))
    assert HangingEngine.began.wait(HANG_S)
    serving.send(link.Discard(1))
    while isinstance(answer := serving.answer(), link.Taken):
        pass
    assert answer == link.Discarded(1)
    assert serving.status.result(HANG_S) == 1
    HangingEngine.go_on.set()
    assert serving.close() == 1
