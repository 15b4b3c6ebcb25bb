"""The program `parlance` as a process: its tokens, captions, hits, errors and exit statuses."""

import asyncio
import itertools
import json
import os
import signal
import sys
import uuid
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from parlance_client import Client

from auth.model import Role
from auth.tokens import verify
from server.cli import cli
from server.config import load
from server.secret import signing_secret
from tests.fakes.tones import random_sentences, talk, write_wav
from tests.support import corpus, corpus_de
from tests.support.models import unpacked
from tests.support.process import Account, ServerProcess, running
from tests.support.synth import Voice, needs_espeak
from tests.support.synth import talk as speak

HANG_S = 90.0


class Ran(msgspec.Struct, frozen=True):
    status: int
    out: str
    err: str


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PARLANCE_")}
    return {**clean, "PARLANCE_DATA_DIR": str(data_dir), **settings}


async def start(environ: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "server", *arguments]
    return await asyncio.create_subprocess_exec(*command, env=environ, stdout=pipe, stderr=pipe)


async def parlance_command(environ: dict[str, str], *arguments: str) -> Ran:
    process = await start(environ, *arguments)
    async with asyncio.timeout(HANG_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


def of_server(server: ServerProcess, account: Account) -> dict[str, str]:
    return environment(server.data_dir, PARLANCE_URL=server.url, PARLANCE_TOKEN=account.token)


def recording(path: Path, seed: int, sentences: int = 2) -> list[str]:
    """Write a WAV file; returns what is said in it."""
    said = talk(random_sentences(seed, sentences))
    write_wav(path, said.audio)
    return said.texts


def spoken(lines: str) -> list[str]:
    return [line.partition("] ")[2].removeprefix("S1: ") for line in lines.splitlines()]


# --- token ------------------------------------------------------------------------------------------------------------
async def test_a_token_with_the_server_down(tmp_path: Path) -> None:
    environ = environment(tmp_path / "data")
    first = await parlance_command(environ, "token", "--tenant", "demo", "--role", "owner")
    again = await parlance_command(environ, "token", "--tenant", "demo", "--role", "owner", "--hours", "2")
    assert (first.status, again.status) == (0, 0), first.err + again.err
    assert len(first.out.splitlines()) == 1
    secret = signing_secret(load({"PARLANCE_DATA_DIR": str(tmp_path / "data")}))
    one, two = (verify(ran.out.strip(), secret=secret, now=0) for ran in (first, again))
    assert (one.user_name, one.tenant_name, one.role) == ("owner", "demo", Role.OWNER)
    assert (one.user_id, one.tenant_id) == (two.user_id, two.tenant_id)
    assert one.expires_at > two.expires_at


async def test_a_token_while_the_server_runs_opens_its_door(parlance: ServerProcess) -> None:
    tenant = f"c-{uuid.uuid4().hex}"
    arguments = ("token", "--tenant", tenant, "--role", "viewer", "--user", "Ana")
    made = await parlance_command(environment(parlance.data_dir), *arguments)
    assert made.status == 0, made.err
    async with Client(parlance.url, made.out.splitlines()[-1]) as client:
        assert (client.ready.tenant.name, client.ready.user.name, client.ready.user.roles) == (
            tenant,
            "Ana",
            ["viewer"],
        )


# --- stream and search ------------------------------------------------------------------------------------------------
async def test_a_file_is_captioned_and_found(parlance: ServerProcess, alice: Account, tmp_path: Path) -> None:
    texts = recording(tmp_path / "talk.wav", 71)
    environ = of_server(parlance, alice)
    ran = await parlance_command(environ, "stream", str(tmp_path / "talk.wav"), "--title", "Stand-up")
    assert ran.status == 0, ran.err
    assert spoken(ran.out) == texts
    word = texts[0].split()[0]
    async with asyncio.timeout(HANG_S):
        while not (found := await parlance_command(environ, "search", word)).out:
            assert found.status == 0, found.err
            assert "Nothing was found." in found.err
    assert found.out.startswith("Stand-up  [00:")
    assert texts[0] in found.out


async def test_a_preset_says_when_a_sentence_ends(parlance: ServerProcess, alice: Account, tmp_path: Path) -> None:
    """700 ms of silence end an utterance of a conversation, and none of a lecture."""
    said = talk(random_sentences(75, 2, words=(3, 3)), silence_ms=700)
    write_wav(tmp_path / "talk.wav", said.audio)
    for options, lines in (((), 2), (("--preset", "lecture"), 1)):
        ran = await parlance_command(of_server(parlance, alice), "stream", str(tmp_path / "talk.wav"), *options)
        assert ran.status == 0, ran.err
        assert len(spoken(ran.out)) == lines
        assert " ".join(spoken(ran.out)).lower() == " ".join(said.texts).lower()


async def test_an_engine_that_cannot_translate_says_so(parlance: ServerProcess, alice: Account, tmp_path: Path) -> None:
    recording(tmp_path / "talk.wav", 76, 1)
    arguments = ("stream", str(tmp_path / "talk.wav"), "--task", "translate")
    ran = await parlance_command(of_server(parlance, alice), *arguments)
    assert (ran.status, ran.out) == (1, "")
    assert "cannot translate" in ran.err
    assert len(ran.err.splitlines()) == 1


@needs_espeak
async def test_german_speech_is_captioned_in_english(tmp_path: Path) -> None:
    texts = list(itertools.islice(corpus_de.sentences(91, words_min=3), 4))
    speech = speak(texts, [Voice("de")])
    write_wav(tmp_path / "talk.wav", speech.audio)
    with running(tmp_path / "data", engine="whisperx", model=str(unpacked("multilingual"))) as server:
        environ = of_server(server, await server.account("acme"))
        options = ("--language", "de", "--task", "translate", "--preset", "lecture")
        ran = await parlance_command(environ, "stream", str(tmp_path / "talk.wav"), *options)
    assert ran.status == 0, ran.err
    wanted = corpus.plain(" ".join(map(corpus_de.english, texts)))
    assert corpus.edits(wanted, corpus.plain(" ".join(spoken(ran.out)))) <= 0.3 * len(wanted)
    assert corpus.edits(corpus.plain(" ".join(texts)), corpus.plain(" ".join(spoken(ran.out)))) > 0.5 * len(wanted)


async def test_json_has_every_event(parlance: ServerProcess, alice: Account, tmp_path: Path) -> None:
    texts = recording(tmp_path / "talk.wav", 72)
    arguments = ("stream", str(tmp_path / "talk.wav"), "--realtime", "--speed", "4", "--json")
    ran = await parlance_command(of_server(parlance, alice), *arguments)
    assert ran.status == 0, ran.err
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [event["text"] for event in events if event["event"] == "transcript:final"] == texts
    assert {"transcript:partial", "voice:recording:ack"} <= {event["event"] for event in events}
    assert events[-1]["event"] == "recording:ended"
    assert events[-1]["reason"] == "stopped"


async def test_an_interrupt_ends_the_recording_properly(
    parlance: ServerProcess, alice: Account, tmp_path: Path
) -> None:
    texts = recording(tmp_path / "long.wav", 73, sentences=40)
    process = await start(of_server(parlance, alice), "stream", str(tmp_path / "long.wav"), "--realtime", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    events = []
    async with asyncio.timeout(HANG_S):
        while line := await process.stdout.readline():
            event = json.loads(line)
            events.append(event)
            if event["event"] == "transcript:final" and event["ordinal"] == 1:
                process.send_signal(signal.SIGINT)
        status, err = await process.wait(), await process.stderr.read()
    assert status == 0, err.decode()
    assert events[-1]["event"] == "recording:ended"
    assert events[-1]["reason"] == "stopped"
    finals = [event["text"] for event in events if event["event"] == "transcript:final"]
    assert finals[0] == texts[0]
    assert len(finals) < len(texts)


# --- what goes wrong --------------------------------------------------------------------------------------------------
async def test_an_absent_server_is_one_sentence(tmp_path: Path) -> None:
    environ = environment(tmp_path, PARLANCE_URL="http://127.0.0.1:1", PARLANCE_TOKEN="x")
    ran = await parlance_command(environ, "search", "hello")
    assert (ran.status, ran.out) == (3, "")
    assert ran.err.startswith("parlance: There is no answer from http://127.0.0.1:1.")
    assert len(ran.err.splitlines()) == 1


async def test_a_bad_token_is_refused(parlance: ServerProcess, tmp_path: Path) -> None:
    environ = environment(tmp_path, PARLANCE_URL=parlance.url, PARLANCE_TOKEN="no.such.token")
    ran = await parlance_command(environ, "search", "hello")
    assert ran.status == 3
    assert ran.err.startswith("parlance: The server refused the connection:")
    assert "no.such.token" not in ran.err


async def test_a_role_that_may_not_record_is_told_so(parlance: ServerProcess, alice: Account, tmp_path: Path) -> None:
    recording(tmp_path / "talk.wav", 74, 1)
    viewer = await parlance.account(f"v-{uuid.uuid4().hex}", "vera", Role.VIEWER)
    ran = await parlance_command(of_server(parlance, viewer), "stream", str(tmp_path / "talk.wav"))
    assert ran.status == 1
    assert ran.err.startswith("parlance: forbidden:")
    assert len(ran.err.splitlines()) == 1


async def test_what_the_server_refuses_of_a_search_names_the_option(parlance: ServerProcess, alice: Account) -> None:
    environ = of_server(parlance, alice)
    for arguments, says in (
        (("x", "--speaker", "s" * 101), "--speaker: "),
        (("x", "--recording", ""), "--recording: "),
        (("x" * 501,), "TEXT: "),
    ):
        ran = await asyncio.to_thread(CliRunner().invoke, cli, ["search", *arguments], env=environ)
        assert (ran.exit_code, ran.stdout) == (2, ""), arguments
        assert ran.stderr.startswith(f"parlance: {says}"), ran.stderr
        assert len(ran.stderr.splitlines()) == 1
    followed = await parlance_command(environ, "search", "x", "--follow", "--after", "17.x")
    assert (followed.status, followed.out) == (2, "")
    assert followed.err.startswith("parlance: --after: ")
    assert len(followed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("stream", "absent.wav"), 2, "absent.wav"),
        (("stream", __file__), 1, "cannot be opened as audio"),
        (("token", "--tenant", "", "--role", "owner"), 1, "name"),
    ],
)
async def test_wrong_usage(parlance: ServerProcess, arguments: tuple[str, ...], status: int, says: str) -> None:
    ran = await parlance_command(environment(parlance.data_dir, PARLANCE_TOKEN="x"), *arguments)
    assert ran.status == status, ran.err
    assert says in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("stream", __file__, "--speed", "2"), "--realtime"),
        (("stream", __file__, "--task", "summarise"), "summarise"),
        (("stream", __file__, "--preset", "opera"), "opera"),
        (("token", "--tenant", "demo", "--role", "king"), "king"),
        (("nonsense",), "nonsense"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_begins(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    """So without a process for each; what a process makes of a refusal: `test_wrong_usage`."""
    ran = CliRunner().invoke(cli, arguments, env={"PARLANCE_DATA_DIR": str(tmp_path / "data"), "PARLANCE_TOKEN": "x"})
    assert ran.exit_code == 2, ran.output
    assert isinstance(ran.exception, SystemExit), "no traceback"
    assert says in ran.stderr
    assert not (tmp_path / "data").exists()


async def test_another_machine_needs_a_token(tmp_path: Path) -> None:
    ran = await parlance_command(environment(tmp_path / "data"), "search", "x", "--url", "http://parlance.invalid")
    assert (ran.status, ran.out) == (2, "")
    assert "A token is needed" in ran.err
    assert not (tmp_path / "data").exists(), "no local data is made for another machine's server"


async def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    ran = await parlance_command(environment(tmp_path, PARLANCE_PROT="1"), "doctor")
    assert ran.status == 2
    assert "PARLANCE_PORT" in ran.err


# --- help and doctor --------------------------------------------------------------------------------------------------
async def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    check = (
        "import sys; import server.cli; from click.testing import CliRunner; "
        "assert CliRunner().invoke(server.cli.cli, ['--help']).exit_code == 0; "
        "print([m for m in ('aiohttp', 'asyncpg', 'av', 'numpy', 'socketio', 'rich', 'torch') if m in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", check, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(HANG_S):
        out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


async def test_doctor_finds_the_running_server(parlance: ServerProcess) -> None:
    port = parlance.url.rpartition(":")[2]
    ran = await parlance_command(environment(parlance.data_dir, PARLANCE_PORT=port), "doctor")
    assert ran.status == 0, ran.out
    assert "already runs" in ran.out
    assert "the embedded PostgreSQL" in ran.out


async def test_doctor_fails_when_something_must_be_mended(tmp_path: Path) -> None:
    environ = environment(tmp_path, PARLANCE_DATABASE_URL="postgresql://127.0.0.1:1/none", PARLANCE_PORT="0")
    ran = await parlance_command(environ, "doctor")
    assert ran.status == 1
    assert "fail  database" in ran.out
