"""How long an answer's first token takes while an adapter trains in the same engine, and when none does.

    python benchmarks/bench_training_beside.py MODEL [--pairs 20] [--prompt-tokens 48]

Both are measured in turn in one engine: the run is paused for one and goes on for the other. Every prompt is new, so
that nothing of it is cached. Prints one JSON object.
"""

import argparse
import asyncio
import json
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
    begin = time.perf_counter()
    async for event in engine.generate(prompt, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)):
        if isinstance(event, TokenEvent):
            return time.perf_counter() - begin
    raise RuntimeError("no token came")


def samples(draw: random.Random, count: int) -> list[Sample]:
    def said(length: int) -> str:
        return " ".join(draw.choices(WORDS, k=length))

    return [Sample("drawn", i + 1, (Message("user", said(20)), Message("assistant", said(40)))) for i in range(count)]


async def measure(model: str, pairs: int, prompt_tokens: int) -> dict[str, object]:
    draw, told = random.Random(0), list[RunEvent]()
    engine = AsyncEngine(model, max_model_len=1024, kv_cache_memory="256MiB")
    idle, training = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"steps": 10_000, "save_every": 10_000}
        job = TrainingJob("bench", Path(folder) / "out", samples(draw, 400), settings=settings)
        run = await engine.start_training(job, told.append)
        while not any(isinstance(event, StepDone) for event in told):
            await asyncio.sleep(0.1)
        for _ in range(pairs):
            for is_training, times in ((False, idle), (True, training)):
                await engine.steer_training("go_on" if is_training else "pause")
                while not is_training and run.is_computing:  # a pause holds from the end of the row on
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.2 + draw.random() / 5)  # the arrival falls anywhere within a layer
                prompt = [draw.randrange(1000, 20_000) for _ in range(prompt_tokens)]
                if run.is_computing != is_training:
                    raise RuntimeError("the run was not as it was to be; measure again")
                times.append(await first_token(engine, prompt))
        steps = [event for event in told if isinstance(event, StepDone)]
        await engine.steer_training("cancel")
        while not run.is_over:
            await asyncio.sleep(0.01)
        await engine.close()
    return {
        "idle_median_s": statistics.median(idle),
        "training_median_s": statistics.median(training),
        "ratio": statistics.median(training) / statistics.median(idle),
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
