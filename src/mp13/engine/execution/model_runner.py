"""Runs one packed step on the device: batch to tensors, model, sampled token ids."""

from collections.abc import Callable, Collection

import torch

from mp13.engine.context import StepContext
from mp13.engine.execution.batch_tensors import batch_tensors
from mp13.engine.execution.kv_cache import KVCache, allocate_kv_cache
from mp13.engine.execution.sampler import sample
from mp13.engine.linear.lora_batch import make_lora_batch
from mp13.engine.models.interface import CausalModel
from mp13.engine.request import SamplingParams
from mp13.engine.scheduling.batch import Batch, ScheduledSequence
from mp13.engine.scheduling.block_pool import BlockPool
from mp13.engine.scheduling.sequence import AdapterWeights, Sequence

# (first column, end column, weight) of each adapter, as make_lora_batch wants them
ColumnsOf = Callable[[AdapterWeights], list[tuple[int, int, float]]]


class ModelRunner:
    def __init__(
        self,
        model: CausalModel,
        context: StepContext,
        columns_of: ColumnsOf,
        *,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        eos_token_ids: Collection[int],
    ) -> None:
        self.model = model
        self.context = context
        self.columns_of = columns_of
        self.block_size = block_size
        self.dtype = dtype
        self.device = device
        self.eos_token_ids = eos_token_ids
        self._part_counts = {target.linear.num_parts for target in model.targets.values()}

    def use_cache(self, cache: KVCache) -> None:
        self._cache = cache
        self.context.k_cache, self.context.v_cache = cache.keys.unbind(), cache.values.unbind()

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[int | None]:
        """Compute the batch's tokens; the next token id of each sequence in `batch.sampled`, None where the model's
        logits are not finite."""
        logits = self._forward(batch)
        return sample(logits, batch.sampled, self.eos_token_ids) if len(logits) else []

    def _forward(self, batch: Batch) -> torch.Tensor:
        tensors = batch_tensors(batch, self.block_size, self.device)
        if tensors.new_blocks:
            self._cache.clear(tensors.new_blocks)
        self.context.attention = tensors.attention
        token_rows = [(row.num_new_tokens, self.columns_of(row.seq.adapters)) for row in batch.rows]
        self.context.lora = make_lora_batch(token_rows, self._part_counts, self.device)
        return self.model(tensors.input_ids, tensors.positions, tensors.rows)

    @torch.inference_mode()
    def measure_activation_bytes(self, num_tokens: int, num_rows: int) -> int:
        """Peak GPU memory of one full step, beyond what is allocated now. 0 where the device does not count it."""
        if self.device.type != "cuda":
            return 0
        lengths = [num_tokens // num_rows] * num_rows
        seqs = [Sequence(str(i), [0] * max(1, length), SamplingParams()) for i, length in enumerate(lengths)]
        num_blocks = sum(-(-seq.num_tokens // self.block_size) for seq in seqs)
        pool = BlockPool(num_blocks, self.block_size, enable_prefix_caching=False)
        for seq in seqs:
            pool.allocate(seq, seq.num_tokens)
        shape = self.model.cache_shape
        self.use_cache(allocate_kv_cache(shape, num_blocks, self.block_size, self.dtype, self.device))
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._forward(Batch(tuple(ScheduledSequence(seq, seq.num_tokens) for seq in seqs))).float().softmax(-1)
        del self._cache
        self.context.k_cache = self.context.v_cache = ()
        return torch.cuda.max_memory_allocated(self.device) - before
