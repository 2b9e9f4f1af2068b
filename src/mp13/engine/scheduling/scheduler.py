"""Who runs in the next step. Decode and prefill are one thing: every sequence has tokens left to compute.

Each step fills a token budget, running sequences first, then waiting ones in order of arrival (continuous batching,
Orca; chunked prefill, Sarathi). When blocks run out, the youngest running sequence gives its blocks back and is
computed anew later (preemption by recomputation, vLLM). Background sequences run while nothing else does, in small
steps, and hold nothing as soon as something else wants to run. Knows no tensor and no clock.
"""

from collections import deque
from collections.abc import Collection
from typing import Protocol

from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.sequence import AdapterWeights, Sequence

_BACKGROUND_TOKENS = 128  # of one step: a request that arrives meanwhile waits no longer than that
_MAX_OVERTAKEN = 16  # how many later requests may go first while one waits for an adapter slot


class AdapterResidency(Protocol):
    """Who keeps adapters on the device. `acquire` pins all of a sequence's adapters there, or none and says False; it
    may raise for adapters that cannot be brought there. `resident` are the digests of those that are there."""

    @property
    def resident(self) -> Collection[str]: ...

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
        self.background: deque[Sequence] = deque()  # those of them that wait
        self.running: list[Sequence] = []  # oldest first; either all of them background, or none
        self.num_preemptions = 0

    def add(self, seq: Sequence) -> None:
        self._queue_of(seq).append(seq)

    def remove(self, seq: Sequence) -> None:
        """`seq` is finished or aborted: its blocks and pins are free at once."""
        if seq in self.running:
            self.running.remove(seq)
            self._let_go(seq)
        else:
            self._queue_of(seq).remove(seq)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running or self.background)

    @property
    def has_foreground(self) -> bool:
        return bool(self.waiting) or any(not seq.is_background for seq in self.running)

    def schedule(self, *, admits: bool = True) -> Batch:
        """The next step's batch. Without rows, nothing is left, or everything waits for blocks or adapter slots.

        `admits` False lets nobody new begin, so that somebody else comes to what the running ones hold.
        """
        queue, budget = self.waiting, self.max_num_batched_tokens
        if self.has_foreground:
            self.give_way()
        else:
            queue, budget = self.background, min(budget, _BACKGROUND_TOKENS)
        rows: list[ScheduledSequence] = []
        refused: list[tuple[Sequence, Exception]] = []
        preemptions = self.num_preemptions
        budget = self._schedule_running(rows, budget)
        if admits and self.num_preemptions == preemptions:  # blocks just ran out otherwise: admitting would thrash
            self._admit(queue, rows, refused, budget)
        rows.sort(key=lambda row: row.num_new_tokens > 1)
        return Batch(tuple(rows), tuple(refused))

    def give_way(self) -> None:
        """Background sequences let go of blocks and slots. Their full blocks stay findable, so little is lost."""
        while self.running and self.running[-1].is_background:
            self._preempt_youngest()

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

    def _admit(
        self,
        queue: deque[Sequence],
        rows: list[ScheduledSequence],
        refused: list[tuple[Sequence, Exception]],
        budget: int,
    ) -> None:
        """First come, first served. While the first waits for an adapter slot, some that need none may go before it:
        not so many that it starves."""
        blocked: Sequence | None = None
        for seq in list(queue):
            if len(self.running) >= self.max_num_seqs or budget <= 0:
                return
            if blocked and blocked.num_overtaken >= _MAX_OVERTAKEN:
                return
            if blocked and not self._is_resident(seq):
                continue
            try:
                acquired = self.residency.acquire(seq.adapters)
            except Exception as error:  # gone from disk, or no memory for it: nobody else's fault
                refused.append((seq, error))
                continue
            if not acquired:
                blocked = seq
                continue
            if (num_new := self._start(seq, budget)) == 0:
                self.residency.release(seq.adapters)
                return
            queue.remove(seq)
            self.running.append(seq)
            rows.append(ScheduledSequence(seq, num_new))
            budget -= num_new
            if blocked:
                blocked.num_overtaken += 1

    def _is_resident(self, seq: Sequence) -> bool:
        resident = self.residency.resident
        return all(digest in resident for digest, weight in seq.adapters if weight != 0.0)

    def _start(self, seq: Sequence, budget: int) -> int:
        """Give `seq` the blocks of its first tokens; how many it computes now, or 0 where too few blocks are free."""
        prefix = self.pool.find_prefix(seq)
        num_found = len(prefix) * self.pool.block_size
        num_new = min(seq.num_tokens - num_found, budget)
        if not self.pool.allocate(seq, num_found + num_new, prefix):
            return 0
        seq.num_computed_tokens = num_found
        seq.num_published_blocks = len(prefix)
        if seq.num_cached_tokens is None:
            seq.num_cached_tokens = num_found
        return num_new

    def computed(self, batch: Batch) -> None:
        """The step ran: its tokens' KV entries exist now and full blocks can be shared."""
        for row in batch.rows:
            row.seq.num_computed_tokens += row.num_new_tokens
            self.pool.publish(row.seq)

    def _preempt_youngest(self) -> Sequence:
        seq = self.running.pop()
        self._let_go(seq)
        self._queue_of(seq).appendleft(seq)
        self.num_preemptions += 1
        return seq

    def _queue_of(self, seq: Sequence) -> deque[Sequence]:
        return self.background if seq.is_background else self.waiting

    def _let_go(self, seq: Sequence) -> None:
        self.pool.release(seq)
        self.residency.release(seq.adapters)
