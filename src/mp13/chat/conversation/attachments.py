r"""Files in a prompt: `@notes.txt` or `@"my notes.txt"` puts the file's text under the prompt, in a fenced block.

Only text is taken, and nothing too long. `\@` is an @ that means none; so is one that names no file and looks like none
(`@property`).
"""

import mimetypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mp13.chat.text import one_line
from mp13.errors import ConfigError

LARGEST = 256 * 1024  # bytes
_OFFERED = 40  # names that completion shows at most
_MENTION = re.compile(r"""(?<!\S)(\\?)@(?:"([^"\n]+)"|([^\s"]+))""")
_BEGUN = re.compile(r"""(?<!\S)@("?)([^\n"@]*)$""")


def attach(text: str, folder: Path) -> str:
    r"""`text`, and under it the files that it mentions; a relative path is one in `folder`. What has a file under it
    already keeps it as it is.

    Raises:
        ConfigError: one is not there, is not text, or is too long.
    """
    paths: dict[str, Path] = {}
    for escaped, quoted, plain in _MENTION.findall(text):
        written = quoted or plain
        if not escaped and (path := _meant(written, folder, is_quoted=bool(quoted))) is not None:
            paths.setdefault(str(path), path)
    said = _MENTION.sub(lambda found: found[0][1:] if found[1] else found[0], text)
    new = [path for path in paths.values() if f"\n\n{_name(path, folder)}:\n```" not in text]
    return "\n\n".join([said, *(_block(path, folder) for path in new)])


def begun_mention(text: str) -> tuple[int, str] | None:
    """Where in `text` the mention begins that is being typed at its end, and what there is of the file's name."""
    found = _BEGUN.search(text)
    if found is None or (not found[1] and re.search(r"\s", found[2])):
        return None
    return found.start(), found[2]


def mentions(begun: str, folder: Path) -> list[str]:
    """How `begun` can go on, as mentions: folders and files, in the order of their names. Hidden ones are for those who
    ask for them."""
    head, _, last = begun.rpartition("/")
    place = folder / Path(head + "/" if head or begun.startswith("/") else "").expanduser()
    try:
        found = sorted(_entries(place, last), key=lambda entry: (not entry[1], entry[0].lower()))
    except (OSError, RuntimeError, ValueError):  # RuntimeError: there is no such user's home
        return []
    prefix = begun[: len(begun) - len(last)]
    return [_written(f"{prefix}{name}", is_folder) for name, is_folder in found[:_OFFERED]]


def _entries(place: Path, begun: str) -> Iterator[tuple[str, bool]]:
    with os.scandir(place) as entries:
        for entry in entries:
            shown = entry.name.lower().startswith(begun.lower()) and (begun or not entry.name.startswith("."))
            if shown and entry.name == one_line(entry.name) and '"' not in entry.name:
                yield entry.name, entry.is_dir()


def _written(path: str, is_folder: bool) -> str:
    """A folder's mention is left open, so that it can go on."""
    mark = '"' if " " in path else ""
    return f"@{mark}{path}/" if is_folder else f"@{mark}{path}{mark}"


def _meant(written: str, folder: Path, is_quoted: bool) -> Path | None:
    """The file that `written` names. Text may have a full stop or a comma behind it."""
    for name in dict.fromkeys((written, written.rstrip(".,;:!?)"))):
        try:
            path = folder / Path(name).expanduser()
            if name and path.exists():
                return path
        except (OSError, RuntimeError, ValueError):
            continue
    looks_like_one = is_quoted or "/" in written or mimetypes.guess_type(written.rstrip(".,;:!?)"))[0] is not None
    if looks_like_one and re.fullmatch(r"[\w./~ +-]+", written.rstrip(".,;:!?)")):
        raise ConfigError(f"there is no file {written!r} to attach; correct it, or write \\@ for an @ that is text")
    return None


def _block(path: Path, folder: Path) -> str:
    text = _read(path)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    end = "" if text.endswith("\n") or not text else "\n"
    return f"{_name(path, folder)}:\n{fence}{re.sub(r'[^a-z0-9]', '', path.suffix.lower())}\n{text}{end}{fence}"


def _name(path: Path, folder: Path) -> str:
    return one_line(str(path.relative_to(folder) if path.is_relative_to(folder) else path))


def _read(path: Path) -> str:
    refused = f"{str(path)!r} cannot be attached"
    try:
        if path.is_dir():
            raise ConfigError(f"{refused}: it is a folder; name a file in it")
        if not path.is_file():
            raise ConfigError(f"{refused}: it is no ordinary file")
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{refused} ({error.strerror})") from None
    if len(data) > LARGEST:
        raise ConfigError(
            f"{refused}: it has more than the {LARGEST // 1024} KiB that fit a prompt; copy what matters elsewhere"
        )
    try:
        if b"\0" in data:
            raise ValueError("a NUL byte")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except ValueError:
        raise ConfigError(f"{refused}: it is not text in UTF-8; only text can be read by the model") from None
