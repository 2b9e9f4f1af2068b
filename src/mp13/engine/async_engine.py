"""The engine on a thread of its own, for servers and chats: many callers, one packed batch.

Only the engine's thread touches the core (engine_thread.py). What is asked of it here becomes small jobs for it, and
iterators over the events that come back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

from mp13.engine.core import EngineCore
from mp13.engine.description import EngineDescription
from mp13.engine.engine_thread import EngineThread
from mp13.engine.llm import AnyPrompt, engine_config, engine_prompt
from mp13.engine.models.loader import check_model
from mp13.engine.models.room import freed_on_failure
from mp13.engine.request import (
    Activity,
    AdapterInfo,
    CountReport,
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
from mp13.engine.training.events import RunEvent
from mp13.engine.training.job import TrainingJob
from mp13.engine.training.passes import require_parts
from mp13.engine.training.rendering.request import Loss, RenderReport
from mp13.engine.training.rendering.work import rendered
from mp13.engine.training.sample import Sample
from mp13.engine.training_run import TrainingRun
from mp13.errors import MixError, TrainingError

_SERVED_S = 0.5  # at most, between two pieces of what comes before a run
TrainingVerb = Literal["pause", "go_on", "stop", "cancel", "park"]


class AsyncEngine:
    """Arguments and errors of `LLM`.

    `on_progress(stage, fraction or None)` is called while loading, which blocks. `on_adapters()` is called, on the
    engine's thread, when `adapters` has changed without being asked to: an effect was measured, a place taken or left;
    `on_activity(activity)`, when another number of requests runs or waits.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        on_progress: OnProgress | None = None,
        on_adapters: Callable[[], None] = lambda: None,
        on_activity: Callable[[Activity], None] = lambda activity: None,
        **options: Any,
    ) -> None:
        self._on_adapters, self._on_activity = on_adapters, on_activity
        self._told_adapters: object = None
        self._told_activity = Activity(0, 0)
        with freed_on_failure():
            self._core = EngineCore(engine_config(model, options), on_progress or (lambda stage, fraction: None))
        self._thread = EngineThread(self._core, self._tell)

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
        return await self._thread.call(lambda: self._core.load_adapter(path, name))

    def changed_adapters(self) -> list[str]:
        """Names of the adapters whose files have changed since they were read; loading one again picks that up."""
        return self._core.adapters.changed()

    async def unload_adapter(self, name: str) -> None:
        await self._thread.call(lambda: self._core.unload_adapter(name))

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

        async with aclosing(self._thread.events(add)) as events:
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

        async with aclosing(self._thread.events(add)) as events:
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

        async with aclosing(self._thread.events(add)) as events:
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
        prompts = self._core.prompts
        token_ids, start, tokenizer = await self._thread.call(lambda: prompts.judged_ids(request, answer, mixes[0]))
        scores: tuple[tuple[TokenScore, ...], ...] = ()
        async with aclosing(self._thread.events(lambda: [self._core.score(token_ids, mixes, start)])) as events:
            async for _, event in events:
                scores = event.scores
        return await self._thread.call(lambda: scored_answer(tokenizer, token_ids, start, scores))

    async def count(self, prompt: AnyPrompt, adapters: str | None = None) -> CountReport:
        """How long the prompt is that `generate` would make of this. No running answer waits for it, nor it for one.

        Raises:
            MixError, ConfigError: the mix or the prompt cannot be used. That it does not fit is no error here.
        """
        return await asyncio.to_thread(self._core.count, engine_prompt(prompt), adapters)

    def output_so_far(self, request_id: str) -> RequestOutput | None:
        """A running answer as it stands; None for an id that is not, or no longer, known. May be asked at any time."""
        return self._core.output_so_far(request_id)

    def abort(self, request_id: str) -> None:
        """End a request; its iterator gets a FinishEvent with reason "abort". Unknown ids are ignored."""
        self._thread.abort(request_id)

    async def preview_training(self, samples: Sequence[Sample], loss: Loss) -> RenderReport:
        """What a run would learn of the samples, token by token. No running answer waits for it, nor it for one.

        Raises:
            UnsupportedError: the model has no chat template.
        """
        info = self._core.info
        return await asyncio.to_thread(
            rendered, samples, self._core.tokenizer, info.eos_token_ids, loss, with_tokens=True,
            max_position=info.max_model_len,
        )  # fmt: skip

    async def start_training(self, job: TrainingJob, on_event: Callable[[RunEvent], None]) -> TrainingRun:
        """Begin to train beside the answers. `on_event` is called on the engine's thread with each event of the run.

        Raises:
            ConfigError, TrainingError: it cannot run, or another run goes on; nothing has changed.
        """
        await self._thread.call(self._require_trainable)
        await asyncio.to_thread(lambda: self._core.info.base_digest)  # may still be computed
        run = TrainingRun(self._core, job, self._thread.serve, on_event)
        await asyncio.to_thread(run.prepare)
        try:
            await self._thread.call(lambda: self._begin(run))
        except BaseException:
            run.let_go()
            raise
        return run

    async def steer_training(self, verb: TrainingVerb) -> None:
        """Raises TrainingError where no run goes on."""

        def steer() -> None:
            if (run := self._thread.training) is None or run.is_over:
                raise TrainingError("nothing is being trained; start a run")
            getattr(run, verb)()

        await self._thread.call(steer)

    async def close(self) -> None:
        """Abort everything and end the engine's thread. A training run saves its last whole step first."""
        await self._park()
        await asyncio.to_thread(self._thread.stop)

    def _require_trainable(self) -> None:
        self._require_no_run()
        require_parts(self._core.base, lambda: self._thread.serve(_SERVED_S))

    def _begin(self, run: TrainingRun) -> None:
        self._require_no_run()  # another may have begun while this one was prepared
        if (before := self._thread.training) is not None:
            before.forget_all()
        self._thread.training = run

    def _require_no_run(self) -> None:
        if (run := self._thread.training) is not None and not run.is_over:
            raise TrainingError(f"{run.job.name!r} is being trained; stop it, or wait for its end")

    async def _park(self) -> None:
        run = self._thread.training
        if run is None or run.is_over or not self._thread.is_alive:
            return
        await self.steer_training("park")
        while not run.is_over and self._thread.is_alive:
            await asyncio.sleep(0.01)

    def _tell(self) -> None:
        """On the engine's thread, in every turn."""
        if (activity := self._core.activity) != self._told_activity:
            self._told_activity = activity
            self._on_activity(activity)
        present = frozenset(self._core.adapters.slots.resident), self._core.effects.num_measured
        if present != self._told_adapters:
            self._told_adapters = present
            self._on_adapters()
