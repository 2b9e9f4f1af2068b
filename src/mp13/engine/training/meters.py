"""What a stretch of work took: memory, and time of its own."""

import time

import psutil
import torch


class PeakMemory:
    """On a GPU what torch allocated there; elsewhere what the process held at the moments that were noted."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._process, self._most = device, psutil.Process(), 0

    def note(self) -> None:
        if self._device.type != "cuda":
            self._most = max(self._most, self._process.memory_info().rss)

    def take(self) -> int:
        """Bytes since the last time."""
        if self._device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            return most
        most, self._most = self._most, 0
        return most


class Stopwatch:
    """Seconds between `go` and `halt`, added up."""

    def __init__(self) -> None:
        self._seconds, self._since = 0.0, 0.0

    def go(self) -> None:
        self._since = time.perf_counter()

    def halt(self) -> None:
        self._seconds += time.perf_counter() - self._since

    def take(self) -> float:
        """Those since the last time."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
