"""A scripted stand-in for AsyncEngine: the same verbs without torch, in process or behind the real service.

The model's name scripts the load, the last message scripts the answer; see `_load` and `generate`.
"""

import asyncio
import hashlib
import itertools
import os
import random
import re
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mp13.engine.request import (
    Activity,
    AdapterInfo,
    CountReport,
    FinishEvent,
    KVPolicy,
    Metrics,
    Prompting,
    RequestOutput,
    SamplingParams,
    TokenEvent,
    TokenScore,
)
from mp13.errors import AdapterError, ContextError, MixError, ModelError, UnsupportedError
from mp13.mix import check_name, parse_mix


@dataclass(frozen=True)
class FakeDescription:
    model: str
    model_type: str = "fake"
    dtype: str = "float32"
    device: str = "cpu"
    model_impl: str = "native"
    attn_implementation: str = "sdpa"
    attn_reason: str = "because this is a fake"
    quantization: str = "none"
    max_model_len: int = 512
    kv_cache_tokens: int = 4096
    notes: tuple[str, ...] = ("attention: sdpa, because this is a fake",)
    eos_token_ids: tuple[int, ...] = (0,)
    template_digest: str = "f" * 64
    base_digest: str = "b" * 64


@dataclass(frozen=True)
class FakeScores:
    token_ids: list[int]
    texts: list[str]
    scores: list[list[TokenScore]]
    best_texts: list[list[str]]


