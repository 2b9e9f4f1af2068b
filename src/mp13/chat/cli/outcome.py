"""How a command ends: exit codes, errors as one sentence on stderr, and a reader that went away."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mp13.chat.text import printable
from mp13.errors import ConfigError, MixError, Mp13Error, UnsupportedError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_USAGE_ERRORS = (ConfigError, MixError, UnsupportedError)


@contextmanager
def outcome(program: str) -> Iterator[None]:
    """Run the body of a command; what it raises becomes a sentence and an exit code. Defects keep their traceback."""
    try:
        yield
        sys.stdout.flush()
    except Mp13Error as error:
        complain(f"{program}: {error}")
        raise SystemExit(USAGE if isinstance(error, _USAGE_ERRORS) else FAILURE) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # `mp13chat -p … | head -1`; Python would complain again when it flushes at its end
        _print_no_more()
        raise SystemExit(FAILURE) from None
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:  # of a stream it has no name
            raise
        complain(f"{program}: standard output cannot be written ({error.strerror})")
        _print_no_more()
        raise SystemExit(FAILURE) from None


def _print_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """A line of diagnostics."""
    print(printable(text), file=sys.stderr, flush=True)


def prepare_streams() -> None:
    """Never fail on a character that the terminal's encoding lacks, nor where a stream was closed by whoever calls."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="replace")
