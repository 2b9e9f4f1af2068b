"""Samples as a file of messages, one JSON object a line: there when all are written, or not at all."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mp13.engine.training.sample import Sample
from mp13.library.whole_file import whole_file


def write_messages(samples: Iterable[Sample], out: Path, *, replace: bool = False) -> int:
    """How many were written. A prompt and its completion become a question and its answer; a text stays one.

    Raises:
        ConfigError: the file exists and is not to be replaced, or cannot be written. What iterating `samples` raises.
    """
    count = 0
    with whole_file(out, replace=replace) as file:
        for sample in samples:
            file.write(f"{json.dumps(_row(sample), ensure_ascii=False)}\n".encode())
            count += 1
    return count


def _row(sample: Sample) -> dict[str, Any]:
    if not sample.prompt:
        return sample.row()
    said = (("user", sample.prompt), ("assistant", sample.text))
    return {"messages": [{"role": role, "content": content} for role, content in said]}
