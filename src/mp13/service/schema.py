"""What travels between chat and engine: requests as JSON, answers as one JSON event a line. No torch.

`SamplingParams` and `EngineConfig` are the engine's own plain dataclasses, so a setting is declared once.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mp13.engine.config import EngineConfig
from mp13.engine.request import (
    NO_EFFECT,
    AdapterInfo,
    CountReport,
    FinishReason,
    KVPolicy,
    Metrics,
    SamplingParams,
    TokenScore,
)

__all__ = [
    "NO_EFFECT", "AdapterInfo", "CountReport", "EngineConfig", "FinishReason", "KVPolicy", "Metrics", "SamplingParams",
    "TokenScore",
]  # fmt: skip


CHAT_HEADER = "mp13-chat"  # names the chat that reads events, so that its leases count as one


class Message(BaseModel):
    """One message of a conversation. `token_ids` are what the model really produced for this answer, EOS included."""

    model_config = ConfigDict(frozen=True)
    role: Literal["system", "user", "assistant"]
    content: str
    token_ids: tuple[int, ...] | None = None


class GenerateRequest(BaseModel):
    """Answer `messages` under the mix `adapters`.

    Messages that end with an answer ask for more of it: what follows on its `token_ids`, or on its content where these
    are missing or spell something else. With the answer's seed it is what would have come without the cut; in 16 bits,
    as far as rounding allows. `max_tokens` counts the new tokens.
    """

    model_config = ConfigDict(frozen=True)
    messages: tuple[Message, ...]
    adapters: str = "base"
    sampling: SamplingParams = SamplingParams()
    kv_policy: KVPolicy | None = None  # None is the engine's own


class CompareRequest(BaseModel):
    """Answer `messages` under each of `mixes`, side by side. Events carry the place of their mix as `index`."""

    model_config = ConfigDict(frozen=True)
    messages: tuple[Message, ...]
    mixes: tuple[str, ...]
    sampling: SamplingParams = SamplingParams()
    kv_policy: KVPolicy | None = None  # None is the engine's own


class PrefillRequest(BaseModel):
    """Compute `messages` under `adapters` while nobody else wants the engine, so that an answer to them starts warm."""

    model_config = ConfigDict(frozen=True)
    messages: tuple[Message, ...]
    adapters: str = "base"


class CountRequest(BaseModel):
    """How long the prompt is that a `GenerateRequest` of these messages would make. The answer is a `CountReport`."""

    model_config = ConfigDict(frozen=True)
    messages: tuple[Message, ...]
    adapters: str = "base"


class ScoreRequest(BaseModel):
    """Judge `answer` to `prompt` under each of `mixes`. Texts are tokenized by the engine; None is no prompt at all."""

    model_config = ConfigDict(frozen=True)
    prompt: tuple[Message, ...] | str | None
    answer: tuple[int, ...] | str
    mixes: tuple[str, ...]


class ScoreReport(BaseModel):
    """How each mix judges the tokens of an answer. `texts` join to the answer's text."""

    model_config = ConfigDict(frozen=True)
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    scores: tuple[tuple[TokenScore, ...], ...]  # by mix, by token
    best_texts: tuple[tuple[str, ...], ...]  # by mix, by token: what the mix finds likeliest there


class Done(BaseModel):
    """The whole answer to a request that has nothing else to tell."""


class LoadAdapterRequest(BaseModel):
    path: str
    name: str | None = None


class CheckRequest(BaseModel):
    """Whether an engine with `config` could run here, as far as that is known before weights are read."""

    model_config = ConfigDict(frozen=True)
    config: EngineConfig


class UsedAdapter(BaseModel):
    """A member of the mix that wrote an answer."""

    model_config = ConfigDict(frozen=True)
    name: str
    digest: str
    weight: float


class Provenance(BaseModel):
    """Everything that produced an answer. Stored with the turn and printed by `--json`."""

    model_config = ConfigDict(frozen=True)
    model: str
    base_digest: str
    dtype: str
    device: str
    quantization: str
    model_impl: str
    attn_implementation: str
    attn_reason: str = ""  # why that one; answers of earlier versions do not tell
    adapters: tuple[UsedAdapter, ...]
    kv_policy: str
    template_digest: str  # of the chat template that made the prompt
    template_from: str | None = None  # the adapter that brought it; None is the model's own
    system_from: str | None = None  # the adapter whose system prompt was used; None is the conversation's, or none
    no_effect: tuple[str, ...] = ()  # members that changed nothing measurable on a probe prompt
    sampling: SamplingParams
    seed: int | None
    continued_at: int = 0  # so many of the answer's tokens are older: this request went on from there
    versions: dict[str, str]


