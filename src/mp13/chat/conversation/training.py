"""The training run of the engine that answers: starts one, follows it or that of another chat, and has fixed prompts
answered.

It goes on whatever screen is shown, and ends with the session. What it knows is training_state.py's; nothing here
draws.
"""

import asyncio
import shlex
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mp13.chat.conversation.training_order import Order
from mp13.chat.conversation.training_state import Sample, TrainingState
from mp13.engine.training.checkpoints import RunFolder
from mp13.errors import DivergedError, Mp13Error, TrainingError, error_from_wire
from mp13.service.schema import FinishEvent, GenerateRequest, Message, TrainingNews
from mp13.service.training_schema import (
    PreviewRequest,
    PublishedEvent,
    TrainingFailed,
    TrainingFinished,
    TrainingRequest,
)

if TYPE_CHECKING:
    from mp13.chat.settings.schema import Settings
    from mp13.engine.training.rendering.request import RenderReport
    from mp13.service.client import EngineClient

_ANSWER_TOKENS = 48
_ON = ("preparing", "running", "paused")


class ChatTraining:
    """`state` is None before the first run; it stays when a run is over. `settings` are those of the chat now."""

    def __init__(
        self,
        client: Callable[[], "EngineClient"],
        settings: Callable[[], "Settings"],
        on_change: Callable[[], None],
    ) -> None:
        self.state: TrainingState | None = None
        self._news: list[str] = []
        self._client, self._settings, self._on_change = client, settings, on_change
        self._is_starting = False
        self._is_awaited = False  # whoever waits is told the end, so that it is no news
        self._follower: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        return self.state is not None and self.state.phase in _ON

    def take_news(self) -> list[str]:
        """What happened since the last call and has not been said yet."""
        news, self._news = self._news, []
        return news

    def require_none(self) -> None:
        """Raises TrainingError while a run goes on."""
        if self.is_on:
            assert self.state is not None
            whose = " by another chat" if self.state.is_of_another else ""
            raise TrainingError(
                f"{self.state.name} is being trained{whose}; /train stop ends it, /train shows how it goes"
            )

    async def preview(self, request: PreviewRequest) -> "RenderReport":
        """What a run would learn of samples, token by token, by the model that runs. Raises Mp13Error."""
        return await self._client().training.preview(request)

    async def start(self, order: Order) -> None:
        """Begin a run whose data has been checked. Raises Mp13Error when the engine refuses it; nothing changed."""
        self.require_none()
        request = TrainingRequest(
            name=order.name, output=str(order.output), data=order.data, source=order.source, samples=order.samples,
            eval_data=order.eval_data, format=order.format, settings=order.settings,
            publish_every=order.publish_every, resume=order.resume,
        )  # fmt: skip
        self._is_starting = True
        try:
            await self._client().training.start(request)
        finally:
            self._is_starting = False
        self._begin(
            TrainingState(
                order.name, order.source, str(order.output), self._settings().model,
                tuple(Sample(prompt) for prompt in order.prompts), order.eval_data, order.format,
            )
        )  # fmt: skip

    def hear(self, news: TrainingNews) -> None:
        """Follow the run that another chat of the engine has begun."""
        if news.name and not self.is_on and not self._is_starting:
            self._begin(
                TrainingState(
                    news.name, news.source, news.output, self._settings().model, eval_data=news.eval_data,
                    format=news.format, is_of_another=True,
                )
            )  # fmt: skip
            about = f" on {news.source}" if news.source else ""
            self._news.append(f"another chat trains {news.name}{about}; /train shows how it goes")
            self._on_change()

    def _begin(self, state: TrainingState) -> None:
        self.state = state
        self._follower = asyncio.create_task(self._follow())
        self._on_change()

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

    async def wait(self) -> str:
        """Return when the run is over, and say how it ended. Raises TrainingError: it broke off, or there is none."""
        if self.state is None or self._follower is None:
            raise TrainingError("nothing is being trained; /train FILE starts a run")
        self._is_awaited = True
        try:
            await asyncio.wait({self._follower})
        finally:
            self._is_awaited = False
        sentence = "" if self.state is None else self.state.sentence
        self._news = [news for news in self._news if news != sentence]
        if self.state is not None and self.state.phase == "failed":
            raise TrainingError(sentence)
        return sentence

    @property
    def farewell(self) -> str:
        """What becomes of the chat's own run when the chat ends now; "" where there is none."""
        if not self.is_on or self.state is None or self.state.is_of_another:
            return ""
        return (
            f"the training of {self.state.name} ends with the engine's last chat, its last whole step saved; to go on "
            f"from there: {self._way_on()}"
        )

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
        from mp13.service.client import EngineEnded

        assert self.state is not None
        client = self._client()
        try:
            async with aclosing(client.training.events()) as events:
                async for event in events:
                    self.state = self.state.after(event)
                    if isinstance(event, PublishedEvent):
                        self._ask_samples(event.step)
                    elif isinstance(event, TrainingFinished):
                        self._say(self._ended(event))
                    elif isinstance(event, TrainingFailed):
                        self._fail(self._broken_off(event))
                    self._on_change()
            if self.is_on:
                self._fail(f"the engine told no more of it; {self._remedy()}")
        except EngineEnded as error:
            if client.is_closed and self.state.is_of_another:  # it goes on without this chat
                self.state = None
            else:
                why = "this chat has let its engine go" if client.is_closed else error.what
                self._fail(f"{why}; {self._remedy()}")
        except Mp13Error as error:
            self._fail(f"{error}; {self._remedy()}")
        self._on_change()

    def _say(self, sentence: str) -> None:
        assert self.state is not None
        self.state = replace(self.state, sentence=sentence)
        if not self._is_awaited:
            self._news.append(sentence)

    def _fail(self, why: str) -> None:
        assert self.state is not None
        self.state = replace(self.state, phase="failed")
        self._say(f"{self._subject} broke off: {why}")

    @property
    def _subject(self) -> str:
        assert self.state is not None
        whose = ", which another chat began," if self.state.is_of_another else ""
        return f"the training of {self.state.name}{whose}"

    def _ended(self, event: TrainingFinished) -> str:
        assert self.state is not None
        name, what = self.state.name, self._subject
        if event.reason == "cancelled":
            return f"{what} was cancelled; nothing of it is kept"
        if event.path is None:
            return f"{what} was broken off at step {event.step}; {self._remedy()}"
        loss = "" if event.last_loss is None else f", loss {event.last_loss:.4f}"
        how = {"stopped": "was stopped", "early stop": "ended, since evaluations got no better,"}.get(event.reason)
        return (
            f"{what} {how or 'is done'} at step {event.step}{loss}; "
            f"/adapter {name} talks to it, and it is among the adapters"
        )

    def _broken_off(self, event: TrainingFailed) -> str:
        """Its sentence names the last checkpoint already."""
        may_go_on = not isinstance(error_from_wire(event.code, event.message), DivergedError) and self._folder.steps()
        return f"{event.message}; to go on from it: {self._way_on()}" if may_go_on else event.message

    def _remedy(self) -> str:
        """What of the run is on the disk, and how it goes on."""
        if not self._folder.steps():
            return "it had saved nothing yet"
        return f"the last checkpoint is {self._folder.last()}; to go on from it: {self._way_on()}"

    def _way_on(self) -> str:
        state = self.state
        assert state is not None
        source = state.source or "FILE"
        beside = [(key, value) for key, value in (("eval", state.eval_data), ("format", state.format)) if value]
        here = ["/train", source, state.name, "resume=yes", *(f"{key}={value}" for key, value in beside)]
        there = ["mp13", "train", "--model", state.model, "--data", source, "--name", state.name, "--resume"]
        there += [word for key, value in beside for word in (f"--{key}", value)]
        return f"{shlex.join(here)}, or {shlex.join(there)}"

    @property
    def _folder(self) -> RunFolder:
        assert self.state is not None
        return RunFolder(Path(self.state.output))

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
        chosen = self._settings().sampling()  # with one seed each time, so that only the adapter makes a difference
        how = replace(chosen, max_tokens=min(chosen.max_tokens, _ANSWER_TOKENS), min_tokens=0, seed=chosen.seed or 0)
        request = GenerateRequest(messages=(Message(role="user", content=prompt),), adapters=mix, sampling=how)
        async with aclosing(self._client().generate(request)) as events:
            async for event in events:
                if isinstance(event, FinishEvent):
                    return event.text
        return ""
