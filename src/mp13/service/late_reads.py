"""Keeps one false alarm off the terminal: anyio's Unix stream is woken by data once more after its read was cancelled.

Stopping an answer cancels a read while tokens come, so asyncio would log a traceback of nothing that went wrong.
"""

import asyncio
import logging


def pass_over() -> None:
    """In this process, from now on. Doing it again changes nothing."""
    logging.getLogger("asyncio").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    is_of_future = record.getMessage().startswith("Exception in callback Future.set_result(None)")
    return not (is_of_future and record.exc_info and isinstance(record.exc_info[1], asyncio.InvalidStateError))
