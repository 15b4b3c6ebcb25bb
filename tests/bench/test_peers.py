"""The comparison with other servers: what they send as words on the screen, one rule for everybody's figures, the
tables, and the pieces that start and install them."""

import base64
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType, web
from aiohttp.test_utils import TestServer

from bench import __main__ as program
from bench import shapes, tables
from bench.load import Order
from bench.metrics import Heard, Take
from bench.peers import checkpoint, environments, load, profile, results, settings, table
from bench.peers.environments import Environment, Unavailable
from bench.peers.figures import Cost, Measured, Stream, closing_ends, flattened, knee, measured_of
from bench.peers.results import Found
from bench.peers.servers import session_of
from bench.peers.settings import SETTINGS, Place
from bench.peers.wire import Shown, WhisperLive, WhisperLiveKit
from bench.report import ROOT, Result, write
from bench.shapes import Shape
from bench.speech import Clip, Cut, Said
from streaming.audio.endpoint import EndReason
from streaming.model import SAMPLE_RATE

HANG_S = 120.0
NANO = Shape(64, 1, 2, 51_864, ((0, 0), (1, 0)))
COST = Cost(wall_s=12, cpu_s=6, speaking_cpu_s=5, speaking_s=10, load_cpu_s=0.1, memory_mib=300)


def clip(*words: tuple[str, float, float], seconds: float = 10) -> Clip:
    said = tuple(Said(*word) for word in words)
    return Clip("c", np.zeros(int(seconds * SAMPLE_RATE), np.int16), " ".join(word.text for word in said), said)


# --- what they send ---------------------------------------------------------------------------------------------------
def test_whisperlivekit_sends_everything_each_time() -> None:
    dialect = WhisperLiveKit()
    assert dialect.opening() is None
    assert dialect.read('{"type": "config", "useAudioWorklet": true}') is None
    assert dialect.ready
    lines = [{"speaker": 1, "text": " We meet"}, {"speaker": -2, "text": None}, {"speaker": 1, "text": " today."}]
    assert dialect.read(json.dumps({"lines": lines, "buffer_transcription": " Bring  tea"})) == (
        "We meet today.",
        "Bring tea",
    )
    assert not dialect.settled
    assert dialect.read(json.dumps({"lines": lines, "buffer_transcription": ""})) == ("We meet today.", "")
    assert dialect.settled
    assert not dialect.over
    assert dialect.read('{"type": "ready_to_stop"}') is None
    assert dialect.over
    assert dialect.piece(np.array([1, -2], np.int16)) == b"\x01\x00\xfe\xff"


def test_an_error_of_theirs_refuses_the_stream() -> None:
    dialect = WhisperLiveKit()
    dialect.read('{"status": "error", "error": "FFmpeg error", "lines": []}')
    assert dialect.refused == "FFmpeg error"
    other = WhisperLive("a", "model", {})
    other.read('{"uid": "a", "status": "WAIT", "message": 3.5}')
    assert other.refused == "WAIT: 3.5"


def test_whisperlive_sends_the_last_segments_and_what_was_completed_stays() -> None:
    dialect = WhisperLive("a", "/model", {"same_output_threshold": 3})
    hello = json.loads(dialect.opening() or "")
    assert hello["uid"] == "a"
    assert hello["same_output_threshold"] == 3
    assert dialect.read('{"uid": "a", "message": "SERVER_READY", "backend": "faster_whisper"}') is None
    assert dialect.ready

    def segments(*found: tuple[float, float, str, bool]) -> str:
        told = [{"start": f"{s:.3f}", "end": f"{e:.3f}", "text": t, "completed": c} for s, e, t, c in found]
        return json.dumps({"uid": "a", "segments": told})

    assert dialect.read(segments((0, 1, " we meet", False))) == ("", "we meet")
    assert dialect.read(segments((0, 1, " We meet", True), (1, 2, " to", False))) == ("We meet", "to")
    assert dialect.read(segments((1, 2, " today.", True), (2, 3, " Bring", False))) == ("We meet today.", "Bring")
    assert not dialect.settled
    assert dialect.read(segments((2, 3, " Bring tea.", True))) == ("We meet today. Bring tea.", "")
    assert dialect.settled
    assert np.frombuffer(dialect.piece(np.array([16_384, -32_768], np.int16)), np.float32).tolist() == [0.5, -1.0]


