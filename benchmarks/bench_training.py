"""How fast an adapter trains, in how much memory and to which loss, beside Transformers' Trainer with PEFT, and TRL.

    python benchmarks/bench_training.py [--trl-python PATH] [--steps N] [--rounds N] [--json FILE] [--markdown FILE]

The model is the starter, the samples are those that its pirate adapter is made of, a tenth of them held out. TRL packs
without padding and gets our packs in our order; the Trainer pads batches of about as many tokens, in random order.
Everybody has the same settings, one run a round in a process of its own. PEFT judges the held-out loss, in float32.
TRL needs a Python of its own: `pip install trl` beside our packages.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import peft
import torch
from machine import environment
from report import Bar, Series, add_output_options, put_out
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from mp13.engine.training.config import TrainConfig
from mp13.engine.training.packing import Sampler
from mp13.library.starter import install_starter

DATA = Path(__file__).parents[1] / "training" / "starter" / "data" / "pirate_train.jsonl"
WORKER = Path(__file__).with_name("training_contestant.py")
NAMES = {"ours": "mp13", "trainer": "Trainer with PEFT, padded", "trl": "TRL, packed"}
Sample = tuple[list[int], list[bool]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=59, help="optimizer steps; 59 are one pass (default)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the base")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--trl-python", help="a Python with TRL; without it, TRL is left out")
    add_output_options(parser)
    options = parser.parse_args()
    facts, model = environment(), install_starter()
    samples = read_samples(model)
    random.Random(0).shuffle(samples)
    held_out, learned = samples[: len(samples) // 10], samples[len(samples) // 10 :]
    contestants = ["ours", "trainer", *(["trl"] if options.trl_python else [])]
    measured: dict[str, list[dict[str, float]]] = {kind: [] for kind in contestants}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "work.json"
        work.write_text(json.dumps(plan(model, learned, options)))
        for turn in range(options.rounds):
            for kind in contestants[turn % len(contestants) :] + contestants[: turn % len(contestants)]:
                python = options.trl_python if kind == "trl" else sys.executable
                folder = Path(scratch) / f"{kind}-{turn}"
                result = run(python, kind, work, folder) | {"loss": judge(model, folder, held_out)}
                print(f"{NAMES[kind]}: {result}", flush=True)
                measured[kind].append(result)
    series = [
        Series(f"{what}, {NAMES[kind]}", unit, tuple(one[key] * factor for one in measured[kind]))
        for what, unit, key, factor in (
            ("speed", "tok/s", "tokens_per_s", 1.0), ("peak memory", "GiB", "peak_bytes", 2.0**-30),
            ("held-out loss", "mnat", "loss", 1000.0),
        )
        for kind in contestants
    ]  # fmt: skip
    put_out(series, bars(contestants), facts, options)


def bars(contestants: list[str]) -> list[Bar]:
    limits = {"trl": 1.2, "trainer": 1.5}
    found = []
    for kind in contestants[1:]:
        found.append(Bar(f"speed, {NAMES['ours']}", f"speed, {NAMES[kind]}", limits[kind]))
        found.append(Bar(f"peak memory, {NAMES['ours']}", f"peak memory, {NAMES[kind]}", 1.0, at_least=False))
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


def plan(model: Path, samples: list[Sample], options: argparse.Namespace) -> dict[str, Any]:
    """What every contestant gets."""
    settings = {
        "rank": 16, "alpha": 32, "lr": 1e-3, "schedule": "cosine", "warmup_steps": 3, "seed": 0,
        "steps": options.steps, "batch_tokens": options.batch_tokens,
    }  # fmt: skip
    lens = [len(ids) for ids, _ in samples]
    sampler = Sampler(lens, TrainConfig(**settings))
    shuffled = [i for seed in range(9) for i in random.Random(seed).sample(range(len(lens)), len(lens))]
    return {
        "model": str(model), "dtype": options.dtype, "device": "cuda" if torch.cuda.is_available() else "cpu",
        "settings": settings, "samples": samples, "shuffled": shuffled,
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
