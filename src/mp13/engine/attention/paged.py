"""The attention module of a decoder layer: put the new keys and values into the cache, then attend over all of them.

In a training pass there is no cache: every text is whole.
"""

import torch
from torch import nn

from mp13.engine.attention.documents import attend_documents
from mp13.engine.attention.reference import store_kvcache
from mp13.engine.attention.registry import AttentionSpec, PagedAttentionFunction
from mp13.engine.context import StepContext


class PagedAttention(nn.Module):
    def __init__(self, layer_idx: int, spec: AttentionSpec, attend: PagedAttentionFunction, context: StepContext):
        super().__init__()
        self.layer_idx = layer_idx
        self.spec = spec
        self._attend = attend
        self._context = context

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q: (T, num_heads, head_dim); k, v: (T, num_kv_heads, head_dim) -> (T, num_heads, head_dim)"""
        if (training := self._context.training) is not None:
            return attend_documents(q, k, v, self.spec, training.documents)
        meta = self._context.attention
        assert meta is not None, "the runner fills the context before every step"
        k_cache, v_cache = self._context.k_cache[self.layer_idx], self._context.v_cache[self.layer_idx]
        store_kvcache(k, v, k_cache, v_cache, meta.slot_mapping)
        return self._attend(q, k_cache, v_cache, self.spec, meta)
