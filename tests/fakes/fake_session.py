"""A `ChatSession` that plays a script instead of asking an engine. Slash commands are the real ones.

An answer is a list of steps: text comes as it is, an event is waited for, an exception is raised.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from mp13.chat.conversation.diff import Diff
from mp13.chat.conversation.remarks import Remark
from mp13.chat.conversation.turn import AnswerDone, CommandResult, EngineReady, SessionEvent, TextDelta, Turn
from mp13.chat.settings.schema import Settings
from mp13.errors import AdapterError
from mp13.library.adapters import AdapterOnDisk
from mp13.mix import parse_mix
from mp13.service.schema import AdapterInfo, EngineInfo, Metrics
from tests.fakes.fake_store import FakeStore

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


class FakeSession:
    """`answers` are played one a prompt, then their last again; `load` is what `start` does."""

    def __init__(
        self,
        *answers: Sequence[Step],
        load: Sequence[Step] = (EngineReady(ENGINE),),
        turns: Sequence[Turn] = (),
        mix: str = "base",
        store: FakeStore | None = None,
    ) -> None:
        self.settings = Settings()
        self.mix = mix
        self.system: str | None = None
        self.turns = list(turns)
        self.engine: EngineInfo | None = None
        self.adapters: list[AdapterInfo] = []
        self.store = store
        self.conversation_id = "0" * 32
        self.warming: str | None = None
        self.remarks: list[Remark] = []
        self.answers: list[Turn] = []
        self.next_diff = Diff("pirate", "base", ())
        self.asked: list[tuple[str, str]] = []  # (mix, text)
        self.closed = False
        self._answers = list(answers) or [["Hello."]]
        self._load = load

    async def start(self) -> AsyncGenerator[SessionEvent]:
        async for event in _play(self._load):
            if isinstance(event, EngineReady):
                self.engine = event.info
            yield event

    async def ask(self, text: str) -> AsyncGenerator[SessionEvent]:
        steps = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        mix, said, whole = self.mix, "", False
        self.asked.append((mix, text))
        self.turns.append(Turn("user", text, mix))
        try:
            async for event in _play(steps):
                said += event.text if isinstance(event, TextDelta) else ""
                yield event
            whole = True
        finally:
            if whole:
                self.turns.append(answer(said, mix))
            elif said:
                self.turns.append(Turn("assistant", said, mix, finish_reason="abort"))
            self.answers = [self.turns[-1]] if said or whole else []
        yield AnswerDone(self.turns[-1])

    async def compare(self, mixes: Sequence[str], text: str | None = None) -> AsyncGenerator[SessionEvent]:
        """Each mix plays an answer of the script, a step of each in turn."""
        scripts = [_play(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]) for _ in mixes]
        said = ["" for _ in mixes]
        if text is not None:
            self.turns.append(Turn("user", text, self.mix))
        self.answers = []
        try:
            while any(script is not None for script in scripts):
                for index, script in enumerate(scripts):
                    event = None if script is None else await anext(script, None)
                    if isinstance(event, TextDelta):
                        said[index] += event.text
                        yield TextDelta(event.text, index)
                    elif script is not None:
                        scripts[index] = None
                        self.answers.append(answer(said[index], mixes[index]))
                        yield AnswerDone(self.answers[-1], index)
        finally:
            whole = {turn.mix for turn in self.answers}
            for mix, text_so_far in zip(mixes, said, strict=True):
                if text_so_far and mix not in whole:
                    self.answers.append(Turn("assistant", text_so_far, mix, finish_reason="abort"))
            self.turns += self.answers[:1]

    def keep(self, which: str) -> Turn:
        self.turns[-1] = next(turn for turn in self.answers if turn.mix == which)
        return self.turns[-1]

    async def diff(self, other: str | None = None) -> Diff:
        return self.next_diff

    async def command(self, line: str) -> CommandResult:
        from mp13.chat.commands.table import run_command

        return await run_command(self, line)  # type: ignore[arg-type]

    async def set_mix(self, text: str) -> str:
        mix, known = parse_mix(text), {adapter.name: adapter for adapter in ADAPTERS}
        for name in mix.names:
            if name not in known:
                raise AdapterError(f"there is no adapter {name!r} in /data/adapters; there: json, pirate, wide")
            if (unfit := known[name].unfit) is not None:
                raise AdapterError(f"adapter {name!r} cannot be used: {unfit}")
        self.adapters = [AdapterInfo(name, "0" * 64, "lora", 16, (), 1) for name in mix.names]
        self.mix = str(mix)
        return self.mix

    def set_system(self, text: str | None) -> None:
        self.system = text

    def new(self) -> None:
        self.turns = []
        self.conversation_id = "n" * 32

    def resume(self, wanted: str) -> None:
        self.conversation_id = wanted
        self.turns = [Turn("user", f"the prompt of {wanted}", self.mix), answer("What was answered.", self.mix)]

    def available_adapters(self) -> list[AdapterOnDisk]:
        return list(ADAPTERS)

    async def close(self) -> None:
        self.closed = True


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
