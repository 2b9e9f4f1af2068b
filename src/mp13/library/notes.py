"""`mp13.json`, our own file beside an adapter's or a model's: where it came from, its tags, a description.

The engine reads an adapter's system prompt from the same file; what is not ours here is kept as it is.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.errors import AdapterError

NOTES = "mp13.json"
_LARGEST = 1 << 20  # bytes
_LONGEST_TAG = 40  # characters
_TEXTS = ("description", "source", "revision", "added_at", "system_prompt")


@dataclass(frozen=True)
class Notes:
    """`source` is a Hub id or a folder, `revision` the commit that was fetched, `added_at` UTC in ISO 8601.

    Only `system_prompt` is of use to an engine.
    """

    tags: tuple[str, ...] = ()
    description: str | None = None
    source: str | None = None
    revision: str | None = None
    added_at: str | None = None
    system_prompt: str | None = None


def read_notes(folder: Path) -> Notes:
    """The notes in `folder`; none where there is no such file.

    Raises:
        AdapterError: the file is not what it should be.
    """
    content = _read(folder / NOTES)
    tags = content.get("tags", [])
    if not isinstance(tags, list):
        raise _refused(folder, f"its tags are {tags!r:.60}, not a list")
    for key in _TEXTS:
        if not isinstance(content.get(key), str | None):
            raise _refused(folder, f"its {key} is {content[key]!r:.60}, not text")
    return Notes(
        tuple(_checked_tag(folder, tag) for tag in tags),
        *(content.get(key) for key in _TEXTS),
    )


def write_notes(folder: Path, changes: dict[str, Any]) -> None:
    """Put `changes` into the folder's notes, whole or not at all; None takes a key out.

    Raises:
        AdapterError: the file there is damaged.
        OSError: it cannot be written.
    """
    for tag in changes.get("tags", ()):
        _checked_tag(folder, tag)
    content = _read(folder / NOTES) | changes
    content = {key: value for key, value in content.items() if value is not None and value != []}
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", delete=False, encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
    os.chmod(file.name, 0o644)  # like the files beside it; tempfile's are private
    os.replace(file.name, folder / NOTES)


def _checked_tag(folder: Path, tag: Any) -> str:
    if not isinstance(tag, str) or not 0 < len(tag) <= _LONGEST_TAG or not tag.isprintable() or " " in tag:
        raise AdapterError(
            f"{tag!r:.60} cannot be a tag of {folder.name!r}; use 1 to {_LONGEST_TAG} characters without spaces"
        )
    return tag


def _read(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():  # a pipe would never end
        raise _refused(path.parent, "it is not a file")
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        content = json.loads(text) if len(text) <= _LARGEST else None
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise _refused(path.parent, f"it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise _refused(path.parent, "it is no JSON object of a sensible size")
    return content


def _refused(folder: Path, why: str) -> AdapterError:
    return AdapterError(f"{NOTES} cannot be used ({why}); correct {folder / NOTES} or delete it")
