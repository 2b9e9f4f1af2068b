"""Text that another program or a file hands in on standard input."""

import os
import sys
import threading

from mp13.chat.cli.outcome import complain

_FIRST_BYTES_S = 3.0


def stdin_is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def read_piped(optional: bool) -> str:
    """What was piped in, without blanks around it; "" when nothing was.

    With `optional`, a pipe that says nothing for three seconds is let be: it may be one that a parent process left
    open and never closes.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # a test's stand-in without a file
        return sys.stdin.read().strip()
    chunks: list[bytes] = []
    started = threading.Event()

    def read() -> None:
        while chunk := os.read(descriptor, 1 << 16):
            chunks.append(chunk)
            started.set()
        started.set()

    # Read beside Python's own buffer, whose lock a thread that never returns would hold at the interpreter's end.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    if optional and not started.wait(_FIRST_BYTES_S):
        complain("mp13chat: nothing came on standard input for 3 s; going on without it (close it with </dev/null)")
        return ""
    reader.join()
    return b"".join(chunks).decode("utf-8-sig", "replace").strip()
