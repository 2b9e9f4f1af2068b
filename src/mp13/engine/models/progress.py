"""What is told while a model loads: the stages in plain words, and what Transformers would show as a progress bar."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import transformers

from mp13.engine.request import OnProgress

READING, QUANTIZING = "reading weights", "quantizing weights"
CHECKING, SIZING = "checking the model", "sizing the cache"


def as_quantizing(on_progress: OnProgress) -> OnProgress:
    """For weights that are quantized as they are read."""
    return lambda stage, fraction: on_progress(QUANTIZING if stage == READING else stage, fraction)


@contextmanager
def reading_is_told(on_progress: OnProgress) -> Iterator[None]:
    """While it lasts, Transformers reads the weights of a model."""
    set_hook: Callable[[Any], Any] | None = getattr(transformers.utils.logging, "set_tqdm_hook", None)
    if set_hook is None:  # before Transformers 5
        yield
        return

    def told(things: Iterable[Any], count: int) -> Iterator[Any]:
        for number, thing in enumerate(things):
            on_progress(READING, number / count)
            yield thing
        on_progress(READING, 1.0)

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and hasattr(args[0], "__len__") and len(args[0]):
            return told(args[0], len(args[0]))
        return factory(*args, **{**kwargs, "disable": True})

    before = set_hook(hook)
    try:
        yield
    finally:
        set_hook(before)
