"""What a conversation asks of its engine: answers, scores, counts, prefills. Brings the engine up where none runs.

It keeps nothing between two calls but what is being warmed up; what is asked, and when, is session.py's.
"""

import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from mp13.chat.conversation.answer import Writing, exchanges, history_of, messages_of
from mp13.chat.conversation.connection import EngineConnection
from mp13.chat.conversation.diff import Diff, diff_of
from mp13.chat.conversation.replay import Replay, mix_by_digest, provenance_of, replay_answer
from mp13.chat.conversation.room import Room
from mp13.chat.conversation.tree import Conversation
from mp13.chat.conversation.turn import (
    AnswerDone,
    EngineFailed,
    EngineReady,
    LoadNote,
    LoadProgress,
    SessionEvent,
    TextDelta,
    Turn,
)
from mp13.chat.settings.schema import Settings
from mp13.mix import parse_mix
from mp13.service.schema import (
    CompareRequest,
    CountReport,
    CountRequest,
    GenerateRequest,
    KVPolicy,
    Message,
    PrefillRequest,
    SamplingParams,
    ScoreRequest,
)

if TYPE_CHECKING:
    from mp13.service.client import AnswerEvent, EngineClient

_DRAFT_EVERY_S = 1.0


class Asking:
    """`warming` is the mix under which the history is being computed while nobody wants the engine; `warmed` the last
    for which that came to its end."""

    def __init__(self, connection: EngineConnection, changed: Callable[[], None]) -> None:
        self._connection = connection
        self._changed = changed
        self.warming: str | None = None
        self.warmed: str | None = None

    async def write(
        self,
        settings: Settings,
        conversation: Conversation,
        mixes: tuple[str, ...],
        continued: Turn | None = None,
        drops_oldest: bool = False,
    ) -> AsyncGenerator[SessionEvent]:
        """Answers of `mixes` to the last prompt, put into the conversation as they end, or as far as they came; see
        `Ask` for the rest."""
        from mp13.service.client import EngineGone

        sampling, drafts = _sampling(settings, continued), _Drafts(conversation)
        for may_restart in (True, False):
            writings = _writings(conversation.asked[-1], mixes, continued)
            try:
                async for progress in self._bring_up(settings):
                    yield progress
                await self.load(settings, mixes, fresh=False)
                client = self._connection.client
                if drops_oldest:
                    conversation.skip(await self._least_to_drop(conversation.asked, mixes[0], sampling))
                    writings = _writings(conversation.asked[-1], mixes, continued)
                messages = messages_of(conversation.asked, continued)
                async with aclosing(_events(client, messages, mixes, sampling, settings.kv_policy)) as events:
                    async for event in events:
                        if delta := writings[event.index].add(event):
                            drafts.keep(writings)
                            yield TextDelta(delta, event.index)
                        if (turn := writings[event.index].whole()) is not None:
                            del writings[event.index]
                            conversation.answer(turn, event.index)
                            yield AnswerDone(turn, event.index)
                return
            except EngineGone as error:
                await self._connection.close(lost=error)
                nothing_came = len(writings) == len(mixes) and all(w.cut_off() is None for w in writings.values())
                if not (nothing_came and may_restart):
                    raise
            finally:
                _keep_cut_off(conversation, writings)

    async def diff(self, settings: Settings, asked: list[Turn], answer: Turn, other: str) -> Diff:
        """The tokens of `answer` to the path `asked`, as its mix and `other` judge them."""
        async for _ in self._bring_up(settings):
            pass
        mixes = (answer.mix, other)
        await self.load(settings, mixes, fresh=False)
        request = ScoreRequest(prompt=messages_of(asked), answer=answer.token_ids or (), mixes=mixes)
        report = await self._connection.client.score(request)
        return diff_of(report, *mixes, note=self._since(answer))

    async def replay(self, settings: Settings, path: list[Turn], answer: Turn) -> Replay:
        """Make `answer` to `path` again, by the engine and the adapters that are there now."""
        made = provenance_of(answer)
        async for _ in self._bring_up(settings):
            pass
        held = {info.digest for info in self._connection.adapters}
        missing = [used.name for used in made.adapters if used.digest not in held]
        await self._connection.load(missing, settings.adapter_folders, fresh=True)
        mix = mix_by_digest(made, self._connection.adapters)
        return await replay_answer(self._connection.client, path, answer, mix)

    async def count(self, turns: list[Turn], prompt: Turn, begun: Turn | None = None) -> CountReport:
        """The tokens that the model would read to answer `prompt` after `turns`, or to go on with the answer `begun` to
        it. Needs an engine that runs.

        Raises:
            Mp13Error: there is none, or an adapter of the mix cannot be loaded.
        """
        mix = begun.mix if begun is not None else prompt.mix
        request = CountRequest(messages=messages_of([*turns, prompt], begun), adapters=mix)
        return await self._connection.client.count(request)

    async def prefill(self, settings: Settings, conversation: Conversation, mix: str, system: str | None) -> None:
        """Compute the history under `mix`, then under the mixes that answered in it, while nobody wants the engine."""
        engine, skipped = self._connection.engine, conversation.prompt.skipped if conversation.prompt else 0
        history = history_of(conversation.turns, system, skipped)
        answered = [turn for turn in reversed([*conversation.turns, *conversation.answers]) if turn.metrics]
        if engine is None or not answered or answered[0].metrics is None:
            return
        tokens = answered[0].metrics.prompt_tokens + answered[0].metrics.generated_tokens
        fitting = max(1, engine.kv_cache_tokens // max(1, tokens))  # more would drive each other out of the cache
        try:
            for warm in list(dict.fromkeys([mix, *(turn.mix for turn in answered)]))[:fitting]:
                self._warm(warm)
                self.warmed = None
                await self.load(settings, (warm,), fresh=False)
                await self._connection.client.prefill(PrefillRequest(messages=history, adapters=warm))
                self.warmed = warm
        finally:
            self._warm(None)

    async def load(self, settings: Settings, mixes: Sequence[str], fresh: bool) -> None:
        """See that the engine has all adapters of `mixes`; see `EngineConnection.load`."""
        names = dict.fromkeys(name for mix in mixes for name in parse_mix(mix).names)
        await self._connection.load(list(names), settings.adapter_folders, fresh)

    async def room(self, settings: Settings, path: list[Turn], mix: str) -> Room:
        """How much of `path`, which ends with a prompt, has room beside an answer. Needs an engine that runs."""
        prompt = replace(path[-1], mix=mix)
        whole = await self.count(path[:-1], prompt)
        least = await self._least_to_drop(path, mix, settings.sampling())
        kept = await self.count(path[:-1], replace(prompt, skipped=least))
        dropped = least - prompt.skipped
        return Room(whole.prompt_tokens, kept.prompt_tokens, dropped, whole.context_limit)

    async def _least_to_drop(self, path: list[Turn], mix: str, sampling: SamplingParams) -> int:
        """How many exchanges have to be left out, so that there is room for an answer."""
        prompt, least, most = path[-1], path[-1].skipped, len(exchanges(path))
        while least < most:  # the fewest that are enough
            middle = (least + most) // 2
            report = await self.count(path[:-1], replace(prompt, skipped=middle, mix=mix))
            room = min(sampling.max_tokens, report.context_limit // 4)
            if report.prompt_tokens + room <= report.context_limit:
                most = middle
            else:
                least = middle + 1
        return least

    def _since(self, answer: Turn) -> str:
        """What of the adapters that wrote `answer` is different now."""
        now = {info.name: info.digest for info in self._connection.adapters}
        used = answer.provenance.adapters if answer.provenance else ()
        changed = [member.name for member in used if now.get(member.name) != member.digest]
        return f"{', '.join(changed)} changed since this was written; judged by what is loaded now" if changed else ""

    def _warm(self, mix: str | None) -> None:
        self.warming = mix
        self._changed()

    async def _bring_up(self, settings: Settings) -> AsyncGenerator[LoadProgress | LoadNote | EngineReady]:
        if self._connection.runs(settings):
            return
        async with aclosing(self._connection.start(settings)) as events:
            async for event in events:
                if isinstance(event, EngineFailed):
                    raise event.error
                yield event


def _writings(prompt: Turn, mixes: tuple[str, ...], continued: Turn | None) -> dict[int, Writing]:
    began = time.time()
    if continued is not None:
        ids = list(continued.token_ids or ())
        return {0: Writing(mixes[0], prompt, began, continued.text, ids, given=len(ids))}
    return {place: Writing(mix, prompt, began + place * 1e-6) for place, mix in enumerate(mixes)}


def _keep_cut_off(conversation: Conversation, writings: dict[int, Writing]) -> None:
    """Put what came of answers into the conversation."""
    for place, writing in writings.items():
        if (turn := writing.cut_off()) is not None:
            conversation.answer(turn, place)


class _Drafts:
    """Answers on disk while they are written, as cut off there: so they are found if this process is killed."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._next_at = -math.inf  # the first token is kept at once

    def keep(self, writings: dict[int, Writing]) -> None:
        """Once in a while, not with every token."""
        if time.monotonic() >= self._next_at:
            for place, writing in writings.items():
                if (turn := writing.cut_off()) is not None:
                    self._conversation.draft(turn, place)
            self._next_at = time.monotonic() + _DRAFT_EVERY_S


def _sampling(settings: Settings, continued: Turn | None) -> SamplingParams:
    """With a seed in any case, so that what is stored is enough to make the answer again. An answer that goes on does
    so as it was begun."""
    sampling = settings.sampling()
    if continued is not None and continued.provenance is not None:
        return replace(continued.provenance.sampling, max_tokens=sampling.max_tokens)
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(32))


def _events(
    client: "EngineClient", messages: tuple[Message, ...], mixes: tuple[str, ...], how: SamplingParams, policy: KVPolicy
) -> AsyncGenerator["AnswerEvent"]:
    if len(mixes) > 1:
        return client.compare(CompareRequest(messages=messages, mixes=mixes, sampling=how, kv_policy=policy))
    return client.generate(GenerateRequest(messages=messages, adapters=mixes[0], sampling=how, kv_policy=policy))
