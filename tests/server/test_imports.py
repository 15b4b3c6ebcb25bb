"""The server's own process stays small: no engine and no model library, whatever is configured."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("torch", "torchaudio", "whisperx", "sentence_transformers", "silero_vad", "pocketsphinx")
"""Belong into worker processes; silero's weights are located inside its package, whose import would bring torch."""

BUILD = """
import sys
import server.__main__, server.cli, server.app, server.doctor
from server.config import load
for engine in ("pocketsphinx", "auto"):
    server.app.App(load({"PARLANCE_DATA_DIR": sys.argv[1], "PARLANCE_ENGINE": engine}))
sys.stdout.write("\\n".join(sys.modules))
"""


def test_a_built_server_has_imported_no_engine(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path / "data")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stderr
    modules = set(built.stdout.split())
    assert "server.app" in modules
    assert "onnxruntime" in modules, "the voice detector is the one model that runs in the server"
    assert modules.isdisjoint(ELSEWHERE)
