"""A training run as a process of its own: `python -m mp13.engine.training.job`, spoken to as engine/worker.py says."""

import sys
import threading

from mp13.engine.request import OnProgress
from mp13.engine.training.job.request import TrainReport, TrainRequest
from mp13.engine.worker import OnEvent, answer_with_events


def work(request: TrainRequest, on_progress: OnProgress, on_event: OnEvent, ended: threading.Event) -> TrainReport:
    from mp13.engine.training.job.work import train

    return train(request, on_progress, on_event, ended)


if __name__ == "__main__":
    sys.exit(answer_with_events(TrainRequest, work))
