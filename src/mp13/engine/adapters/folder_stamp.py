"""Which files of an adapter's folder an engine reads, and whether they are still as they were. No torch."""

import json
from pathlib import Path

from mp13.engine.adapters.adapter_config import CONFIG_FILE, read_small_file
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE
from mp13.errors import AdapterError

SIDECAR_FILE = "mp13.json"
MAX_SIDECAR_BYTES = 1 << 20
TEXT_FILES = ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json", "added_tokens.json")
FileStamp = tuple[int, int, int]  # size, time of change of the content, and of anything
FolderStamp = tuple[object, ...]


def folder_stamp(folder: Path) -> FolderStamp:
    """Another one than before when what an engine reads of the folder is not as it was, or is gone; tags and the like
    are not read."""
    files = tuple(file_stamp(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE, *TEXT_FILES))
    return (*files, _system_prompt(folder / SIDECAR_FILE))


def file_stamp(file: Path) -> FileStamp | None:
    """Another one when the file changes; None where there is none."""
    try:
        stat = file.stat()
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns  # ctime tells files apart that were copied with their time


def _system_prompt(sidecar: Path) -> object:
    """All that an engine reads of the sidecar; of one that it would refuse, the stamp."""
    try:
        return json.loads(read_small_file(sidecar, MAX_SIDECAR_BYTES)).get("system_prompt")
    except (OSError, ValueError, RecursionError, AttributeError, AdapterError):
        return file_stamp(sidecar)