class EngineInfo(BaseModel):
    """The engine as it came up, with what `auto` decided and why."""

    model_config = ConfigDict(frozen=True)
    model: str
    model_type: str
    dtype: str
    device: str
    model_impl: str
    attn_implementation: str
    attn_reason: str
    quantization: str
    max_model_len: int
    kv_cache_tokens: int
    notes: tuple[str, ...] = ()  # the reasons behind `auto`, and warnings
    pid: int


class Health(BaseModel):
    """How an engine process is, also while it loads."""

    model_config = ConfigDict(frozen=True)
    status: Literal["loading", "ready", "failed"]
    pid: int
    model: str
    dtype: str  # this and the next two are as set, until what "auto" became is known
    quantization: str
    device: str
    stage: str = ""  # of a load
    fraction: float | None = None
    error: str = ""  # why it failed
    running: int = 0
    waiting: int = 0
    chats: int = 0  # that hold it
    adapters: tuple[str, ...] = ()
    training: str = ""  # the adapter that is being trained, "" for none; at `training_step` of `training_steps`
    training_step: int = 0
    training_steps: int = 0
    age_s: float = 0.0
    memory_bytes: int = 0  # main memory, what is mapped from files included
    gpu_bytes: int | None = None  # taken by torch; None without a GPU


class StopRequest(BaseModel):
    """End the process now. Its chats are told the reason."""

    model_config = ConfigDict(frozen=True)
    reason: str


class LoadEvent(BaseModel):
    """How far loading is. `fraction` is None where no length is known."""

    type: Literal["load"] = "load"
    stage: str
    fraction: float | None = None


class ReadyEvent(BaseModel):
    type: Literal["ready"] = "ready"
    engine: EngineInfo


class AdaptersEvent(BaseModel):
    """The adapters that are loaded now; sent after `ready` and whenever they change."""

    type: Literal["adapters"] = "adapters"
    adapters: list[AdapterInfo]


class BusyEvent(BaseModel):
    """How many requests run now, and how many wait for their turn, of all chats together. Sent when that has changed, a
    few times a second at most; until the first one, there are none."""

    type: Literal["busy"] = "busy"
    running: int
    waiting: int


class TrainingNews(BaseModel):
    """A training run has begun, whose events are at /training/events; or it is over, and `name` is "". The rest says
    what it trains on, as its chat calls that, and is what another chat needs to go on with it."""

    type: Literal["training"] = "training"
    name: str
    output: str = ""
    source: str = ""  # "" where nobody has said
    eval_data: str | None = None
    format: str | None = None


class EndedEvent(BaseModel):
    """The process ends on purpose, such as "it was stopped with `mp13 stop`". Nothing follows."""

    type: Literal["ended"] = "ended"
    reason: str


class FailedEvent(BaseModel):
    """The engine could not load, or a request could not run. `code` is a class name of mp13.errors."""

    type: Literal["failed"] = "failed"
    code: str
    message: str


class StartedEvent(BaseModel):
    """What writes the answer, as soon as it is known: an answer cut off keeps it. Comes between tokens, once."""

    type: Literal["started"] = "started"
    index: int = 0
    provenance: Provenance


class TokenEvent(BaseModel):
    """A new token, and the text that is certain with it. Of an answer that goes on, that includes what was not certain
    when it was cut: a character's first bytes, the beginning of a stop string."""

    type: Literal["token"] = "token"
    index: int = 0  # the place of the answer's mix among those compared
    token_id: int
    text: str


class FinishEvent(BaseModel):
    """The last line of an answer. `text` and `token_ids` are whole, also where only the end of them is new."""

    type: Literal["finish"] = "finish"
    index: int = 0
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    adapters: str
    metrics: Metrics
    provenance: Provenance


EngineEvent = Annotated[
    LoadEvent | ReadyEvent | AdaptersEvent | BusyEvent | TrainingNews | FailedEvent | EndedEvent,
    Field(discriminator="type"),
]
AnswerEvent = Annotated[StartedEvent | TokenEvent | FinishEvent | FailedEvent, Field(discriminator="type")]
adapter_infos: TypeAdapter[AdapterInfo] = TypeAdapter(AdapterInfo)
adapter_lists: TypeAdapter[list[AdapterInfo]] = TypeAdapter(list[AdapterInfo])
engine_events: TypeAdapter[EngineEvent] = TypeAdapter(EngineEvent)
count_reports: TypeAdapter[CountReport] = TypeAdapter(CountReport)
answer_events: TypeAdapter[AnswerEvent] = TypeAdapter(AnswerEvent)
