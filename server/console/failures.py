"""What a command may say when it cannot do its work: one sentence and an exit status.

Statuses: 0 done, 1 failed, 2 wrong usage or configuration, 3 the server cannot be reached or refused, 130 interrupted.
"""

FAILED = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130


class CommandFailed(Exception):
    """A command's own failure."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the status for an error that a person can understand; None for a defect. No sentence when the
    reader of the output has gone, as `head` does.

    The parts' errors are imported here, when something failed, so that `--help` need not load them."""
    from parlance_client import ConnectFailed, ConnectRefused, ParlanceClientError

    from auth.errors import AuthError
    from server.config import ConfigError
    from server.store.migrate import MigrationFailed
    from server.store.pgplace import PostgresFailed
    from streaming.errors import ParlanceError

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case CommandFailed():
            return str(error), error.status
        case ConfigError():
            return str(error), USAGE
        case ConnectRefused():
            return f"The server refused the connection: {error.message}", UNREACHABLE
        case ConnectFailed():
            return f"{error} Is the server running? Start it with `parlance serve`.", UNREACHABLE
        case AuthError() | ParlanceError():
            return error.message, FAILED
        case ParlanceClientError() | MigrationFailed():
            return str(error), FAILED
        case PostgresFailed():
            # Its first line is the sentence, the end of the database's log follows.
            return str(error).partition("\n")[0], FAILED
        case BrokenPipeError():
            return "", FAILED
        case OSError():
            return f"{error.filename or 'The system'}: {error.strerror or error}", FAILED
        case _:
            return None
