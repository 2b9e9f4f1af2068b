"""A `ChatSession` that plays a script instead of asking an engine.

An answer is a list of steps: text comes as it is, an event is waited for, an exception is raised.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

from mp13.chat.conversation.diff import Diff
from mp13.chat.conversation.remarks import Remark
from mp13.chat.conversation.replay import Replay
from mp13.chat.conversation.room import Room
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.training import ChatTraining
from mp13.chat.conversation.tree import Conversation
from mp13.chat.conversation.turn import AnswerDone, EngineReady, SessionEvent, TextDelta, Turn
from mp13.chat.settings.schema import Settings
from mp13.errors import AdapterError
from mp13.library.adapters import AdapterOnDisk
from mp13.mix import parse_mix
from mp13.service.schema import AdapterInfo, CountReport, EngineInfo, Metrics
from tests.fakes.fake_training import FakeTrainingClient

ENGINE = EngineInfo(
    model="/data/models/smollm2-135m-instruct",
    model_type="llama",
    dtype="bfloat16",
    device="cpu",
    model_impl="native",
    attn_implementation="sdpa",
    attn_reason="no GPU",
    quantization="none",
    max_model_len=8192,
    kv_cache_tokens=16384,
    notes=("attention sdpa: no GPU",),
    pid=1,
)
ADAPTERS = (
    AdapterOnDisk("json", Path("/data/adapters/json"), 8, "lora", 1_900_000, None),
    AdapterOnDisk("pirate", Path("/data/adapters/pirate"), 16, "lora", 3_700_000, None),
    AdapterOnDisk(
        "wide", Path("/data/adapters/wide"), 128, "lora", 9_900_000, "its rank 128 is above max_lora_rank 64"
    ),
)

Step = str | asyncio.Event | Exception | SessionEvent


class FakeAsking:
    """Plays the script into the conversation."""

    def __init__(self, session: "FakeSession", answers: Sequence[Sequence[Step]]) -> None:
        self.warming: str | None = None
        self.warmed: str | None = None
        self.loads: list[tuple[str, ...]] = []
        self._session = session
        self._answers = list(answers)

    async def write(
        self,
        settings: Settings,
        conversation: Conversation,
        mixes: tuple[str, ...],
        continued: Turn | None = None,
        drops_oldest: bool = False,
    ) -> AsyncGenerator[SessionEvent]:
        """Each mix plays an answer of the script, a step of each in turn."""
        prompt = conversation.asked[-1]
        self._session.asked += [(mix, prompt.text) for mix in mixes]
        if drops_oldest:
            conversation.skip(1)
        scripts = [_play(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]) for _ in mixes]
        said = [continued.text if continued else "" for _ in mixes]
        began, open_places = time.time(), set(range(len(mixes)))

        def turn(place: int) -> Turn:
            at = began + place * 1e-6
            return replace(answer(said[place], mixes[place]), parent_id=prompt.id, created_at=at)

        try:
            while open_places:
                for place in sorted(open_places):
                    event = await anext(scripts[place], None)
                    if event is None:
                        open_places.discard(place)
                        conversation.answer(whole := turn(place), place)
                        yield AnswerDone(whole, place)
                    elif isinstance(event, TextDelta):
                        said[place] += event.text
                        yield TextDelta(event.text, place)
                    else:
                        yield event
        finally:
            for place in sorted(open_places):
                if said[place]:
                    conversation.answer(replace(turn(place), finish_reason="abort", metrics=None), place)

    async def load(self, settings: Settings, mixes: Sequence[str], fresh: bool) -> None:
        self.loads.append(tuple(mixes))

    async def prefill(self, settings: Settings, conversation: Conversation, mix: str, system: str | None) -> None:
        pass

    async def diff(self, settings: Settings, asked: list[Turn], answer: Turn, other: str) -> Diff:
        return self._session.next_diff

    async def room(self, settings: Settings, path: list[Turn], mix: str) -> Room:
        return self._session.next_room

    async def replay(self, settings: Settings, path: list[Turn], answer: Turn) -> Replay:
        return self._session.next_replay

    async def count(self, turns: list[Turn], prompt: Turn, begun: Turn | None = None) -> CountReport:
        words = sum(len(turn.text.split()) for turn in [*turns, prompt, begun] if turn is not None)
        return CountReport(prompt_tokens=words, context_limit=ENGINE.max_model_len)


class FakeSession(ChatSession):
    """`answers` are played one a prompt, then their last again; `load` is what `start` does. The tree, the store (where
    one is given) and the commands are the real ones."""

    remarks: list[Remark] = []  # type: ignore[assignment]  # set by tests

    def __init__(
        self,
        *answers: Sequence[Step],
        load: Sequence[Step] = (EngineReady(ENGINE),),
        turns: Sequence[Turn] = (),
        mix: str = "base",
        store: ConversationStore | None = None,
    ) -> None:
        super().__init__(Settings(), store)
        self.mix = mix
        self.next_room = Room(9000, 6000, 1, ENGINE.max_model_len)
        self.next_replay = Replay(2, 2, 2, None, ())
        self.next_diff = Diff("pirate", "base", ())
        self.asked: list[tuple[str, str]] = []  # (mix, text)
        self.closed = False
        self._asking = FakeAsking(self, list(answers) or [["Hello."]])  # type: ignore[assignment]
        self._load = load
        client = FakeTrainingClient()
        self.trainer = client.training
        self.training = ChatTraining(lambda: client, lambda: self.settings, self._changed)  # type: ignore[arg-type,return-value]
        self._connection.on_training = self.training.hear
        for turn in turns:
            parent = self.turns[-1].id if self.turns else None
            self._conversation.ask(replace(turn, parent_id=parent, created_at=time.time()))  # just now
        self._conversation._done.clear()

    def script(self, *answers: Sequence[Step]) -> None:
        """Play these from the next prompt on."""
        self._asking._answers = list(answers)  # type: ignore[attr-defined]

    async def start(self) -> AsyncGenerator[SessionEvent]:
        async for event in _play(self._load):
            if isinstance(event, EngineReady):
                self._connection.engine = event.info
            yield event

    async def set_mix(self, text: str, *, despite_pin: bool = False) -> str:
        mix, known = parse_mix(text), {adapter.name: adapter for adapter in ADAPTERS}
        for name in mix.names:
            if name not in known:
                raise AdapterError(f"there is no adapter {name!r} in /data/adapters; there: json, pirate, wide")
            if (unfit := known[name].unfit) is not None:
                raise AdapterError(f"adapter {name!r} cannot be used: {unfit}")
        self._connection.adapters = [AdapterInfo(name, "0" * 64, "lora", 16, (), 1) for name in mix.names]
        self.mix = str(mix)
        return self.mix

    def available_adapters(self) -> list[AdapterOnDisk]:
        return list(ADAPTERS)

    async def close(self) -> None:
        self.closed = True
        await super().close()


def answer(text: str, mix: str = "base") -> Turn:
    """A whole answer, with the same cost every time."""
    return Turn(
        "assistant", text, mix, token_ids=(1, 2), finish_reason="stop", metrics=Metrics(150, 120, 40, 0.2, 38.4)
    )


async def _play(steps: Sequence[Step]) -> AsyncGenerator[SessionEvent]:
    for step in steps:
        if isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, Exception):
            raise step
        else:
            yield TextDelta(step) if isinstance(step, str) else step
        await asyncio.sleep(0)
