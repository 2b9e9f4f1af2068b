"""Quantizing as a process of its own: `python -m mp13.engine.quantizing`, spoken to as engine/worker.py says."""

import sys

from mp13.engine.quantizing.request import QuantizeReport, QuantizeRequest
from mp13.engine.request import OnProgress
from mp13.engine.worker import answer


def work(request: QuantizeRequest, on_progress: OnProgress) -> QuantizeReport:
    from mp13.engine.quantizing.write import quantize_folder

    return quantize_folder(request, on_progress)


if __name__ == "__main__":
    sys.exit(answer(QuantizeRequest, work))
