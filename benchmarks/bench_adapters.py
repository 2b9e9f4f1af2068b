"""What adapters cost on this CPU, beside PEFT and vLLM: many at once, switching, comparing, loading.

    python benchmarks/bench_adapters.py [--rounds N] [--vllm-python PATH] [--json FILE] [--markdown FILE]

The starter in bfloat16 and adapters of rank 16 on all linears, as in bench_cpu.py. Every round measures everything
once, on prompts nobody has seen. Exits 0 whether or not a bar is met; the verdicts are printed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import transformers
from contestants import Ours, Peft, Vllm
from machine import environment
from report import Bar, Series, add_output_options, put_out
from workload import NUM_ADAPTERS, Prompts, starter, write_adapters

BATCH, PROMPT, NEW, MESSAGE = 8, 64, 64, 20  # rows, and tokens of a prompt, an answer, a message
MANY = 64  # adapters in slots
HISTORIES = (512, 2048)  # tokens
ROWS = [f"adapter-{row % NUM_ADAPTERS}" for row in range(BATCH)]
A, B = ROWS[:2]
BASE, MIXED, PEFT = "8 base rows", "8 rows of 4 adapters", "8 rows of 4 adapters, PEFT"
VLLM = "8 rows of 4 adapters, vLLM"
ONE, FOUR = "one answer", "the same prompt under 4 adapters"
FEW_LOADED, MANY_LOADED = "one answer, 1 adapter loaded", f"one answer, {MANY} adapters loaded"
LOAD, PEFT_LOAD = "load an adapter from disk", "load an adapter from disk, PEFT"
BARS = [
    Bar(MIXED, BASE, 1 / 0.80, at_least=False),
    Bar(MIXED, PEFT, 1 / 4, at_least=False),
    Bar(FOUR, ONE, 1.6, at_least=False),
    Bar(MANY_LOADED, FEW_LOADED, 1.1, at_least=False),
    Bar(LOAD, PEFT_LOAD, 1 / 4, at_least=False),
]
VLLM_BAR = Bar(MIXED, VLLM, 1 / 2.8, at_least=False)
Action = Callable[[], object]


class Bench:
    """One round after the other; every measurement is milliseconds of a whole call."""

    def __init__(self, model: Path, adapters: list[Path], vllm: Vllm | None) -> None:
        self.adapters = adapters
        self.vllm = vllm
        self.peft = Peft(model, adapters[:NUM_ADAPTERS])
        self.ours = Ours(model, adapters[:NUM_ADAPTERS])
        self.one_loaded = Ours(model, adapters[:1])
        self.many_loaded = Ours(model, adapters, max_loras=MANY)
        self.prompts = Prompts(self.peft.model.config.vocab_size)
        self.times: dict[str, list[float]] = {}

    def warm_up(self) -> None:
        for path in self.adapters:  # so that each is in its slot
            self.many_loaded.generate([self.prompts.make(4)], 1, path.name)
        for round_ in (self.rows, self.comparing, self.loading):
            round_()
        self.times.clear()

    def round(self) -> None:
        self.rows()
        self.comparing()
        self.loading()
        for length in HISTORIES:
            self.switching(length)

    def rows(self) -> None:
        self.measure(BASE, lambda texts: self.ours.generate(texts, NEW), BATCH)
        self.measure(MIXED, lambda texts: self.ours.generate(texts, NEW, ROWS), BATCH)
        self.measure(PEFT, lambda texts: self.peft.generate_mixed(texts, NEW, ROWS), BATCH)
        if vllm := self.vllm:
            self.measure(VLLM, lambda texts: vllm.generate_mixed(texts, NEW, ROWS), BATCH)
        self.measure(FEW_LOADED, lambda texts: self.one_loaded.generate(texts, NEW, A), 1)
        self.measure(MANY_LOADED, lambda texts: self.many_loaded.generate(texts, NEW, A), 1)

    def comparing(self) -> None:
        self.measure(ONE, lambda texts: self.ours.generate(texts, NEW, A), 1)
        self.measure(FOUR, lambda texts: self.ours.generate(texts * 4, NEW, ROWS[:4]), 1)

    def loading(self) -> None:
        path = self.adapters[NUM_ADAPTERS]  # not among those that are loaded
        self.take(LOAD, lambda: self.ours.llm.load_adapter(path, "fresh"))
        self.ours.llm.unload_adapter("fresh")
        self.take(PEFT_LOAD, lambda: self.peft.model.load_adapter(path, "fresh"))
        self.peft.model.delete_adapter("fresh")

    def switching(self, length: int) -> None:
        """First token of the answer to a message, in a conversation of `length` tokens that A has read."""
        history, stay, bare = (self.prompts.make(length) for _ in range(3))
        for conversation in (history, stay):
            self.ours.generate([conversation], 1, A)
        cold, warm = history + self.prompts.make(MESSAGE), history + self.prompts.make(MESSAGE)
        self.take(names(length)[0], lambda: self.ours.generate([stay + self.prompts.make(MESSAGE)], 1, A))
        self.take(names(length)[1], lambda: self.ours.generate([bare + self.prompts.make(MESSAGE)], 1))
        self.take(names(length)[2], lambda: self.ours.generate([cold], 1, "adapter-2"))
        self.ours.llm.prefill(history, B)
        self.take(names(length)[3], lambda: self.ours.generate([warm], 1, B))

    def measure(self, name: str, run: Callable[[list[list[int]]], list[list[int]]], rows: int) -> None:
        texts = [self.prompts.make(PROMPT) for _ in range(rows)]
        self.take(name, lambda: run(texts))

    def take(self, name: str, action: Action) -> None:
        started = time.perf_counter()
        action()
        milliseconds = (time.perf_counter() - started) * 1e3
        self.times.setdefault(name, []).append(milliseconds)
        print(f"{milliseconds:9.1f} ms  {name}", flush=True)


def names(length: int) -> list[str]:
    """Of the four measurements in a conversation of `length` tokens."""
    kinds = ("staying", "bare prefill of the base", "cold switch", "pre-warmed switch")
    return [f"first token after {length}, {kind}" for kind in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default 5)")
    parser.add_argument("--vllm-python", type=Path, metavar="PATH", help="a Python that has vllm; measures it, too")
    add_output_options(parser)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    facts, bars, model = environment(), list(BARS), starter()
    with tempfile.TemporaryDirectory(prefix="mp13-bench-") as folder:
        adapters = write_adapters(Path(folder), model, MANY)
        vllm = Vllm(options.vllm_python, model, adapters[:NUM_ADAPTERS]) if options.vllm_python else None
        try:
            bench = Bench(model, adapters, vllm)
            bench.warm_up()
            for _ in range(options.rounds):
                bench.round()
        finally:
            if vllm:
                vllm.close()
    bars += [VLLM_BAR] if vllm else []
    for length in HISTORIES:
        stay, bare, cold, warm = names(length)
        bars += [Bar(warm, stay, 1.1, at_least=False), Bar(cold, bare, 1.1, at_least=False)]
    series = [Series(name, "ms", tuple(values)) for name, values in bench.times.items()]
    put_out(series, bars, facts, options)


if __name__ == "__main__":
    main()
