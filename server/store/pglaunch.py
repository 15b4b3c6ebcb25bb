"""Become PostgreSQL: a small program that is exec'd, changes who it is, and then exec's its command.

    python -I -S pglaunch.py PARENT_PID ACCOUNT FOLDER COMMAND...

PostgreSQL refuses to run as root and must not outlive the server. So this program, in this order:
changes to `/`; takes the account (`self`; `namespace:UID:GID`, a user namespace where we are that user while the
kernel still knows us as ourselves, so that folders under 0700 parents stay open to us; `drop:UID:GID`, for root);
checks that FOLDER and COMMAND are within reach; asks the kernel for SIGINT (PostgreSQL's fast shutdown) when the
parent ends, which must come after the change of account because that change clears the wish; checks that the parent
did not end before; and exec's COMMAND.

Boundary: standard library only and no import from this project, because it runs isolated, and in 15 ms.
Invariant: it never returns to its caller's code; it becomes COMMAND or exits with one of the codes below.
"""

import ctypes
import os
import signal
import sys

EXIT_REFUSED = 70
"""The kernel grants no user namespace (a container's seccomp filter, a sysctl, a chroot)."""
EXIT_UNREACHABLE = 71
"""The account cannot enter FOLDER or run COMMAND."""
EXIT_ORPHANED = 72
"""The parent ended first."""

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:  # noqa: RET503  execv does not return
    """Returns an exit code only where it could not become the command."""
    parent, account, folder, command = int(argv[0]), argv[1], argv[2], argv[3:]
    os.chdir("/")
    os.umask(0o077)
    kind, _, ids = account.partition(":")
    if kind == "namespace" and not _enter_namespace(*map(int, ids.split(":"))):
        return EXIT_REFUSED
    if kind == "drop":
        uid, gid = map(int, ids.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if not (os.access(folder, os.R_OK | os.W_OK | os.X_OK) and os.access(command[0], os.X_OK)):
        return EXIT_UNREACHABLE
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
    if os.getppid() != parent:
        return EXIT_ORPHANED
    os.execv(command[0], command)  # noqa: S606  the command comes from our own embedded.py


def _enter_namespace(uid: int, gid: int) -> bool:
    """Be `uid:gid` in a user namespace of our own. False where the kernel refuses."""
    own_uid, own_gid = os.geteuid(), os.getegid()
    if sys.platform != "linux" or ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        return False
    try:
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {own_uid} 1"),
            ("gid_map", f"{gid} {own_gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
