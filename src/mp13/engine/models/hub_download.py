"""A model's files from the Hub into the Hugging Face cache, and how much of them has come. Errors as sentences are
weights.py's.
"""

import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import utils as hub_utils

from mp13.engine.request import OnProgress

_WANTED = ["*.json", "*.safetensors", "*.model", "tokenizer.model.v*", "*.jinja", "*.txt"]
_UNWANTED = ["consolidated*.safetensors"]
_untyped: Any = hub_utils


def download(model: str, on_progress: OnProgress) -> Path:
    """Where the files of repository `model` are now. Raises whatever huggingface_hub does."""
    on_progress(f"asking the Hub for {model}", None)
    patterns: dict[str, Any] = {"allow_patterns": _WANTED, "ignore_patterns": _UNWANTED}
    bar = _bar(_Download(model, on_progress))
    return Path(huggingface_hub.snapshot_download(model, tqdm_class=bar, **patterns))


class _Download:
    """Told by huggingface_hub's threads how many bytes have come."""

    def __init__(self, model: str, on_progress: OnProgress) -> None:
        self._model = model
        self._on_progress = on_progress
        self._one = threading.Lock()
        self._most = 0.0

    def tell(self, num_bytes: float) -> None:
        with self._one:
            if self._missing_bytes is not None:
                self._most = max(self._most, min(1.0, num_bytes / max(1, self._missing_bytes)))
            self._on_progress(f"downloading {self._model}", None if self._missing_bytes is None else self._most)

    @cached_property
    def _missing_bytes(self) -> int | None:
        """Of all wanted files that were not in the cache. Asked for with the first byte, so that a model that is there
        waits for no further answer. None where the Hub does not say."""
        try:
            files = huggingface_hub.HfApi().model_info(self._model, files_metadata=True).siblings or []
        except Exception:  # the download itself says what is wrong
            return None
        wanted = _untyped.filter_repo_objects(
            files, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, key=lambda file: file.rfilename
        )
        here = huggingface_hub.try_to_load_from_cache
        return sum(file.size or 0 for file in wanted if not isinstance(here(self._model, file.rfilename), str))


def _bar(download: _Download) -> type:
    """What huggingface_hub takes for a progress bar. Versions before 1 show single files elsewhere: nothing is told."""

    class Bar(_untyped.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._counts_bytes and self.n:
                download.tell(self.n)

    return Bar
