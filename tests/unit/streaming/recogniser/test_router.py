"""Which process serves which utterance."""

import msgspec
import pytest

from streaming.model import Final, Hypothesis, UtteranceSpec
from streaming.recogniser import link
from streaming.recogniser.cadence import ON_TIME_HOPS, on_time
from streaming.recogniser.router import IDLE_MAX, SPARES, STALL_S, Effect, End, Fork, Log, Reply, Router, Send

EMPTY = Hypothesis((), 0)
SPEC = UtteranceSpec("u", 0, "en")


class Bench:
    """A router with short names; `now` is whatever the test says."""

    def __init__(self, utterances_max: int = 4, cores: int = 1) -> None:
        self.router = Router(utterances_max, 30_000, cores=cores, inflight_bytes_max=1_000)
        self.forked: list[int] = []
        self.now = 0.0
        self.keep(self.router.start())

    def keep(self, effects: list[Effect]) -> list[Effect]:
        self.forked += [e.child for e in effects if isinstance(e, Fork)]
        return effects

    def server(self, request: link.Request) -> list[Effect]:
        return self.keep(self.router.from_server(link.payload(request), self.now))

    def child(self, child: int, answer: link.Answer) -> list[Effect]:
        return self.keep(self.router.from_child(child, link.payload(answer), self.now))

    def open(self, utterance: int, tenant: str = "") -> int:
        """Open an utterance; returns its process."""
        spec = msgspec.structs.replace(SPEC, tenant=tenant)
        return next(e.child for e in self.server(link.Open(utterance, spec)) if isinstance(e, Send))

    def load(self) -> link.Load | None:
        """What the next second's tick says of the load, if anything."""
        self.now += 1.0
        loads = [a for a in replies(self.keep(self.router.tick(self.now))) if isinstance(a, link.Load)]
        return loads[0] if loads else None


def replies(effects: list[Effect]) -> list[link.Answer]:
    return [link.decode_answer(e.payload) for e in effects if isinstance(e, Reply)]


def without_logs(effects: list[Effect]) -> list[Effect]:
    return [e for e in effects if not isinstance(e, Log)]


def test_spares_are_forked_ahead_and_refilled_when_one_is_taken() -> None:
    bench = Bench()
    assert len(bench.forked) == SPARES
    child = bench.open(1)
    assert child in bench.forked[:SPARES]
    assert len(bench.forked) == SPARES + 1


def test_no_more_processes_than_places() -> None:
    bench = Bench(utterances_max=2)
    assert {bench.open(1), bench.open(2)} == set(bench.forked)
    effects = bench.server(link.Open(3, SPEC))
    assert replies(effects) == [link.Lost(3, "no decoder is free")]
    assert len(bench.forked) == 2


def test_a_final_ends_the_utterance_and_its_process_is_used_again() -> None:
    bench = Bench(utterances_max=1)
    child = bench.open(1)
    bench.server(link.AskFinal(1))
    final = link.FinalReady(1, Final(EMPTY))
    assert replies(bench.child(child, final)) == [final]
    assert bench.open(2) == child
    assert bench.forked == [child]


def test_idle_processes_beyond_the_bound_end() -> None:
    bench = Bench(utterances_max=3 * IDLE_MAX)
    children = {n: bench.open(n) for n in range(2 * IDLE_MAX)}
    ended = 0
    for utterance, child in children.items():
        bench.server(link.AskFinal(utterance))
        ended += End(child) in bench.child(child, link.FinalReady(utterance, Final(EMPTY)))
    assert ended == IDLE_MAX + SPARES


def test_a_dead_process_takes_only_its_own_utterance_and_is_not_replaced_in_a_storm() -> None:
    bench = Bench()
    first, second = bench.open(1), bench.open(2)
    before = len(bench.forked)
    effects = bench.router.child_gone(first)
    assert replies(effects) == [link.Lost(1, "the decoder died")]
    assert End(first) in effects
    assert len(bench.forked) == before
    assert bench.router.child_gone(first) == []
    assert bench.server(link.AskPartial(2, 1)) == [Send(second, link.payload(link.AskPartial(2, 1)))]


