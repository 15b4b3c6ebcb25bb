"""A bot's memory in one file: what it made of each event, and by that which event is next.

Policy: a record is a line of JSON with the room and the number of the event that it was made of. Progress is stored
nowhere else: it is read from the records when the file is opened, so what a bot did and what it knows of having done
cannot part. Records are written in one piece and synced before `record` returns; what a kill left of the last line is
cut off when the file is opened again.

It guarantees, over `kill -9` of the bot at any moment: for each room the file holds one record of each event, in the
order of the room's log, without a gap, up to `after(room)`; a later event has left no trace. That is exactly once for
what stands in the file. A loss of power takes nothing of what `record` returned from, if the disk keeps what it calls
synced. What a bot does elsewhere (a message sent, a row in a database) is not in the file: do it before `record`, so
that it is done at least once, under a key made of room and number, so that twice is the same as once.

Boundary: one process has the file (a lock says so, where the system has `fcntl`); blocking calls, so from an event loop
use `asyncio.to_thread`. Invariant: the file holds whole lines, and in each room their numbers grow by exactly one.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from parlance_client.errors import JournalError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]

Record = Mapping[str, Any]


class _Place(msgspec.Struct):
    """What the journal itself needs of a record. `skipped`: so many events, up to this one, were gone."""

    room: str
    seq: int
    skipped: int = 0


class Journal:
    """`with Journal(path) as journal:`. Opening reads all of the file (a million records in about a second); it raises
    `JournalError` when another process has the file, or when it is no journal."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._after: dict[str, int] = {}
        self._file: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            self._lock()
            self._load()
        except BaseException:
            self.close()
            raise

    def after(self, room: str) -> int:
        """The number of the room's last recorded event, 0 when there is none: what to read after."""
        return self._after.get(room, 0)

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, the oldest first: from them a bot can make again whatever it keeps in memory."""
        with self._path.open("rb") as file:
            for line in file:
                yield msgspec.json.decode(line)

    def record(self, records: Sequence[Record]) -> int:
        """Add what was made of events, all in one write; each has `room` and `seq`. Those that are here already are
        left out, so whole pages may be given again. Returns how many were new; then they are on the disk.

        Raises `JournalError` for a gap, and writes nothing then. A failing disk raises `OSError`: the journal is
        closed, and whoever opens it again sees what was kept."""
        moved: dict[str, int] = {}
        lines = []
        for record in records:
            place = msgspec.convert(record, _Place)
            seen = moved.get(place.room, self.after(place.room))
            if place.seq > seen:
                _check(seen, place)
                moved[place.room] = place.seq
                lines.append(msgspec.json.encode(record) + b"\n")
        if lines:
            self._write(b"".join(lines))
            self._after |= moved
        return len(lines)

    def skip(self, room: str, first_seq: int) -> int:
        """The room's log begins at `first_seq` now (`history_truncated`): record that what lies before is lost. Returns
        how many events that are."""
        skipped = first_seq - 1 - self.after(room)
        if skipped > 0:
            self.record([{"room": room, "seq": first_seq - 1, "skipped": skipped}])
        return max(0, skipped)

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the file -------------------------------------------------------------------------------------------------
    def _lock(self) -> None:
        assert self._file is not None
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise JournalError(f"{self._path} is in use by another process.") from error

    def _load(self) -> None:
        assert self._file is not None
        size = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # torn: a kill came between
                try:
                    place = msgspec.json.decode(line, type=_Place)
                    _check(self.after(place.room), place)
                except (msgspec.DecodeError, JournalError) as error:
                    raise JournalError(f"{self._path}, line {number}: {error}") from error
                self._after[place.room] = place.seq
                size += len(line)
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)
        os.fsync(self._file)
        _sync_folder(self._path.absolute().parent)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise JournalError(f"{self._path} is closed.")
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except BaseException:
            self.close()  # whether it is on the disk nobody can tell now: it is read again when it is opened again
            raise


def _check(seen: int, place: _Place) -> None:
    """Raises `JournalError` unless this is the next record of a room whose last number is `seen`."""
    if place.skipped < 0 or place.seq - seen != (place.skipped or 1):
        raise JournalError(f"event {place.seq} of {place.room} does not follow event {seen}")


def _sync_folder(folder: Path) -> None:
    """So that a new file is in its folder after a loss of power."""
    if fcntl is None:
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
