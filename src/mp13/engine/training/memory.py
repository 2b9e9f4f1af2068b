"""The most memory that a stretch of work took."""

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