def test_spares_that_died_are_replaced_by_the_tick() -> None:
    bench = Bench()
    for child in list(bench.forked):
        assert not replies(bench.router.child_gone(child))
    bench.keep(bench.router.tick(1.0))
    assert len(bench.forked) == 2 * SPARES


def test_a_discard_overtakes_waiting_audio_and_frees_the_process_when_confirmed() -> None:
    bench = Bench(utterances_max=1)
    child = bench.open(1)
    bench.server(link.Audio(1, b"\x00" * 100))
    discard = link.payload(link.Discard(1))
    assert bench.server(link.Discard(1)) == [Send(child, discard, urgent=True)]
    assert replies(bench.server(link.Open(2, SPEC))) == [link.Lost(2, "no decoder is free")]
    assert replies(bench.child(child, link.Taken(1, 100))) == []
    assert replies(bench.child(child, link.Discarded(1))) == [link.Discarded(1)]
    assert bench.open(3) == child


def test_a_discard_after_the_final_was_asked_gets_one_answer() -> None:
    bench = Bench(utterances_max=1)
    child = bench.open(1)
    bench.server(link.AskFinal(1))
    bench.server(link.Discard(1))
    assert bench.child(child, link.FinalReady(1, Final(EMPTY))) == []
    assert replies(bench.child(child, link.Discarded(1))) == [link.Discarded(1)]


def test_a_process_that_dies_while_discarding_has_discarded() -> None:
    bench = Bench()
    child = bench.open(1)
    bench.server(link.Discard(1))
    assert replies(bench.router.child_gone(child)) == [link.Discarded(1)]


def test_unknown_utterances_are_answered() -> None:
    bench = Bench()
    lost = [link.Lost(9, "no such utterance")]
    assert replies(bench.server(link.Audio(9, b"\x00\x00"))) == lost
    assert replies(bench.server(link.AskPartial(9, 1))) == lost
    assert replies(bench.server(link.AskFinal(9))) == lost
    assert replies(bench.server(link.Discard(9))) == [link.Discarded(9)]


def test_garbage_is_refused_and_harms_nobody() -> None:
    bench = Bench()
    child = bench.open(1)
    for garbage in (b"", b"\xff\xff", b"\x93\xa4Open\x01\x02", link.payload(link.Lost(1, "x"))):
        assert [type(a) for a in replies(bench.router.from_server(garbage, 0.0))] == [link.Refused]
    assert [type(a) for a in replies(bench.server(link.Open(1, SPEC)))] == [link.Refused]
    assert isinstance(bench.server(link.AskFinal(1))[0], Send)
    assert without_logs(bench.server(link.AskFinal(1)))[0] == Send(child, link.payload(link.AskFinal(1)))


def test_a_process_that_talks_nonsense_is_ended() -> None:
    for payload in (b"\xff", link.payload(link.Taken(2, 0)), link.payload(link.Refused("x"))):
        bench = Bench()
        child = bench.open(1)
        effects = bench.router.from_child(child, payload, 0.0)
        assert End(child) in effects
        assert [type(a) for a in replies(effects)] == [link.Lost]


def test_audio_on_the_way_is_bounded() -> None:
    bench = Bench()
    child = bench.open(1)
    assert replies(bench.server(link.Audio(1, b"\x00" * 1_000))) == []
    bench.child(child, link.Taken(1, 1_000))
    assert replies(bench.server(link.Audio(1, b"\x00" * 1_000))) == []
    effects = bench.server(link.Audio(1, b"\x00" * 2))
    assert End(child) in effects
    assert replies(effects) == [link.Lost(1, "more audio on the way than allowed")]


