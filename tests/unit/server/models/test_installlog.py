"""uv's lines as progress, and as reasons."""

import pytest

from server.models.installlog import InstallLog

LINES = """Using Python 3.11.7 environment at: env
Resolved 3 packages in 182ms
Downloading torch (846.9MiB)
Downloading numpy (153.1MiB)
 Downloaded numpy
   Building antlr4-python3-runtime==4.9.3
      Built antlr4-python3-runtime==4.9.3
 Downloaded torch
Prepared 3 packages in 1.72s
Installed 3 packages in 42ms
 + numpy==2.4.0
warning: `numpy==2.4.0` is yanked"""


def test_the_fraction_only_grows_and_ends_at_one() -> None:
    said = InstallLog()
    seen = []
    for line in LINES.splitlines():
        said.feed(line)
        seen.append(said.fraction)
    assert seen == sorted(seen)
    assert seen[1] < seen[4] < seen[7] <= seen[8] < seen[9] == 1.0
    assert said.announced_bytes == said.finished_bytes == round(846.9 * 2**20) + round(153.1 * 2**20)


def test_what_is_written_counts_before_a_download_has_finished() -> None:
    said = InstallLog()
    for line in LINES.splitlines()[:4]:
        said.feed(line)
    said.written(4_000, 10_000)
    assert said.fraction == pytest.approx(0.38)
    said.written(2_000, 10_000)
    assert said.fraction == pytest.approx(0.38)
    said.written(30_000, 10_000)
    assert said.fraction < 1.0, "files must be put in place yet"


def test_nothing_to_do_is_done() -> None:
    said = InstallLog()
    said.feed("Checked 2 packages in 0.05ms")
    assert said.fraction == 1.0


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("error: Failed to download `six`\n cause: Hash mismatch for `six==1.17.0`", "checksum"),
        (
            "error: Request failed after 3 retries in 8.1s\n cause: Failed to fetch: http://x\n cause: dns error",
            "network",
        ),
        ("error: Failed to fetch: http://x\n cause: HTTP status server error (503 Service Unavailable)", "network"),
        ("error: Failed to extract archive\n cause: No space left on device (os error 28)", "disk"),
        ("error: Distribution `torch==2.8.0` can't be installed because it has no wheels", "package"),
        ("error: Something new", "other"),
        ("", "other"),
    ],
)
def test_reasons(lines: str, cause: str) -> None:
    said = InstallLog()
    for line in lines.splitlines():
        said.feed(line)
    failure = said.failure()
    assert failure.cause == cause
    assert failure.why
    assert failure.detail == "\n".join(line.strip() for line in lines.splitlines())
