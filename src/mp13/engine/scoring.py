"""How mixes judge given texts: the log-probability of each token, under several mixes side by side.

A group is one text under some mixes. Its sequences go through the text in lockstep, so that at each place the mixes'
distributions lie beside each other in one packed pass and can be compared whole; only a few numbers a token are kept.
Owns the queue of groups and their turns; prompts, names of adapters and text are the core's.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from mp13.engine.adapters.manager import AdapterManager
from mp13.engine.adapters.slots import AdapterSlots
from mp13.engine.execution.model_runner import ModelRunner
from mp13.engine.models.footprint import MAX_LOGITS
from mp13.engine.models.room import readable
from mp13.engine.request import ErrorEvent, Event, SamplingParams, ScoreEvent, TokenScore
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.scheduler import Scheduler
from mp13.engine.scheduling.sequence import AdapterWeights, Sequence
from mp13.errors import ContextError, MixError, ModelError, Mp13Error

_SHARED_TOKENS = 256  # of one pass, while requests wait for their next token
_MAX_REFUSALS = 8  # turns in vain, after which no new request may take what a group waits for


@dataclass(eq=False)
class ScoreGroup:
    """`seqs` hold all tokens of the text but the last, one sequence a mix. Judged are the tokens from `start` (≥ 1) on.

    Where the mixes need more blocks, slots or bytes for adapters than there are, they take several passes, the first
    mix in each of them.
    """

    request_id: str
    token_ids: list[int]
    start: int
    seqs: list[Sequence] = field(default_factory=list)
    scores: list[list[TokenScore]] = field(default_factory=list)
    active: list[int] = field(default_factory=list)  # mixes of the present pass; the first comes first

    def add(self, adapters: AdapterWeights, active_from: int) -> None:
        """One more mix; the first is what the others are compared with."""
        ids, no_params = self.token_ids[:-1], SamplingParams()
        self.seqs.append(Sequence(self.request_id, ids, no_params, adapters, active_from=active_from, generates=False))
        self.scores.append([])

    @property
    def num_judged(self) -> int:
        return len(self.token_ids) - self.start

    @property
    def active_seqs(self) -> list[Sequence]:
        return [self.seqs[i] for i in self.active]

    @property
    def is_done(self) -> bool:
        return all(len(scores) == self.num_judged for scores in self.scores)

    def digests(self, mixes: list[int]) -> set[str]:
        """Of the adapters of these mixes."""
        return {digest for i in mixes for digest, weight in self.seqs[i].adapters if weight != 0.0}

    def needs(self, mixes: list[int]) -> AdapterWeights:
        """What to acquire for these mixes."""
        return tuple((digest, 1.0) for digest in sorted(self.digests(mixes)))

    def next_pass(self, slots: AdapterSlots, max_seqs: int) -> list[int]:
        """The mixes to go through the text together, of those that have not yet."""
        chosen = [0]
        for i in range(1, len(self.seqs)):
            fits = len(chosen) < max_seqs and slots.could_hold(self.digests([*chosen, i]))
            if fits and len(self.scores[i]) < self.num_judged:
                chosen.append(i)
        return chosen

    def advance(self, tokens: int, rows: int) -> list[tuple[int, ScheduledSequence]]:
        """The next step of the active mixes: at most so many tokens and rows of logits in all, but one token each.

        Mixes that found less in the cache catch up first; from `start` - 1 on they all stand at the same place.
        """
        count, seqs = len(self.active), self.active_seqs
        first = min(seq.num_computed_tokens for seq in seqs)
        judged_from = max(first, self.start - 1)
        stop = min(first + max(1, tokens // count), judged_from + max(1, rows // count), seqs[0].num_tokens)
        num_judged = max(0, stop - judged_from)
        steps = [(i, stop - seq.num_computed_tokens) for i, seq in zip(self.active, seqs, strict=True)]
        return [(i, ScheduledSequence(self.seqs[i], n, num_judged)) for i, n in steps if n > 0]

    def take(self, judged: dict[int, torch.Tensor]) -> None:
        """The logits of a step's judged tokens, (num_judged, vocab_size), by mix.

        Raises:
            ModelError: they are not finite.
        """
        if not (count := len(next(iter(judged.values())))):
            return
        stop = self.active_seqs[0].num_computed_tokens + 1  # the last computed token judges the one behind it
        targets = self.token_ids[stop - count : stop]
        reference: torch.Tensor | None = None
        for i in self.active:
            log_probs = judged[i].float().log_softmax(-1)
            reference = log_probs if reference is None else reference
            if len(self.scores[i]) == stop - count - self.start:  # the first mix may have been here before
                self.scores[i] += _judge(log_probs, reference, targets)


class Scoring:
    """Groups take passes in turn with the scheduler's batches, whose blocks and adapter slots they share."""

    def __init__(self, runner: ModelRunner, adapters: AdapterManager, vocab_size: int) -> None:
        self.waiting: deque[ScoreGroup] = deque()
        self.running: list[ScoreGroup] = []
        self._runner = runner
        self._adapters = adapters
        self._max_rows = max(1, MAX_LOGITS // vocab_size)
        self._had_turn = False
        self._refusals = 0

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def is_starving(self) -> bool:
        """Whether requests should not begin for a while, so that what a group waits for becomes free."""
        return bool(self.waiting) and self._refusals >= _MAX_REFUSALS

    def add(self, group: ScoreGroup, scheduler: Scheduler) -> None:
        """Raises MixError or ContextError for a group that can never run."""
        if not group.seqs:
            raise MixError("there is no mix to judge the text; give at least one, such as 'base'")
        pool = scheduler.pool
        self._adapters.require_together(group.digests([0, i]) for i in range(len(group.seqs)))
        side_by_side = min(2, len(group.seqs))
        if side_by_side > _max_seqs(group, pool):
            raise ContextError(
                f"{len(group.token_ids)} tokens under {side_by_side} mixes at once do not fit the KV cache of "
                f"{pool.num_blocks * pool.block_size} tokens; shorten the text or raise kv_cache_memory"
            )
        for seq in group.seqs:
            self._adapters.retain(seq.adapters)
        self.waiting.append(group)

    def abort(self, request_id: str, scheduler: Scheduler) -> list[Event]:
        """End a group now; everything it held is free. An unknown id is ignored."""
        groups = [group for group in (*self.running, *self.waiting) if group.request_id == request_id]
        return [event for g in groups for event in self._fail(g, Mp13Error("the scoring was aborted"), scheduler)]

    def fail_all(self, error: Exception, scheduler: Scheduler) -> list[Event]:
        groups = [*self.running, *self.waiting]
        return [event for group in groups for event in self._fail(group, error, scheduler)]

    def takes_turn(self, scheduler: Scheduler) -> bool:
        """Whether the next step is ours: every other one while requests want to run, too."""
        self._had_turn = self.has_work() and not (self._had_turn and scheduler.has_foreground)
        return self._had_turn

    def step(self, scheduler: Scheduler) -> list[Event]:
        """One packed pass over the groups. An error ends the groups of that pass alone."""
        scheduler.give_way()
        events: list[Event] = []
        parts = self._schedule(scheduler, events)
        groups = list(dict.fromkeys(part.group for part in parts))
        try:
            judged = self._run(parts)
        except Exception as error:
            return events + [event for group in groups for event in self._fail(group, error, scheduler)]
        for part in parts:
            part.row.seq.num_computed_tokens += part.row.num_new_tokens
            scheduler.pool.publish(part.row.seq)
        for group in groups:
            try:
                group.take(
                    {part.mix: logits for part, logits in zip(parts, judged, strict=True) if part.group is group}
                )
            except Exception as error:
                events += self._fail(group, error, scheduler)
            else:
                events += self._end_pass(group, scheduler)
        return events

    def _run(self, parts: list["_Part"]) -> tuple[torch.Tensor, ...]:
        """Logits of each part's judged tokens, (num_judged, vocab_size)"""
        if not parts:
            return ()
        parts.sort(key=lambda part: part.row.num_new_tokens > 1)  # as a batch wants it
        logits = self._runner.logits(Batch(tuple(part.row for part in parts)))
        return torch.split(logits, [part.row.num_judged for part in parts])

    def _schedule(self, scheduler: Scheduler, events: list[Event]) -> list["_Part"]:
        parts: list[_Part] = []
        tokens, rows = scheduler.max_num_batched_tokens, self._max_rows
        if scheduler.has_foreground:
            tokens = min(tokens, _SHARED_TOKENS)
        started = iter(list(self.running))
        while tokens > 0 and rows > 0 and (group := next(started, None) or self._admit(scheduler, events)):
            for mix, row in group.advance(tokens, rows):
                parts.append(_Part(group, mix, row))
                tokens -= row.num_new_tokens
                rows -= row.num_judged
        return parts

    def _admit(self, scheduler: Scheduler, events: list[Event]) -> ScoreGroup | None:
        """Begin with the next group, with all blocks and adapters of its pass. One at a time while requests wait."""
        while self.waiting and not (self.running and scheduler.waiting):
            group = self.waiting[0]
            if group.num_judged == 0:
                events += self._end_pass(group, scheduler)
                continue
            try:
                acquired = self._acquire(group, scheduler.pool)
            except Exception as error:  # an adapter is gone from disk, or there is no memory for it
                events += self._fail(group, error, scheduler)
                continue
            if not acquired:
                self._refusals += not self.running
                return None
            self._refusals = 0
            self.running.append(self.waiting.popleft())
            return group
        return None

    def _acquire(self, group: ScoreGroup, pool: BlockPool) -> bool:
        slots = self._adapters.slots
        chosen = group.next_pass(slots, _max_seqs(group, pool))
        if not slots.acquire(group.needs(chosen)):
            return False
        group.active = chosen
        for seq in group.active_seqs:
            prefix = pool.find_prefix(seq)[: (group.start - 1) // pool.block_size]
            if not pool.allocate(seq, seq.num_tokens, prefix):
                self._let_go(group, pool)
                return False
            seq.num_computed_tokens = len(prefix) * pool.block_size
            seq.num_published_blocks = len(prefix)
        return True

    def _end_pass(self, group: ScoreGroup, scheduler: Scheduler) -> list[Event]:
        if any(seq.num_computed_tokens < seq.num_tokens for seq in group.active_seqs):
            return []
        if group.is_done:
            self._remove(group, scheduler)
            return [ScoreEvent(group.request_id, tuple(map(tuple, group.scores)))]
        self._let_go(group, scheduler.pool)
        self.running.remove(group)
        self.waiting.appendleft(group)
        return []

    def _fail(self, group: ScoreGroup, error: Exception, scheduler: Scheduler) -> list[Event]:
        for seq in group.active_seqs:
            scheduler.pool.retract(seq)  # its numbers may be the error
        self._remove(group, scheduler)
        return [ErrorEvent(group.request_id, readable(error))]

    def _remove(self, group: ScoreGroup, scheduler: Scheduler) -> None:
        self._let_go(group, scheduler.pool)
        (self.running if group in self.running else self.waiting).remove(group)
        for seq in group.seqs:
            self._adapters.drop(seq.adapters)

    def _let_go(self, group: ScoreGroup, pool: BlockPool) -> None:
        for seq in group.active_seqs:
            pool.release(seq)
        self._adapters.slots.release(group.needs(group.active))
        group.active = []


class _Part(NamedTuple):
    group: ScoreGroup
    mix: int
    row: ScheduledSequence


def _max_seqs(group: ScoreGroup, pool: BlockPool) -> int:
    """How many of the group's sequences fit the whole cache."""
    return pool.num_blocks // max(1, -(-group.seqs[0].num_tokens // pool.block_size))


def _judge(log_probs: torch.Tensor, reference: torch.Tensor, token_ids: list[int]) -> list[TokenScore]:
    """log_probs, and the first mix's as reference: (len(token_ids), vocab_size), row i judging token i."""
    if not log_probs.amax(-1).isfinite().all():
        raise ModelError(
            "the text cannot be judged: the model's scores are not finite numbers; lower the weights of the mix, or "
            "choose another adapter or dtype"
        )
    targets = torch.tensor(token_ids, device=log_probs.device)[:, None]
    best = log_probs.max(-1)
    divergence = [0.0] * len(token_ids) if log_probs is reference else kl_divergence(reference, log_probs).tolist()
    columns = log_probs.gather(1, targets)[:, 0].tolist(), best.indices.tolist(), best.values.tolist(), divergence
    return [TokenScore(*row) for row in zip(token_ids, *columns, strict=True)]


def kl_divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) in nats of each row; p and q are log-probabilities (R, vocab_size)."""
    terms = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q))
    return terms.sum(-1).clamp(min=0)  # rounding alone would make it negative
