"""Looks at everything a chat needs before it is needed. Each finding says what is there, and what to do if it isn't."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mp13.chat.library.shown import size
from mp13.chat.settings.load import config_file, load_settings, unknown_variables
from mp13.chat.settings.model import STARTER_NAMES
from mp13.chat.settings.schema import Settings
from mp13.errors import Mp13Error
from mp13.library.machine import Computer, Kernel, Survey, computer, survey
from mp13.library.paths import config_dir, data_dir
from mp13.library.starter import starter_dir, starter_ready

_STARTER_BYTES = 600_000_000


@dataclass(frozen=True)
class Finding:
    """`fix` is empty when all is well."""

    mark: Literal["ok", "no", "warn", "fail"]  # no: something that is not here and need not be
    subject: str
    detail: str
    fix: str = ""


Asked = Callable[[int], Awaitable[Survey]]


def examine(ask: Asked = survey) -> Iterator[Finding]:
    """All findings, the quick ones first."""
    yield _python()
    yield from _settings()
    yield _writable("data folder", data_dir(), "MP13_DATA_DIR")
    yield _writable("config folder", config_dir(), "MP13_CONFIG_DIR")
    yield _space()
    yield _starter()
    yield _engine_socket()
    yield from _computer(computer())
    yield from _torch_side(surveyed(ask))


def surveyed(ask: Asked = survey) -> Survey:
    """What torch finds here, under the configured block size."""
    return asyncio.run(_asked(ask))


async def _asked(ask: Asked) -> Survey:
    return await ask(_block_size())


def finding_line(finding: Finding) -> str:
    marks = {"ok": "  ok ", "no": "  no ", "warn": "warn ", "fail": "FAIL "}
    fix = f": {finding.fix}" if finding.fix else ""
    return f"{marks[finding.mark]} {finding.subject}: {finding.detail}{fix}"


def finding_json(finding: Finding) -> dict[str, str]:
    return asdict(finding)


def _block_size() -> int:
    try:
        return load_settings().block_size
    except Mp13Error:  # a finding of its own
        default: int = Settings.model_fields["block_size"].default
        return default


def _python() -> Finding:
    version = sys.version.split()[0]
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("ok", "Python", version)
    return Finding("warn", "Python", version, "mp13 is tested with Python 3.11 to 3.13; use one of them")


def _settings() -> Iterator[Finding]:
    file = config_file()
    try:
        settings = load_settings()
        model = settings.engine_config().model
    except Mp13Error as error:
        yield Finding("fail", "settings", str(error), "correct the value where it was set")
    else:
        kept = f"{file}" if file.exists() else f"defaults ({file} does not exist; `mp13config` writes it)"
        yield Finding("ok", "settings", kept)
        yield Finding("ok", "model", starter_dir().name if settings.model in STARTER_NAMES else model)
    for name in unknown_variables():
        yield Finding("warn", "variable", f"{name} sets nothing", "correct its name; see `mp13config show`")


def _writable(subject: str, folder: Path, variable: str) -> Finding:
    """Tried by writing: permissions alone don't tell of read-only disks, and say nothing to root."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    note = "" if existing == folder else " (is made when needed)"
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Finding("ok", subject, f"{folder}{note}")
    except OSError as error:
        fix = f"give write permission, or set {variable} to a folder of your own"
        return Finding("fail", subject, f"{folder} cannot be written ({error.strerror})", fix)


def _space() -> Finding:
    existing = next(place for place in (data_dir(), *data_dir().absolute().parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    if free < _STARTER_BYTES and not starter_ready():
        return Finding("warn", "disk", f"{free / 1e9:.1f} GB free", "the starter needs 0.6 GB while it is installed")
    return Finding("ok", "disk", f"{free / 1e9:.1f} GB free")


def _starter() -> Finding:
    if starter_ready():
        return Finding("ok", "starter", str(starter_dir()))
    return Finding("warn", "starter", "not installed", "the first chat with it downloads it (93 MB), with progress")


def _engine_socket() -> Finding:
    from mp13.service.endpoint import runtime_dir

    try:
        return Finding("ok", "engine socket", str(runtime_dir()))
    except Mp13Error as error:
        return Finding("fail", "engine socket", str(error), "correct the folder")


def _computer(found: Computer) -> Iterator[Finding]:
    cores = f"{found.cores} cores, " if found.cores else ""
    words = f" with {', '.join(found.instructions)}" if found.instructions else ""
    yield Finding("ok", "processor", f"{found.processor}, {cores}{found.threads} threads{words}")
    yield Finding("ok", "memory", f"{size(found.memory_free)} free of {size(found.memory_total)}")


def _torch_side(found: Survey) -> Iterator[Finding]:
    if found.error:
        yield Finding("fail", "torch", found.error, "install mp13 anew (`python dev.py setup` in a checkout)")
        return
    for package in found.packages:
        if package.version:
            yield Finding("ok", package.name, package.version)
        else:
            fix = f"install it anew: pip install --force-reinstall {package.name}"
            yield Finding("fail", package.name, package.reason, fix)
    if found.processor:
        yield Finding("ok", "torch's processor", found.processor)
        yield from _gpus(found)
        yield from _attention(found)
        yield from (_kernel("quantization", kernel) for kernel in found.quantization)


def _gpus(found: Survey) -> Iterator[Finding]:
    if found.driver:
        yield Finding("ok", "NVIDIA driver", found.driver)
    if found.no_gpu:
        why, _, fix = found.no_gpu.partition("; ")
        yield Finding("warn", "GPU", why, fix)
    elif not found.gpus:
        yield Finding("ok", "GPU", "none that torch can use; models run on the processor")
    for gpu in found.gpus:
        memory = f"{size(gpu.free)} free of {size(gpu.total)}"
        yield Finding("ok", "GPU", f"{gpu.name}, compute capability {gpu.capability}, {memory}")


def _attention(found: Survey) -> Iterator[Finding]:
    """Those that run, what `auto` takes of them, then each that does not: why, and what to install."""
    running = ", ".join(kernel.name for kernel in found.attention if kernel.runs)
    no_backend = Finding("fail", "attention", "no backend runs", "install torch and mp13 anew")
    yield Finding("ok", "attention", running) if running else no_backend
    if found.attention_auto:
        yield Finding("ok", "attention auto", found.attention_auto)
    yield from (_kernel("attention", kernel) for kernel in found.attention if not kernel.runs)


def _kernel(of: str, kernel: Kernel) -> Finding:
    if kernel.runs:
        return Finding("ok", f"{of} {kernel.name}", kernel.how)
    return Finding("no", f"{of} {kernel.name}", kernel.why_not, kernel.fix)
