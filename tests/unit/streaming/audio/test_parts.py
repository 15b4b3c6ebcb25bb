"""Places to begin at, and the clock on which packets, silence and parts stand."""

import pytest

from streaming.audio.container import Packet, Place
from streaming.audio.parts import PREROLL_SAMPLES, DecodeStart, begin_at
from streaming.audio.timeline import GAP_SAMPLES_MAX, GAP_SAMPLES_MIN, PART_SAMPLES_MIN, Stretch, Timeline
from streaming.model import Part

FRAME = 960
PACKET = b"\x98" + bytes(20)
MS = 48


def part(sample: int) -> Part:
    return Part(sample // 10 + 100, sample, 0, 100)


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        (0, None),
        (PREROLL_SAMPLES - 1, None),
        (PREROLL_SAMPLES, 0),
        (48_000, 0),
        (48_000 + PREROLL_SAMPLES - 1, 0),
        (48_000 + PREROLL_SAMPLES, 48_000),
        (10**9, 96_000),
    ],
)
def test_decoding_begins_a_run_up_earlier(sample: int, found: int | None) -> None:
    parts = [part(0), part(48_000), part(96_000)]
    chosen = begin_at(parts, sample)
    assert (None if chosen is None else chosen.sample) == found
    assert begin_at([], sample) is None
    assert begin_at(parts, 48_000, preroll=0) == parts[1]


def test_a_start_knows_its_place_on_the_clock() -> None:
    assert DecodeStart().sample_48k == 0
    assert DecodeStart(sample=500).sample_48k == 0, "from byte 0 up to there"
    assert DecodeStart(sample=500, offset=9).sample_48k == 1_500, "a container that begins there"
    assert DecodeStart(sample=500, offset=105, part=part(50)).sample_48k == 50


