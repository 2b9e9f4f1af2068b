"""Does an adapter change anything? Measured once for each content, on a fixed probe, while nobody waits for an answer.

An adapter whose B is 0, whose scale is 0, or whose targets lead nowhere loads and runs like any other; only this tells.
"""

import logging
import math
from collections import deque

import torch

from mp13.engine.adapters.manager import AdapterManager
from mp13.engine.execution.model_runner import ModelRunner
from mp13.engine.request import NO_EFFECT, AdapterInfo, SamplingParams
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.scheduler import Scheduler
from mp13.engine.scheduling.sequence import AdapterWeights, Sequence
from mp13.engine.scoring import kl_divergence

log = logging.getLogger(__name__)

_PROBE_LENGTH = 6  # tokens, few: loading an adapter is to stay quick


class EffectCheck:
    """Mean KL(adapter ‖ base) over the probe's tokens, in nats, the adapter at full strength.

    Both are computed in passes of the same shape, so that what changes nothing is 0 and not a kernel's rounding.
    """

    def __init__(self, runner: ModelRunner, adapters: AdapterManager, vocab_size: int) -> None:
        self._runner = runner
        self._adapters = adapters
        self._probe = [(11 + 7919 * i) % vocab_size for i in range(_PROBE_LENGTH)]
        self._base: tuple[list[int], torch.Tensor] | None = None  # the last probe and what the base says to it
        self._pending: deque[AdapterInfo] = deque()
        self.num_measured = 0

    def has_work(self) -> bool:
        return bool(self._pending)

    def add(self, info: AdapterInfo) -> None:
        if info.effect is None:
            self._pending.append(info)

    def step(self, scheduler: Scheduler) -> None:
        """Measure one adapter. What cannot be measured stays unknown; whoever uses the adapter will hear why."""
        info = self._pending.popleft()
        if not self._adapters.lacks_effect(info.digest):
            return
        scheduler.give_way()
        try:
            effect = self._measure(info.digest, scheduler)
        except Exception as error:
            log.warning("the effect of adapter %r cannot be measured: %s", info.name, error)
            return
        if effect is not None and math.isfinite(effect):
            self._adapters.note_effect(info.digest, effect)
            self.num_measured += 1
            if effect < NO_EFFECT:
                log.warning("adapter %r changes nothing measurable; was it trained, and for this model?", info.name)

    def _measure(self, digest: str, scheduler: Scheduler) -> float | None:
        invocation = list(self._adapters.invocation_tokens(digest))
        half = _PROBE_LENGTH // 2 if invocation else 0  # an activated LoRA acts from its invocation on
        probe = self._probe[:half] + invocation + self._probe[half:]
        adapted = self._log_probs(probe, ((digest, 1.0),), scheduler)
        if self._base is None or self._base[0] != probe:
            base = self._log_probs(probe, (), scheduler)
            self._base = None if base is None else (probe, base)
        if adapted is None or self._base is None:
            return None
        return float(kl_divergence(adapted, self._base[1])[half:].mean())

    def _log_probs(self, probe: list[int], adapters: AdapterWeights, scheduler: Scheduler) -> torch.Tensor | None:
        """(len(probe), vocab_size), or None while there is no slot or block for it."""
        active_from = self._adapters.active_from(adapters, probe)
        seq = Sequence("effect", probe, SamplingParams(), adapters, active_from=active_from, generates=False)
        slots, pool = self._adapters.slots, scheduler.pool
        self._adapters.retain(adapters)
        try:
            if not slots.acquire(adapters):
                return None
            try:
                if not pool.allocate(seq, seq.num_tokens):
                    return None
                logits = self._runner.logits(Batch((ScheduledSequence(seq, seq.num_tokens, seq.num_tokens),)))
                return logits.float().log_softmax(-1)
            finally:
                pool.release(seq)
                slots.release(adapters)
        finally:
            self._adapters.drop(adapters)
