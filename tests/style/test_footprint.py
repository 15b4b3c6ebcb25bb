"""The server's own process stays small: no engine and no model library, whatever is configured."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("torch", "torchaudio", "whisperx", "sentence_transformers", "silero_vad", "pocketsphinx")
"""Belong into worker processes; silero's weights are located inside its package, whose import would bring torch."""

BUILD = """
import sys
import server.__main__, server.cli, server.app, server.doctor
from server.config import load
server.app.App(load({"PARLANCE_DATA_DIR": sys.argv[1], "PARLANCE_ENGINE": sys.argv[2]}))
sys.stdout.write("\\n".join(sys.modules))
"""


@pytest.mark.parametrize("engine", ["pocketsphinx", "auto"])
def test_a_built_server_has_imported_no_engine(tmp_path: Path, engine: str) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path / "data"), engine]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stderr
    modules = set(built.stdout.split())
    assert "server.app" in modules
    assert "onnxruntime" in modules, "the voice detector is the one model that runs in the server"
    assert modules.isdisjoint(ELSEWHERE)
