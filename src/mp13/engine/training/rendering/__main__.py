"""Making tokens as a process of its own: `python -m mp13.engine.training.rendering`, spoken to as engine/worker.py
says."""

import sys

from mp13.engine.request import OnProgress
from mp13.engine.training.rendering.request import RenderReport, RenderRequest
from mp13.engine.worker import answer


def work(request: RenderRequest, on_progress: OnProgress) -> RenderReport:
    from mp13.engine.training.rendering.work import render_rows

    return render_rows(request, on_progress)


if __name__ == "__main__":
    sys.exit(answer(RenderRequest, work))
