"""Become a background program: `python -I -S launch.py PARENT_PID NICE COMMAND...`.

Asks the kernel to kill it when its parent ends (Linux; elsewhere it may outlive one that was killed, which harms
nothing: every such program may be interrupted and run twice), steps back behind everything else, and exec's COMMAND.

Boundary: standard library only and no import from this project, because it runs isolated, and in 15 ms.
"""

import ctypes
import os
import signal
import sys

EXIT_ORPHANED = 72
PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:  # noqa: RET503  execv does not return
    parent, nice, command = int(argv[0]), int(argv[1]), argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        return EXIT_ORPHANED
    os.nice(nice)
    os.execv(command[0], command)  # noqa: S606  the command comes from our own process.py


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
