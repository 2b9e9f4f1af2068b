"""Where one decode step's time goes: the phases around the model, and the operators inside it.

Phases are timed without the profiler; operators with it, so their sum is a little larger than the model's phase.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from workload import NUM_ADAPTERS, Prompts, starter, write_adapters

import mp13.engine.execution.model_runner as model_runner
from mp13 import LLM, SamplingParams

SCENARIOS: dict[str, list[int | None]] = {
    "batch 1, base": [None],
    "batch 1, adapter": [0],
    "batch 8, base": [None] * 8,
    "batch 8, 4 adapters": [i % NUM_ADAPTERS for i in range(8)],
}


class PhaseClock:
    """Adds up the seconds spent in wrapped functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, attribute: str, phase: str) -> None:
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[phase] += time.perf_counter() - started

        setattr(owner, attribute, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="decode steps timed a scenario (default 100)")
    parser.add_argument("--operators", type=int, default=16, help="operators shown a scenario (default 16)")
    parser.add_argument("--context", type=int, default=64, help="prompt tokens a sequence (default 64)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mp13-profile-") as folder:
        model = starter()
        llm = LLM(model, dtype="bfloat16", device="cpu")
        for path in write_adapters(Path(folder), model):
            llm.load_adapter(path)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    clock = watch(llm)
    prompts = Prompts(llm._core.vocab_size)
    for name, rows in SCENARIOS.items():
        show(name, llm, clock, [prompts.make(options.context) for _ in rows], rows, options)


def watch(llm: LLM) -> PhaseClock:
    clock, core = PhaseClock(), llm._core
    clock.wrap(core.scheduler, "schedule", "schedule")
    clock.wrap(core.scheduler, "computed", "schedule")
    clock.wrap(model_runner, "batch_tensors", "batch tensors")
    clock.wrap(model_runner, "make_lora_batch", "lora batch")
    clock.wrap(core.runner, "model", "model")
    clock.wrap(model_runner, "sample", "sample")
    clock.wrap(core, "_append", "detokenize, events")
    return clock


def show(
    name: str,
    llm: LLM,
    clock: PhaseClock,
    prompts: list[list[int]],
    rows: list[int | None],
    options: argparse.Namespace,
) -> None:
    core = llm._core
    params = SamplingParams(temperature=0, max_tokens=options.steps + 100, ignore_eos=True)
    mixes = [None if row is None else f"adapter-{row}" for row in rows]
    ids = [core.add(prompt, params, mix) for prompt, mix in zip(prompts, mixes, strict=True)]
    for _ in range(10):
        core.step()
    steps, phases = [], defaultdict(list)
    for _ in range(options.steps):
        clock.seconds.clear()
        started = time.perf_counter()
        core.step()
        steps.append(time.perf_counter() - started)
        for phase, seconds in clock.seconds.items():
            phases[phase].append(seconds)
    num_profiled = 20
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(num_profiled):
            core.step()
    for request_id in ids:
        core.abort(request_id)
    step = median(steps)
    print(f"\n{name}: {step * 1e3:.2f} ms a step ({len(rows) / step:.1f} tok/s), best {min(steps) * 1e3:.2f}")
    print("  " + ", ".join(f"{phase} {median(seconds) * 1e3:.2f}" for phase, seconds in phases.items()))
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events) / num_profiled / 1e3
    print(f"  operators, self ms a step (sum {total:.2f}):")
    for event in events[: options.operators]:
        self_ms = event.self_cpu_time_total / num_profiled / 1e3
        print(f"    {self_ms:7.3f}  {event.count / num_profiled:6.0f} x  {event.key}")


if __name__ == "__main__":
    main()
