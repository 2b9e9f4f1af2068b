"""A run's folder: its checkpoints while it trains, the finished adapter in the end. Nothing in it is ever half there.

OUTPUT/checkpoints/step-00000100/   PEFT's two files, training.json, README.md, optimizer.safetensors
OUTPUT/                             the same without the optimizer, once the run is done
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mp13.engine.adapters.adapter_config import CONFIG_FILE
from mp13.engine.training.record import RECORD_FILE
from mp13.errors import TrainingError

OPTIMIZER_FILE = "optimizer.safetensors"
_CHECKPOINT = re.compile(r"step-(\d{8,})", re.ASCII)
_UNFINISHED, _LOCK = ".writing-", ".lock"


class RunFolder:
    """`output` need not exist yet."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._checkpoints = output / "checkpoints"

    def require(self, *, resume: bool) -> None:
        """Raises TrainingError where nothing is there that could go on, or something that a new run would overwrite."""
        if self.output.exists() and not self.output.is_dir():
            raise TrainingError(f"{self.output} is a file; give a folder")
        if resume:
            self.last()
        elif self.steps():
            how = "--resume, in the chat resume=yes"
            raise TrainingError(f"{self.output} already holds a run; go on with it ({how}), or choose another name")
        elif (self.output / CONFIG_FILE).exists():
            raise TrainingError(f"{self.output} already holds an adapter; remove it, or choose another name")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """As the only run that writes into the folder, on whatever thread. If none of it stays, the folder goes again.

        Raises:
            TrainingError: another one does, or the folder cannot be made.
        """
        try:
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._checkpoints / _LOCK, timeout=0, thread_local=False)
            lock.acquire()
        except Timeout:
            raise TrainingError(f"another run is writing into {self.output}; wait for it, or stop it") from None
        except OSError as error:
            raise TrainingError(f"{self.output} cannot be written ({error.strerror}); give another folder") from None
        try:
            yield
        finally:
            lock.release()
            if not self.steps():
                self.discard()

    def steps(self) -> list[int]:
        """Of the checkpoints there are, ascending."""
        found = self._checkpoints.glob("step-*") if self._checkpoints.is_dir() else ()
        matches = [_CHECKPOINT.fullmatch(path.name) for path in found if (path / RECORD_FILE).is_file()]
        return sorted(int(match[1]) for match in matches if match)

    def checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:08d}"

    def last(self) -> Path:
        """The last checkpoint. Raises TrainingError when there is none."""
        steps = self.steps()
        if not steps:
            raise TrainingError(f"{self.output} holds no checkpoint to go on from; train anew")
        return self.checkpoint(steps[-1])

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """A checkpoint of what `write` puts into the folder that it is given. A crash leaves all of it or nothing.

        Raises:
            OSError: it cannot be written; nothing has changed then.
        """
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        final = self.checkpoint(step)
        with _written_aside(self._checkpoints, write) as written:
            if final.exists():  # of an attempt before this one
                shutil.rmtree(final)
            written.rename(final)
            _sync_folder(self._checkpoints)
        return final

    def finish(self, write: Callable[[Path], None]) -> None:
        """Put what `write` makes into the output folder, PEFT's configuration, without which it is no adapter, last.
        Raises OSError."""
        self.output.mkdir(parents=True, exist_ok=True)
        with _written_aside(self.output, write) as written:
            for path in sorted(written.iterdir(), key=lambda path: path.name == CONFIG_FILE):
                path.replace(self.output / path.name)
            _sync_folder(self.output)

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all checkpoints but the last `keep` and the best. What cannot be removed stays."""
        for step in self.steps()[:-keep]:
            if step != best:
                shutil.rmtree(self.checkpoint(step), ignore_errors=True)

    def clear_unfinished(self) -> None:
        """Remove what a killed run was writing."""
        for folder in (self._checkpoints, self.output):
            for path in folder.glob(f"{_UNFINISHED}*") if folder.is_dir() else ():
                shutil.rmtree(path, ignore_errors=True)

    def discard(self) -> None:
        """Remove the run's checkpoints, and the folder if nothing else is in it."""
        shutil.rmtree(self._checkpoints, ignore_errors=True)
        if self.output.is_dir() and not any(self.output.iterdir()):
            self.output.rmdir()


@contextmanager
def _written_aside(parent: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A folder beside the final one, with what `write` writes, all of it on the disk; gone in the end."""
    folder = parent / f"{_UNFINISHED}{os.getpid()}"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write(folder)
        for path in folder.iterdir():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        _sync_folder(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "nt":  # there a folder cannot be opened, and a rename is on the disk when it returns
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
