"""A piece of work as a process of its own: reads a request as JSON and prints a JSON object a line, {"stage",
"fraction"} on the way, at last {"report"} or {"error", "message"}. The other side is library/worker.py.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from mp13.engine.request import OnProgress
from mp13.errors import Mp13Error


def answer(request_type: Callable[..., Any], work: Callable[[Any, OnProgress], Any]) -> int:
    """Do `work` on the request that comes in, whose type has its fields; returns the exit code. Reports are
    dataclasses, too."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer

        def tell(**line: Any) -> None:
            print(json.dumps(line), file=out, flush=True)

        try:
            report = work(
                request_type(**json.load(sys.stdin)), lambda stage, fraction: tell(stage=stage, fraction=fraction)
            )
        except Mp13Error as error:
            tell(error=type(error).__name__, message=str(error))
            return 1
        tell(report=dataclasses.asdict(report))
    return 0
