"""Who runs in the next step. Decode and prefill are one thing: every sequence has tokens left to compute.

Each step fills a token budget, running sequences first, then waiting ones in order of arrival (continuous batching,
Orca; chunked prefill, Sarathi). When blocks run out, the youngest running sequence gives its blocks back and is
computed anew later (preemption by recomputation, vLLM). Knows no tensor and no clock.
"""

from collections import deque
from typing import Protocol

from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.sequence import AdapterWeights, Sequence


class AdapterResidency(Protocol):
    """Who keeps adapters on the device. `acquire` pins all of a sequence's adapters there, or none and says False."""

    def acquire(self, adapters: AdapterWeights) -> bool: ...

    def release(self, adapters: AdapterWeights) -> None: ...


class Scheduler:
    def __init__(
        self, pool: BlockPool, residency: AdapterResidency, *, max_num_seqs: int, max_num_batched_tokens: int
    ) -> None:
        self.pool = pool
        self.residency = residency
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.num_preemptions = 0

    def add(self, seq: Sequence) -> None:
        self.waiting.append(seq)

    def remove(self, seq: Sequence) -> None:
        """`seq` is finished or aborted: its blocks and pins are free at once."""
        if seq in self.running:
            self.running.remove(seq)
            self._let_go(seq)
        else:
            self.waiting.remove(seq)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> Batch:
        """The next step's batch; empty when nothing is left, or everything waits for an adapter slot."""
        rows: list[ScheduledSequence] = []
        preemptions = self.num_preemptions
        budget = self._schedule_running(rows, self.max_num_batched_tokens)
        if self.num_preemptions == preemptions:  # blocks just ran out otherwise: admitting would thrash
            self._admit_waiting(rows, budget)
        rows.sort(key=lambda row: row.num_new_tokens > 1)
        return Batch(tuple(rows))

    def _schedule_running(self, rows: list[ScheduledSequence], budget: int) -> int:
        index = 0
        while index < len(self.running) and budget > 0:
            seq = self.running[index]
            num_new = min(seq.num_tokens - seq.num_computed_tokens, budget)
            while not self.pool.allocate(seq, seq.num_computed_tokens + num_new):
                if self._preempt_youngest() is seq:
                    return budget
            rows.append(ScheduledSequence(seq, num_new))
            budget -= num_new
            index += 1
        return budget

    def _admit_waiting(self, rows: list[ScheduledSequence], budget: int) -> None:
        while self.waiting and len(self.running) < self.max_num_seqs and budget > 0:
            seq = self.waiting[0]
            prefix = self.pool.find_prefix(seq)
            num_found = len(prefix) * self.pool.block_size
            num_new = min(seq.num_tokens - num_found, budget)
            if not self.residency.acquire(seq.adapters):
                return  # first come, first served: nobody overtakes, so nobody starves
            if not self.pool.allocate(seq, num_found + num_new, prefix):
                self.residency.release(seq.adapters)
                return
            seq.num_computed_tokens = num_found
            seq.num_published_blocks = len(prefix)
            if seq.num_cached_tokens is None:
                seq.num_cached_tokens = num_found
            self.running.append(self.waiting.popleft())
            rows.append(ScheduledSequence(seq, num_new))
            budget -= num_new

    def computed(self, batch: Batch) -> None:
        """The step ran: its tokens' KV entries exist now and full blocks can be shared."""
        for row in batch.rows:
            row.seq.num_computed_tokens += row.num_new_tokens
            self.pool.publish(row.seq)

    def _preempt_youngest(self) -> Sequence:
        seq = self.running.pop()
        self._let_go(seq)
        self.waiting.appendleft(seq)
        self.num_preemptions += 1
        return seq

    def _let_go(self, seq: Sequence) -> None:
        self.pool.release(seq)
        self.residency.release(seq.adapters)
