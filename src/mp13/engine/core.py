"""The engine itself, one step at a time: requests in, events out. `LLM` and `AsyncEngine` are two ways to turn it.

Not thread-safe: whoever holds it calls it from one thread.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from mp13.engine.adapters.manager import AdapterManager, merge_members
from mp13.engine.config import EngineConfig
from mp13.engine.execution.kv_cache import allocate_kv_cache, block_bytes, default_cache_bytes
from mp13.engine.execution.model_runner import ModelRunner
from mp13.engine.models.digest import base_digest
from mp13.engine.models.loader import LoadedModel, load_model
from mp13.engine.models.weights import OnProgress
from mp13.engine.request import AdapterInfo, ErrorEvent, Event, FinishEvent, FinishReason, SamplingParams, TokenEvent
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.scheduler import Scheduler
from mp13.engine.scheduling.sequence import Sequence
from mp13.engine.text.answer import Answer
from mp13.engine.text.chat_template import ChatMessage, chat_token_ids, template_digest
from mp13.errors import ConfigError, ContextError, ModelError

Prompt = str | list[int] | list[ChatMessage]


@dataclass(frozen=True)
class EngineDescription:
    """The engine as it came up. `notes` say what `auto` chose and why."""

    model: str
    model_type: str
    dtype: str
    device: str
    model_impl: str
    attn_implementation: str
    quantization: str
    max_model_len: int
    kv_cache_tokens: int
    notes: tuple[str, ...]
    eos_token_ids: frozenset[int]
    template_digest: str
    _base_digest: "Future[str]" = field(repr=False, compare=False)

    @property
    def base_digest(self) -> str:
        """SHA-256 over the model's weights. Hashed in the background; the first reader may wait for it."""
        return self._base_digest.result()


@dataclass
class _Running:
    seq: Sequence
    answer: Answer
    members: tuple[tuple[str, str, float], ...]  # name, digest, weight