class Tape:
    """Packets of 20 ms with timestamps, one after the other."""

    def __init__(self, timeline: Timeline | None = None, at: int = 0) -> None:
        self.timeline = timeline or Timeline(0, None)
        self.at = at
        self.offset = 100

    def play(self, ms: int = 20, *, jump_ms: int = 0, place: bool = False, lost: bool = False) -> list[Stretch]:
        """`ms` of packets, the first one `jump_ms` away from where the last one ended."""
        self.at += jump_ms * MS
        out = []
        for i in range(ms // 20):
            self.offset += 10
            if place and i == 0:
                self.timeline.place(Place(self.offset, 0, 110))
            out.append(self.timeline.packet(Packet(PACKET, self.at, lost=lost and i == 0)))
            self.at += FRAME
        return out


def silence(stretches: list[Stretch]) -> int:
    return sum(stretch.silence for stretch in stretches)


@pytest.mark.parametrize("start", [0, 5_000_000])
def test_timestamps_that_fit_change_nothing(start: int) -> None:
    tape = Tape(at=start)
    assert silence(tape.play(2_000)) == 0
    assert tape.timeline.position == 2_000 * MS


@pytest.mark.parametrize(("jump_ms", "filled_ms"), [(100, 0), (101, 101), (10_000, 10_000), (10_001, 0), (-5_000, 0)])
def test_what_is_missing_becomes_silence(jump_ms: int, filled_ms: int) -> None:
    """Up to the credit; a longer jump or one back only moves the base: later packets fit again."""
    tape = Tape()
    tape.play(1_000)
    after = tape.play(1_000, jump_ms=jump_ms)
    assert silence(after[:1]) == silence(after) == filled_ms * MS
    assert tape.timeline.position == (2_000 + filled_ms) * MS


def test_a_short_loss_is_filled_when_it_is_known_to_be_one() -> None:
    tape = Tape()
    tape.play(1_000)
    assert silence(tape.play(20, jump_ms=40, lost=True)) == 40 * MS
    assert silence(tape.play(20, jump_ms=40)) == 0


def test_what_comes_late_and_is_caught_up_is_filled_once() -> None:
    tape = Tape()
    tape.play(1_000)
    assert silence(tape.play(20, jump_ms=150)) == 150 * MS
    assert silence(tape.play(60, jump_ms=-90)) == 0
    assert silence(tape.play(60, jump_ms=90)) == 0


def test_drift_is_never_filled_across_parts() -> None:
    """1 ms a second for five minutes: far more than a gap, but never at once."""
    tape = Tape()
    assert sum(silence(tape.play(1_000, jump_ms=1, place=True)) for _ in range(300)) == 0
    assert len(tape.timeline.take_parts()) == 300


def test_silence_is_earned() -> None:
    """Jumps of 10 s at every packet give 10 s of silence, then as much as there is audio."""
    tape = Tape()
    tape.play(20)
    filled = sum(silence(tape.play(20, jump_ms=10_000)) for _ in range(100))
    assert filled == GAP_SAMPLES_MAX
    tape.play(5_000)
    assert silence(tape.play(20, jump_ms=4_000)) == 4_000 * MS
    assert silence(tape.play(20, jump_ms=4_000)) == 0


def test_a_gap_of_100_ms_is_what_the_limits_say() -> None:
    assert (GAP_SAMPLES_MIN, GAP_SAMPLES_MAX) == (4_800, 480_000)


def test_preskip_is_dropped_at_the_beginning_only() -> None:
    timeline = Timeline(0, None)
    timeline.open(1_000)
    tape = Tape(timeline)
    assert [(s.begin, s.end, s.position) for s in tape.play(60)] == [(960, 960, 0), (40, 960, 920), (0, 960, 1_880)]
    assert silence(tape.play(20, jump_ms=99)) == 0, "what was dropped is not missing"


def test_the_end_is_trimmed_and_what_was_dropped_is_not_trimmed_twice() -> None:
    timeline = Timeline(0, None)
    timeline.open(900)
    first = timeline.packet(Packet(PACKET, 0, trim=200))
    assert (first.begin, first.end, timeline.position) == (900, 900, 0)
    second = timeline.packet(Packet(PACKET, None, trim=200))
    assert (second.begin, second.end, timeline.position) == (0, 760, 760)


def test_a_packet_that_cannot_be_opus_has_no_length() -> None:
    timeline = Timeline(0, None)
    assert timeline.packet(Packet(b"", 0)).samples == 0
    assert timeline.packet(Packet(b"\x9b\x00")).position == 0


def test_parts_are_a_second_apart_and_nobody_gets_one_twice() -> None:
    tape = Tape()
    for _ in range(30):
        tape.play(300, place=True)
    parts = tape.timeline.take_parts()
    assert [part.sample for part in parts] == [i * 1_200 * MS for i in range(8)]
    assert [part.header_bytes for part in parts] == [110] * 8
    assert tape.timeline.take_parts() == []
    assert PART_SAMPLES_MIN == 48_000


def test_a_place_inside_of_the_preskip_is_none() -> None:
    timeline = Timeline(0, None)
    timeline.open(2_000)
    tape = Tape(timeline)
    tape.play(20, place=True)
    tape.play(20, place=True)
    assert [(part.sample, part.offset) for part in timeline.take_parts()] == [(0, 110)]


def test_parts_wait_until_the_credit_is_full_again() -> None:
    """Whoever resumes at a part has full credit, so nobody may make a part without it."""
    tape = Tape()
    tape.play(1_000, place=True)
    tape.play(1_000, jump_ms=3_000, place=True)
    for _ in range(4):
        tape.play(1_000, place=True)
    assert [part.sample // MS for part in tape.timeline.take_parts()] == [0, 7_000, 8_000]


def test_whoever_resumes_at_a_part_tells_the_same() -> None:
    whole = Tape()
    plan = [(200, 0), (400, 90), (1_000, 60), (1_000, 70), (2_000, 3_000), (4_000, -50), (1_000, 80), (1_000, 110)]
    offsets: list[int] = []
    for ms, jump_ms in plan:
        offsets.append(whole.offset + 10)
        whole.play(ms, jump_ms=jump_ms, place=True)
    parts = whole.timeline.take_parts()
    assert len(parts) == 3
    for i, begun in enumerate(parts):
        resumed = Tape(Timeline(begun.sample, begun))
        resumed.offset = begun.offset - 10
        for ms, jump_ms in plan[offsets.index(begun.offset) :]:
            resumed.play(ms, jump_ms=jump_ms, place=True)
        assert resumed.timeline.position == whole.timeline.position
        assert resumed.timeline.take_parts() == parts[i + 1 :]
