"""Runs one packed step on the device: batch to tensors, model, sampled token ids."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from mp13.engine.context import StepContext
from mp13.engine.execution.batch_tensors import batch_tensors
from mp13.engine.execution.kv_cache import KVCache, allocate_kv_cache
from mp13.engine.execution.sampler import sample, token_logprobs
from mp13.engine.linear.lora_batch import SlotWeights, make_lora_batch
from mp13.engine.main_memory import give_back
from mp13.engine.models.interface import CausalModel
from mp13.engine.request import SamplingParams, TokenLogprob
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.sequence import AdapterWeights, Sequence

# Tokens of a step on the CPU after which what it has freed is given back. The pieces of many such steps, of ever other
# sizes, add up to as much as the model; what a step of few tokens frees, the next one takes again.
_MANY = 256
SlotsOf = Callable[[AdapterWeights], SlotWeights]


class Sampled(NamedTuple):
    token_id: int | None  # None where none can be chosen: the model's logits are not finite
    logprob: TokenLogprob | None  # where the sequence's parameters ask for it


class ModelRunner:
    def __init__(
        self,
        model: CausalModel,
        context: StepContext,
        slots_of: SlotsOf,
        *,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.model = model
        self.context = context
        self.slots_of = slots_of
        self.block_size = block_size
        self.dtype = dtype
        self.device = device

    def use_cache(self, cache: KVCache) -> None:
        self._cache = cache
        self.context.k_cache, self.context.v_cache = cache.keys.unbind(), cache.values.unbind()

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Sampled]:
        """Compute the batch's tokens; the next token of each sequence in `batch.sampled`."""
        logits, seqs = self._forward(batch), batch.sampled
        if not seqs:
            return []
        asked = [row for row, seq in enumerate(seqs) if seq.params.logprobs is not None]
        log_probs = logits[asked].float().log_softmax(-1) if asked else logits[:0]  # before sampling changes them
        token_ids = sample(logits, seqs)
        logprobs = token_logprobs(log_probs, [seqs[row] for row in asked], [token_ids[row] for row in asked])
        by_row = dict(zip(asked, logprobs, strict=True))
        return [Sampled(token_id, by_row.get(row)) for row, token_id in enumerate(token_ids)]

    @torch.inference_mode()
    def logits(self, batch: Batch) -> torch.Tensor:
        """Compute the batch's tokens; the logits of those to be judged, row by row: (tokens, vocab_size)"""
        return self._forward(batch)

    def _forward(self, batch: Batch) -> torch.Tensor:
        tensors = batch_tensors(batch, self.block_size, self.device)
        if tensors.new_blocks:
            self._cache.clear(tensors.new_blocks)
        self.context.attention = tensors.attention
        token_rows = [run for row in batch.rows for run in self._runs(row)]
        self.context.lora = make_lora_batch(token_rows, tensors.rows)
        scores = self.model(tensors.input_ids, tensors.positions, tensors.rows)
        if self.device.type == "cpu" and tensors.input_ids.numel() >= _MANY:
            give_back()
        return scores

    def _runs(self, row: ScheduledSequence) -> list[tuple[int, SlotWeights]]:
        """The row's new tokens before and after its adapters begin to act."""
        seq = row.seq
        num_before = min(max(0, seq.active_from - seq.num_computed_tokens), row.num_new_tokens)
        return [(num_before, []), (row.num_new_tokens - num_before, self.slots_of(seq.adapters))]

    @torch.inference_mode()
    def measure_step_bytes(self, num_rows: int, num_new: int, context_len: int, num_judged: int) -> int:
        """Peak GPU memory of a step beyond what is allocated now: `num_rows` sequences of `context_len` tokens, the
        last `num_new` of them new and the last `num_judged` judged. All share one block: what comes out means nothing,
        but takes what any takes."""
        table = [0] * -(-context_len // self.block_size)
        rows = []
        for row in range(num_rows):
            seq = Sequence(str(row), [0] * context_len, SamplingParams())
            seq.num_computed_tokens, seq.block_table = context_len - num_new, list(table)
            rows.append(ScheduledSequence(seq, num_new, num_judged))
        self.use_cache(allocate_kv_cache(self.model.cache_shape, 1, self.block_size, self.dtype, self.device))
        try:
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            scores = self._forward(Batch(tuple(rows))).float().log_softmax(-1)
            scores.exp().mul_(scores - 1)  # as judging does
            return torch.cuda.max_memory_allocated(self.device) - before
        finally:
            del self._cache
            self.context.k_cache = self.context.v_cache = ()
            self.context.attention = self.context.lora = None
