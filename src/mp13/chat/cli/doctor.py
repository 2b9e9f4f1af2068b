"""Looks at everything a chat needs before it is needed. Each finding says what is there, and what to do if it isn't."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mp13
from mp13.chat.settings.load import config_file, load_settings, unknown_variables
from mp13.chat.settings.model import STARTER_NAMES
from mp13.chat.settings.schema import Settings
from mp13.errors import Mp13Error
from mp13.library.paths import config_dir, data_dir
from mp13.library.starter import starter_dir, starter_ready

_STARTER_BYTES = 600_000_000
_PROBE_S = 120


@dataclass(frozen=True)
class Finding:
    """`fix` is empty when all is well."""

    mark: Literal["ok", "no", "warn", "fail"]  # no: something that is not here and need not be
    subject: str
    detail: str
    fix: str = ""


def examine(run_probe: Callable[[], dict[str, Any]] | None = None) -> Iterator[Finding]:
    """All findings, the quick ones first."""
    yield _python()
    yield from _settings()
    yield _writable("data folder", data_dir(), "MP13_DATA_DIR")
    yield _writable("config folder", config_dir(), "MP13_CONFIG_DIR")
    yield _space()
    yield _starter()
    yield _engine_socket()
    yield from _torch_side((run_probe or probed)())


def probed() -> dict[str, Any]:
    """The answers of cli/probe.py under the configured block size; {"error": …} when it gave none."""
    package_root = str(Path(mp13.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "mp13.chat.cli.probe", str(_block_size())]
    try:
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=_PROBE_S)
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"error": f"importing torch took longer than {_PROBE_S} s"}
    except ValueError:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return {"error": last or f"the process ended with code {done.returncode}"}
    return found


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


def _torch_side(found: dict[str, Any]) -> Iterator[Finding]:
    if "error" in found:
        yield Finding("fail", "torch", found["error"], "install mp13 anew (`python dev.py setup` in a checkout)")
        return
    for name, (version, reason) in found["packages"].items():
        if version:
            yield Finding("ok", name, version)
        else:
            yield Finding("fail", name, reason, f"install it anew: pip install --force-reinstall {name}")
    if found["cpu"]:
        yield Finding("ok", "processor", found["cpu"])
        gpus = [f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB" for gpu in found["gpus"]]
        yield Finding("ok", "GPU", "; ".join(gpus) or "none that torch can use; models run on the processor")
        yield from _attention(found["attention"], found["auto"])
        for kind, how, why_not in found["quantization"]:
            why, _, fix = why_not.partition("; ")
            yield (
                Finding("no", f"quantization {kind}", why, fix)
                if why_not
                else Finding("ok", f"quantization {kind}", how)
            )


def _attention(backends: list[tuple[str, str | None]], auto: str) -> Iterator[Finding]:
    """Those that run, what `auto` takes of them, then each that does not: why, and what to install."""
    running = ", ".join(name for name, reason in backends if reason is None)
    no_backend = Finding("fail", "attention", "no backend runs", "install torch and mp13 anew")
    yield Finding("ok", "attention", running) if running else no_backend
    if auto:
        yield Finding("ok", "attention auto", auto)
    for name, reason in backends:
        if reason is not None:
            why, _, fix = reason.partition("; ")
            yield Finding("no", f"attention {name}", why, fix)
