"""A scripted stand-in for AsyncEngine: the same verbs without torch, in process or behind the real service.

The model's name scripts the load, the last message scripts the answer; see `_load` and `generate`.
"""

import asyncio
import hashlib
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.engine.request import AdapterInfo, FinishEvent, Metrics, RequestOutput, SamplingParams, TokenEvent
from mp13.errors import AdapterError, ContextError, MixError, ModelError
from mp13.mix import check_name, parse_mix


@dataclass(frozen=True)
class FakeDescription:
    model: str
    model_type: str = "fake"
    dtype: str = "float32"
    device: str = "cpu"
    model_impl: str = "native"
    attn_implementation: str = "sdpa"
    quantization: str = "none"
    max_model_len: int = 512
    kv_cache_tokens: int = 4096
    notes: tuple[str, ...] = ("attention: sdpa, because this is a fake",)
    eos_token_ids: tuple[int, ...] = (0,)
    template_digest: str = "f" * 64
    base_digest: str = "b" * 64


class FakeEngine:
    """Loads by the model's name: "slow" takes a minute, "broken" fails, "buggy" raises, "crash" dies; others are ready,
    and "stubborn" does not end by itself.

    Answers "echo: " and the last message, a word a token, as the mix `pirate` would say "arr: ". Scripted messages:
    "count N" says N numbers, 20 ms each; "crash" kills the process after two tokens; "too long" is refused;
    "fail late" fails after two tokens; "wait" never says anything; "aborted" tells how many answers were cut off.
    """

    def __init__(self, model: str, *, on_progress: Callable[[str, float | None], None] | None = None, **settings: Any):
        self.settings = settings
        self.aborted = 0
        self._seeds = random.Random(settings.get("seed", 0))
        self.prompts: list[list[dict[str, Any]]] = []
        self._adapters: dict[str, AdapterInfo] = {}
        self._load(model, on_progress or (lambda stage, fraction: None))
        self.info = FakeDescription(model)

    def _load(self, model: str, on_progress: Callable[[str, float | None], None]) -> None:
        for step in range(11):
            on_progress("reading weights", step / 10)
            time.sleep(6 if model == "slow" else 0.01)
        if model == "broken":
            raise ModelError(f"{model!r} has no weights; choose another model")
        if model == "buggy":
            raise ZeroDivisionError("division by zero")
        if model == "crash":
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def adapters(self) -> list[AdapterInfo]:
        return list(self._adapters.values())

    async def load_adapter(self, path: str, name: str | None = None) -> AdapterInfo:
        folder = Path(path)
        if not folder.is_dir():
            raise AdapterError(f"{path} is not a folder; give the folder of a PEFT adapter")
        name = check_name(name or folder.name)
        digest = hashlib.sha256(path.encode()).hexdigest()
        self._adapters[name] = AdapterInfo(name, digest, "lora", 8, ("q_proj", "v_proj"), 1024)
        return self._adapters[name]

    async def unload_adapter(self, name: str) -> None:
        if self._adapters.pop(name, None) is None:
            raise AdapterError(f"adapter {name!r} is not loaded; nothing was unloaded")

    def _resolve(self, mix_text: str) -> tuple[tuple[str, str, float], ...]:
        members = parse_mix(mix_text).members
        for name, _ in members:
            if name not in self._adapters:
                raise MixError(f"adapter {name!r} is not loaded; load it first")
        return tuple((name, self._adapters[name].digest, weight) for name, weight in members)

    async def generate(
        self, prompt: Any, params: SamplingParams, adapters: str | None = None, request_id: str | None = None
    ) -> AsyncGenerator[TokenEvent | FinishEvent]:
        mix = parse_mix(adapters or "base")
        members = self._resolve(str(mix))
        seed = self._seeds.getrandbits(63) if params.seed is None else params.seed
        self.prompts.append(prompt)
        text = prompt[-1]["content"]
        if text == "too long":
            raise ContextError("the prompt has 600 tokens and the context 512; start a new conversation")
        said: list[str] = []
        try:
            for word, pause in self._words(text, mix.names)[: params.max_tokens]:
                await asyncio.sleep(pause)
                if word == "<crash>":
                    os.kill(os.getpid(), signal.SIGKILL)
                if word == "<fail>":
                    raise ZeroDivisionError("division by zero")
                said.append(word)
                yield TokenEvent(request_id or "fake", len(said), word)
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted += 1
            raise
        metrics = Metrics(len(prompt), 0, len(said), 0.01, 50.0)
        output = RequestOutput("".join(said), [*range(1, len(said) + 1), 0], "stop", str(mix), metrics, seed, members)
        yield FinishEvent(request_id or "fake", output)

    def _words(self, text: str, names: tuple[str, ...]) -> list[tuple[str, float]]:
        verb, _, rest = text.partition(" ")
        if verb == "count":
            return [(f"{number} ", 0.02) for number in range(int(rest))]
        scripts = {
            "crash": [("one ", 0), ("two ", 0), ("<crash>", 0.1)],
            "fail late": [("one ", 0), ("two ", 0), ("<fail>", 0)],
            "wait": [("never", 3600.0)],
            "aborted": [(str(self.aborted), 0)],
        }
        opening = "arr:" if "pirate" in names else "echo:"
        return scripts.get(text) or [(word, 0) for word in (opening, *(f" {word}" for word in text.split(" ")))]

    def abort(self, request_id: str) -> None:
        self.aborted += 1

    async def close(self) -> None:
        self._adapters.clear()
        if self.info.model == "stubborn":
            sum(range(10**10))  # one long step that never lets go of the interpreter