def test_ours_are_put_the_same_way() -> None:
    def partial(at_ms: float, segment: str, stable: str, unstable: str) -> Heard:
        return Heard(at_ms, "transcript:partial", {"segment_id": segment, "stable": stable, "unstable": unstable})

    shown = flattened(
        [
            Heard(0, "recording:started", {}),
            partial(1, "a", "We", " meet"),
            partial(2, "a", "We", " meet"),
            partial(3, "b", "Bring", " tea"),
            Heard(4, "transcript:final", {"segment_id": "a", "text": "We met."}),
        ]
    )
    assert shown == [Shown(1, "We", "meet"), Shown(3, "We", "meet Bring tea"), Shown(4, "We met. Bring", "tea")]


# --- figures ----------------------------------------------------------------------------------------------------------
SPOKEN = clip(("we", 500, 1_000), ("meet", 1_000, 2_000), ("today", 4_000, 5_000))


def test_one_rule_measures_everybody() -> None:
    shown = [
        Shown(900, "", "we"),
        Shown(1_500, "", "he eat"),
        Shown(2_300, "we", "meet"),
        Shown(3_000, "we meet", ""),
        Shown(5_400, "we meet", "today"),
    ]
    found = measured_of([Stream(SPOKEN, shown)], COST)
    assert found.word is not None
    assert found.word.n == 3
    assert [found.word.at(p) for p in (0, 50, 100)] == [-100, 300, 400]
    assert found.confirmed is not None
    assert [found.confirmed.at(p) for p in (0, 100)] == [1_000, 1_300]
    assert found.confirmed.n == 2, "a word that is never confirmed has no delay"
    assert closing_ends(SPOKEN) == [2_000, 5_000]
    assert found.closing is not None
    assert (found.closing.n, found.closing.at(50), found.closings, found.unclosed) == (1, 1_000, 2, 1)
    assert (found.errors, found.confirmed_errors, found.said) == (0, 1, 3)
    assert found.changed == 0
    assert (found.cores, found.per_core, found.per_second) == (0.5, 2.0, 0.6)


def test_confirmed_words_that_change_are_counted() -> None:
    shown = [Shown(1, "we eat", ""), Shown(2, "we meet", ""), Shown(3, "we", ""), Shown(4, "we meet today", "")]
    assert measured_of([Stream(SPOKEN, shown)], COST).changed == 2


def test_a_stream_without_a_word_is_all_errors_and_no_delay() -> None:
    found = measured_of([Stream(SPOKEN, [], lost="gone"), Stream(SPOKEN, [], refused="WAIT")], COST)
    assert found.word is None
    assert not found.kept
    assert (found.errors, found.said, found.lost, found.refused, found.audio_s) == (3, 3, 1, 1, 10)


def late(ms: float, streams: int, **more: Any) -> Measured:
    """All words so late, their confirmation twice as much."""
    shown = [
        Shown(word.end_ms + ms, "", " ".join(w.text for w in SPOKEN.words[: n + 1]))
        for n, word in enumerate(SPOKEN.words)
    ]
    shown += [Shown(5_000 + 2 * ms, "we meet today", "")]
    return msgspec.structs.replace(measured_of([Stream(SPOKEN, shown)] * streams, COST), **more)


def test_the_knees_are_of_words_shown_and_of_words_confirmed() -> None:
    found = {1: late(100, 1), 2: late(1_500, 2), 4: late(2_500, 4)}
    assert knee(found) == 2
    assert knee(found, confirmed=True) == 0, "the first word was confirmed with the last"
    assert knee({1: late(100, 1, lost=1)}) == 0
    assert knee({1: late(100, 1, refused=1)}) == 0
    assert knee({1: Measured(1, failed="died")}) == 0


# --- rows and tables --------------------------------------------------------------------------------------------------
def group() -> list[Found]:
    ours = Found("parlance", "Parlance", "micro", [late(200, 1, cpu_s=1.0), late(300, 2, speaking_cpu_s=1.0)])
    padded = Found("parlance-padded", "Parlance, padded to 30 s", "micro", [late(10, 1)])
    slow = Found("wl-single", "Slow", "micro", [late(600, 1), late(2_500, 2, errors=0)])
    quick = Found("wlk-agreement", "Quick", "micro", [late(500, 1, errors=1), Measured(2, failed="E: it | died")])
    return [ours, padded, slow, quick]


