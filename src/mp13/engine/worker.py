"""A piece of work as a process of its own: reads a request as a line of JSON and prints a JSON object a line, {"stage",
"fraction"} or {"event", "fields"} on the way, at last {"report"} or {"error", "message"}. The other side is
library/worker.py.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mp13.engine.request import OnProgress
from mp13.errors import Mp13Error

Tell = Callable[..., None]
OnEvent = Callable[[Any], None]


def answer(request_type: Callable[..., Any], work: Callable[[Any, OnProgress], Any]) -> int:
    """Do `work` on the request that comes in, whose type has its fields; returns the exit code. Reports are
    dataclasses, too."""
    with _output() as tell:
        request = request_type(**json.loads(sys.stdin.readline()))
        return _told(tell, lambda: work(request, _progress(tell)))


def answer_with_events(
    request_type: Callable[..., Any],
    work: Callable[[Any, OnProgress, OnEvent, threading.Event], Any],
    read: Callable[[], str] | None = None,
    *,
    is_first: bool = True,
) -> int:
    """The same for work that takes long and tells what happens, in dataclasses. It is to end early once the event is
    set: when the other side says so by closing its end, or is dead. Of several processes that do it together, which
    `read` the request in another way, those that are not first tell nothing but errors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the other side's, which then closes its end
    with _output() as told:

        def tell(**line: Any) -> None:
            if is_first or "error" in line:
                told(**line)

        request = request_type(**json.loads((read or sys.stdin.readline)()))
        ended = threading.Event()
        if is_first:
            threading.Thread(target=_watch, args=(ended,), daemon=True).start()

        def on_event(event: Any) -> None:
            tell(event=type(event).__name__, fields=dataclasses.asdict(event))

        return _told(tell, lambda: work(request, _progress(tell), on_event, ended))


def _watch(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


@contextmanager
def _output() -> Iterator[Tell]:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer

    def tell(**line: Any) -> None:
        with suppress(BrokenPipeError):  # nobody listens any more; what was begun is ended in order
            print(json.dumps(line, default=_text), file=out, flush=True)

    try:
        yield tell
    finally:
        with suppress(BrokenPipeError):
            out.close()


def _progress(tell: Tell) -> OnProgress:
    return lambda stage, fraction: tell(stage=stage, fraction=fraction)


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not for JSON")


def _told(tell: Tell, work: Callable[[], Any]) -> int:
    try:
        report = work()
    except Mp13Error as error:
        tell(error=type(error).__name__, message=str(error))
        return 1
    tell(report=dataclasses.asdict(report))
    return 0
