"""A training run as a process of its own: `python -m mp13.engine.training.process`, spoken to as engine/worker.py
says; or, under torchrun, as several, of which the first is spoken to.
"""

import os
import sys
import threading

from mp13.engine.request import OnProgress
from mp13.engine.training.process.request import TrainReport, TrainRequest
from mp13.engine.worker import OnEvent, answer_with_events


def work(request: TrainRequest, on_progress: OnProgress, on_event: OnEvent, ended: threading.Event) -> TrainReport:
    from mp13.engine.training.process.work import train

    return train(request, on_progress, on_event, ended)


def read_together() -> str:
    """The request, which the first process alone is sent."""
    from mp13.engine.training.peers import peers, told_by_first

    line: str = told_by_first(sys.stdin.readline() if peers().is_first else "")
    return line


if __name__ == "__main__":
    is_alone = "WORLD_SIZE" not in os.environ
    is_first = os.environ.get("RANK", "0") == "0"
    read = sys.stdin.readline if is_alone else read_together
    sys.exit(answer_with_events(TrainRequest, work, read, is_first=is_first))
