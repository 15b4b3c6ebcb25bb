"""The program that fetches a model: `python -m server.models.fetch NAME [--cache FOLDER]`.

Prints `server.models.events` as JSON lines; the last one is "done" or "failed". Exit status 0 or 1. The server and the
command line both run it as a process of its own, behind everything else, and may kill it at any moment: what has
arrived stays, and the next run goes on there.
"""

import argparse
import signal
import sys
import threading
from pathlib import Path

from server.models.cache import cache_folder
from server.models.catalogue import UnknownModel, resolve
from server.models.events import Event, Failed, FetchFailed, line
from server.models.pull import pull


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="server.models.fetch")
    parser.add_argument("name")
    parser.add_argument("--cache", type=Path, default=None)
    given = parser.parse_args(arguments)
    one_at_a_time = threading.Lock()  # the progress thread tells too

    def tell(event: Event) -> None:
        with one_at_a_time:
            sys.stdout.write(line(event) + "\n")
            sys.stdout.flush()

    try:
        tell(pull(resolve(given.name), given.cache or cache_folder(), tell))
    except FetchFailed as error:
        tell(Failed(error.reason, error.message))
        return 1
    except UnknownModel as error:
        tell(Failed("not_found", error.message))
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is lost by ending at once, and no traceback is wanted
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
