"""Where an engine process listens, and that nobody else can reach it: the runtime folder, the Unix socket, and
the loopback port with its token for systems without one. What is said over it belongs to client and app. No torch.
"""

import os
import secrets
import socket
import stat
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mp13.engine.config import EngineConfig
from mp13.errors import ConfigError

HAS_UNIX_SOCKETS = os.name == "posix"
_LONGEST_SOCKET_PATH = 103  # bytes; macOS allows 104 with the closing NUL, Linux 108
_BACKLOG = 128


class Launch(BaseModel):
    """What the launcher writes to a new engine process's standard input."""

    model_config = ConfigDict(frozen=True)
    config: EngineConfig
    engine: str  # "module:factory" of the engine; anything but AsyncEngine is for tests


class Address(BaseModel):
    """How to reach an engine process: a Unix socket, or a loopback port with a bearer token."""

    model_config = ConfigDict(frozen=True)
    socket: Path | None = None
    port: int | None = None
    token: str | None = None


def runtime_dir() -> Path:
    """The folder of sockets, endpoint files and the launch lock: ours alone, created when missing.

    Raises:
        ConfigError: it exists but is a link, not a folder, another user's, or open to others; or it cannot be made.
    """
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and os.access(session, os.W_OK | os.X_OK):
        folder = Path(session) / "mp13"
    else:
        folder = Path(tempfile.gettempdir()) / (f"mp13-{os.getuid()}" if HAS_UNIX_SOCKETS else "mp13")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(f"the runtime folder {folder} cannot be made ({error.strerror}); {_FIX}") from error
    if problem := _exposed(found):
        raise ConfigError(f"the runtime folder {folder} {problem}, so a connection there is not private; {_FIX}")
    return folder


_FIX = "remove it, or set XDG_RUNTIME_DIR to a folder of your own"


def _exposed(found: os.stat_result) -> str | None:
    """Why a folder with this `lstat` is not private to us; None if it is. Windows keeps it in the user's profile."""
    if not stat.S_ISDIR(found.st_mode):
        return "is not a folder"
    if HAS_UNIX_SOCKETS and found.st_uid != os.getuid():
        return f"belongs to user {found.st_uid}"
    if HAS_UNIX_SOCKETS and found.st_mode & 0o077:
        return f"is open to other users (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def listen_unix(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600 from the moment it exists. What was there is removed.

    Raises:
        ConfigError: the path is longer than a socket's may be.
    """
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise ConfigError(f"{path} is too long for a socket; set XDG_RUNTIME_DIR to a folder with a shorter path")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def listen_loopback() -> tuple[socket.socket, Address]:
    """A listening socket on a free port of 127.0.0.1, and its address with a new token."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    return listener, Address(port=listener.getsockname()[1], token=secrets.token_urlsafe(32))


def publish(model: BaseModel, path: Path) -> None:
    """Write `model` to `path`, readable by us alone, whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(model.model_dump_json())
    draft.replace(path)


def address_at(place: Path) -> Address:
    """Of the process that listens at `place`, its socket or the file that it published.

    Raises:
        OSError, ValueError: there is no such file, or it is none of ours.
    """
    return Address(socket=place) if place.suffix == ".sock" else Address.model_validate_json(place.read_bytes())


def places() -> list[Path]:
    """Where processes listen, or did until they ended.

    Raises:
        ConfigError: the runtime folder is not private.
    """
    return sorted(place for place in runtime_dir().iterdir() if place.suffix in (".sock", ".json"))
