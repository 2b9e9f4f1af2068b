"""Work that needs torch, from the side that must not load it: engine/worker.py's other end, and the folder it fills.

The work is done in a hidden folder beside the new one, which appears under its name when all is done, or not at all.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import mp13
from mp13.engine.request import OnProgress
from mp13.errors import ConfigError, Mp13Error, error_from_wire

OnEvent = Callable[[str, dict[str, Any]], None]
_SIGKILL = 9


@contextlib.contextmanager
def new_folder(out: Path, prefix: str) -> Iterator[Path]:
    """A folder to fill, which becomes `out` if nothing goes wrong.

    Raises:
        ConfigError: `out` exists or cannot be made.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; choose another name, or remove it first")
    staging = out.with_name(f"{prefix}{uuid.uuid4().hex[:12]}")
    try:
        staging.mkdir(parents=True)
        yield staging
        staging.rename(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error}); choose another folder") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def run_worker(
    module: str,
    request: Any,
    on_progress: OnProgress,
    on_event: OnEvent | None = None,
    on_start: Callable[[Callable[[], None]], None] = lambda stop: None,
    processes: int = 1,
) -> dict[str, Any]:
    """The fields of the report that `python -m module` gives on `request`. Blocks; an exception from `on_progress` ends
    the work.

    Args:
        on_event: for work that tells what happens; called with the name and the fields of each event.
        on_start: called with a function that asks such work to end early, with a report.
        processes: of such work, how many do it together, started by torchrun.

    Raises:
        Mp13Error: the one that the work ended with.
    """
    with tempfile.TemporaryFile() as diagnostics, _spawn(module, diagnostics, processes) as process:
        assert process.stdin is not None and process.stdout is not None
        message: dict[str, Any] = {}
        try:
            with contextlib.suppress(BrokenPipeError):  # a dead process is told by its silence
                process.stdin.write(json.dumps(dataclasses.asdict(request)) + "\n")
                process.stdin.flush()
                if on_event is None:
                    process.stdin.close()
            on_start(process.stdin.close)
            for line in process.stdout:
                message = json.loads(line)
                if "error" in message:
                    raise error_from_wire(message["error"], message["message"])
                if "stage" in message:
                    on_progress(message["stage"], message["fraction"])
                if "event" in message and on_event is not None:
                    on_event(message["event"], message["fields"])
            process.wait()  # until then it may hold files open, or have something to say
        finally:
            _end(process, processes)
        if "report" in message:
            report: dict[str, Any] = message["report"]
            return report
        if process.returncode == -_SIGKILL:
            raise Mp13Error(f"the process {module} was killed, as the system does when memory runs out")
        raise Mp13Error(f"the process {module} ended without a result{_last_line(diagnostics)}")


def _spawn(module: str, diagnostics: IO[bytes], processes: int) -> "subprocess.Popen[str]":
    package_root = str(Path(mp13.__file__).parents[1])  # so that a checkout's process runs the checkout
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    together = processes > 1
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if together else []
    return subprocess.Popen(
        # -P: what lies in the working directory, maybe a cloned repository, cannot be imported
        [sys.executable, "-P", *torchrun, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=diagnostics,
        env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        encoding="utf-8",
        start_new_session=together,  # Ctrl+C would have torchrun kill them all
    )


def _end(process: "subprocess.Popen[str]", processes: int) -> None:
    if processes > 1 and process.poll() is None:
        process.terminate()  # torchrun ends those that it started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
    process.kill()


def _last_line(diagnostics: IO[bytes]) -> str:
    """In brackets, what the process said last; nothing if it said nothing."""
    diagnostics.seek(0)
    lines = diagnostics.read().decode(errors="replace").split("\n")
    return next((f" ({line.strip()})" for line in reversed(lines) if line.strip()), "")
