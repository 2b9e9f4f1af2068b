"""The engine on a thread of its own, for servers and chats: many callers, one packed batch.

Only the engine's thread touches the core. Callers hand it small jobs and await the answers; events go back to the
event loop they came from.
"""

import asyncio
import atexit
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from mp13.engine.core import EngineCore
from mp13.engine.description import EngineDescription
from mp13.engine.llm import AnyPrompt, engine_config, engine_prompt
from mp13.engine.models.loader import check_model
from mp13.engine.models.room import freed_on_failure
from mp13.engine.request import (
    AdapterInfo,
    CountReport,
    ErrorEvent,
    Event,
    FinishEvent,
    KVPolicy,
    OnProgress,
    RequestOutput,
    SamplingParams,
    ScoredAnswer,
    TokenEvent,
    TokenScore,
)
from mp13.engine.text.scored_answer import scored_answer
from mp13.errors import MixError, Mp13Error

_T = TypeVar("_T")
_Deliver = Callable[[Event], None]


class AsyncEngine:
    """Arguments and errors of `LLM`.

    `on_progress(stage, fraction or None)` is called while loading, which blocks. `on_adapters()` is called, on the
    engine's thread, when `adapters` has changed without being asked to: an effect was measured, a place taken or left.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        on_progress: OnProgress | None = None,
        on_adapters: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        self._on_adapters = on_adapters
        self._told: object = None  # of the adapters, when that was called last
        with freed_on_failure():
            self._core = EngineCore(engine_config(model, options), on_progress or (lambda stage, fraction: None))
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._deliver: dict[str, _Deliver] = {}  # by request id; engine thread only
        self._closed = False
        self._closing = threading.Lock()  # no job is handed in after the engine's thread looked for the last time
        self._thread = threading.Thread(target=self._turn, name="mp13-engine", daemon=True)
        self._thread.start()
        atexit.register(self._stop)  # a thread that computes while Python shuts down would take the process with it

    @staticmethod
    def check(model: str | Path, **options: Any) -> None:
        """Raises what an engine with these options would, as far as it is known before weights are read: anything but
        whether they fit, since what runs now may hold the room."""
        check_model(engine_config(model, options))

    @property
    def info(self) -> EngineDescription:
        return self._core.info

    @property
    def adapters(self) -> list[AdapterInfo]:
        return self._core.adapters.infos

    async def load_adapter(self, path: str | Path, name: str | None = None) -> AdapterInfo:
        return await self._call(lambda: self._core.load_adapter(path, name))

    def changed_adapters(self) -> list[str]:
        """Names of the adapters whose files have changed since they were read; loading one again picks that up."""
        return self._core.adapters.changed()

    async def unload_adapter(self, name: str) -> None:
        await self._call(lambda: self._core.unload_adapter(name))

    async def generate(
        self,
        prompt: AnyPrompt,
        params: SamplingParams | None = None,
        adapters: str | None = None,
        request_id: str | None = None,
        kv_policy: KVPolicy | None = None,
    ) -> AsyncIterator[TokenEvent | FinishEvent]:
        """Answer one prompt. Leaving the iterator early aborts the request. `kv_policy` None is the engine's.

        Messages that end with an answer ask for more of it: token events bring what is new, the end the whole answer.

        Raises:
            MixError, ContextError, ConfigError: the request cannot run. Any other error is the engine's own.
        """
        request = engine_prompt(prompt)

        def add() -> list[str]:
            return [self._core.add(request, params or SamplingParams(), adapters, request_id, kv_policy)]

        async with aclosing(self._events(add)) as events:
            async for _, event in events:
                yield event

    async def prefill(
        self,
        prompt: AnyPrompt,
        adapters: str | None = None,
        background: bool = True,
        request_id: str | None = None,
        kv_policy: KVPolicy | None = None,
    ) -> RequestOutput:
        """Compute and cache what an answer to `prompt` would begin with, in the `background` only while there is no
        other request. Messages that end with an answer are a conversation's past. Returns an output without tokens when
        it is done or was aborted; cancelling aborts it.

        Raises: as `generate`.
        """
        request = engine_prompt(prompt)

        def add() -> list[str]:
            return [self._core.prefill(request, adapters, request_id, kv_policy, background=background)]

        async with aclosing(self._events(add)) as events:
            _, finish = await anext(events)
        output: RequestOutput = finish.output
        return output

    async def compare(
        self, prompt: AnyPrompt, params: SamplingParams | None, mixes: Sequence[str], kv_policy: KVPolicy | None = None
    ) -> AsyncIterator[tuple[int, TokenEvent | FinishEvent]]:
        """Let each of the mixes answer one prompt, all in the same packed steps; (index of the mix, event).

        Without a seed in `params` all draw with the same one. Leaving the iterator, or an error of one, aborts all.

        Raises: as `generate`.
        """
        request = engine_prompt(prompt)

        def add() -> list[str]:
            return self._core.compare(request, params or SamplingParams(), mixes, kv_policy=kv_policy)

        async with aclosing(self._events(add)) as events:
            async for index, event in events:
                yield index, event

    async def score_details(
        self, prompt: AnyPrompt | None, answer: list[int] | str, mixes: Sequence[str]
    ) -> ScoredAnswer:
        """How each mix judges an answer, token by token; the first is what the others are compared with.

        Args:
            prompt: what stands before the answer, as `generate` takes it; messages are rendered as the first mix would
                have them. None judges `answer` as a text of its own, from its second token on.
            answer: the answer's token ids, or its text.

        Raises:
            MixError, ContextError, ConfigError: as `LLM.score_details`.
        """
        request = None if prompt is None else engine_prompt(prompt)
        if not mixes:
            raise MixError("there is no mix to judge the answer; give at least one, such as 'base'")
        token_ids, start, tokenizer = await self._call(lambda: self._core.prompts.judged_ids(request, answer, mixes[0]))
        scores: tuple[tuple[TokenScore, ...], ...] = ()
        async with aclosing(self._events(lambda: [self._core.score(token_ids, mixes, start)])) as events:
            async for _, event in events:
                scores = event.scores
        return await self._call(lambda: scored_answer(tokenizer, token_ids, start, scores))

    async def count(self, prompt: AnyPrompt, adapters: str | None = None) -> CountReport:
        """How long the prompt is that `generate` would make of this. No running answer waits for it, nor it for one.

        Raises:
            MixError, ConfigError: the mix or the prompt cannot be used. That it does not fit is no error here.
        """
        return await asyncio.to_thread(self._core.count, engine_prompt(prompt), adapters)

    def output_so_far(self, request_id: str) -> RequestOutput | None:
        """A running answer as it stands; None for an id that is not, or no longer, known. May be asked at any time."""
        return self._core.output_so_far(request_id)

    async def _events(self, add: Callable[[], list[str]]) -> AsyncGenerator[tuple[int, Any]]:
        """Every event of the requests that `add` makes on the engine's thread, with the request's index, until all have
        ended. An error of one ends them all, and so does leaving early."""
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

    def _abort_added(self, added: "Future[list[str]]") -> None:
        for request_id in () if added.exception() else added.result():
            self.abort(request_id)

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
                self._tell_of_adapters()
        while not self._jobs.empty():
            self._jobs.get()()
        for request_id in list(self._deliver):
            self._hand_out(self._core.abort(request_id))

    def _tell_of_adapters(self) -> None:
        present = frozenset(self._core.adapters.slots.resident), self._core.effects.num_measured
        if present != self._told:
            self._told = present
            self._on_adapters()

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
