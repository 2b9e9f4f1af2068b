"""A scripted engine process and the client that reaches it, for a session's tests. No socket, no torch.

An answer is a list of steps: a word becomes a token, an exception is raised, an event is waited for.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from mp13.errors import AdapterError, ModelError, Mp13Error, UnsupportedError
from mp13.mix import parse_mix
from mp13.service.client import EngineGone, EngineStopped
from mp13.service.schema import (
    AdapterInfo,
    AdaptersEvent,
    CompareRequest,
    CountReport,
    CountRequest,
    EndedEvent,
    EngineConfig,
    EngineEvent,
    EngineInfo,
    FailedEvent,
    FinishEvent,
    GenerateRequest,
    LoadEvent,
    Message,
    Metrics,
    PrefillRequest,
    Provenance,
    ReadyEvent,
    ScoreReport,
    ScoreRequest,
    StartedEvent,
    TokenEvent,
    TokenScore,
    UsedAdapter,
)
from mp13.service.training_schema import TrainingEvent
from tests.fakes.fake_training import FakeTraining

Step = str | Exception | asyncio.Event


class FakeClient:
    """One engine process and the one client it has."""

    def __init__(self, config: EngineConfig, host: "FakeHost") -> None:
        self.config = config
        self.host = host
        self.loads: list[tuple[str, str]] = []  # (name, path), in order
        self.placed: dict[str, AdapterInfo] = {}
        self.dead = asyncio.Event()
        self.closed = False
        self.training = FakeTraining()
        self.training.tell(*host.trained)
        self.ended = ""  # why, where it was told to
        self.fails: FailedEvent | None = None  # how its load ends, if it is to fail
        self._news: asyncio.Queue[EngineEvent] = asyncio.Queue()

    async def events(self) -> AsyncGenerator[EngineEvent]:
        yield LoadEvent(stage="reading weights", fraction=0.5)
        if self.host.waits is not None:
            await self.host.waits.wait()
        if self.config.model.endswith("dies"):
            raise EngineGone("the engine process has ended; its log is /data/logs/engine.log")
        if self.fails is not None:
            yield self.fails
        elif self.config.attn_implementation == self.host.breaks:
            yield FailedEvent(code="ModelError", message="it ran out of memory; choose a smaller model")
        elif self.config.model.endswith("broken"):
            yield FailedEvent(code="ModelError", message="it has no weights; choose another model")
        else:
            yield ReadyEvent(engine=self._info())
        while not self.dead.is_set():
            news, dead = asyncio.ensure_future(self._news.get()), asyncio.ensure_future(self.dead.wait())
            try:
                await asyncio.wait({news, dead}, return_when=asyncio.FIRST_COMPLETED)
                if news.done():
                    yield news.result()
                    if isinstance(event := news.result(), EndedEvent):
                        self.dead.set()
                        raise EngineStopped(f"the engine has ended: {event.reason}")
            finally:
                news.cancel()
                dead.cancel()
        raise EngineGone("the engine process has ended; send the prompt again to start a new one")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[StartedEvent | TokenEvent | FinishEvent]:
        self._alive()
        self.host.requests.append(request)
        async for event in self._answer(request, 0):
            yield event

    async def compare(self, request: CompareRequest) -> AsyncGenerator[StartedEvent | TokenEvent | FinishEvent]:
        """One answer after the other; the scripts say in `host.order` which mix comes when."""
        self._alive()
        self.host.comparisons.append(request)
        for index in self.host.order or range(len(request.mixes)):
            alone = GenerateRequest(
                messages=request.messages, adapters=request.mixes[index], sampling=request.sampling,
                kv_policy=request.kv_policy,
            )  # fmt: skip
            async for event in self._answer(alone, index):
                yield event

    async def _answer(
        self, request: GenerateRequest, index: int
    ) -> AsyncGenerator[StartedEvent | TokenEvent | FinishEvent]:
        begun = _begun(request.messages)
        ids = list(begun.token_ids or ())
        said = [begun.content] if ids else []
        provenance = self._provenance(request).model_copy(update={"continued_at": len(ids)})
        started = False
        steps = self.host.answers.pop(0) if self.host.answers else ["an ", "answer"]
        for step in steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                if isinstance(step, EngineGone):
                    self.dead.set()
                raise step
            else:
                if not started:
                    yield StartedEvent(index=index, provenance=provenance)
                started = True
                said.append(step)
                ids.append(len(ids) + 1)
                yield TokenEvent(index=index, token_id=ids[-1], text=step)
        count = len(ids) - provenance.continued_at
        metrics = Metrics(prompt_tokens=20, cached_tokens=12, generated_tokens=count, ttft_s=0.1, tokens_per_s=38.4)
        yield FinishEvent(
            index=index, text="".join(said), token_ids=[*ids, 0], finish_reason="stop",
            adapters=str(parse_mix(request.adapters)), metrics=metrics, provenance=provenance,
        )  # fmt: skip

    def _provenance(self, request: GenerateRequest) -> Provenance:
        mix = parse_mix(request.adapters)
        members = tuple(UsedAdapter(name=n, digest=self.placed[n].digest, weight=w) for n, w in mix.members)
        return Provenance(
            model=self.config.model, base_digest="b", dtype="float32", device="cpu", quantization="none",
            model_impl="native", attn_implementation="sdpa", adapters=members, kv_policy=request.kv_policy or "exact",
            template_digest="t", no_effect=tuple(n for n in mix.names if self.placed[n].effect == 0),
            sampling=request.sampling, seed=request.sampling.seed, versions={},
        )  # fmt: skip

    async def count(self, request: CountRequest) -> CountReport:
        """A token a word, and four around each message."""
        self._alive()
        self.host.counted.append(request)
        words = [len(message.content.split()) + 4 for message in request.messages]
        return CountReport(sum(words), self._info().max_model_len)

    async def prefill(self, request: PrefillRequest) -> None:
        self._alive()
        self.host.prefills.append(request)
        try:
            if self.host.slow is not None:
                await self.host.slow.wait()
        except asyncio.CancelledError:
            self.host.dropped += 1
            raise

    async def score(self, request: ScoreRequest) -> ScoreReport:
        """The second mix finds each token two nats less likely, and would have said "hm" in place of the first."""
        self._alive()
        self.host.scored.append(request)
        ids = request.answer if isinstance(request.answer, tuple) else tuple(range(len(request.answer.split())))
        texts = tuple(f"t{id} " for id in ids)
        own = tuple(TokenScore(id, -0.5, id, -0.5, 0.0) for id in ids)
        other = tuple(TokenScore(id, -2.5, 99 if n == 0 else id, -1.0, 0.5 * (n == 0)) for n, id in enumerate(ids))
        rest = tuple(other for _ in request.mixes[1:])
        return ScoreReport(
            token_ids=ids, texts=texts, scores=(own, *rest), best_texts=(texts, *(("hm", *texts[1:]) for _ in rest))
        )

    async def check(self, config: EngineConfig) -> None:
        self._alive()
        self.host.checked.append(config)
        if (reason := self.host.unfit.get(config.attn_implementation)) is not None:
            raise UnsupportedError(reason)

    async def load_adapter(self, path: str, name: str | None = None) -> AdapterInfo:
        self._alive()
        name = name or Path(path).name
        content = b"".join(file.read_bytes() for file in sorted(Path(path).iterdir()))
        if b"unfit" in content:
            raise AdapterError(f"adapter {name!r} does not fit this model")
        self.loads.append((name, path))
        digest, warnings = hashlib.sha256(content).hexdigest(), ("of another base",) if b"foreign" in content else ()
        effect = 0.0 if b"idle" in content else 0.1
        self.place(AdapterInfo(name, digest, "lora", 8, ("q_proj",), len(content), warnings, path, effect=effect))
        return self.placed[name]

    async def adapters(self) -> list[AdapterInfo]:
        self._alive()
        return list(self.placed.values())

    async def unload_adapter(self, name: str) -> None:
        self._alive()
        del self.placed[name]

    def tell(self, event: EngineEvent) -> None:
        """Put `event` among those that the engine tells its chats; with an `EndedEvent` it is dead."""
        self._news.put_nowait(event)

    def place(self, info: AdapterInfo) -> None:
        """Load `info` as any chat of this engine might."""
        self.placed[info.name] = info
        self._news.put_nowait(AdaptersEvent(adapters=list(self.placed.values())))

    @property
    def is_closed(self) -> bool:
        return self.closed

    async def is_shared(self) -> bool:
        return self.host.is_shared

    async def end(self, reason: str) -> None:
        self.ended = reason
        await self.close()

    async def close(self) -> None:
        self.closed = True

    def _alive(self) -> None:
        if self.dead.is_set() or self.closed:
            raise EngineGone("the engine process has ended; send the prompt again to start a new one")

    def _info(self) -> EngineInfo:
        return EngineInfo(
            model=self.config.model, model_type="llama", dtype="float32", device="cpu", model_impl="native",
            attn_implementation=self.config.attn_implementation, attn_reason="chosen by the settings",
            quantization="none", max_model_len=512, kv_cache_tokens=1024, pid=1,
        )  # fmt: skip


def _begun(messages: tuple[Message, ...]) -> Message:
    """The answer that the messages end with, without the token that ended it; an empty one if they end with none."""
    last = messages[-1]
    if last.role != "assistant":
        return Message(role="assistant", content="")
    return last.model_copy(update={"token_ids": tuple(token_id for token_id in last.token_ids or () if token_id)})


class FakeHost:
    """`connect` for a ChatSession; what happened is in `clients` and `requests`."""

    def __init__(self, *answers: Sequence[Step], waits: asyncio.Event | None = None) -> None:
        self.answers = [list(answer) for answer in answers]
        self.waits = waits  # keeps every engine loading until it is set
        self.refuses = False
        self.is_shared = False  # by another chat
        self.clients: list[FakeClient] = []
        self.requests: list[GenerateRequest] = []
        self.comparisons: list[CompareRequest] = []
        self.counted: list[CountRequest] = []
        self.prefills: list[PrefillRequest] = []
        self.scored: list[ScoreRequest] = []
        self.order: list[int] = []  # in which the answers of a comparison come; empty is the mixes' own
        self.slow: asyncio.Event | None = None  # keeps every prefill from ending until it is set
        self.checked: list[EngineConfig] = []
        self.unfit: dict[str, str] = {}  # why an engine with this attention could not run
        self.breaks = ""  # the attention with which an engine fails although nothing spoke against it
        self.dropped = 0  # prefills that were cancelled
        self.trained: list[TrainingEvent | Mp13Error] = []  # what a training run tells

    async def __call__(self, config: EngineConfig) -> FakeClient:
        if self.refuses:
            raise ModelError("the engine cannot start; try again")
        self.clients.append(FakeClient(config, self))
        return self.clients[-1]
