"""The thread on which a core is turned: it takes small jobs from many callers, steps while there is work, and hands
events back to the event loops that they are for. What is asked is async_engine.py's.
"""

import asyncio
import atexit
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from mp13.engine.core import EngineCore
from mp13.engine.request import ErrorEvent, Event, TokenEvent
from mp13.engine.training_run import TrainingRun
from mp13.errors import Mp13Error

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Deliver = Callable[[Event], None]


class EngineThread:
    """`on_turn()` is called on the thread before and after each step, and when there is nothing left to do."""

    def __init__(self, core: EngineCore, on_turn: Callable[[], None]) -> None:
        self._core = core
        self._on_turn = on_turn
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._deliver: dict[str, _Deliver] = {}  # by request id; this thread only
        self.training: TrainingRun | None = None  # set on this thread
        self._closed = False
        self._closing = threading.Lock()  # no job is handed in after the thread looked for the last time
        self._thread = threading.Thread(target=self._run, name="mp13-engine", daemon=True)
        self._thread.start()
        atexit.register(self.stop)  # a thread that computes while Python shuts down would take the process with it

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    async def call(self, job: Callable[[], _T]) -> _T:
        """What `job` gives on the thread, between two steps."""
        return await asyncio.wrap_future(self._submit(job))

    async def events(self, add: Callable[[], list[str]]) -> AsyncGenerator[tuple[int, Any]]:
        """Every event of the requests that `add` makes on the thread, with the request's index, until all have ended.
        An error of one ends them all, and so does leaving early."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def deliver(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def add_all() -> list[str]:
            request_ids = add()
            self._deliver.update(dict.fromkeys(request_ids, deliver))
            return request_ids

        added = self._submit(add_all)
        left: dict[str, int] | None = None
        try:
            request_ids = await asyncio.shield(asyncio.wrap_future(added))
            left = {request_id: index for index, request_id in enumerate(request_ids)}
            while left:
                event = await events.get()
                index = left[event.request_id] if isinstance(event, TokenEvent) else left.pop(event.request_id)
                if isinstance(event, ErrorEvent):
                    raise event.error
                yield index, event
        finally:
            if left != {}:  # perhaps the caller was cancelled before the requests were even added
                added.add_done_callback(self._abort_added)

    def abort(self, request_id: str) -> None:
        """End a request; its reader gets a FinishEvent with reason "abort". Unknown ids are ignored."""
        self._jobs.put(lambda: self._hand_out(self._core.abort(request_id)))

    def stop(self) -> None:
        """Abort everything and end the thread."""
        atexit.unregister(self.stop)
        with self._closing:
            self._closed = True
            self._jobs.put(lambda: None)
        self._thread.join()

    def _abort_added(self, added: "Future[list[str]]") -> None:
        for request_id in () if added.exception() else added.result():
            self.abort(request_id)

    def _run(self) -> None:
        while not self._closed:
            if not (self._core.has_work() or self._trains()):
                self._jobs.get()()  # sleep until somebody wants something
            self._turn()
            if self.training is not None and self._trains():
                self.training.advance()
        while not self._jobs.empty():
            self._jobs.get()()
        for request_id in list(self._deliver):
            self._hand_out(self._core.abort(request_id))

    def serve(self, seconds: float) -> None:
        """Called by the training run between two of its pieces: take jobs and steps until nobody wants anything, or for
        so long while somebody does."""
        end = time.perf_counter() + seconds
        while not self._closed and (self._core.has_work() or not self._jobs.empty()):
            self._turn()
            if time.perf_counter() >= end:
                return

    def _trains(self) -> bool:
        return self.training is not None and not self.training.is_over and not self.training.is_waiting

    def _turn(self) -> None:
        while not self._jobs.empty():
            self._jobs.get()()
        self._on_turn()
        if self._core.has_work():
            self._hand_out(self._step())
            self._on_turn()

    def _step(self) -> list[Event]:
        try:
            return self._core.step()
        except Exception as error:  # a defect; without an end, those whose requests they are would wait for ever
            log.exception("a step failed")
            return self._core.fail_all(error)

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
