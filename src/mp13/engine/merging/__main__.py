"""A merge as a process of its own: `python -m mp13.engine.merging` reads a request as JSON and prints a JSON object a
line: {"stage", "fraction"} on the way, at last {"report"} or {"error", "message"}.
"""

import dataclasses
import json
import os
import sys
from typing import Any

from mp13.engine.merging.request import MergeRequest
from mp13.errors import Mp13Error


def main() -> int:
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer

        def tell(**line: Any) -> None:
            print(json.dumps(line), file=out, flush=True)

        try:
            request = MergeRequest(**json.load(sys.stdin))
            from mp13.engine.merging.merge import merge

            report = merge(request, lambda stage, fraction: tell(stage=stage, fraction=fraction))
        except Mp13Error as error:
            tell(error=type(error).__name__, message=str(error))
            return 1
        tell(report=dataclasses.asdict(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