def test_an_utterance_without_end_is_ended() -> None:
    bench = Bench()
    child = bench.open(1)
    for _ in range(60 * 32):
        assert replies(bench.server(link.Audio(1, b"\x00" * 1_000))) == []
        bench.child(child, link.Taken(1, 1_000))
    assert replies(bench.server(link.Audio(1, b"\x00" * 2))) == [link.Lost(1, "the utterance is too long")]


def test_a_stalled_process_is_ended_and_a_slow_or_silent_one_is_not() -> None:
    bench = Bench()
    stalled, slow, silent = bench.open(1), bench.open(2), bench.open(3)
    bench.server(link.AskPartial(1, 1))
    bench.server(link.Audio(2, b"\x00" * 4))
    bench.server(link.AskPartial(2, 1))
    bench.now = STALL_S
    bench.child(slow, link.Taken(2, 4))
    effects = bench.router.tick(STALL_S + 1)
    assert replies(effects)[0] == link.Lost(1, "the decoder made no progress")
    assert [e.child for e in effects if isinstance(e, End)] == [stalled]
    assert silent in bench.forked


class TestLoad:
    def test_what_a_stream_takes_is_known_before_anybody_speaks_and_nothing_is_said_twice(self) -> None:
        bench = Bench(utterances_max=8)
        assert bench.load() == link.Load(each=ON_TIME_HOPS / 8)
        assert bench.load() is None
        bench.open(1)
        bench.now += 0.5
        assert not replies(bench.router.tick(bench.now)), "once a second"

    def test_places_are_told_by_tenant_and_who_holds_most_of_them_gets_no_more(self) -> None:
        bench = Bench(utterances_max=8)
        for number in range(6):
            bench.open(number, "many")
        load = bench.load()
        assert load is not None
        assert (load.utterances, load.busy, load.delay_ms, load.hops) == (6, 0.75, 0, {})
        assert load.wants["many"].total == pytest.approx(ON_TIME_HOPS * 6 / 8)
        assert on_time("many", load.wants, load.each)
        bench.open(6, "many")
        bench.open(7, "many")
        for _ in range(10):
            load = bench.load() or load
        assert load.busy == 1.0
        assert not on_time("many", load.wants, load.each)
        assert on_time("one", load.wants, load.each), "its share is free"

    def test_decoders_that_want_more_than_the_cores_leave_no_room_whatever_places_there_are(self) -> None:
        """Two streams keep their decoders at work without a break: on one core that is too much, on four it is not."""
        for cores, busy, room in ((1, 1.0, False), (4, 0.5, True)):
            bench = Bench(utterances_max=100, cores=cores)
            children = {1: bench.open(1, "a"), 2: bench.open(2, "a")}
            load = None
            for _ in range(20):
                for number in children:
                    bench.server(link.Audio(number, b"\x00" * 4))
                bench.now += 0.999
                for number, child in children.items():
                    bench.child(child, link.Taken(number, 4))
                bench.now -= 0.999
                load = bench.load() or load
            assert load is not None
            assert load.busy == pytest.approx(busy, rel=0.01)
            assert on_time("a", load.wants, load.each) is room

    def test_who_waits_for_a_decoder_is_told_of(self) -> None:
        bench = Bench()
        bench.open(1)
        bench.now = 10.0
        bench.server(link.AskFinal(1))
        bench.now = 11.5
        load = bench.load()
        assert load is not None
        assert load.delay_ms == 2_500

    def test_who_has_gone_is_forgotten(self) -> None:
        bench = Bench()
        child = bench.open(1, "a")
        assert bench.load()
        bench.server(link.AskFinal(1))
        bench.child(child, link.FinalReady(1, Final(EMPTY)))
        loads = [bench.load() for _ in range(60)]
        last = [load for load in loads if load is not None][-1]
        assert (last.wants, last.utterances, last.busy) == ({}, 0, 0.0)
        assert last.each == pytest.approx(ON_TIME_HOPS / 4), "what a stream takes is still known"
