"""A merge as a process of its own: `python -m mp13.engine.merging`, spoken to as engine/worker.py says."""

import sys

from mp13.engine.merging.request import MergeReport, MergeRequest
from mp13.engine.request import OnProgress
from mp13.engine.worker import answer


def work(request: MergeRequest, on_progress: OnProgress) -> MergeReport:
    from mp13.engine.merging.merge import merge

    return merge(request, on_progress)


if __name__ == "__main__":
    sys.exit(answer(MergeRequest, work))
