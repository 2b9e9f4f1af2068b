"""The engine on a thread of its own, for servers and chats: many callers, one packed batch.

Only the engine's thread touches the core. Callers hand it small jobs and await the answers; events go back to the
event loop they came from.
"""

import asyncio
import atexit
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from mp13.engine.core import EngineCore, EngineDescription, Prompt
from mp13.engine.llm import engine_config
from mp13.engine.models.weights import OnProgress
from mp13.engine.request import AdapterInfo, ErrorEvent, Event, FinishEvent, SamplingParams, TokenEvent
from mp13.engine.text.chat_template import ChatMessage, to_messages
from mp13.errors import Mp13Error

_T = TypeVar("_T")
_Deliver = Callable[[Event], None]


class AsyncEngine:
    """Arguments and errors of `LLM`; `on_progress(stage, fraction or None)` is called while loading, which blocks."""

    def __init__(self, model: str | Path, *, on_progress: OnProgress | None = None, **options: Any) -> None:
        self._core = EngineCore(engine_config(model, options), on_progress or (lambda stage, fraction: None))
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._deliver: dict[str, _Deliver] = {}  # by request id; engine thread only
        self._closed = False
        self._closing = threading.Lock()  # no job is handed in after the engine's thread looked for the last time
        self._thread = threading.Thread(target=self._turn, name="mp13-engine", daemon=True)
        self._thread.start()
        atexit.register(self._stop)  # a thread that computes while Python shuts down would take the process with it

    @property
    def info(self) -> EngineDescription:
        return self._core.info

    @property
    def adapters(self) -> list[AdapterInfo]:
        return self._core.adapters.infos

    async def load_adapter(self, path: str | Path, name: str | None = None) -> AdapterInfo:
        return await self._call(lambda: self._core.load_adapter(path, name))

    async def unload_adapter(self, name: str) -> None:
        await self._call(lambda: self._core.unload_adapter(name))

    async def generate(
        self,
        prompt: str | list[int] | Sequence[dict[str, Any] | ChatMessage],
        params: SamplingParams | None = None,
        adapters: str | None = None,
        request_id: str | None = None,
    ) -> AsyncIterator[TokenEvent | FinishEvent]:
        """Answer one prompt. Leaving the iterator early aborts the request.

        Raises:
            MixError, ContextError, ConfigError: the request cannot run. Any other error is the engine's own.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()
        engine_prompt: Prompt = prompt if isinstance(prompt, str) or _is_ids(prompt) else to_messages(prompt)  # type: ignore[assignment, arg-type]

        def deliver(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def add() -> str:
            added = self._core.add(engine_prompt, params or SamplingParams(), adapters, request_id)
            self._deliver[added] = deliver
            return added

        added = self._submit(add)
        finished = False
        try:
            await asyncio.shield(asyncio.wrap_future(added))
            while True:
                event = await events.get()
                finished = not isinstance(event, TokenEvent)
                if isinstance(event, ErrorEvent):
                    raise event.error
                yield event
                if finished:
                    return
        finally:
            if not finished:  # perhaps the caller was cancelled before the request was even added
                added.add_done_callback(lambda future: None if future.exception() else self.abort(future.result()))

    def abort(self, request_id: str) -> None:
        """End a request; its iterator gets a FinishEvent with reason "abort". Unknown ids are ignored."""
        self._jobs.put(lambda: self._hand_out(self._core.abort(request_id)))

    async def close(self) -> None:
        """Abort everything and end the engine's thread."""
        atexit.unregister(self._stop)
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        with self._closing:
            self._closed = True
            self._jobs.put(lambda: None)
        self._thread.join()

    def _turn(self) -> None:
        while not self._closed:
            if not self._core.has_work():
                self._jobs.get()()  # sleep until somebody wants something
            while not self._jobs.empty():
                self._jobs.get()()
            if self._core.has_work():
                self._hand_out(self._core.step())
        while not self._jobs.empty():
            self._jobs.get()()
        for request_id in list(self._deliver):
            self._hand_out(self._core.abort(request_id))

    def _hand_out(self, events: list[Event]) -> None:
        for event in events:
            deliver = self._deliver[event.request_id]
            if not isinstance(event, TokenEvent):
                del self._deliver[event.request_id]
            try:
                deliver(event)
            except RuntimeError:  # the caller's event loop is gone
                self._jobs.put(lambda lost=event.request_id: self._hand_out(self._core.abort(lost)))  # type: ignore[misc]

    def _submit(self, job: Callable[[], _T]) -> "Future[_T]":
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return  # nobody waits for it any more
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        with self._closing:
            if self._closed:
                future.set_exception(Mp13Error("the engine is closed; start it again"))
            else:
                self._jobs.put(run)
        return future

    async def _call(self, job: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._submit(job))


def _is_ids(prompt: object) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)