class EngineCore:
    """Raises the errors of `load_model`, and ConfigError when the KV cache does not fit."""

    def __init__(self, config: EngineConfig, on_progress: OnProgress = lambda stage, fraction: None) -> None:
        self.config = config
        loaded = load_model(config, on_progress)
        self.tokenizer = loaded.tokenizer
        self.vocab_size = loaded.vocab_size
        self.adapters = AdapterManager(
            loaded.model.targets,
            max_loras=config.max_loras,
            max_cpu_loras=config.max_cpu_loras,
            max_rank=config.max_lora_rank,
            dtype=loaded.activation_dtype,
            model=config.model,
        )
        self.runner = ModelRunner(
            loaded.model,
            loaded.context,
            self.adapters.slots.columns_of,
            block_size=config.block_size,
            dtype=loaded.activation_dtype,
            device=loaded.device,
            eos_token_ids=loaded.eos_token_ids,
        )
        on_progress("cache", None)
        num_blocks, self.max_model_len = self._size_cache(loaded)
        self.runner.use_cache(
            allocate_kv_cache(
                loaded.model.cache_shape, num_blocks, config.block_size, loaded.activation_dtype, loaded.device
            )
        )
        self.pool = BlockPool(num_blocks, config.block_size, config.enable_prefix_caching)
        self.scheduler = Scheduler(
            self.pool,
            self.adapters.slots,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
        )
        self.info = self._describe(loaded, num_blocks)
        self._running: dict[str, _Running] = {}
        self._seeds = random.Random(config.seed)
        self._ids = count()

    def add(self, prompt: Prompt, params: SamplingParams, mix: str | None = None, request_id: str | None = None) -> str:
        """Queue a request; returns its id.

        Args:
            prompt: text (special tokens are added), token ids, or messages for the model's chat template.
            mix: which adapters answer; None is the base.

        Raises:
            MixError: the mix is malformed or names an adapter that is not loaded.
            ContextError: the prompt leaves no room for an answer.
            ConfigError: the prompt is empty, has an unknown token id, or the request id is in use.
        """
        resolved, members = self.adapters.resolve(mix or "base")
        token_ids = self._token_ids(prompt)
        request_id = request_id or f"request-{next(self._ids)}"
        if request_id in self._running:
            raise ConfigError(f"request id {request_id!r} is already running; give another")
        seq = Sequence(
            request_id,
            token_ids,
            params,
            adapters=merge_members(members),
            seed=self._seeds.getrandbits(63) if params.seed is None else params.seed,
            max_len=self.max_model_len,
        )
        answer = Answer(self.tokenizer, params, self.info.eos_token_ids, str(resolved), time.perf_counter())
        self._running[request_id] = _Running(seq, answer, members)
        self.adapters.retain(seq.adapters)
        self.scheduler.add(seq)
        return request_id

    def abort(self, request_id: str) -> list[Event]:
        """End a request now; everything it held is free. An unknown or finished id is ignored."""
        return self._finish(request_id, "abort") if request_id in self._running else []

    def has_work(self) -> bool:
        return self.scheduler.has_work()

    def step(self) -> list[Event]:
        """Compute one packed step and hand out what became of it. An error ends the requests of that step alone."""
        try:
            batch = self.scheduler.schedule()
        except Exception as error:  # most likely the adapters of the next request do not fit on the device
            culprits = list(self.scheduler.waiting)[:1] or list(self.scheduler.running)
            return [event for seq in culprits for event in self._fail(seq, error)]
        try:
            new_tokens = self.runner.run(batch)
        except Exception as error:
            return [event for row in batch.rows for event in self._fail(row.seq, error)]
        sampled = batch.sampled
        self.scheduler.computed(batch)
        events: list[Event] = []
        for seq, token_id in zip(sampled, new_tokens, strict=True):
            try:
                events += self._append(seq, token_id)
            except Exception as error:
                events += self._fail(seq, error)
        return events

    def load_adapter(self, path: str | Path, name: str | None = None) -> AdapterInfo:
        return self.adapters.load(Path(os.path.expanduser(path)), name)

    def unload_adapter(self, name: str) -> None:
        self.adapters.unload(name)

    def _append(self, seq: Sequence, token_id: int | None) -> list[Event]:
        answer = self._running[seq.request_id].answer
        if token_id is None:
            raise ModelError(
                f"no token can follow: the model's scores under {answer.mix!r} are not finite numbers; "
                "lower the weights of the mix, or choose another adapter or dtype"
            )
        seq.token_ids.append(token_id)
        text, reason = answer.add(token_id, full=seq.num_tokens >= seq.max_len, now=time.perf_counter())
        events: list[Event] = [TokenEvent(seq.request_id, token_id, text)]
        return events + (self._finish(seq.request_id, reason) if reason else [])

    def _finish(self, request_id: str, reason: FinishReason) -> list[Event]:
        running = self._running[request_id]
        output = replace(running.answer.output(running.seq, reason), members=running.members)
        self._remove(running.seq)
        return [FinishEvent(request_id, output)]

    def _fail(self, seq: Sequence, error: Exception) -> list[Event]:
        self._remove(seq)
        return [ErrorEvent(seq.request_id, error)]

    def _remove(self, seq: Sequence) -> None:
        del self._running[seq.request_id]
        self.scheduler.remove(seq)
        self.adapters.drop(seq.adapters)

    def _token_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            token_ids = list(self.tokenizer(prompt)["input_ids"])
        elif prompt and isinstance(prompt[0], ChatMessage):
            token_ids = chat_token_ids(self.tokenizer, prompt)
        else:
            token_ids = list(prompt)
        if not token_ids:
            raise ConfigError(f"prompt {prompt!r} is empty; give at least one token")
        if wrong := [t for t in token_ids if not (isinstance(t, int) and 0 <= t < self.vocab_size)]:
            raise ConfigError(f"token id {wrong[0]!r} is not in the vocabulary of {self.vocab_size} tokens")
        if len(token_ids) >= self.max_model_len:
            raise ContextError(
                f"the prompt has {len(token_ids)} tokens, but the context holds {self.max_model_len} including the "
                "answer; shorten it, start a new conversation, or raise max_model_len"
            )
        return token_ids

    def _size_cache(self, loaded: LoadedModel) -> tuple[int, int]:
        """Number of blocks, and the longest sequence."""
        config, shape = self.config, loaded.model.cache_shape
        per_block = block_bytes(shape, config.block_size, loaded.activation_dtype)
        longest = min(config.max_model_len or loaded.max_position, loaded.max_position)
        if config.max_model_len and config.max_model_len > loaded.max_position:
            raise ConfigError(
                f"max_model_len = {config.max_model_len} is over the {loaded.max_position} tokens this model was made "
                "for; lower it, or leave it out"
            )
        wanted = config.max_num_seqs * -(-longest // config.block_size)
        available = config.kv_cache_bytes
        if available is None:
            activations = self.runner.measure_activation_bytes(config.max_num_batched_tokens, config.max_num_seqs)
            available = default_cache_bytes(loaded.device, config.gpu_memory_utilization, activations)
            num_blocks = min(wanted, available // per_block)
        else:
            num_blocks = available // per_block
        fits = num_blocks * config.block_size
        if fits < 2 or (config.max_model_len and fits < config.max_model_len):
            raise ConfigError(
                f"the KV cache of {max(0, available):,} bytes holds {max(0, fits)} tokens, fewer than "
                f"max_model_len = {config.max_model_len or 2}; raise kv_cache_memory or lower max_model_len"
            )
        return num_blocks, min(longest, fits)

    def _describe(self, loaded: LoadedModel, num_blocks: int) -> EngineDescription:
        digest: Future[str] = Future()
        threading.Thread(target=_fulfil, args=(digest, lambda: base_digest(loaded.folder))).start()
        return EngineDescription(
            model=self.config.model,
            model_type=loaded.model_type,
            dtype=str(loaded.dtype).removeprefix("torch."),
            device=str(loaded.device),
            model_impl=loaded.model_impl,
            attn_implementation=loaded.attention.name,
            quantization=self.config.quantization,
            max_model_len=self.max_model_len,
            kv_cache_tokens=num_blocks * self.config.block_size,
            notes=loaded.notes,
            eos_token_ids=loaded.eos_token_ids,
            template_digest=template_digest(loaded.tokenizer),
            _base_digest=digest,
        )


def _fulfil(future: "Future[str]", work: Callable[[], str]) -> None:
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
