"""How a command ends: exit codes, errors as one sentence on stderr, and a reader that went away."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mp13.chat.text import printable
from mp13.errors import ConfigError, MixError, Mp13Error, UnsupportedError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILURE) from None


def complain(text: str) -> None:
    """A line of diagnostics."""
    print(printable(text), file=sys.stderr, flush=True)


def prepare_streams() -> None:
    """Never fail on a character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
