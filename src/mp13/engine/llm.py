"""The engine in this process: call it, get answers. For a server or a chat see `AsyncEngine`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.description import EngineDescription
from mp13.engine.models.room import freed_on_failure
from mp13.engine.prompts import Prompt
from mp13.engine.request import (
    AdapterInfo,
    CountReport,
    ErrorEvent,
    Event,
    FinishEvent,
    KVPolicy,
    Metrics,
    RequestOutput,
    SamplingParams,
    ScoreEvent,
    TokenEvent,
    TokenScore,
)
from mp13.engine.text.chat_template import ChatMessage, to_messages
from mp13.errors import ConfigError

OnToken = Callable[[int, int, str], None]  # (index of the prompt, token id, text that became certain with it)
AnyPrompt = str | list[int] | Sequence[dict[str, Any] | ChatMessage]


class LLM:
    """A causal language model with switchable LoRA adapters.

    >>> llm = LLM("path/to/model")
    >>> llm.load_adapter("path/to/pirate")
    >>> llm.chat([[{"role": "user", "content": "Hello"}]], SamplingParams(temperature=0), adapters="pirate")[0].text

    Args:
        model: a folder in Hugging Face format, or a Hub id.
        options: see `EngineConfig`.

    Raises:
        ConfigError, UnsupportedError: an option cannot be used; ModelError: the model cannot be loaded.
    """

    def __init__(self, model: str | Path, **options: Any) -> None:
        with freed_on_failure():
            self._core = EngineCore(engine_config(model, options))

    @property
    def info(self) -> EngineDescription:
        return self._core.info

    @property
    def adapters(self) -> list[AdapterInfo]:
        return self._core.adapters.infos

    def load_adapter(self, path: str | Path, name: str | None = None) -> AdapterInfo:
        """Load a PEFT folder; a name in use is replaced. Raises AdapterError or MixError, and changes nothing then."""
        name = self._core.load_adapter(path, name).name
        self._core.measure_effects()
        return next(info for info in self.adapters if info.name == name)

    def changed_adapters(self) -> list[str]:
        """Names of the adapters whose files have changed since they were read; loading one again picks that up."""
        return self._core.adapters.changed()

    def unload_adapter(self, name: str) -> None:
        """Raises AdapterError when no adapter of that name is loaded."""
        self._core.unload_adapter(name)

    def generate(
        self,
        prompts: Sequence[str] | Sequence[list[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        adapters: str | Sequence[str | None] | None = None,
        on_token: OnToken | None = None,
        kv_policy: KVPolicy | None = None,
    ) -> list[RequestOutput]:
        """Answer all prompts in packed batches; outputs come in the order of the prompts.

        Args:
            prompts: texts (special tokens are added) or lists of token ids.
            params: one for all, or one each; default `SamplingParams()`.
            adapters: one mix for all, or one each; None is the base.
            on_token: called with (index, token_id, text) for every token as it is made.
            kv_policy: None is the one `LLM` was made with.
        """
        if isinstance(prompts, str):
            raise ConfigError(f"prompts = {prompts!r} is one text; give a list of prompts")
        return self._run(list(prompts), params, adapters, on_token, kv_policy)

    def chat(
        self,
        message_lists: Sequence[Sequence[dict[str, Any] | ChatMessage]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        adapters: str | Sequence[str | None] | None = None,
        on_token: OnToken | None = None,
        kv_policy: KVPolicy | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations: lists of {"role", "content"} and, for earlier answers, "token_ids".

        One that ends with an answer asks for more of it. The output is the whole answer, `continued_at` says how many
        of its tokens were there before. At one seed it is the answer that would have come without the cut; in 16
        bits, as far as rounding allows.
        """
        prompts = [to_messages(messages) for messages in message_lists]
        return self._run(prompts, params, adapters, on_token, kv_policy)

    def score(
        self, id_lists: Sequence[list[int]], adapters: str | Sequence[str | None] | None = None
    ) -> list[list[float | None]]:
        """Natural-log probability of each token after those before it, from raw float32 logits; a list's first is None.

        Args:
            adapters: one mix for all, or one each; None is the base.
        """
        mixes = _one_each("adapters", adapters, (str, type(None)), len(id_lists))
        jobs = [(ids, [mix or "base"], 1) for ids, mix in zip(id_lists, mixes, strict=True)]
        return [[None, *(token.logprob for token in scores)] for (scores,) in self._score(jobs)]

    def score_details(
        self, id_lists: Sequence[list[int]], mixes: Sequence[str], start: int | Sequence[int] = 1
    ) -> list[list[list[TokenScore]]]:
        """How each mix judges each text from token `start` on: [text][mix][token]. All mixes of a text are computed
        side by side, and compared with the first.

        Args:
            start: one for all texts, or one each; at least 1. Of what stands before it, cached blocks are used.
        """
        starts = _one_each("start", start, int, len(id_lists))
        jobs = [(ids, list(mixes), first) for ids, first in zip(id_lists, starts, strict=True)]
        return [[list(scores) for scores in per_mix] for per_mix in self._score(jobs)]

    def count(self, prompt: AnyPrompt, adapters: str | None = None) -> CountReport:
        """How long the prompt is that `generate` or `chat` would make of this, whether it fits or not."""
        return self._core.count(engine_prompt(prompt), adapters)

    def prefill(self, prompt: AnyPrompt, adapters: str | None = None, kv_policy: KVPolicy | None = None) -> Metrics:
        """Compute and cache what an answer to `prompt` would begin with: a text, token ids, or messages. Messages that
        end with an answer are a conversation's past. Returns what it cost."""
        add = partial(self._core.prefill, engine_prompt(prompt), adapters, kv_policy=kv_policy)
        return self._complete([add])[0].metrics

    def _score(self, jobs: list[tuple[list[int], list[str], int]]) -> list[tuple[tuple[TokenScore, ...], ...]]:
        """jobs: (token ids, mixes, start) of each text."""
        ends: dict[str, Event | None] = {}
        try:
            for token_ids, mixes, start in jobs:
                ends[self._core.score(token_ids, mixes, start)] = None
            while self._core.scoring.has_work():
                for event in self._core.step():
                    if isinstance(event, ErrorEvent):
                        raise event.error
                    ends[event.request_id] = event
        finally:
            for request_id in ends:
                self._core.abort(request_id)
        return [event.scores for event in ends.values() if isinstance(event, ScoreEvent)]

    def _run(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        adapters: str | Sequence[str | None] | None,
        on_token: OnToken | None,
        kv_policy: KVPolicy | None,
    ) -> list[RequestOutput]:
        all_params = _one_each("params", params or SamplingParams(), SamplingParams, len(prompts))
        mixes = _one_each("adapters", adapters, (str, type(None)), len(prompts))
        adds = [
            partial(self._core.add, *request, kv_policy=kv_policy)
            for request in zip(prompts, all_params, mixes, strict=True)
        ]
        return self._complete(adds, on_token)

    def _complete(self, adds: Sequence[Callable[[], str]], on_token: OnToken | None = None) -> list[RequestOutput]:
        """Add the requests and run them to their end."""
        index_of: dict[str, int] = {}
        outputs: dict[int, RequestOutput] = {}
        try:
            for index, add in enumerate(adds):
                index_of[add()] = index
            while len(outputs) < len(adds):
                for event in self._core.step():
                    match event:
                        case TokenEvent(request_id, token_id, text) if on_token:
                            on_token(index_of[request_id], token_id, text)
                        case FinishEvent(request_id, output):
                            outputs[index_of[request_id]] = output
                        case ErrorEvent(_, error):
                            raise error
        finally:
            for request_id in index_of:  # after an error or Ctrl-C nothing may stay behind
                self._core.abort(request_id)
        return [outputs[index] for index in range(len(adds))]


def engine_prompt(prompt: AnyPrompt) -> Prompt:
    """Raises ConfigError for messages that are none."""
    is_ids = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)
    return prompt if isinstance(prompt, str) or is_ids else to_messages(prompt)  # type: ignore[return-value, arg-type]


def engine_config(model: str | Path, options: dict[str, Any]) -> EngineConfig:
    """Raises ConfigError for an option that does not exist."""
    if unknown := options.keys() - EngineConfig.__dataclass_fields__.keys():
        raise ConfigError(
            f"unknown option {sorted(unknown)[0]!r}; known are {', '.join(EngineConfig.__dataclass_fields__)}"
        )
    return EngineConfig(model=str(model), **options)


def _one_each(name: str, value: Any, kind: Any, count: int) -> list[Any]:
    values = [value] * count if isinstance(value, kind) else list(value)
    if len(values) != count:
        raise ConfigError(f"{name} has {len(values)} entries for {count} prompts; give one for all, or one each")
    return values
