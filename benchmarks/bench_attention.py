"""Attention backends on one GPU: decode as a share of copy bandwidth, prefill as a share of the matrix units' rate.

    python benchmarks/bench_attention.py [--rounds N] [--json FILE] [--markdown FILE]

The shape is Llama-3.2-3B's: 24 query heads and 8 KV heads of 128, bfloat16. Every backend that runs here is measured,
at the block size it likes best, on several caches in turn, as a model's layers have them, within a CUDA graph. A round
measures every backend once.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from machine import environment
from report import add_output_options

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.engine.attention.registry import AttentionNeed, AttentionSpec, choose_attention, why_not

HEADS, KV_HEADS, HEAD_DIM, DTYPE = 24, 8, 128, torch.bfloat16
BLOCK_SIZES = {
    "triton": 16, "sdpa": 16, "xformers": 256, "flash_attention_2": 256, "flash_attention_3": 128,
    "flash_attention_4": 128,
}  # fmt: skip
CONTEXTS = (1024, 8192, 32768)
DECODES = [(rows, context) for rows in (1, 32) for context in CONTEXTS]
MOST_BYTES = 6 * 2**30  # of caches at a time
SPEC = AttentionSpec(HEAD_DIM**-0.5)
DEVICE = torch.device("cuda")


@dataclass(frozen=True)
class Point:
    rows: int
    new: int  # tokens a row
    context: int

    @property
    def name(self) -> str:
        kind = f"decode, {self.rows} x {self.context}" if self.new == 1 else f"prefill, {self.context}"
        return kind

    @property
    def cache_bytes(self) -> int:
        return self.rows * self.context * 2 * KV_HEADS * HEAD_DIM * DTYPE.itemsize

    @property
    def flops(self) -> float:
        """Two products over the lower triangle."""
        return self.rows * 4 * HEADS * HEAD_DIM * (self.new * self.context - self.new * (self.new - 1) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each (default 9)")
    parser.add_argument("--only", nargs="*", help="backends to measure")
    add_output_options(parser)
    options = parser.parse_args()
    facts = environment()
    bandwidth, rate = copy_bandwidth(), matmul_rate()
    facts["copy bandwidth"] = f"{bandwidth / 1e12:.2f} TB/s, bytes read and written"
    facts["bfloat16 matrix product"] = f"{rate / 1e12:.0f} TFLOP/s"
    times: dict[str, dict[str, list[float]]] = {}
    for point in [Point(rows, 1, context) for rows, context in DECODES] + [Point(1, n, n) for n in CONTEXTS]:
        bound = point.cache_bytes / bandwidth if point.new == 1 else point.flops / rate
        times[point.name] = measure(point, runnable(options.only), options.rounds)
        for name, seconds in times[point.name].items():
            print(f"{point.name:20} {name:18} {median(seconds) * 1e6:9.1f} us  {bound / median(seconds):.2f} of bound")
    table = markdown(times, bandwidth, rate, facts)
    print(table)
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps({"environment": facts, "seconds": times}, indent=1), encoding="utf-8")


def runnable(only: list[str] | None) -> list[str]:
    needs = {name: AttentionNeed(DEVICE, DTYPE, HEAD_DIM, block_size) for name, block_size in BLOCK_SIZES.items()}
    return [name for name, need in needs.items() if why_not(name, need) is None and (not only or name in only)]


def measure(point: Point, backends: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of each backend, a value a round."""
    num_caches = max(2, min(24, MOST_BYTES // point.cache_bytes))
    caches = torch.randn(num_caches, 2, point.rows * point.context, KV_HEADS, HEAD_DIM, device=DEVICE, dtype=DTYPE)
    q = torch.randn(point.rows * point.new, HEADS, HEAD_DIM, device=DEVICE, dtype=DTYPE)
    replays: dict[str, Callable[[], None]] = {}
    metas = {name: step(point, BLOCK_SIZES[name]) for name in backends}  # graphs read them where they are
    expected = None
    for name in backends:
        block_size = BLOCK_SIZES[name]
        attend = choose_attention(name, AttentionNeed(DEVICE, DTYPE, HEAD_DIM, block_size)).function
        meta = metas[name]
        shape = (num_caches, 2, -1, block_size, KV_HEADS, HEAD_DIM)
        calls = [lambda k=k, v=v, attend=attend, meta=meta: attend(q, k, v, SPEC, meta) for k, v in caches.view(shape)]
        try:
            replays[name] = graph(calls)
        except Exception as error:
            print(f"{point.name}: {name} cannot be measured: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        found = calls[0]().float()
        if block_size == BLOCK_SIZES["triton"]:  # block tables, and so the order of the keys, are the same
            expected = found if expected is None else expected
            error_of = float((found - expected).norm() / expected.norm())
            assert error_of < 2e-2, f"{name} disagrees by {error_of}"
    times: dict[str, list[float]] = {name: [] for name in replays}
    for _ in range(rounds):
        for name, replay in replays.items():
            times[name].append(seconds_of(replay) / num_caches)
    return times


def step(point: Point, block_size: int) -> AttentionMetadata:
    """Blocks of a row lie in random order. What the device needs is made now, as a step makes it for all its layers."""
    num_blocks = point.context // block_size
    order = torch.randperm(point.rows * num_blocks, generator=torch.Generator().manual_seed(0))
    meta = AttentionMetadata(
        query_lens=[point.new] * point.rows,
        context_lens=[point.context] * point.rows,
        slot_mapping=torch.zeros(point.rows * point.new, dtype=torch.int64, device=DEVICE),
        block_tables=order.view(point.rows, num_blocks).int().to(DEVICE),
        block_size=block_size,
    )
    assert len(meta.cu_seqlens_q) + len(meta.cu_seqlens_k) + len(meta.seqused_k) > 0
    return meta


def graph(calls: list[Callable[[], torch.Tensor]]) -> Callable[[], None]:
    """All calls, one after the other, as one CUDA graph."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        for call in calls:
            call()
    captured.replay()
    torch.cuda.synchronize()
    return captured.replay


def seconds_of(run: Callable[[], object]) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1e-3


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 1 GiB."""
    source = torch.randn(2**29, device=DEVICE, dtype=DTYPE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median(seconds_of(lambda: target.copy_(source)) for _ in range(12))


def matmul_rate() -> float:
    a, b = torch.randn(2, 8192, 8192, device=DEVICE, dtype=DTYPE)
    return 2 * 8192**3 / median(seconds_of(lambda: a @ b) for _ in range(12))


def markdown(times: dict[str, dict[str, list[float]]], bandwidth: float, rate: float, facts: dict[str, str]) -> str:
    backends = [name for name in BLOCK_SIZES if any(name in found for found in times.values())]
    lines = [
        "| step | " + " | ".join(f"{name}, blocks of {BLOCK_SIZES[name]}" for name in backends) + " |",
        "|---" * (len(backends) + 1) + "|",
    ]
    for point in [Point(rows, 1, context) for rows, context in DECODES] + [Point(1, n, n) for n in CONTEXTS]:
        bound = point.cache_bytes / bandwidth if point.new == 1 else point.flops / rate
        cells = []
        for name in backends:
            seconds = median(times[point.name].get(name, [math.nan]))
            cells.append("-" if math.isnan(seconds) else f"{seconds * 1e6:,.1f} µs, {bound / seconds:.0%}")
        lines.append(f"| {point.name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in facts.items())]) + "\n"


if __name__ == "__main__":
    main()