def test_ours_stands_against_the_best_of_theirs_in_each_figure() -> None:
    rows = {row.name: row for row in results.against("micro", group())}
    cores = rows["micro: streams to a core at the knee, ours over theirs"]
    assert (cores.value, cores.kept) == (10.0, True), "20 to a core, theirs 2"
    word = rows["micro: word p50 with one stream, ours over theirs"]
    assert (word.value, word.kept) == (0.4, True)
    assert rows["micro, 1 streams: word error rate, ours less theirs"].value == 0
    assert results.against("micro", group()[:2]) == []
    names = [row.name for row in results.rows_of(group())]
    assert "micro, Slow: knee, words on the screen" in names
    assert len(names) == len(set(names))


def content(tmp_path: Path) -> dict[str, Any]:
    told = {"model": "m", "seconds": 8.0, "environments": {"whisper-live": {"whisper-live": "0.10.0"}}}
    raw = {"measured": msgspec.to_builtins(group())}
    path = write(tmp_path, Result("peers", [], told, raw, "one"), seed=1, quick=True, seconds=1)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_tables_are_whole(tmp_path: Path) -> None:
    text = table.markdown(content(tmp_path))
    width = 0
    for line in text.splitlines():
        if line.startswith("|---"):
            width = line.count("|")
        elif line.startswith("| micro"):
            assert line.count("|") == width, line
    assert "| micro | Slow | 1, 0 |" in text
    assert "failed: E: it / died" in text
    assert text.endswith("Left out: one.")


def test_they_have_their_own_place_in_the_document(tmp_path: Path) -> None:
    content(tmp_path)
    document = tmp_path / "benchmarks.md"
    document.write_text(f"a\n{tables.PEERS_BEGIN}\nold\n{tables.PEERS_END}\nb\n{tables.BEGIN}\nkept\n{tables.END}\n")
    tables.draw(tmp_path, document, tmp_path)
    text = document.read_text()
    assert text.startswith(f"a\n{tables.PEERS_BEGIN}\n2")
    assert text.endswith(f"{tables.PEERS_END}\nb\n{tables.BEGIN}\nkept\n{tables.END}\n")


def test_the_documents_tables_are_those_of_the_results() -> None:
    path = ROOT / "bench" / "results" / "peers.json"
    inside = tables.DOCUMENT.read_text().partition(tables.PEERS_BEGIN)[2].partition(tables.PEERS_END)[0]
    assert inside.strip() == table.markdown(json.loads(path.read_text())).strip(), "run python -m bench.tables"


# --- settings and environments ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "environment", [environments.WHISPER_LIVE, environments.WHISPER_LIVE_KIT], ids=lambda e: e.package
)
def test_an_environment_is_pinned_to_the_last_package(environment: Environment) -> None:
    lines = environment.pinned.read_text().splitlines()
    assert all("==" in line and "/" not in line for line in lines), "no package without a version, no address"
    assert environment.pins[environment.package] == environment.version
    assert {"ctranslate2", "torch", "numpy"} <= environment.pins.keys()


def test_settings_are_told_apart_and_say_where_they_come_from(tmp_path: Path) -> None:
    assert len({s.name for s in SETTINGS}) == len({s.title for s in SETTINGS}) == len(SETTINGS)
    assert all(s.source for s in SETTINGS)
    place = Place(1234, tmp_path, tmp_path / "w.wav", tmp_path / "m.pt", tmp_path / "e", "heads")
    by_name = {s.name: s.arguments(place) for s in SETTINGS}
    assert json.loads(by_name["wl-batch"][0])["port"] == 1234
    assert "--confidence-validation" in by_name["wlk-confidence"]
    assert "--model_dir" in by_name["wlk-agreement"]
    assert "--model_dir" not in by_name["wlk-simul"]
    assert by_name["wlk-simul"][-1] == "heads"
    assert [s.name for s in settings.chosen(["wl", "wlk-simul"])] == [
        s.name for s in SETTINGS if s.kind == "wl" or s.name == "wlk-simul"
    ]
    with pytest.raises(SystemExit):
        program.arguments(["peers", "--peers", "vosk"])
    assert program.arguments(["peers", "--peers", "wl, wlk"]).peers == ("wl", "wlk")


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ran: list[list[str]] = []

    def run(command: list[str]) -> str:
        ran.append(command)
        if "venv" in command:
            made = environments.WHISPER_LIVE.folder / "bin"
            made.mkdir(parents=True)
            (made / "python").touch()
        return "/uv\n"

    monkeypatch.setattr(environments, "_run", run)
    assert environments.make(environments.WHISPER_LIVE) == environments.WHISPER_LIVE.python
    assert [command[:2] for command in ran] == [["scripts/uv.sh"], ["/uv", "venv"], ["/uv", "pip"]]
    environments.make(environments.WHISPER_LIVE)
    assert len(ran) == 3
    (environments.WHISPER_LIVE.folder / environments.STAMP).write_text("another list")
    with pytest.raises(FileExistsError):
        environments.make(environments.WHISPER_LIVE)


