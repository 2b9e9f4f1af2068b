"""How long an answer's first token takes while an adapter trains in the same engine, and when none does.

    python benchmarks/bench_training_beside.py MODEL [--pairs 20] [--prompt-tokens 48]

All are measured in turn in one engine: the run is paused, or goes on. After a pause caches and threads are cold, which
training keeps warm; so it is measured idle twice, also right after another answer. Every prompt is new, so that nothing
of it is cached. While the run is paused it must compute nothing up to the end of an answer, while it goes on something
in each. `longest_wait_s` is how much later than usual the latest first token came while the adapter trained;
`longest_piece_s` is the longest stretch in which the model was not free, whether somebody waited or not. Prints
one JSON object.
"""

import argparse
import asyncio
import json
import math
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mp13 import AsyncEngine, SamplingParams
from mp13.engine.request import TokenEvent
from mp13.engine.training.events import RunEvent, StepDone
from mp13.engine.training.job import TrainingJob
from mp13.engine.training.sample import Message, Sample

WORDS = "river stone lamp copper window garden silver paper engine cloud market winter bread sailor".split()


async def first_token(engine: AsyncEngine, prompt: list[int]) -> float:
    begin, first = time.perf_counter(), math.nan
    async for event in engine.generate(prompt, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)):
        if isinstance(event, TokenEvent) and math.isnan(first):
            first = time.perf_counter() - begin
    return first


def samples(draw: random.Random, count: int) -> list[Sample]:
    def said(length: int) -> str:
        return " ".join(draw.choices(WORDS, k=length))

    return [Sample("drawn", i + 1, (Message("user", said(20)), Message("assistant", said(40)))) for i in range(count)]


async def measure(model: str, pairs: int, prompt_tokens: int) -> dict[str, object]:
    draw, told = random.Random(0), list[RunEvent]()
    engine = AsyncEngine(model, max_model_len=1024, kv_cache_memory="256MiB")
    times: dict[str, list[float]] = {"idle": [], "warm": [], "training": []}
    pieces: dict[str, list[int]] = {arm: [] for arm in times}

    def prompt() -> list[int]:
        return [draw.randrange(1000, 20_000) for _ in range(prompt_tokens)]

    with tempfile.TemporaryDirectory() as folder:
        settings = {"steps": 10_000, "save_every": 10_000}
        job = TrainingJob("bench", Path(folder) / "out", samples(draw, 400), settings=settings)
        run = await engine.start_training(job, told.append)
        while not any(isinstance(event, StepDone) for event in told):
            await asyncio.sleep(0.1)
        for _ in range(pairs):
            for arm in times:
                is_training = arm == "training"
                await engine.steer_training("go_on" if is_training else "pause")
                while not is_training and run.is_computing:  # a pause holds from the end of the row on
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.2 + draw.random() / 5)  # the arrival falls anywhere within a layer
                if arm == "warm":
                    await first_token(engine, prompt())
                before = run.num_pieces
                times[arm].append(await first_token(engine, prompt()))
                pieces[arm].append(run.num_pieces - before)
                if (pieces[arm][-1] > 0) != is_training:
                    raise RuntimeError(f"{arm}: the run computed {pieces[arm][-1]} pieces; measure again")
        steps = [event for event in told if isinstance(event, StepDone)]
        await engine.steer_training("cancel")
        while not run.is_over:
            await asyncio.sleep(0.01)
        await engine.close()
    return {
        **{f"{arm}_median_s": statistics.median(found) for arm, found in times.items()},
        **{f"{arm}_max_s": max(found) for arm, found in times.items()},
        "ratio": statistics.median(times["training"]) / statistics.median(times["idle"]),
        "ratio_to_warm": statistics.median(times["training"]) / statistics.median(times["warm"]),
        "longest_wait_s": max(times["training"]) - statistics.median(times["warm"]),
        "pieces_computed_during_an_answer": {arm: statistics.median(found) for arm, found in pieces.items()},
        "pairs": pairs,
        "steps": len(steps),
        "longest_piece_s": max(step.longest_piece_s for step in steps),
        "median_longest_piece_of_a_step_s": statistics.median(step.longest_piece_s for step in steps),
        "training_tokens_per_s": statistics.median(step.tokens_per_s for step in steps),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--prompt-tokens", type=int, default=48)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.model, arguments.pairs, arguments.prompt_tokens)), indent=1))


if __name__ == "__main__":
    main()
