"""The engine itself, one step at a time: requests in, events out. `LLM` and `AsyncEngine` are two ways to turn it.

Not thread-safe: whoever holds it calls it from one thread.
"""

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

from mp13.engine.adapters.manager import AdapterManager, merge_members
from mp13.engine.admission import Admission, Running
from mp13.engine.config import EngineConfig
from mp13.engine.description import describe
from mp13.engine.effect import EffectCheck
from mp13.engine.execution.model_runner import ModelRunner, Sampled
from mp13.engine.execution.sizing import give_cache
from mp13.engine.models.loader import load_model
from mp13.engine.models.progress import SIZING
from mp13.engine.models.room import is_out_of_memory, readable
from mp13.engine.prompts import Prompt, PromptReader
from mp13.engine.request import (
    Activity,
    AdapterInfo,
    CountReport,
    ErrorEvent,
    Event,
    FinishEvent,
    FinishReason,
    KVPolicy,
    OnProgress,
    RequestOutput,
    SamplingParams,
    TokenEvent,
)
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.scheduler import Scheduler
from mp13.engine.scheduling.sequence import Sequence
from mp13.engine.scoring import ScoreGroup, Scoring
from mp13.engine.training.passes import Base
from mp13.errors import ConfigError, ModelError


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
            vocab_size=loaded.vocab_size,
            tokenizer=loaded.tokenizer,
        )
        self.prompts = PromptReader(loaded.tokenizer, self.adapters, loaded.vocab_size)
        self.runner = ModelRunner(
            loaded.model,
            loaded.context,
            self.adapters.slots.slots_of,
            block_size=config.block_size,
            dtype=loaded.activation_dtype,
            device=loaded.device,
        )
        on_progress(SIZING, None)
        num_blocks, self.max_model_len = give_cache(config, loaded, self.runner, self.adapters.reserved_bytes)
        self.pool = BlockPool(num_blocks, config.block_size, config.enable_prefix_caching)
        self.scheduler = Scheduler(
            self.pool,
            self.adapters.slots,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
        )
        self.scoring = Scoring(self.runner, self.adapters, self.vocab_size)
        self.effects = EffectCheck(self.runner, self.adapters, self.vocab_size)
        self.info = describe(config, loaded, self.max_model_len, num_blocks)
        self.admission = Admission(config, self.adapters, self.prompts, self.max_model_len, self.info.eos_token_ids)
        self.base = Base(loaded.model, loaded.context, loaded.vocab_size, loaded.device, loaded.activation_dtype)
        self._running: dict[str, Running] = {}
        self._ids = count()

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams,
        mix: str | None = None,
        request_id: str | None = None,
        kv_policy: KVPolicy | None = None,
    ) -> str:
        """Queue a request; returns its id.

        Args:
            prompt: text (special tokens are added), token ids, or messages for the model's chat template. Messages that
                end with an answer ask for more of it: its tokens follow on its own (`ChatMessage.token_ids`), the
                output is all of it.
            mix: which adapters answer; None is the base.
            kv_policy: whether cache blocks that another mix computed may be used; None is the configured policy.

        Raises:
            MixError: the mix is malformed or names an adapter that is not loaded.
            ContextError: the prompt leaves no room for an answer.
            ConfigError: the prompt is empty, has an unknown token id, the policy is none, or the request id is in use.
        """
        return self._queue(prompt, params, mix, request_id, kv_policy)

    def prefill(
        self,
        prompt: Prompt,
        mix: str | None = None,
        request_id: str | None = None,
        kv_policy: KVPolicy | None = None,
        *,
        background: bool = False,
    ) -> str:
        """Queue a prompt to be computed and cached; its FinishEvent has an empty output. Arguments and errors of `add`.

        Messages that end with an answer are the past of a conversation: what the next turn's prompt will begin with.
        In the `background` it runs only while no other request does.
        """
        params = SamplingParams(seed=0)
        return self._queue(prompt, params, mix, request_id, kv_policy, generates=False, background=background)

    def _queue(
        self,
        prompt: Prompt,
        params: SamplingParams,
        mix: str | None,
        request_id: str | None,
        kv_policy: KVPolicy | None,
        *,
        generates: bool = True,
        background: bool = False,
    ) -> str:
        request_id = request_id or f"request-{next(self._ids)}"
        if request_id in self._running:
            raise ConfigError(f"request id {request_id!r} is already running; give another")
        running = self.admission.admit(
            request_id, prompt, params, mix, kv_policy, generates=generates, background=background
        )
        self._running[request_id] = running
        self.adapters.retain(running.seq.adapters)
        self.scheduler.add(running.seq)
        return request_id

    def count(self, prompt: Prompt, mix: str | None = None) -> CountReport:
        """How long the prompt is that `add` would make of this. Any thread may ask, at any time.

        Raises:
            MixError, ConfigError: the mix or the prompt cannot be used. That it does not fit is no error here.
        """
        return self.admission.count(prompt, mix)

    def compare(
        self, prompt: Prompt, params: SamplingParams, mixes: Iterable[str], kv_policy: KVPolicy | None = None
    ) -> list[str]:
        """Queue the prompt under each of the mixes, or under none; returns their ids. Arguments and errors of `add`.

        Without a seed in the parameters one is drawn for all, so that what differs is the mixes' doing.
        """
        if params.seed is None:
            params = replace(params, seed=self.admission.next_seed())
        added: list[str] = []
        try:
            for mix in mixes:
                added.append(self.add(prompt, params, mix, kv_policy=kv_policy))
        except Exception:
            for request_id in added:
                self.abort(request_id)
            raise
        return added

    def score(self, token_ids: list[int], mixes: Collection[str], start: int = 1) -> str:
        """Queue a text to be judged by each of the mixes, from token number `start` on; returns its id.

        Raises:
            MixError, ContextError, ConfigError: one of the mixes, the text or the start cannot be used.
        """
        self.prompts.check_judged(token_ids, start, self.max_model_len)
        group = ScoreGroup(f"score-{next(self._ids)}", list(token_ids), start)
        for mix in mixes:
            adapters = merge_members(self.adapters.resolve(mix)[1])
            group.add(adapters, self.adapters.active_from(adapters, token_ids[:start] if start > 1 else token_ids))
        self.scoring.add(group, self.scheduler)
        return group.request_id

    def output_so_far(self, request_id: str) -> RequestOutput | None:
        """A running answer as it stands; None for any other id. Changes nothing, so that any thread may ask."""
        running = self._running.get(request_id)
        return None if running is None else replace(running.output("length"), finish_reason="abort")

    def abort(self, request_id: str) -> list[Event]:
        """End a request now; everything it held is free. An unknown or finished id is ignored."""
        is_answer = request_id in self._running
        return self._finish(request_id, "abort") if is_answer else self.scoring.abort(request_id, self.scheduler)

    def has_work(self) -> bool:
        return self.scheduler.has_work() or self.scoring.has_work() or self.effects.has_work()

    def step(self) -> list[Event]:
        """Compute one packed step and hand out what became of it. An error ends the requests of that step alone; where
        memory ran out, the largest of them alone, and the others are tried again."""
        if self.scoring.takes_turn(self.scheduler):
            return self.scoring.step(self.scheduler)
        if self.effects.has_work() and not self.scheduler.has_foreground:
            self.effects.step(self.scheduler)
            return []
        batch = self.scheduler.schedule(admits=not self.scoring.is_starving)
        events = [event for seq, error in batch.refused for event in self._fail(seq, error)]
        if not batch.rows:
            return events
        try:
            new_tokens = self.runner.run(batch)
        except Exception as error:
            to_blame = [batch.largest] if is_out_of_memory(error) else [row.seq for row in batch.rows]
            return events + [event for seq in to_blame for event in self._fail(seq, error)]
        sampled, prefilled = batch.sampled, batch.prefilled
        self.scheduler.computed(batch)
        for seq in prefilled:
            events += self._finish(seq.request_id, "length")
        for seq, new_token in zip(sampled, new_tokens, strict=True):
            try:
                events += self._append(seq, new_token)
            except Exception as error:
                events += self._fail(seq, error)
        return events

    @property
    def activity(self) -> Activity:
        """The requests that somebody waits for: answers, prefills, scores; not what is done in the background."""
        running = sum(not seq.is_background for seq in self.scheduler.running) + len(self.scoring.running)
        return Activity(running, len(self.scheduler.waiting) + len(self.scoring.waiting))

    def fail_all(self, error: Exception) -> list[Event]:
        """End every request with `error`."""
        events = [event for running in list(self._running.values()) for event in self._fail(running.seq, error)]
        return events + self.scoring.fail_all(error, self.scheduler)

    def load_adapter(self, path: str | Path, name: str | None = None, version: int | None = None) -> AdapterInfo:
        """Load a PEFT folder, as a `version` of the name where that is given. Its effect is measured in a later step,
        when nobody waits.

        Raises:
            AdapterError, MixError, OutOfMemory: it cannot be loaded, and nothing has changed.
        """
        try:
            info = self.adapters.load(Path(os.path.expanduser(path)), name, version)
        except Exception as error:
            raise readable(error) from None
        self.effects.add(info)
        return info

    def measure_effects(self) -> None:
        """Measure at once what else waits for an idle step, unless there is other work."""
        while self.effects.has_work() and not (self.scheduler.has_work() or self.scoring.has_work()):
            self.effects.step(self.scheduler)

    def unload_adapter(self, name: str) -> None:
        self.adapters.unload(name)

    def _append(self, seq: Sequence, sampled: Sampled) -> list[Event]:
        answer = self._running[seq.request_id].answer
        token_id, logprob = sampled
        if token_id is None:
            raise ModelError(
                f"no token can follow: the model's scores under {answer.mix!r} are not finite numbers; "
                "lower the weights of the mix, or choose another adapter or dtype"
            )
        seq.token_ids.append(token_id)
        full = seq.num_tokens >= seq.max_len
        text, reason = answer.add(token_id, full=full, now=time.perf_counter(), logprob=logprob)
        events: list[Event] = [TokenEvent(seq.request_id, token_id, text, logprob)]
        return events + (self._finish(seq.request_id, reason) if reason else [])

    def _finish(self, request_id: str, reason: FinishReason) -> list[Event]:
        running = self._running[request_id]
        output = running.output(reason)
        self._remove(running.seq)
        return [FinishEvent(request_id, output)]

    def _fail(self, seq: Sequence, error: Exception) -> list[Event]:
        self.pool.retract(seq)  # it may have met numbers that are not finite, and who keeps the cache would find them
        self._remove(seq)
        return [ErrorEvent(seq.request_id, readable(error))]

    def _remove(self, seq: Sequence) -> None:
        del self._running[seq.request_id]
        self.scheduler.remove(seq)
        self.adapters.drop(seq.adapters)
