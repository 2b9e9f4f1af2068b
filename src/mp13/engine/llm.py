"""The engine in this process: call it, get answers. For a server or a chat see `AsyncEngine`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore, EngineDescription, Prompt
from mp13.engine.request import AdapterInfo, ErrorEvent, FinishEvent, RequestOutput, SamplingParams, TokenEvent
from mp13.engine.text.chat_template import ChatMessage, to_messages
from mp13.errors import ConfigError, UnsupportedError

OnToken = Callable[[int, int, str], None]  # (index of the prompt, token id, text that became certain with it)
_T = TypeVar("_T")


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
        self._core = EngineCore(engine_config(model, options))

    @property
    def info(self) -> EngineDescription:
        return self._core.info

    @property
    def adapters(self) -> list[AdapterInfo]:
        return self._core.adapters.infos

    def load_adapter(self, path: str | Path, name: str | None = None) -> AdapterInfo:
        """Load a PEFT folder; a name in use is replaced. Raises AdapterError or MixError, and changes nothing then."""
        return self._core.load_adapter(path, name)

    def unload_adapter(self, name: str) -> None:
        """Raises AdapterError when no adapter of that name is loaded."""
        self._core.unload_adapter(name)

    def generate(
        self,
        prompts: Sequence[str] | Sequence[list[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        adapters: str | Sequence[str | None] | None = None,
        on_token: OnToken | None = None,
    ) -> list[RequestOutput]:
        """Answer all prompts in packed batches; outputs come in the order of the prompts.

        Args:
            prompts: texts (special tokens are added) or lists of token ids.
            params: one for all, or one each; default `SamplingParams()`.
            adapters: one mix for all, or one each; None is the base.
            on_token: called with (index, token_id, text) for every token as it is made.
        """
        if isinstance(prompts, str):
            raise ConfigError(f"prompts = {prompts!r} is one text; give a list of prompts")
        return self._run(list(prompts), params, adapters, on_token)

    def chat(
        self,
        message_lists: Sequence[Sequence[dict[str, Any] | ChatMessage]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        adapters: str | Sequence[str | None] | None = None,
        on_token: OnToken | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations: lists of {"role", "content"} and, for earlier answers, "token_ids"."""
        return self._run([to_messages(messages) for messages in message_lists], params, adapters, on_token)

    def score(self, id_lists: Sequence[list[int]], adapters: str | Sequence[str | None] | None = None) -> Any:
        raise UnsupportedError("score is not supported yet")

    def prefill(self, prompt: str | list[int], adapters: str | None = None) -> None:
        raise UnsupportedError("prefill is not supported yet")

    def _run(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        adapters: str | Sequence[str | None] | None,
        on_token: OnToken | None,
    ) -> list[RequestOutput]:
        all_params = _one_each("params", params or SamplingParams(), SamplingParams, len(prompts))
        mixes = _one_each("adapters", adapters, (str, type(None)), len(prompts))
        index_of: dict[str, int] = {}
        outputs: dict[int, RequestOutput] = {}
        try:
            for index, prompt in enumerate(prompts):
                index_of[self._core.add(prompt, all_params[index], mixes[index])] = index
            while self._core.has_work():
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
        return [outputs[index] for index in range(len(prompts))]


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
