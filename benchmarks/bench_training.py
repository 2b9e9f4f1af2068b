"""How fast an adapter trains, in how much memory and to which loss, beside Transformers' Trainer with PEFT, and TRL.

    python benchmarks/bench_training.py [--trl-python PATH] [--shape SHAPE] [--steps N] [--rounds N] [--json FILE]

The model is the starter, the samples are those that its pirate adapter is made of, a tenth of them held out. TRL packs
without padding and gets our packs in our order; the Trainer pads batches of about as many tokens, in random order.
Everybody has the same settings, one run a round in a process of its own. PEFT judges the held-out loss, in float32.
TRL needs a Python of its own: `pip install trl` beside our packages.

With `--shape`, the model has random weights of a known model's shape, and the samples random tokens, of which there is
nothing to learn: speed and memory alone are measured. Their lengths are drawn from the first 200 requests of the Azure
LLM inference trace 2023, conversation (Patel et al., ISCA 2024; github.com/Azure/AzurePublicDataset, CC-BY), without
those that are longer than a batch.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from machine import environment
from random_model import SHAPES, write_model
from report import Bar, Series, add_output_options, put_out
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from mp13.engine.training.config import TrainConfig
from mp13.engine.training.packing import Sampler
from mp13.library.starter import install_starter

DATA = Path(__file__).parents[1] / "training" / "starter" / "data" / "pirate_train.jsonl"
WORKER = Path(__file__).with_name("training_contestant.py")
LENGTHS = Path(__file__).parent / "lengths" / "azure-conversation-2023.csv"
NUM_RANDOM = 2000
NAMES = {"ours": "mp13", "trainer": "Trainer with PEFT, padded", "trl": "TRL, packed"}
Sample = tuple[list[int], list[bool]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=59, help="optimizer steps; 59 are one pass (default)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the base")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--trl-python", help="a Python with TRL; without it, TRL is left out")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape instead of the starter")
    parser.add_argument("--quantization", default="none", help="of our base; then we are measured alone")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    add_output_options(parser)
    options = parser.parse_args()
    others = [] if options.quantization != "none" else ["trainer", *(["trl"] if options.trl_python else [])]
    contestants = ["ours", *others]
    measured: dict[str, list[dict[str, float]]] = {kind: [] for kind in contestants}
    facts = environment()
    with tempfile.TemporaryDirectory() as scratch:
        model = write_model(Path(scratch) / "model", SHAPES[options.shape]) if options.shape else install_starter()
        samples = random_samples(SHAPES[options.shape], options.batch_tokens) if options.shape else read_samples(model)
        random.Random(0).shuffle(samples)
        held_out, learned = samples[: len(samples) // 10], samples[len(samples) // 10 :]
        work = Path(scratch) / "work.json"
        work.write_text(json.dumps(plan(model, learned, options)))
        for turn in range(options.rounds):
            for kind in contestants[turn % len(contestants) :] + contestants[: turn % len(contestants)]:
                python = options.trl_python if kind == "trl" else sys.executable
                folder = Path(scratch) / f"{kind}-{turn}"
                result = run(python, kind, work, folder)
                if not options.shape:
                    result["loss"] = judge(model, folder, held_out)
                print(f"{NAMES[kind]}: {result}", flush=True)
                measured[kind].append(result)
    whats = [("speed", "tok/s", "tokens_per_s", 1.0), ("peak memory", "GiB", "peak_bytes", 2.0**-30)]
    if not options.shape:
        whats.append(("held-out loss", "mnat", "loss", 1000.0))
    series = [
        Series(f"{what}, {NAMES[kind]}", unit, tuple(one[key] * factor for one in measured[kind]))
        for what, unit, key, factor in whats
        for kind in contestants
    ]
    put_out(series, bars(others, judged=not options.shape), facts, options)


def bars(others: list[str], *, judged: bool) -> list[Bar]:
    limits = {"trl": 1.3 if torch.cuda.is_available() else 1.2, "trainer": 1.5}
    found = []
    for kind in others:
        found.append(Bar(f"speed, {NAMES['ours']}", f"speed, {NAMES[kind]}", limits[kind]))
        found.append(Bar(f"peak memory, {NAMES['ours']}", f"peak memory, {NAMES[kind]}", 1.0, at_least=False))
        if judged and kind == "trl":  # the Trainer's batches are others, so its loss only stands beside
            found.append(Bar(f"held-out loss, {NAMES['ours']}", f"held-out loss, {NAMES[kind]}", 1.01, at_least=False))
    return found


def read_samples(model: Path) -> list[Sample]:
    """Token ids of each conversation, and which are the last answer's and its end mark's."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    samples = []
    for line in DATA.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line).get("messages")
        if messages:
            text = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
            prompt = tokenizer(text).input_ids
            answer = [*tokenizer(messages[-1]["content"]).input_ids, tokenizer.eos_token_id]
            samples.append((prompt + answer, [False] * len(prompt) + [True] * len(answer)))
    return samples


def random_samples(shape: Mapping[str, Any], longest: int) -> list[Sample]:
    with LENGTHS.open(newline="") as file:
        lengths = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]
    draw, samples = random.Random(0), []
    for prompt, answer in draw.choices([pair for pair in lengths if sum(pair) <= longest], k=NUM_RANDOM):
        ids = [draw.randrange(shape["vocab_size"]) for _ in range(prompt + answer)]
        samples.append((ids, [False] * prompt + [True] * answer))
    return samples


def plan(model: Path, samples: list[Sample], options: argparse.Namespace) -> dict[str, Any]:
    """What every contestant gets."""
    settings = {
        "rank": 16, "alpha": 32, "lr": 1e-3, "schedule": "cosine", "warmup_steps": 3, "seed": 0,
        "steps": options.steps, "batch_tokens": options.batch_tokens,
        "gradient_checkpointing": options.gradient_checkpointing,
    }  # fmt: skip
    lens = [len(ids) for ids, _ in samples]
    sampler = Sampler(lens, TrainConfig(**settings))
    shuffled = [i for seed in range(9) for i in random.Random(seed).sample(range(len(lens)), len(lens))]
    return {
        "model": str(model), "dtype": options.dtype, "device": "cuda" if torch.cuda.is_available() else "cpu",
        "quantization": options.quantization, "settings": settings, "samples": samples, "shuffled": shuffled,
        "packs": [pack for step in range(options.steps) for pack in sampler.step(step)],
        "rows_a_batch": max(1, round(options.batch_tokens * len(lens) / sum(lens))),
    }  # fmt: skip


def run(python: str, kind: str, work: Path, folder: Path) -> dict[str, float]:
    done = subprocess.run([python, WORKER, kind, work, folder], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{NAMES[kind]} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@torch.inference_mode()
def judge(model: Path, adapter: Path, samples: list[Sample]) -> float:
    """The mean loss over all the answers' tokens."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    judged = peft.PeftModel.from_pretrained(base, adapter).eval()
    total, count = 0.0, 0
    for ids, mask in samples:
        places = torch.tensor([i for i in range(1, len(ids)) if mask[i]])
        tokens = torch.tensor(ids)
        logits = judged(input_ids=tokens[None]).logits[0]
        total += float(cross_entropy(logits[places - 1], tokens[places], reduction="sum"))
        count += len(places)
    return total / count


if __name__ == "__main__":
    main()
