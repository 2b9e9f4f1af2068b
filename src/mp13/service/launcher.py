"""Finds the engine process that runs with given settings, or starts it. No torch.

Chats with equal settings share one process; the folder that makes this private is `endpoint`'s, and the process ends
by itself when its last client is gone.
"""

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

from filelock import AsyncFileLock

import mp13
from mp13.engine.config import EngineConfig
from mp13.errors import ConfigError, Mp13Error
from mp13.library.paths import data_dir
from mp13.service.client import EngineClient, EngineGone
from mp13.service.endpoint import HAS_UNIX_SOCKETS, Launch, address_at, listen_unix, runtime_dir
from mp13.service.hold import Hold, write_record
from mp13.service.leftovers import discard, launch_lock, sweep

ENGINE = "mp13.engine.async_engine:AsyncEngine"
Transport = Literal["unix", "loopback"]
_ANSWER_S = 30.0  # a live process answers within this, even on a busy machine that reads torch from a slow disk
_LOG_BYTES = 1_000_000
_TELLING_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_ENDPOINT")  # another value means another engine


async def connect(config: EngineConfig, *, engine: str = ENGINE, transport: Transport | None = None) -> EngineClient:
    """A client of the engine process with these settings, sharing the one that runs or starting it.

    Returns as soon as the process answers, usually long before the model is loaded; the client holds a lease until it
    is closed. `engine` is the "module:factory" that the process runs. `transport` is a Unix socket where there is one.

    Raises:
        ConfigError: the runtime folder is not private, or the log cannot be written.
        EngineGone: the new process ended at once.
        Mp13Error: a process is there and does not answer.
    """
    transport = transport or ("unix" if HAS_UNIX_SOCKETS else "loopback")
    launch = Launch(config=_with_absolute_model(config), engine=engine)
    place = runtime_dir() / f"{_key(launch)}.{'sock' if transport == 'unix' else 'json'}"
    log = data_dir() / "logs" / f"engine-{place.stem}.log"
    lock = AsyncFileLock(launch_lock(), timeout=_ANSWER_S, mode=0o600)
    try:
        async with lock, asyncio.timeout(_ANSWER_S):
            return await _join(place, log) or await _start(launch, place, log)
    except TimeoutError:
        raise Mp13Error(
            f"the engine process, or another chat that starts one, has not answered for {_ANSWER_S:.0f} s; "
            f"end it and try again (its log is {log})"
        ) from None


def _with_absolute_model(config: EngineConfig) -> EngineConfig:
    """A folder or file means the same from every working directory; a Hub id stays as it is."""
    path = Path(config.model).expanduser()
    return replace(config, model=str(path.resolve())) if path.exists() else config


def _key(launch: Launch) -> str:
    """Equal for chats that may share a process: same settings, data folder, code, interpreter and telling variables."""
    same = (launch.model_dump_json(), str(data_dir().resolve()), mp13.__version__, mp13.__file__, sys.executable,
            *(os.environ.get(name) for name in _TELLING_VARIABLES))  # fmt: skip
    return hashlib.sha256(repr(same).encode()).hexdigest()[:12]


async def _join(place: Path, log: Path) -> EngineClient | None:
    """A client of the process at `place`; None if it is dead, ending, or could not load its model."""
    with contextlib.suppress(EngineGone, OSError, ValueError):  # ValueError: something else answers there
        client = await _hold(place, log)
        if (await client.health()).status != "failed":
            return client
        await client.close()
    return None


async def _start(launch: Launch, place: Path, log: Path) -> EngineClient:
    """A client of a new process at `place`."""
    sweep()
    place.unlink(missing_ok=True)
    with _open_log(log) as output:
        already_logged = log.stat().st_size
        process = _spawn_on_socket(place, output) if place.suffix == ".sock" else _spawn_on_loopback(place, output)
    try:
        write_record(place, process.pid, launch.config.model, log)
        threading.Thread(target=process.wait, daemon=True).start()  # a process that ends leaves no zombie behind
        _hand_over(process, launch)
        while not place.exists() and process.poll() is None:  # on loopback the process itself says where it is
            await asyncio.sleep(0.02)
        client = await _hold(place, log)
        client.exit_code = lambda: process.returncode
        return client
    except BaseException as error:
        process.kill()
        discard(place)
        if isinstance(error, EngineGone | OSError):
            raise EngineGone(
                f"the engine process ended at once{_last_words(log, already_logged)}; its log is {log}"
            ) from error
        raise


async def _hold(place: Path, log: Path) -> EngineClient:
    client = EngineClient(address_at(place), log, Hold(place))
    try:
        await client.hold()
    except BaseException:
        await client.close()
        raise
    return client


def _spawn_on_socket(place: Path, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    """The process inherits a socket that already listens, so a client may connect before it has started to."""
    with listen_unix(place) as listener:
        return _spawn(["--fd", str(listener.fileno())], output, pass_fds=(listener.fileno(),))


def _spawn_on_loopback(place: Path, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    return _spawn(["--loopback", str(place)], output)


def _spawn(arguments: list[str], output: IO[bytes], pass_fds: tuple[int, ...] = ()) -> "subprocess.Popen[bytes]":
    """Start it out of the terminal's reach, where Ctrl-C is for the chat."""
    package_root = str(Path(mp13.__file__).parents[1])  # so that a checkout's process runs the checkout
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    apart: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NO_WINDOW}
    return subprocess.Popen(
        # -P: what lies in the working directory, maybe a cloned repository, cannot be imported
        [sys.executable, "-P", "-m", "mp13.service.app", *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        pass_fds=pass_fds,
        env={**os.environ, "PYTHONPATH": path},
        **apart,
    )


def _hand_over(process: "subprocess.Popen[bytes]", launch: Launch) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # a process that died already is told by its silence
        process.stdin.write(launch.model_dump_json().encode())


def _open_log(log: Path) -> IO[bytes]:
    """The log, for appending, mode 0600; started anew when it has grown."""
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        grown = log.exists() and log.stat().st_size > _LOG_BYTES
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if grown else 0)
        return os.fdopen(os.open(log, flags, 0o600), "ab")
    except OSError as error:
        raise ConfigError(
            f"the engine's log {log} cannot be written ({error.strerror}); set MP13_DATA_DIR to a folder of your own"
        ) from error


def _last_words(log: Path, already_logged: int) -> str:
    """The last line that was logged since, in brackets; nothing if there is none."""
    lines = log.read_bytes()[already_logged:].decode(errors="replace").split("\n")
    return next((f" ({line.strip()})" for line in reversed(lines) if line.strip()), "")
