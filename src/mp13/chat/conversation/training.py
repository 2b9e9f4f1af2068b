"""The training run of a chat: starts it in the engine that answers, follows it, and has fixed prompts answered.

It goes on whatever screen is shown, and ends with the session. What it knows is training_state.py's; nothing here
draws.
"""

import asyncio
import shlex
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mp13.chat.conversation.training_order import Order
from mp13.chat.conversation.training_state import Sample, TrainingState
from mp13.engine.training.checkpoints import RunFolder
from mp13.errors import Mp13Error, TrainingError
from mp13.service.schema import FinishEvent, GenerateRequest, Message, SamplingParams
from mp13.service.training_schema import (
    PreviewRequest,
    PublishedEvent,
    TrainingFailed,
    TrainingFinished,
    TrainingRequest,
)

if TYPE_CHECKING:
    from mp13.engine.training.rendering.request import RenderReport
    from mp13.service.client import EngineClient

_ANSWER_TOKENS = 48
_ON = ("preparing", "running", "paused")


class ChatTraining:
    """`state` is None before the first run; it stays when a run is over. `sampling` is that of the chat now."""

    def __init__(
        self,
        client: Callable[[], "EngineClient"],
        sampling: Callable[[], SamplingParams],
        on_change: Callable[[], None],
    ) -> None:
        self.state: TrainingState | None = None
        self._news: list[str] = []
        self._client, self._sampling, self._on_change = client, sampling, on_change
        self._order: Order | None = None
        self._follower: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        return self.state is not None and self.state.phase in _ON

    @property
    def farewell(self) -> str:
        """What whoever leaves now is to know of a run that goes on; "" where none does."""
        if not self.is_on or self.state is None:
            return ""
        return (
            f"the training of {self.state.name} ends with the engine's last chat, its last whole step saved; to go on "
            f"from there: {self._resumption()}"
        )

    def take_news(self) -> list[str]:
        """What happened since the last call and has not been said yet."""
        news, self._news = self._news, []
        return news

    def require_none(self) -> None:
        """Raises TrainingError while a run goes on."""
        if self.is_on:
            assert self.state is not None
            raise TrainingError(f"{self.state.name} is being trained; /train stop ends it, /train shows how it goes")

    async def preview(self, request: PreviewRequest) -> "RenderReport":
        """What a run would learn of samples, token by token, by the model that runs. Raises Mp13Error."""
        return await self._client().training.preview(request)

    async def start(self, order: Order, model: str) -> TrainingState:
        """Begin a run whose data has been checked. Raises Mp13Error when the engine refuses it; nothing changed."""
        self.require_none()
        request = TrainingRequest(
            name=order.name, output=str(order.output), data=order.data, samples=order.samples,
            eval_data=order.eval_data, format=order.format, settings=order.settings,
            publish_every=order.publish_every, resume=order.resume,
        )  # fmt: skip
        await self._client().training.start(request)
        self._order = order
        self.state = TrainingState(
            order.name, order.source, str(order.output), model, tuple(Sample(p) for p in order.prompts)
        )
        self._follower = asyncio.create_task(self._follow())
        self._on_change()
        return self.state

    async def pause(self) -> None:
        self._require_run()
        await self._client().training.pause()

    async def go_on(self) -> None:
        self._require_run()
        await self._client().training.resume()

    async def stop(self) -> None:
        """End it and keep the adapter of the last whole step."""
        self._require_run()
        await self._client().training.stop()

    async def cancel(self) -> None:
        """End it and remove what it has saved."""
        self._require_run()
        await self._client().training.cancel()

    async def close(self) -> None:
        for task in (self._follower, self._answering):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Mp13Error):
                    await task

    def _require_run(self) -> None:
        if not self.is_on:
            raise TrainingError("nothing is being trained; /train FILE starts a run")

    async def _follow(self) -> None:
        assert self.state is not None
        try:
            async with aclosing(self._client().training.events()) as events:
                async for event in events:
                    self.state = self.state.after(event)
                    if isinstance(event, PublishedEvent):
                        self._ask_samples(event.step)
                    elif isinstance(event, TrainingFinished):
                        self._say(self._ended(event))
                    elif isinstance(event, TrainingFailed):
                        self._fail(event.message)
                    self._on_change()
            if self.is_on:
                self._fail("the engine told no more of it")
        except Mp13Error as error:
            self._fail(str(error))
        self._on_change()

    def _say(self, sentence: str) -> None:
        assert self.state is not None
        self.state = replace(self.state, sentence=sentence)
        self._news.append(sentence)

    def _fail(self, why: str) -> None:
        assert self.state is not None
        self.state = replace(self.state, phase="failed")
        self._say(f"the training of {self.state.name} broke off: {why}; {self._remedy()}")

    def _ended(self, event: TrainingFinished) -> str:
        assert self.state is not None
        name = self.state.name
        if event.reason == "cancelled":
            return f"the training of {name} was cancelled; nothing of it is kept"
        if event.path is None:
            return f"the training of {name} was broken off at step {event.step}; {self._remedy()}"
        loss = "" if event.last_loss is None else f", loss {event.last_loss:.4f}"
        how = {"stopped": "was stopped", "early stop": "ended, since evaluations got no better,"}.get(event.reason)
        return (
            f"the training of {name} {how or 'is done'} at step {event.step}{loss}; "
            f"/adapter {name} talks to it, and it is among the adapters"
        )

    def _remedy(self) -> str:
        """What of the run is on the disk, and how it goes on."""
        assert self.state is not None and self._order is not None
        folder = RunFolder(self._order.output)
        if not folder.steps():
            return "it had saved nothing yet"
        return f"the last checkpoint is {folder.last()}; to go on from it: {self._resumption()}"

    def _resumption(self) -> str:
        assert self.state is not None and self._order is not None
        given = ["--model", self.state.model, "--data", self._order.source, "--name", self.state.name, "--resume"]
        source = shlex.quote(self._order.source)
        return f"/train {source} {self.state.name} resume=yes, or {shlex.join(['mp13', 'train', *given])}"

    def _ask_samples(self, step: int) -> None:
        """Have the fixed prompts answered by the version of now, unless those before are still being answered."""
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer_samples(step))

    async def _answer_samples(self, step: int) -> None:
        assert self.state is not None
        for place, sample in enumerate(self.state.samples):
            try:
                base = sample.base or await self._answer(sample.prompt, "base")
                learned = await self._answer(sample.prompt, f"{self.state.name}@latest")
            except Mp13Error:  # the version gave way, or the engine ended: the run itself says so
                return
            samples = list(self.state.samples)
            samples[place] = Sample(sample.prompt, base, learned, step)
            self.state = replace(self.state, samples=tuple(samples))
            self._on_change()

    async def _answer(self, prompt: str, mix: str) -> str:
        chosen = self._sampling()  # with the same seed each time, so that only the adapter makes a difference
        how = replace(chosen, max_tokens=min(chosen.max_tokens, _ANSWER_TOKENS), min_tokens=0, seed=chosen.seed or 0)
        request = GenerateRequest(messages=(Message(role="user", content=prompt),), adapters=mix, sampling=how)
        async with aclosing(self._client().generate(request)) as events:
            async for event in events:
                if isinstance(event, FinishEvent):
                    return event.text
        return ""
