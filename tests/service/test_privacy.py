"""Nobody but the user who started it reaches an engine process."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mp13.errors import ConfigError
from mp13.service.endpoint import Address, listen_loopback, listen_unix, runtime_dir
from tests.service.conftest import ROOT, Chats, answer


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


async def test_the_socket_and_the_log_are_0600_in_a_folder_of_0700(chats: Chats, runtime: Path) -> None:
    client = await chats.open()
    assert (await answer(client, "hi")).text == "echo: hi"
    [place] = runtime.glob("*.sock")
    assert stat.S_ISSOCK(place.lstat().st_mode)
    assert client.log is not None
    assert [mode(path) for path in (runtime, place, client.log)] == [0o700, 0o600, 0o600]
    assert client.log.parent == Path(os.environ["MP13_DATA_DIR"]) / "logs"


def test_a_socket_is_0600_from_birth_under_any_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    born: list[int] = []
    monkeypatch.setattr(socket.socket, "listen", lambda self, backlog: born.append(mode(Path("s"))))
    before = os.umask(0)
    try:
        listen_unix(Path("s")).close()
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert born == [0o600]


def test_a_runtime_folder_that_others_could_have_prepared_is_refused(runtime: Path, tmp_path: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o750)
    with pytest.raises(ConfigError, match=r"is open to other users \(mode 0750\).*remove it, or set XDG_RUNTIME_DIR"):
        runtime_dir()
    runtime.rmdir()
    runtime.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ConfigError, match="is not a folder"):
        runtime_dir()
    runtime.unlink()
    runtime.write_text("")
    with pytest.raises(ConfigError, match=r"cannot be made|is not a folder"):
        runtime_dir()


def test_another_users_runtime_folder_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_dir()
    monkeypatch.setattr(os, "getuid", lambda: runtime.stat().st_uid + 1)
    with pytest.raises(ConfigError, match=f"belongs to user {runtime.stat().st_uid}"):
        runtime_dir()


def test_without_a_session_folder_the_temporary_one_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for absent in ("", str(tmp_path / "gone")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", absent)
        assert runtime_dir() == tmp_path / f"mp13-{os.getuid()}"
        assert mode(runtime_dir()) == 0o700


def test_a_path_too_long_for_a_socket_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long for a socket; set XDG_RUNTIME_DIR"):
        listen_unix(tmp_path / ("x" * 100))


async def test_over_loopback_only_the_token_opens_the_door(chats: Chats, runtime: Path) -> None:
    client = await chats.open(transport="loopback")
    assert (await answer(client, "hi")).text == "echo: hi"
    [place] = runtime.glob("*.json")
    address = Address.model_validate_json(place.read_bytes())
    assert mode(place) == 0o600
    assert (await (await chats.open(transport="loopback")).health()).pid == (await client.health()).pid
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{address.port}", trust_env=False) as stranger:
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": f"Basic {address.token}"}):
            for method, path in (("GET", "health"), ("GET", "events"), ("POST", "generate"), ("GET", "nothing")):
                refused = await stranger.request(method, f"/v1/mp13/{path}", headers=headers)
                assert refused.status_code == 401
                assert "echo" not in refused.text


async def test_an_address_left_behind_by_a_dead_engine_is_not_trusted(chats: Chats, runtime: Path) -> None:
    dead = await chats.open(transport="loopback")
    os.kill((await dead.health()).pid, 9)
    [place] = runtime.glob("*.json")
    for left_behind in (place.read_text(), '{"port": 1, "token": "x"}', "half a fi"):
        place.write_text(left_behind)
        client = await chats.open(transport="loopback")
        assert (await answer(client, "hi")).text == "echo: hi"
        os.kill((await client.health()).pid, 9)


@pytest.mark.parametrize("arguments", [[], ["--host", "0.0.0.0"], ["--fd", "TCP"], ["--fd", "99"]])
def test_the_process_cannot_be_made_to_listen_on_a_network(arguments: list[str]) -> None:
    listener, _ = listen_loopback()
    with listener:
        arguments = [str(listener.fileno()) if word == "TCP" else word for word in arguments]
        result = subprocess.run(
            [sys.executable, "-m", "mp13.service.app", *arguments], cwd=ROOT, capture_output=True, text=True,
            timeout=30, pass_fds=[listener.fileno()], env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
    assert result.returncode == 2
    assert "usage: " in result.stderr


async def test_a_log_that_grew_is_started_anew_and_one_that_cannot_be_written_is_an_error(
    chats: Chats, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = await chats.open()
    assert first.log is not None
    os.kill((await first.health()).pid, 9)
    first.log.write_bytes(b"x" * 1_000_001)
    await chats.open()
    assert first.log.stat().st_size < 1_000_000
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"the engine's log .* cannot be written .*set MP13_DATA_DIR"):
        await chats.open()
