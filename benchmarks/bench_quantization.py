"""What quantizing costs and gains on this CPU: bytes, KL per token to bfloat16 on a fixed text, and decoding speed of
4 bits beside bfloat16, on the starter.

The text is quantization_text.txt, written for this. Speeds are tokens after the first over their time, one answer at a
time; a round measures both, and begins with the other one. Exits 0 whether or not the bar is met.
"""

import argparse
from pathlib import Path
from time import perf_counter

import torch
from contestants import Ours
from machine import environment
from report import Bar, Series, add_output_options, put_out
from workload import Prompts, starter

from mp13 import SamplingParams
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.quantized_weight import QuantizedWeight
from mp13.engine.merging.agreement import compare, log_probs

TEXT = Path(__file__).with_name("quantization_text.txt")
WIDTHS = ("hqq-8bit", "hqq-4bit", "hqq-4bit g32", "hqq-4bit head 4bit", "hqq-4bit axis0", "hqq-3bit", "hqq-2bit")
FAST = "hqq-4bit head 4bit"
BARS = [Bar(f"decode, {FAST}", "decode, bfloat16", 1.8)]
PROMPT, NEW = 64, 64  # tokens


def weight_bytes(model: torch.nn.Module) -> int:
    """Of the linears in the layers and the head."""
    linears = [module.base for module in model.modules() if isinstance(module, AdaptedLinear)]
    return sum(base.num_bytes if isinstance(base, QuantizedWeight) else 2 * base.shape.numel() for base in linears)


def decode_speed(llm: Ours, prompt: list[int]) -> float:
    """Tokens a second after the first."""
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    times: list[float] = []
    llm.llm.generate([prompt], params, on_token=lambda *_: times.append(perf_counter()))
    return (len(times) - 1) / (times[-1] - times[0])


def measure_speed(rounds: int) -> list[Series]:
    model = starter()
    contestants = {"bfloat16": Ours(model, []), FAST: Ours(model, [], quantization=FAST)}
    prompts = Prompts(contestants["bfloat16"].llm._core.vocab_size)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for llm in contestants.values():  # warm-up
        decode_speed(llm, prompts.make(PROMPT))
    for round_ in range(rounds):
        for name in list(contestants)[:: -1 if round_ % 2 else 1]:
            speeds[name].append(decode_speed(contestants[name], prompts.make(PROMPT)))
            print(f"round {round_ + 1}  {speeds[name][-1]:8.1f} tok/s  {name}", flush=True)
    return [Series(f"decode, {name}", "tok/s", tuple(values)) for name, values in speeds.items()]


def print_quality() -> None:
    """A Markdown table of bytes and KL by width."""
    model = starter()
    full = Ours(model, []).llm._core
    ids = [full.tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"]]
    wanted, full_bytes = log_probs(full, ids, "base"), weight_bytes(full.runner.model)
    print(f"\n{len(ids[0])} tokens; KL(bfloat16 || quantized) in nats\n")
    print("| quantization | weights | of bfloat16 | KL per token |\n|---|---|---|---|", flush=True)
    for name in WIDTHS:
        core = Ours(model, [], quantization=name).llm._core
        found, num_bytes = compare(wanted, log_probs(core, ids, "base")), weight_bytes(core.runner.model)
        share = num_bytes / full_bytes
        print(f"| `{name}` | {num_bytes / 1e6:.1f} MB | {share:.2f} | {found.mean_kl:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each speed (default 5)")
    parser.add_argument("--only", choices=("speed", "quality"), help="leave the other out")
    add_output_options(parser)
    options = parser.parse_args()
    facts = environment()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    if options.only != "speed":
        print_quality()
    if options.only != "quality":
        put_out(measure_speed(options.rounds), BARS, facts, options)


if __name__ == "__main__":
    main()
