"""What a conversation asks of its engine: answers, scores, prefills. Brings the engine up first where none runs.

It keeps nothing between two calls; what is asked, and when, is session.py's.
"""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from mp13.chat.conversation.answer import Writing, history_of, messages_of
from mp13.chat.conversation.connection import EngineConnection
from mp13.chat.conversation.diff import Diff, diff_of
from mp13.chat.conversation.tree import Conversation
from mp13.chat.conversation.turn import (
    AnswerDone,
    EngineFailed,
    EngineReady,
    LoadProgress,
    SessionEvent,
    TextDelta,
    Turn,
)
from mp13.chat.settings.schema import Settings
from mp13.mix import parse_mix
from mp13.service.schema import (
    CompareRequest,
    GenerateRequest,
    KVPolicy,
    Message,
    PrefillRequest,
    SamplingParams,
    ScoreRequest,
)

if TYPE_CHECKING:
    from mp13.service.client import AnswerEvent, EngineClient


class Asking:
    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection

    async def write(
        self, settings: Settings, conversation: Conversation, mixes: tuple[str, ...]
    ) -> AsyncGenerator[SessionEvent]:
        """Answers of `mixes` to the last prompt, put into the conversation as they end, or as far as they came."""
        from mp13.service.client import EngineGone

        asked, sampling = conversation.asked, _seeded(settings.sampling())
        for may_restart in (True, False):
            writings = dict(enumerate(Writing(mix, asked[-1].id) for mix in mixes))
            try:
                async for progress in self._bring_up(settings):
                    yield progress
                await self.load(settings, mixes, fresh=False)
                client, messages = self._connection.client, messages_of(asked)
                async with aclosing(_events(client, messages, mixes, sampling, settings.kv_policy)) as events:
                    async for event in events:
                        if delta := writings[event.index].add(event):
                            yield TextDelta(delta, event.index)
                        if (turn := writings[event.index].whole()) is not None:
                            del writings[event.index]
                            conversation.answer(turn, event.index)
                            yield AnswerDone(turn, event.index)
                return
            except EngineGone:
                await self._connection.close()
                nothing_came = len(writings) == len(mixes) and not any(w.token_ids for w in writings.values())
                if not (nothing_came and may_restart):
                    raise
            finally:
                for index, writing in writings.items():
                    if (turn := writing.cut_off()) is not None:
                        conversation.answer(turn, index)

    async def diff(self, settings: Settings, asked: list[Turn], answer: Turn, other: str) -> Diff:
        """The tokens of `answer` to the path `asked`, as its mix and `other` judge them."""
        async for _ in self._bring_up(settings):
            pass
        mixes = (answer.mix, other)
        await self.load(settings, mixes, fresh=False)
        request = ScoreRequest(prompt=messages_of(asked), answer=answer.token_ids or (), mixes=mixes)
        report = await self._connection.client.score(request)
        return diff_of(report, *mixes, note=self._since(answer))

    async def prefill(self, settings: Settings, conversation: Conversation, mix: str, system: str | None) -> None:
        """Compute the history under `mix`, then under the mixes that answered in it, while nobody wants the engine."""
        history, engine = history_of(conversation.turns, system), self._connection.engine
        answered = [turn for turn in reversed([*conversation.turns, *conversation.answers]) if turn.metrics]
        if engine is None or not answered or answered[0].metrics is None:
            return
        tokens = answered[0].metrics.prompt_tokens + answered[0].metrics.generated_tokens
        fitting = max(1, engine.kv_cache_tokens // max(1, tokens))  # more would drive each other out of the cache
        for warm in list(dict.fromkeys([mix, *(turn.mix for turn in answered)]))[:fitting]:
            await self.load(settings, (warm,), fresh=False)
            await self._connection.client.prefill(PrefillRequest(messages=history, adapters=warm))

    async def load(self, settings: Settings, mixes: Sequence[str], fresh: bool) -> None:
        """See that the engine has all adapters of `mixes`; see `EngineConnection.load`."""
        names = dict.fromkeys(name for mix in mixes for name in parse_mix(mix).names)
        await self._connection.load(list(names), settings.adapter_folders, fresh)

    def _since(self, answer: Turn) -> str:
        """What of the adapters that wrote `answer` is different now."""
        now = {info.name: info.digest for info in self._connection.adapters}
        used = answer.provenance.adapters if answer.provenance else ()
        changed = [member.name for member in used if now.get(member.name) != member.digest]
        return f"{', '.join(changed)} changed since this was written; judged by what is loaded now" if changed else ""

    async def _bring_up(self, settings: Settings) -> AsyncGenerator[LoadProgress | EngineReady]:
        if self._connection.runs(settings):
            return
        async with aclosing(self._connection.start(settings)) as events:
            async for event in events:
                if isinstance(event, EngineFailed):
                    raise event.error
                yield event


def _seeded(sampling: SamplingParams) -> SamplingParams:
    """With a seed in any case, so that what is stored is enough to make the answer again."""
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(32))


def _events(
    client: "EngineClient", messages: tuple[Message, ...], mixes: tuple[str, ...], how: SamplingParams, policy: KVPolicy
) -> AsyncGenerator["AnswerEvent"]:
    if len(mixes) > 1:
        return client.compare(CompareRequest(messages=messages, mixes=mixes, sampling=how, kv_policy=policy))
    return client.generate(GenerateRequest(messages=messages, adapters=mixes[0], sampling=how, kv_policy=policy))
