"""Samples as a file of messages, one JSON object a line: there when all are written, or not at all."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError


def write_messages(samples: Iterable[Sample], out: Path, *, replace: bool = False) -> int:
    """How many were written. A prompt and its completion become a question and its answer; a text stays one.

    Raises:
        ConfigError: the file exists and is not to be replaced, or cannot be written. What iterating `samples` raises.
    """
    _check_free(out, replace)
    count = 0
    try:
        with tempfile.NamedTemporaryFile("wb", dir=out.parent, prefix=".mp13-", delete=False) as file:
            part = Path(file.name)
            try:
                for sample in samples:
                    file.write(f"{json.dumps(_row(sample), ensure_ascii=False)}\n".encode())
                    count += 1
                file.flush()
                os.fsync(file.fileno())
                file.close()
                _check_free(out, replace)  # somebody may have made it meanwhile
                part.replace(out)
            finally:
                file.close()
                part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error}); choose another place") from None
    return count


def _check_free(out: Path, replace: bool) -> None:
    if not replace and (out.exists() or out.is_symlink()):
        raise ConfigError(f"{out} exists; give --force to replace it, or another name")


def _row(sample: Sample) -> dict[str, Any]:
    if not sample.prompt:
        return sample.row()
    said = (("user", sample.prompt), ("assistant", sample.text))
    return {"messages": [{"role": role, "content": content} for role, content in said]}