def test_what_cannot_be_installed_says_why() -> None:
    with pytest.raises(Unavailable, match="no such index"):
        environments._run([sys.executable, "-c", "raise SystemExit('no such index')"])
    with pytest.raises(Unavailable, match="nothing"):
        environments._run(["/nothing"])


# --- our own profile --------------------------------------------------------------------------------------------------
def test_the_stages_of_a_word_add_up_to_its_delay() -> None:
    def event(at_ms: float, name: str, **body: Any) -> Heard:
        return Heard(at_ms, f"transcript:{name}", {"segment_id": "s", "start_ms": 400, "end_ms": 2_200, **body})

    heard = [
        event(1_300, "partial", stable="", unstable="we"),
        event(2_400, "final", text="we meet", words=[]),
    ]
    spoken = clip(("we", 500, 1_000), ("meet", 1_000, 2_000))
    take = Take(spoken, [Cut(6_400, 35_200, 36_000, EndReason.SILENCE, 8_000)], heard)
    decodes = [
        profile.Decode(101.2, 101.25, samples=12_800, parts={"encode": 0.02, "generate": 0.01}),
        profile.Decode(102.3, 102.39, samples=28_800, parts={"encode": 0.03}),
    ]
    stages = profile.stages_of(take, 100.0, decodes, confirmed=False)
    assert [round(ms) for ms in stages["more audio"]] == [200, 200]
    assert [round(ms) for ms in stages["way there, queue"]] == [0, 100]
    assert [round(ms) for ms in stages["encode"]] == [20, 30]
    assert [round(ms) for ms in stages["rest of the decode"]] == [20, 60]
    assert [round(ms) for ms in stages["way back"]] == [50, 10]
    assert [round(sum(parts)) for parts in zip(*stages.values(), strict=True)] == [300, 400]
    late = profile.stages_of(take, 100.0, decodes, confirmed=True)
    assert [round(sum(parts)) for parts in zip(*late.values(), strict=True)] == [1_400, 400]
    assert "first shown: 2 words" in profile.table(take, 100.0, decodes)


def test_a_stopwatch_counts_what_the_model_does() -> None:
    class Model:
        n_mels = 80

        def encode(self, features: int, to_cpu: bool = False) -> int:
            return features + to_cpu

    spent: dict[str, float] = {}
    watch = profile.Stopwatch(Model(), spent)
    assert (watch.n_mels, watch.encode(1, to_cpu=True)) == (80, 2)
    assert list(spent) == ["encode"]


# --- the model for PyTorch --------------------------------------------------------------------------------------------
def test_a_checkpoint_has_the_numbers_of_the_model(tmp_path: Path) -> None:
    shapes.write(NANO, tmp_path)
    stored = checkpoint.read(tmp_path / "model.bin")
    assert checkpoint.dimensions(stored) == {
        "n_mels": 80, "n_vocab": 51_864, "n_audio_ctx": 1_500, "n_audio_state": 64, "n_audio_head": 1,
        "n_audio_layer": 1, "n_text_ctx": 448, "n_text_state": 64, "n_text_head": 1, "n_text_layer": 2,
    }  # fmt: skip
    found = checkpoint.weights(stored)
    scale = stored["decoder/layer_1/self_attention/linear_0/weight_scale"]
    whole = stored["decoder/layer_1/self_attention/linear_0/weight"] / scale[:, None]  # type: ignore[operator]
    for n, name in enumerate(("query", "key", "value")):
        assert np.allclose(found[f"decoder.blocks.1.attn.{name}.weight"], whole[64 * n : 64 * n + 64])
    assert "decoder.blocks.1.attn.key.bias" not in found
    assert found["decoder.blocks.0.cross_attn.value.weight"].shape == (64, 64)
    assert found["encoder.conv1.weight"].shape == (64, 80, 3)
    assert np.abs(found["decoder.token_embedding.weight"]).std() == pytest.approx(shapes.SPREAD, rel=0.5)
    mask = np.frombuffer(gzip.decompress(base64.b85decode(checkpoint.alignment_heads(tmp_path))), np.bool_)
    assert mask.tolist() == [True, True]


