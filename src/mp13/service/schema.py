"""What travels between chat and engine: requests as JSON, answers as one JSON event a line. No torch.

`SamplingParams` and `EngineConfig` are the engine's own plain dataclasses, so a setting is declared once.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mp13.engine.config import EngineConfig
from mp13.engine.request import AdapterInfo, FinishReason, Metrics, SamplingParams

__all__ = ["AdapterInfo", "EngineConfig", "FinishReason", "Metrics", "SamplingParams"]


class Message(BaseModel):
    """One message of a conversation. `token_ids` are what the model really produced for this answer, EOS included."""

    model_config = ConfigDict(frozen=True)
    role: Literal["system", "user", "assistant"]
    content: str
    token_ids: tuple[int, ...] | None = None


class GenerateRequest(BaseModel):
    """Answer `messages` under the mix `adapters`."""

    model_config = ConfigDict(frozen=True)
    messages: tuple[Message, ...]
    adapters: str = "base"
    sampling: SamplingParams = SamplingParams()


class LoadAdapterRequest(BaseModel):
    path: str
    name: str | None = None


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
    adapters: tuple[UsedAdapter, ...]
    kv_policy: str
    template_digest: str
    sampling: SamplingParams
    seed: int | None
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
    quantization: str
    max_model_len: int
    kv_cache_tokens: int
    notes: tuple[str, ...] = ()  # the reasons behind `auto`, and warnings
    pid: int


class Health(BaseModel):
    """Whether the engine process can answer yet."""

    model_config = ConfigDict(frozen=True)
    status: Literal["loading", "ready", "failed"]
    pid: int


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


class FailedEvent(BaseModel):
    """The engine could not load, or `generate` could not run. `code` is a class name of mp13.errors."""

    type: Literal["failed"] = "failed"
    code: str
    message: str


class TokenEvent(BaseModel):
    type: Literal["token"] = "token"
    token_id: int
    text: str


class FinishEvent(BaseModel):
    """The last line of an answer. `text` and `token_ids` are whole."""

    type: Literal["finish"] = "finish"
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    adapters: str
    metrics: Metrics
    provenance: Provenance


EngineEvent = Annotated[LoadEvent | ReadyEvent | AdaptersEvent | FailedEvent, Field(discriminator="type")]
AnswerEvent = Annotated[TokenEvent | FinishEvent | FailedEvent, Field(discriminator="type")]
adapter_infos: TypeAdapter[AdapterInfo] = TypeAdapter(AdapterInfo)
adapter_lists: TypeAdapter[list[AdapterInfo]] = TypeAdapter(list[AdapterInfo])
engine_events: TypeAdapter[EngineEvent] = TypeAdapter(EngineEvent)
answer_events: TypeAdapter[AnswerEvent] = TypeAdapter(AnswerEvent)
