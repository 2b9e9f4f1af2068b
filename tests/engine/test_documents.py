"""Attention of packed texts, as training needs it: each form computes the reference, forward and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mp13.engine.attention import blocked, documents
from mp13.engine.attention.blocked import BlockedLayout, blocked_attention
from mp13.engine.attention.documents import Documents, attend_documents
from mp13.engine.attention.reference import attend
from mp13.engine.attention.registry import AttentionSpec

SCALE = 0.3
LENS = (40, 1, 37, 300, 5, 129, 128, 33, 41)


def states(num_tokens: int, heads: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, heads, 16, generator=draw).to(dtype).requires_grad_()


def inputs(lens: tuple[int, ...], heads: int, kv_heads: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [states(sum(lens), n, seed, dtype) for seed, n in enumerate((heads, kv_heads, kv_heads))]


def reference(qkv: list[torch.Tensor], lens: tuple[int, ...], window: int | None, softcap: float = 0.0) -> torch.Tensor:
    seen = (-1 if window is None else window - 1, 0)
    parts = zip(*(torch.split(x, list(lens)) for x in qkv), strict=True)
    return torch.cat([attend(q, k, v, SCALE, causal=True, window_size=seen, softcap=softcap) for q, k, v in parts])


def gradients(out: torch.Tensor, qkv: list[torch.Tensor]) -> list[torch.Tensor]:
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, qkv, grad)]


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 20, 150, 1000])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_blocks_of_products_are_the_reference(heads: int, kv_heads: int, window: int | None) -> None:
    qkv = inputs(LENS, heads, kv_heads)
    out = blocked_attention(*qkv, BlockedLayout(LENS), SCALE, window)
    assert_equal(gradients(out, qkv), gradients(reference(qkv, LENS, window), qkv))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.sampled_from([None, 7]), st.integers(8, 64))
def test_texts_of_any_lengths(lens: list[int], window: int | None, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "_BLOCK", block)
        patch.setattr(blocked, "_MULTIPLE", 4)
        qkv, some = inputs(tuple(lens), 2, 1), tuple(lens)
        out = blocked_attention(*qkv, BlockedLayout(some), SCALE, window)
        assert_equal(gradients(out, qkv), gradients(reference(qkv, some, window), qkv))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_texts_of_like_length_go_together_with_little_padding(lens: list[int]) -> None:
    layout = BlockedLayout(tuple(lens))
    assert layout.places.unique().numel() == sum(lens)
    assert torch.equal(layout.spread[layout.places], torch.arange(sum(lens)))
    assert sum(group.count for group in layout.groups) == len(lens)
    rows = sum(group.count * group.length for group in layout.groups)
    assert rows == len(layout.spread) <= sum(lens) / 0.75 + 32 * len(lens)
    assert all(group.count == 1 or group.length <= 128 for group in layout.groups)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_what_torch_computes_is_the_reference(window: int | None, softcap: float) -> None:
    qkv = inputs(LENS, 6, 2)
    out = attend_documents(*qkv, AttentionSpec(SCALE, window, softcap), Documents(LENS))
    assert_equal(gradients(out, qkv), gradients(reference(qkv, LENS, window, softcap), qkv))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_in_bfloat16_the_form_goes_by_the_cpu(monkeypatch: pytest.MonkeyPatch, fast: bool, softcap: float) -> None:
    used = []
    monkeypatch.setattr(documents, "has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr(
        documents, "blocked_attention", lambda *args: used.append(args) or blocked_attention(*args)
    )  # fmt: skip
    qkv = inputs(LENS, 6, 2, torch.bfloat16)
    out = attend_documents(*qkv, AttentionSpec(SCALE, None, softcap), Documents(LENS))
    assert len(used) == (fast and not softcap)
    exact = [x.detach().float().requires_grad_() for x in qkv]
    for one, other in zip(gradients(out, qkv), gradients(reference(exact, LENS, None, softcap), exact), strict=True):
        assert float((one.float() - other).norm() / other.norm()) < 0.02