def test_narrow_layers_are_filled_up(tmp_path: Path) -> None:
    shapes.write(NANO, tmp_path)
    stored = checkpoint.read(tmp_path / "model.bin")
    first = "decoder/layer_0/ffn/linear_0"
    for part in ("weight", "weight_scale", "bias"):
        stored[f"{first}/{part}"] = stored[f"{first}/{part}"][:192]
    stored["decoder/layer_0/ffn/linear_1/weight"] = stored["decoder/layer_0/ffn/linear_1/weight"][:, :192]
    found = checkpoint.weights(stored)
    assert found["decoder.blocks.0.mlp.0.weight"].shape == (256, 64)
    assert not found["decoder.blocks.0.mlp.0.weight"][192:].any()
    assert found["decoder.blocks.0.mlp.2.weight"].shape == (64, 256)
    assert not found["decoder.blocks.0.mlp.2.weight"][:, 192:].any()


def test_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x07\x00\x00\x00")
    with pytest.raises(ValueError, match="version 7"):
        checkpoint.read(tmp_path / "model.bin")


# --- clients and processes --------------------------------------------------------------------------------------------
async def listen(dialect: str, answers: list[str], clip_s: float, tmp_path: Path) -> tuple[load.Brief, list[Any]]:
    """A stream to a server that takes it at the second try and answers so to the first piece of audio."""
    heard: list[Any] = []
    visits = 0

    async def serve(request: web.Request) -> web.WebSocketResponse:
        nonlocal visits
        visits += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if visits == 1:
            await socket.send_str('{"status": "WAIT", "message": 1}' if dialect == "wl" else '{"error": "full"}')
            return socket
        await socket.send_str('{"message": "SERVER_READY"}' if dialect == "wl" else '{"type": "config"}')
        async for message in socket:
            heard.append(message.data)
            if message.type is WSMsgType.BINARY and len([m for m in heard if isinstance(m, bytes)]) == 1:
                for answer in answers:
                    await socket.send_str(answer)
            if message.data == b"":
                await socket.send_str('{"type": "ready_to_stop"}')
                break
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    audio = tmp_path / "a.npy"
    np.save(audio, np.zeros(int(clip_s * SAMPLE_RATE), np.int16))
    order = Order("a", str(audio), 0.0)
    async with TestServer(app) as server, ClientSession() as session:
        orders = load.Orders(dialect, str(server.make_url("/")), [order], HANG_S)
        connection = load.Connection(session, orders, 0)
        await connection.open()
        return await connection.speak(order), heard


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "RETRY_S", 0.01)
    monkeypatch.setattr(load, "SETTLED_S", 0.01)


@pytest.mark.usefixtures("quick")
async def test_a_client_asks_again_speaks_and_waits_for_the_end(tmp_path: Path) -> None:
    lines = json.dumps({"lines": [{"speaker": 1, "text": "tea"}], "buffer_transcription": ""})
    brief, heard = await listen("wlk", [lines, lines], 0.25, tmp_path)
    assert [len(piece) for piece in heard] == [3_200, 3_200, 1_600, 0]
    assert [(s.confirmed, s.tentative) for s in brief.shown] == [("tea", "")], "the same again is no change"
    assert not brief.refused
    assert not brief.lost
    assert not brief.unfinished


@pytest.mark.usefixtures("quick")
async def test_a_client_says_goodbye_when_the_words_have_settled(tmp_path: Path) -> None:
    segment = {"start": "0.000", "end": "0.200", "text": " tea", "completed": True}
    brief, heard = await listen("wl", [json.dumps({"segments": [segment]})], 0.2, tmp_path)
    assert json.loads(heard[0])["task"] == "transcribe"
    assert [len(piece) for piece in heard[1:3]] == [6_400, 6_400]
    assert heard[3:] == [b"END_OF_AUDIO"]
    assert brief.shown[-1].confirmed == "tea"


@pytest.mark.usefixtures("quick")
async def test_who_is_always_refused_never_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PATIENCE_S", 0.0)
    brief, heard = await listen("wl", [], 0.2, tmp_path)
    assert brief.refused == "WAIT: 1"
    assert not any(isinstance(piece, bytes) for piece in heard)


def test_a_server_ends_with_the_benchmark_and_is_counted_whole() -> None:
    code = """import threading
from bench.peers import launch
launch.end_with_its_starter()
print(1, flush=True)
threading.Event().wait()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"1\n"
        assert session_of(child.pid) == [child.pid]
        child.stdin.close()
        assert child.wait(HANG_S) == 1
