"""The prompts of all chats, for Up and Ctrl+R: one file in the data folder, its owner's alone, a JSON string a line.

Which of them is shown when is the prompt's. A chat that keeps nothing has no such file.
"""

import json
import os
from pathlib import Path

from mp13.errors import ConfigError
from mp13.library.paths import data_dir

MOST = 1000  # prompts that are kept
LONGEST = 20_000  # characters; a longer prompt can be brought back in its own chat alone


def history_file() -> Path:
    return data_dir() / "prompt_history.jsonl"


def clear_history(path: Path) -> bool:
    """Remove the file, and one that was cut off beside it; whether there was any.

    Raises:
        ConfigError: they cannot be removed.
    """
    try:
        found = [file for file in (path, _draft(path)) if file.exists()]
        for file in found:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the prompts in {path} cannot be removed ({error.strerror}); remove the file yourself, or make its folder "
            "writable and forget again"
        ) from error
    return bool(found)


class PromptHistory:
    """`entries` are oldest first. Raises nothing: a history that cannot be read or written is no reason not to chat."""

    def __init__(self, path: Path | None = None) -> None:
        """With `path` None nothing is read, and nothing kept beyond this object."""
        self._path = path
        self.entries: list[str] = _read(path) if path is not None else []
        if len(self.entries) > MOST:
            self.entries = self.entries[-MOST:]
            self._write_anew()

    def add(self, text: str) -> None:
        """`text` is the last from now on; said twice in a row it counts once."""
        if self.entries and self.entries[-1] == text:
            return
        self.entries = [*self.entries, text][-MOST:]
        if self._path is not None and len(text) <= LONGEST:
            _append(self._path, [text], os.O_APPEND)

    def find(self, words: str) -> list[str]:
        """The different prompts that have all of `words`, newest first."""
        wanted = words.lower().split()
        newest_first = dict.fromkeys(reversed(self.entries))
        return [text for text in newest_first if all(word in text.lower() for word in wanted)]

    def _write_anew(self) -> None:
        """Beside the file first, so that one cut off loses nothing."""
        assert self._path is not None
        beside = _draft(self._path)
        if _append(beside, self.entries, os.O_TRUNC):
            os.replace(beside, self._path)


def _draft(path: Path) -> Path:
    return path.with_suffix(".new")


def _read(path: Path) -> list[str]:
    """Lines that are no prompts, such as one cut off, are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        try:
            text = json.loads(line)
        except ValueError:
            continue
        if isinstance(text, str):
            entries.append(text)
    return entries


def _append(path: Path, texts: list[str], how: int) -> bool:
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w", encoding="utf-8") as file:
            os.chmod(path, 0o600)
            file.write(lines)
    except OSError:
        return False
    return True
