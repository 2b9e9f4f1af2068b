"""An HTTP answer of one JSON model a line, and the HTTP form of an error. Knows nothing of engines.

Starlette's own streaming response leaves its iterator open when the client goes away; here leaving closes it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mp13.errors import ModelError, Mp13Error
from mp13.service.schema import EndedEvent, FailedEvent

log = logging.getLogger(__name__)


def failed_event(error: Exception) -> FailedEvent:
    """The error as it travels. One that mp13 did not raise on purpose is a defect: its traceback goes to the log."""
    if isinstance(error, Mp13Error):
        return FailedEvent(code=type(error).__name__, message=str(error))
    log.error("unexpected error", exc_info=error)
    return FailedEvent(code="Mp13Error", message=f"the engine met an unexpected {type(error).__name__}: {error}")


def failure(error: Exception, status: int | None = None) -> Response:
    """400 for what the caller can mend, 503 for a model that is not there, 500 for a defect."""
    if status is None:
        status = 503 if isinstance(error, ModelError) else 400 if isinstance(error, Mp13Error) else 500
    return Response(failed_event(error).model_dump_json(), status, media_type="application/json")


class LineStream(Response):
    """Sends each model that `events` yields as a line, and closes `events` as soon as the client is gone.

    The status waits for the first event: an error before it is an HTTP error, a later one is a last `FailedEvent` line.
    So is the end of the process, when `ended` comes before the end of `events`.
    """

    media_type = "application/x-ndjson"

    def __init__(self, events: AsyncGenerator[BaseModel], ended: "asyncio.Future[EndedEvent] | None" = None) -> None:
        self.status_code = 200
        self.background = None
        self.events = events
        self.ended = ended
        self.has_begun = False
        self.init_headers({"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(scope, receive, send))
        leaving = asyncio.create_task(_disconnect(receive))
        try:
            awaited: list[asyncio.Future[Any]] = [sending, leaving, *([self.ended] if self.ended else [])]
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            is_cut = not (sending.done() or leaving.done())
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if is_cut and self.ended is not None:
            await self._send_end(self.ended.result(), scope, receive, send)

    async def _send_end(self, ended: EndedEvent, scope: Scope, receive: Receive, send: Send) -> None:
        event = FailedEvent(code="EngineStopped", message=ended.reason)
        if self.has_begun:
            await send(_line(event))
            await send({"type": "http.response.body", "body": b""})
        else:
            await Response(event.model_dump_json(), 503, media_type="application/json")(scope, receive, send)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events) as events:
            try:
                first = await anext(events)
            except Exception as error:
                await failure(error)(scope, receive, send)
                return
            self.has_begun = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send(_line(first))
            try:
                async for event in events:
                    await send(_line(event))
            except Exception as error:
                await send(_line(failed_event(error)))
            await send({"type": "http.response.body", "body": b""})


def _line(event: BaseModel) -> dict[str, object]:
    return {"type": "http.response.body", "body": event.model_dump_json().encode() + b"\n", "more_body": True}


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
