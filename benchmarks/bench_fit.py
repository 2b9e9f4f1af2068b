"""What an engine's process takes of main memory, beside what `mp13config` says before under "Will it fit?".

    python benchmarks/bench_fit.py [--shape qwen-0.5b | llama-1b | smollm2] [--model FOLDER] [--quantization TEXT]...
        [--context N]... [--max-num-seqs N] [--json FILE] [--markdown FILE]

Without `--shape` or `--model` the model is the starter. For each quantization and context, the wizard's choice is
written into a profile as the wizard writes it, and an engine is started from that as the chat starts it. It is given as
many adapters of rank 16 as it keeps room for, then as many conversations as its cache holds, each nearly as long as the
context, with all adapters among them; at last two mixes judge a text. Linux counts what was in memory at most.
Exits with 1 where that is more than a tenth away from what was said.

Said is what the wizard's table shows, and what the program takes by itself, which it takes off the memory that is free.
The peak is that after loading: while a model loads, pages of its files are in memory besides, as long as nobody else
wants the memory.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import environment
from random_model import SHAPES, write_model
from workload import starter, write_adapters

from mp13.chat.settings.load import load_settings
from mp13.chat.wizard.draft import Draft
from mp13.chat.wizard.grid import fit_grid
from mp13.engine.sizes import shown_size
from mp13.library.machine import Survey, computer, room_here, survey
from mp13.library.measures import measure_model
from mp13.service.client import EngineClient
from mp13.service.launcher import connect
from mp13.service.schema import (
    CountRequest,
    EngineInfo,
    GenerateRequest,
    Message,
    ReadyEvent,
    SamplingParams,
    ScoreRequest,
)

TOLERANCE = 0.1
_ANSWER = 16  # tokens
_JUDGED = 2048  # tokens at most


@dataclass(frozen=True)
class Row:
    """Bytes. `table` is what the wizard's table shows, and `parts` what that is the sum of. The last four are peaks."""

    quantization: str
    context: int
    table: int
    parts: str
    program: int
    cache_tokens: int
    conversations: int
    loading: int
    with_adapters: int
    answering: int
    judging: int

    @property
    def said(self) -> int:
        return self.table + self.program

    @property
    def ratio(self) -> float:
        return self.peak / self.said

    @property
    def peak(self) -> int:
        return max(self.with_adapters, self.answering, self.judging)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="a random model in place of the starter")
    parser.add_argument("--model", type=Path, help="a model's folder, in place of the starter")
    parser.add_argument("--quantization", action="append", help="default: none, hqq-8bit and hqq-4bit")
    parser.add_argument("--context", type=int, action="append", help="default: 1024 and 4096")
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write all values there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    options = parser.parse_args()
    facts = environment()
    with tempfile.TemporaryDirectory() as folder:
        if options.shape:
            model = write_model(Path(folder) / "model", SHAPES[options.shape])
        else:
            model = options.model or starter()
        for name in ("CONFIG_DIR", "DATA_DIR"):
            os.environ[f"MP13_{name}"] = str(Path(folder) / name.lower())
        rows = asyncio.run(measured(model, Path(folder), options))
    text = table(options.shape or model.name, rows)
    print(text)
    if options.json:
        found = [asdict(row) | {"said": row.said, "peak": row.peak, "ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps({"environment": facts, "rows": found}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(
            text + "\n" + "\n".join(f"- {name}: {value}" for name, value in facts.items()) + "\n"
        )
    sys.exit(any(abs(row.ratio - 1) > TOLERANCE for row in rows))


async def measured(model: Path, folder: Path, options: argparse.Namespace) -> list[Row]:
    found = await survey(16)
    adapters = write_adapters(folder / "adapters", model, 8)
    rows = []
    for quantization in options.quantization or ("none", "hqq-8bit", "hqq-4bit"):
        for context in options.context or (1024, 4096):
            rows.append(await measure(model, adapters, quantization, context, options.max_num_seqs, found))
            print(f"{rows[-1].ratio:.3f}  {rows[-1]}", flush=True)
    return rows


async def measure(
    model: Path, adapters: list[Path], quantization: str, context: int, max_num_seqs: int, found: Survey
) -> Row:
    draft = Draft()
    draft.choose(model=str(model), device="cpu", max_num_seqs=max_num_seqs)
    draft.choose(quantization=quantization, max_model_len=context)
    draft.write()
    config = load_settings().engine_config()
    room = room_here(computer(), found, config.gpu_memory_utilization, on_cpu=True)
    cell = fit_grid(measure_model(config.model), config, room, found.quantization).cells[quantization, context]
    assert not cell.why_not, cell.why_not
    client = await connect(config)
    try:
        info = await ready(client)
        peaks = [await peak_of(info.pid)]
        names = [(await client.load_adapter(str(path))).name for path in adapters[: config.max_loras]]
        count = max(1, min(config.max_num_seqs, info.kv_cache_tokens // info.max_model_len))
        mixes = ["+".join(names[i::count]) or names[i % len(names)] for i in range(count)]
        for length in (8, info.max_model_len - _ANSWER - 1):
            prompts = await conversations(client, count, length)
            await asyncio.gather(*(answer(client, one, mix) for one, mix in zip(prompts, mixes, strict=True)))
            peaks.append(await peak_of(info.pid))
        room = min(info.max_model_len, info.kv_cache_tokens // 2)  # a text is judged by two mixes side by side
        text = " ".join("a" for _ in range(min(_JUDGED, room - _ANSWER)))
        await client.score(ScoreRequest(prompt=None, answer=text, mixes=(names[0], names[1])))
        peaks.append(await peak_of(info.pid))
    finally:
        await client.end("it was measured")
    return Row(
        quantization, context, cell.fit.total, cell.sentence, found.program_bytes, info.kv_cache_tokens, count, *peaks
    )


async def ready(client: EngineClient) -> EngineInfo:
    async with aclosing(client.events()) as events:
        async for event in events:
            if isinstance(event, ReadyEvent):
                return event.engine
    raise AssertionError("the engine ended")


async def conversations(client: EngineClient, count: int, length: int) -> list[tuple[Message, ...]]:
    """So many that have each about `length` tokens, and no more. Letters with spaces between are a token each."""
    draw = random.Random(length)
    letters = length
    while True:
        made = [(Message(role="user", content=" ".join(draw.choices("abcdefgh", k=letters))),) for _ in range(count)]
        told = [(await client.count(CountRequest(messages=messages))).prompt_tokens for messages in made]
        if (excess := max(told) - length) <= 0 or letters == 1:
            return made
        letters = max(1, letters - excess)


async def answer(client: EngineClient, messages: tuple[Message, ...], mix: str) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=_ANSWER, ignore_eos=True)
    async with aclosing(client.generate(GenerateRequest(messages=messages, adapters=mix, sampling=sampling))) as events:
        async for _ in events:
            pass


async def peak_of(pid: int) -> int:
    """The most that the process has had in memory at once since this was asked last."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def table(model: str, rows: list[Row]) -> str:
    lines = [
        f"| {model} | context | said | peak | | with adapters | answering | judging | while loading |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peaks = (row.with_adapters, row.answering, row.judging, row.loading)
        sizes = " | ".join(shown_size(size) for size in peaks)
        lines.append(
            f"| {row.quantization} | {row.context:,} | {shown_size(row.said)} | {shown_size(row.peak)} | "
            f"{row.ratio:.2f} | {sizes} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
