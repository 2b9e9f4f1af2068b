"""What an engine takes of a GPU, beside the estimate that was made before it was loaded.

    python benchmarks/bench_memory.py [--shape llama-8b | smollm2] [--model FOLDER] [--cap 8GiB]
        [--quantization TEXT] [--json FILE]

The process is given `--cap` of the GPU, as if the card had no more. A model of random weights is loaded, eight adapters
of rank 16 on all its linears, and four conversations of nearly `--max-model-len` tokens are answered, each under two of
the adapters, so that a step has all eight; what the cache cannot hold at once waits or is computed again. Then two
mixes judge a text. Exits with 1 where a peak leaves the share or is more than a tenth away from the estimate.
"""

import argparse
import json
import random
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from machine import environment
from random_model import SHAPES, write_model
from workload import write_adapters

from mp13 import LLM, SamplingParams
from mp13.engine.config import EngineConfig
from mp13.engine.models.footprint import weight_format
from mp13.engine.request import ErrorEvent
from mp13.engine.sizes import parse_size, shown_size
from mp13.library.fit import Fit, estimate_fit, read_model

TOLERANCE = 0.1


@dataclass(frozen=True)
class Measured:
    """Bytes; `peak` is the most that was allocated at once, `reserved` the most that torch held for it."""

    weights: int
    cache: int
    adapters: int
    step: int  # beside all that stays
    peak: int
    reserved: int
    loading_peak: int
    longest: int
    cache_tokens: int
    preemptions: int
    answers: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--model", type=Path, help="a model's folder, in place of a random one")
    parser.add_argument("--cap", default="8GiB", help="what this process may have of the GPU (default 8GiB)")
    parser.add_argument("--share", type=float, default=0.9, help="gpu_memory_utilization, of that (default 0.9)")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=4, help="conversations, and max_num_seqs (default 4)")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write all values there")
    options = parser.parse_args()
    cap, total = parse_size(options.cap), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or write_model(Path(folder) / "model", SHAPES[options.shape])
        config = EngineConfig(
            str(model), quantization=options.quantization, gpu_memory_utilization=options.share, device="cuda",
            attn_implementation=options.attention, max_model_len=options.max_model_len, max_num_seqs=options.rows,
            max_loras=options.adapters,
        )  # fmt: skip
        adapters = write_adapters(Path(folder), model, options.adapters)
        found = read_model(model)
        shape, itemsize = found.shape, found.itemsize
        fit = estimate_fit(shape, config, weight_format(config.quantization, itemsize), min(cap, total), on_gpu=True)
        measured = measure(config, adapters)
    good = report(fit, measured, int(min(cap, total) * options.share))
    if options.json:
        values = {"environment": environment(), "config": asdict(config), "estimate": asdict(fit)}
        options.json.write_text(json.dumps({**values, "measured": asdict(measured), "within": good}, indent=2))
    sys.exit(not good)


def measure(config: EngineConfig, adapters: list[Path]) -> Measured:
    torch.cuda.reset_peak_memory_stats()
    llm = LLM(**asdict(config))
    core = llm._core
    cache = core.runner._cache.keys.nbytes + core.runner._cache.values.nbytes
    loading_peak, loaded = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    names = [llm.load_adapter(path).name for path in adapters]
    mixes = ["+".join(names[i :: config.max_num_seqs]) or "base" for i in range(config.max_num_seqs)]
    draw = random.Random(0)
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)

    def prompt(length: int) -> list[int]:
        return [draw.randrange(10, core.vocab_size) for _ in range(length)]

    torch.cuda.reset_peak_memory_stats()
    llm.generate([prompt(16) for _ in mixes], params, mixes)  # brings every adapter into a slot
    resident = torch.cuda.memory_allocated() - loaded
    outputs = llm.generate([prompt(core.max_model_len - 64) for _ in mixes], params, mixes)
    assert all(len(output.token_ids) == params.max_tokens for output in outputs), "an answer was cut off"
    judge(llm, prompt(min(2048, core.max_model_len)), mixes[:2])
    return Measured(
        weights=loaded - cache,
        cache=cache,
        adapters=resident,
        step=torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated(),
        peak=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        loading_peak=loading_peak,
        longest=core.max_model_len,
        cache_tokens=core.info.kv_cache_tokens,
        preemptions=core.scheduler.num_preemptions,
        answers=len(outputs),
    )


def judge(llm: LLM, token_ids: list[int], mixes: list[str]) -> None:
    """Steps of the most logits: mixes judge a text side by side."""
    llm._core.score(token_ids, mixes)
    while llm._core.has_work():
        for event in llm._core.step():
            assert not isinstance(event, ErrorEvent), event.error


def report(fit: Fit, measured: Measured, share: int) -> bool:
    """Print the estimate beside what was measured; whether the peak is within the share and near the estimate."""
    rows = [
        ("weights", fit.weights, measured.weights), ("adapters", fit.adapters, measured.adapters),
        ("a step", fit.activations, measured.step), ("cache", fit.cache, measured.cache),
        ("peak", fit.total, measured.peak), ("held by torch", share, measured.reserved),
        ("peak while loading", fit.total, measured.loading_peak),
    ]  # fmt: skip
    print(f"{'':<20}{'estimate':>12}{'measured':>12}")
    for name, estimate, found in rows:
        print(f"{name:<20}{shown_size(estimate):>12}{shown_size(found):>12}   {found / max(1, estimate):.3f}")
    print(
        f"{measured.answers} answers of up to {measured.longest} tokens, cache for {measured.cache_tokens} "
        f"(estimated {fit.cache_tokens}), {measured.preemptions} preemptions; the share is {shown_size(share)}"
    )
    near = abs(measured.peak / fit.total - 1) <= TOLERANCE
    within = max(measured.peak, measured.loading_peak) <= share
    print(f"{'met   ' if near else 'MISSED'}  peak within {TOLERANCE:.0%} of the estimate")
    print(f"{'met   ' if within else 'MISSED'}  what is allocated within the share")
    return near and within


if __name__ == "__main__":
    main()
