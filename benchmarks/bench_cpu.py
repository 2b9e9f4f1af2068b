"""Our speed on this CPU beside Transformers and PEFT, on the starter in bfloat16: `make bench`.

Every round measures every contestant once, on prompts nobody has seen, and begins with another one. Speeds are new
tokens over the whole call, prompt included. Exits 0 whether or not a bar is met; the verdicts are printed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import transformers
from contestants import Ours, Peft, Transformers
from machine import environment
from report import Bar, Series, add_output_options, put_out
from switching import SWITCH_BARS, measure_switches
from workload import NUM_ADAPTERS, Prompts, starter, write_adapters

BATCH = 8
ROW_ADAPTERS = [f"adapter-{row % NUM_ADAPTERS}" for row in range(BATCH)]
BARS = [
    Bar("ours, batch 1 base", "generate, batch 1 base", 1.3),
    Bar("ours, batch 1 adapter", "generate + PEFT, batch 1 adapter", 1.5),
    Bar("ours, batch 8 base", "generate, batch 8 base", 1.0),
    Bar("ours, batch 8, 4 adapters", "PEFT adapter_names, batch 8, 4 adapters", 3.5),
    Bar("ours, batch 8, 4 adapters", "ours, batch 8 base", 0.70),
]


@dataclass(frozen=True)
class Sizes:
    """Tokens of the prompt, of the answer, and of the conversation that a switch finds."""

    prompt: int = 64
    new: int = 64
    history: int = 512


Run = Callable[[list[list[int]], int], list[list[int]]]  # (prompts, number of new tokens) -> new tokens


def throughput_runs(theirs: Transformers, peft: Peft, ours: Ours) -> dict[str, tuple[int, Run]]:
    """Name -> (rows, what to run)."""
    one = ROW_ADAPTERS[0]
    return {
        "generate, batch 1 base": (1, theirs.generate),
        "ours, batch 1 base": (1, ours.generate),
        "generate + PEFT, batch 1 adapter": (1, lambda p, n: peft.generate_with(p, n, one)),
        "ours, batch 1 adapter": (1, lambda p, n: ours.generate(p, n, one)),
        "generate, batch 8 base": (BATCH, theirs.generate),
        "ours, batch 8 base": (BATCH, ours.generate),
        "PEFT adapter_names, batch 8, 4 adapters": (BATCH, lambda p, n: peft.generate_mixed(p, n, ROW_ADAPTERS)),
        "ours, batch 8, 4 adapters": (BATCH, lambda p, n: ours.generate(p, n, ROW_ADAPTERS)),
    }


def measure_throughput(runs: dict[str, tuple[int, Run]], prompts: Prompts, sizes: Sizes, rounds: int) -> list[Series]:
    for rows, run in runs.values():  # warm-up
        run([prompts.make(sizes.prompt) for _ in range(rows)], 4)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for round_ in range(rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            rows, run = runs[name]
            texts = [prompts.make(sizes.prompt) for _ in range(rows)]
            started = time.perf_counter()
            answers = run(texts, sizes.new)
            seconds = time.perf_counter() - started
            if (made := sum(map(len, answers))) != rows * sizes.new:
                raise RuntimeError(f"{name} made {made} tokens instead of {rows * sizes.new}")
            speeds[name].append(made / seconds)
            print(f"round {round_ + 1}  {made / seconds:8.1f} tok/s  {name}", flush=True)
    return [Series(name, "tok/s", tuple(values)) for name, values in speeds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contestant (default 5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of fewer tokens: shows that it runs, no more")
    add_output_options(parser)
    options = parser.parse_args()
    sizes, rounds = (Sizes(new=16, history=128), 2) if options.quick else (Sizes(), options.rounds)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    facts = environment()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)

    model = starter()
    with tempfile.TemporaryDirectory(prefix="mp13-bench-") as folder:
        adapters = write_adapters(Path(folder), model)
        theirs, peft, ours = Transformers(model), Peft(model, adapters), Ours(model, adapters)
    prompts = Prompts(theirs.model.config.vocab_size)
    series = measure_throughput(throughput_runs(theirs, peft, ours), prompts, sizes, rounds)
    series += measure_switches(peft, ours, prompts, sizes.history, rounds)
    put_out(series, BARS + SWITCH_BARS, facts, options)


if __name__ == "__main__":
    main()
