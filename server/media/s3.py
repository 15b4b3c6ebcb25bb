"""Shared storage in a bucket: `server.media.objects.BlockingObjects` over obstore.

Credentials, region and endpoint come from the usual variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL), which obstore reads itself, or from the machine's role. An endpoint over plain HTTP is taken: who
writes one means it.

obstore's calls that block are used, from our threads: after its awaitable ones the interpreter aborts as it ends, as
often as not (obstore 0.12, CPython 3.11: their threads still hold Python objects).

Boundary: obstore; its errors become OSError. Retries belong to the callers, who know what waits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from streaming.limits import Limits

LIST_PAGE = 1_000
"""What S3 gives at once."""


class Bucket:
    """Raises ValueError for a bucket's name or variables that obstore does not take."""

    def __init__(self, bucket: str, prefix: str, limits: Limits) -> None:
        answer = timedelta(milliseconds=limits.storage_answer_ms_max)
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                client_options={"allow_http": True, "timeout": answer, "connect_timeout": answer},
                retry_config={"max_retries": 1, "retry_timeout": answer},
            )
        except BaseError as error:
            raise ValueError(str(error)) from error

    def put(self, path: str, data: bytes) -> None:
        with _translated():
            obstore.put(self._store, path, data, use_multipart=False)

    def names(self, folder: str) -> list[str]:
        with _translated():
            pages = obstore.list(self._store, folder, chunk_size=LIST_PAGE)
            return [entry["path"].rpartition("/")[2] for page in pages for entry in page]

    def get(self, path: str, start: int, end: int) -> bytes:
        with _translated():
            return bytes(obstore.get_range(self._store, path, start=start, end=end))

    def delete(self, paths: Sequence[str]) -> None:
        with _translated():
            obstore.delete(self._store, list(paths))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        raise OSError(str(error)) from error
