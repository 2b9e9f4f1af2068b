"""`mp13 ps` and `mp13 stop`: the engine processes that run now, and their end. What happens to them is service's."""

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mp13.chat.cli.outcome import outcome
from mp13.chat.library.shown import age, size, table
from mp13.chat.text import one_line
from mp13.errors import ConfigError
from mp13.service.processes import EngineProcess, engine_processes
from mp13.service.processes import stop as stop_process
from mp13.service.schema import Health

PROGRAM = "mp13"
NONE = "no engine runs"
app = typer.Typer()
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def ps(as_json: _AsJson = False) -> None:
    """List the engines that run now: how they are, what they take, and who uses them."""
    with outcome(f"{PROGRAM} ps"):
        processes = asyncio.run(engine_processes())
        if as_json:
            print(json.dumps([process_json(process) for process in processes], indent=2))
        else:
            print(process_table(processes) if processes else NONE)


@app.command()
def stop(
    which: Annotated[
        str | None, typer.Argument(metavar="PID|all", help="As `mp13 ps` shows it; where only one runs, that one.")
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """End an engine. Its chats keep what it has said so far, and start another with their next prompt."""
    with outcome(f"{PROGRAM} stop"):
        stopped = asyncio.run(_stop(which))
        if as_json:
            ends = [
                {"pid": process.record.pid, "model": process.record.model, "killed": not by_itself}
                for process, by_itself in stopped
            ]
            print(json.dumps(ends, indent=2))
            return
        for process, by_itself in stopped:
            how = "stopped" if by_itself else "killed, since it did not end by itself:"
            print(one_line(f"{how} {process.record.pid} ({_name(process)})"))
        if not stopped:
            print(NONE)


async def _stop(which: str | None) -> list[tuple[EngineProcess, bool]]:
    """Those that were to end, and whether they did so by themselves."""
    chosen = _chosen(await engine_processes(), which)
    ended = await asyncio.gather(*(stop_process(process, "it was stopped with `mp13 stop`") for process in chosen))
    return list(zip(chosen, ended, strict=True))


def _chosen(processes: list[EngineProcess], which: str | None) -> list[EngineProcess]:
    pids = ", ".join(str(process.record.pid) for process in processes)
    if which is None and len(processes) > 1:
        raise ConfigError(f"{len(processes)} engines run (pid {pids}); name one of them, or `all`")
    if which is None or which == "all":
        return processes
    if chosen := [process for process in processes if str(process.record.pid) == which]:
        return chosen
    raise ConfigError(f"{which!r} is no engine of yours; {f'running: pid {pids}' if processes else NONE}")


def process_table(processes: list[EngineProcess]) -> str:
    """A line each; under them, what is too long for a column."""
    rows = [
        {
            "PID": str(process.record.pid),
            "STATE": _state(process),
            "MODEL": _name(process),
            "WEIGHTS": _weights(process),
            "MEMORY": size(_memory(process)),
            "GPU": size(process.health.gpu_bytes) if process.health and process.health.gpu_bytes else "",
            "CHATS": str(process.health.chats) if process.health else "",
            "AGE": age(process.record.started_at),
        }
        for process in processes
    ]
    details = [f"{process.record.pid}: {'; '.join(_details(process))}" for process in processes]
    return "\n".join([table(rows), *map(one_line, details)])


def process_json(process: EngineProcess) -> dict[str, Any]:
    """What is not known of one that does not answer is left out."""
    record, health = process.record, process.health
    facts = health.model_dump(exclude={"status", "memory_bytes", "age_s"}) if health else {}
    return {
        "pid": record.pid,
        "state": health.status if health else "no answer",
        "model": record.model,
        **facts,
        "memory_bytes": _memory(process),
        "age_s": round(max(0.0, time.time() - record.started_at)),
        "log": str(record.log),
    }


def _state(process: EngineProcess) -> str:
    health = process.health
    if health is None:
        return "no answer"
    if health.status == "loading":
        return "loading" if health.fraction is None else f"loading {health.fraction:.0%}"
    if health.running or health.waiting:
        return f"busy {health.running}" + (f", {health.waiting} wait" if health.waiting else "")
    return "training" if health.training else health.status


def _details(process: EngineProcess) -> list[str]:
    health = process.health
    if health is None:
        found = ["deep in a load, or hung"]
    elif health.error:
        found = [health.error]
    else:
        adapters = f"adapters {', '.join(health.adapters)}" if health.adapters else ""
        found = list(filter(None, [health.stage, _training(health), adapters]))
    return [*found, f"log {_from_home(process.record.log)}"]


def _training(health: Health) -> str:
    """How far the run is. Until its first row was tried nobody knows of how many steps."""
    if not health.training:
        return ""
    steps = f"step {health.training_step} of {health.training_steps}" if health.training_steps else "about to begin"
    return f"trains {health.training}, {steps}"


def _from_home(path: Path) -> str:
    """As a shell takes it, too."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _name(process: EngineProcess) -> str:
    """A folder's own name; a Hub id whole."""
    path = Path(process.record.model)
    return path.name if path.is_absolute() else process.record.model


def _weights(process: EngineProcess) -> str:
    """Empty while "auto" is still to be decided."""
    if process.health is None:
        return ""
    form = process.health.dtype if process.health.quantization == "none" else process.health.quantization
    return "" if form == "auto" else form


def _memory(process: EngineProcess) -> int:
    if process.health is not None:
        return process.health.memory_bytes
    running = process.record.process
    return running.memory_info().rss if running else 0
