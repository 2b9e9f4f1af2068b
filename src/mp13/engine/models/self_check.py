"""Proof, right after loading, that a bridged model computes on our attention and cache what it computes on its own.

Two short prompts are prefilled together and continued by one token each, over scratch blocks in no particular order;
the logits must equal those of the same modules on Transformers' eager attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.context import StepContext
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.models.attention_probe import set_attention
from mp13.errors import ModelError

if TYPE_CHECKING:
    from mp13.engine.models.transformers_bridge import TransformersModel

_LENS = (19, 6)  # tokens of the two prompts; the first crosses a block of 16
# Relative error of the logits that rounding explains: of float32, or of 8 to 11 bits through many layers. Attention
# that goes wrong is far beyond both.
_TOLERANCE, _TOLERANCE_HALF = 1e-3, 0.25


@torch.inference_mode()
def self_check(
    bridge: "TransformersModel", context: StepContext, linears: dict[str, AdaptedLinear], block_size: int
) -> dict[str, AdaptedLinear]:
    """Returns those of `linears` that see every token of a step, in order (the head: every token whose logits are
    wanted): only there may an adapter sit.

    Raises:
        ModelError: the logits differ, or are not finite.
    """
    model = bridge.model
    device, dtype = model.device, model.dtype
    first_id, vocab_size = 10, model.config.get_text_config().vocab_size
    texts = [torch.arange(n + 1, device=device) * 31 % min(vocab_size - first_id, 1000) + first_id for n in _LENS]

    with _scratch_cache(bridge, context, block_size):
        with _watch(linears) as whole:
            prefill = _run(bridge, context, [text[:-1] for text in texts], [0, 0], block_size)
        decode = _run(bridge, context, [text[-1:] for text in texts], list(_LENS), block_size)
    ours = torch.stack([prefill, decode], 1).float()  # (2 texts, 2 places, vocab_size)

    implementation = model.config._attn_implementation
    set_attention(model, "eager")
    eager = torch.stack([model(input_ids=text[None], use_cache=False).logits[0, -2:] for text in texts]).float()
    set_attention(model, implementation)
    _require_equal(ours, eager, dtype)
    return {name: linears[name] for name in whole}


def _run(
    bridge: "TransformersModel",
    context: StepContext,
    texts: list[torch.Tensor],
    starts: list[int],
    block_size: int,
) -> torch.Tensor:
    """One packed step of `texts`, which begin at `starts`; logits after each, (2, vocab_size)."""
    device = texts[0].device
    positions = [
        torch.arange(start, start + len(text), device=device) for text, start in zip(texts, starts, strict=True)
    ]
    tables = torch.tensor(_block_tables(block_size), device=device)  # (2, blocks)
    slots = [tables[i][p // block_size] * block_size + p % block_size for i, p in enumerate(positions)]
    lens = [len(text) for text in texts]
    context.attention = AttentionMetadata(
        query_lens=lens,
        context_lens=[start + n for start, n in zip(starts, lens, strict=True)],
        slot_mapping=torch.cat(slots),
        block_tables=tables.int(),
        block_size=block_size,
    )
    rows = torch.tensor(lens, device=device).cumsum(0) - 1
    logits: torch.Tensor = bridge(torch.cat(texts), torch.cat(positions), rows)
    return logits


def _block_tables(block_size: int) -> tuple[list[int], list[int]]:
    """Where the two texts lie in the cache: as many blocks as they need, never two neighbours after one another."""
    first, second = (-(-(n + 1) // block_size) for n in _LENS)
    blocks = range(first + second)
    order = [*blocks[::-2], *blocks[-2::-2]]
    return order[:first], order[first:] + [0] * (first - second)  # padded to one width


@contextmanager
def _scratch_cache(bridge: "TransformersModel", context: StepContext, block_size: int) -> Iterator[None]:
    shape = bridge.cache_shape
    num_blocks = 1 + max(map(max, _block_tables(block_size)))
    size = (2, shape.num_layers, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
    k_cache, v_cache = torch.zeros(size, dtype=bridge.model.dtype, device=bridge.model.device)
    before = context.k_cache, context.v_cache, context.attention, context.lora
    context.k_cache, context.v_cache, context.lora = k_cache.unbind(), v_cache.unbind(), None
    try:
        yield
    finally:
        context.k_cache, context.v_cache, context.attention, context.lora = before


@contextmanager
def _watch(linears: dict[str, AdaptedLinear]) -> Iterator[list[str]]:
    """Collects the linears whose input was always all tokens. Experts get a selection, in an order of their own."""
    seen: dict[str, bool] = {}

    def note(name: str, x: torch.Tensor) -> None:
        num_tokens = len(_LENS) if linears[name].of_rows else sum(_LENS)
        seen[name] = seen.get(name, True) and x.numel() == num_tokens * x.shape[-1]

    handles = [
        linear.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
        for name, linear in linears.items()
    ]
    whole: list[str] = []
    yield whole
    for handle in handles:
        handle.remove()
    whole += [name for name, complete in seen.items() if complete and "experts" not in name.split(".")]


def _require_equal(ours: torch.Tensor, eager: torch.Tensor, dtype: torch.dtype) -> None:
    if not (ours.isfinite().all() and eager.isfinite().all()):
        raise ModelError(f"its logits overflow in {str(dtype).removeprefix('torch.')}, where another dtype may do")
    spread = (eager - eager.mean(-1, keepdim=True)).norm(dim=(0, 2))
    error = float(((ours - eager).norm(dim=(0, 2)) / spread).max())  # of prefill and decode, the worse
    if not error <= (_TOLERANCE if dtype == torch.float32 else _TOLERANCE_HALF):
        raise ModelError(f"its logits on our attention are {error:.1%} away from those on its own")