class FakeEngine:
    """Loads by the model's name: "slow" takes a minute, "stuck" holds the interpreter for ever after a second, "broken"
    fails, "buggy" raises, "crash" dies; others are ready, and "stubborn" does not end by itself.

    Answers "echo: " and the last message, a word a token, as the mix `pirate` would say "arr: ". Scripted messages:
    "count N" says N numbers, 20 ms each; "crash" kills the process after two tokens; "too long" is refused;
    "fail late" fails after two tokens; "wait" never says anything; "aborted" tells how many requests were cut off.
    A last message that is an answer goes on where its tokens end, in the script of the message before it.
    A prompt has a token a word, and four around each message.
    A prefill of "wait" takes an hour. An adapter named `idle` turns out to have no effect a moment after its load.
    A score finds each word of an answer at -1 under the first mix, and one nat less likely under every further one.
    """

    def __init__(
        self,
        model: str,
        *,
        on_progress: Callable[[str, float | None], None] | None = None,
        on_adapters: Callable[[], None] = lambda: None,
        on_activity: Callable[[Activity], None] = lambda activity: None,
        **settings: Any,
    ):
        self.settings = settings
        self.aborted = 0
        self.prefilled: list[tuple[str, Any]] = []
        self._on_adapters, self._on_activity = on_adapters, on_activity
        self._running: dict[str, RequestOutput] = {}
        self._ids = itertools.count()
        self._seeds = random.Random(settings.get("seed", 0))
        self.prompts: list[list[dict[str, Any]]] = []
        self._adapters: dict[str, AdapterInfo] = {}
        self._load(model, on_progress or (lambda stage, fraction: None))
        self.info = FakeDescription(model)

    def _load(self, model: str, on_progress: Callable[[str, float | None], None]) -> None:
        for step in range(11):
            on_progress("reading weights", step / 10)
            if model == "stuck" and step == 5:
                sum(range(10**11))  # as a library does that holds the interpreter's lock
            time.sleep({"slow": 6, "stuck": 0.2}.get(model, 0.01))
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
        if name == "idle":
            threading.Timer(0.05, self._measure, (name,)).start()
        return self._adapters[name]

    def _measure(self, name: str) -> None:
        self._adapters[name] = replace(self._adapters[name], effect=0.0)
        self._on_adapters()

    @staticmethod
    def check(model: str, **settings: Any) -> None:
        """An engine with "reference" could not run."""
        if settings["attn_implementation"] == "reference":
            raise UnsupportedError(
                "attn_implementation = 'reference' cannot be used: it is not installed; pip install it"
            )

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
        self,
        prompt: Any,
        params: SamplingParams,
        adapters: str | None = None,
        request_id: str | None = None,
        kv_policy: KVPolicy | None = None,
    ) -> AsyncGenerator[TokenEvent | FinishEvent]:
        mix = parse_mix(adapters or "base")
        members = self._resolve(str(mix))
        seed = self._seeds.getrandbits(63) if params.seed is None else params.seed
        self.prompts.append(prompt)
        given = [token_id for token_id in _begun(prompt) if token_id]
        text = [message for message in prompt if message["role"] != "assistant"][-1]["content"]
        if text == "too long":
            raise ContextError("the prompt has 600 tokens and the context 512; start a new conversation")
        request_id = request_id or f"fake-{next(self._ids)}"
        metrics = Metrics(len(prompt), 0, 0, 0.01, 50.0)
        prompting = Prompting("f" * 64, "templated" if "templated" in mix.names else None)
        policy = kv_policy or self.settings.get("kv_policy", "exact")
        output = RequestOutput("", [], "stop", str(mix), metrics, seed, members, None, policy, prompting, len(given))
        self._running[request_id] = output
        self._on_activity(Activity(len(self._running), 0))
        words = self._words(text, mix.names)
        said = [word for word, _ in words[: len(given)]]
        try:
            for word, pause in words[len(given) :][: params.max_tokens]:
                await asyncio.sleep(pause)
                if word == "<crash>":
                    os.kill(os.getpid(), signal.SIGKILL)
                if word == "<fail>":
                    raise ZeroDivisionError("division by zero")
                said.append(word)
                yield TokenEvent(request_id, len(said), word)
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted += 1
            raise
        finally:
            del self._running[request_id]
            self._on_activity(Activity(len(self._running), 0))
        cut = len(said) < len(words)
        ids = [*range(1, len(said) + 1), *([] if cut else [0])]
        metrics = replace(metrics, generated_tokens=len(said) - len(given))
        output = replace(output, text="".join(said), token_ids=ids, metrics=metrics)
        yield FinishEvent(request_id, replace(output, finish_reason="length" if cut else "stop"))

    async def compare(
        self, prompt: Any, params: SamplingParams, mixes: Sequence[str], kv_policy: KVPolicy | None = None
    ) -> AsyncGenerator[tuple[int, TokenEvent | FinishEvent]]:
        """One token of each answer in turn."""
        async with AsyncExitStack() as stack:
            answers = {}
            for index, mix in enumerate(mixes):
                answers[index] = self.generate(prompt, params, mix, kv_policy=kv_policy)
                await stack.enter_async_context(aclosing(answers[index]))
            while answers:
                for index in list(answers):
                    event = await anext(answers[index])
                    yield index, event
                    if isinstance(event, FinishEvent):
                        del answers[index]

    async def count(self, prompt: Any, adapters: str | None = None) -> CountReport:
        self._resolve(adapters or "base")
        return CountReport(sum(len(message["content"].split()) + 4 for message in prompt), self.info.max_model_len)

    def output_so_far(self, request_id: str) -> RequestOutput | None:
        return self._running.get(request_id)

    async def prefill(self, prompt: Any, adapters: str | None = None, background: bool = True) -> None:
        mix = str(parse_mix(adapters or "base"))
        self._resolve(mix)
        self.prefilled.append((mix, prompt))
        try:
            await asyncio.sleep(3600 if prompt[-1]["content"] == "wait" else 0)
        except asyncio.CancelledError:
            self.aborted += 1
            raise

    async def score_details(self, prompt: Any, answer: list[int] | str, mixes: Sequence[str]) -> FakeScores:
        for mix in mixes:
            self._resolve(mix)
        texts = re.findall(r"\s*\S+", answer) if isinstance(answer, str) else [f" {token}" for token in answer]
        ids = list(range(1, len(texts) + 1)) if isinstance(answer, str) else answer
        scores = [[TokenScore(id, -1.0 - m, id + m, -0.5, float(m)) for id in ids] for m in range(len(mixes))]
        best = [[text if m == 0 else f" {mix}" for text in texts] for m, mix in enumerate(mixes)]
        return FakeScores(ids, texts, scores, best)

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


def _begun(prompt: Any) -> list[int]:
    """The tokens of the answer that the messages end with."""
    return list(prompt[-1].get("token_ids", ())) if prompt[-1]["role"] == "assistant" else []
