"""The disk is full, the folder read-only, the file broken or newer: a sentence, nothing is lost, the chat goes on.
Two chats write at once; one with --no-log leaves no byte."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mp13.chat.cli import mp13chat
from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Keeping
from mp13.chat.settings.load import load_settings
from mp13.errors import Mp13Error
from mp13.library.paths import data_dir
from tests.fakes.command import Command
from tests.fakes.fake_client import FakeHost
from tests.service.conftest import ROOT, engine_pids, seconds_until_gone

ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def open_session(tmp_path: Path, resume: str | None = None) -> ChatSession:
    return ChatSession.open(load_settings({"model": str(tmp_path)}), resume, connect=FakeHost())  # type: ignore[arg-type]


async def say(session: ChatSession, text: str) -> list[object]:
    return [event async for event in session.answer(Ask(text))]


class TestTheChatGoesOn:
    async def check(self, tmp_path: Path, told: str) -> None:
        """A new conversation goes on unsaved and says why; an old one cannot be gone on with."""
        with pytest.raises(Mp13Error, match=told):
            open_session(tmp_path, "latest")
        session = open_session(tmp_path)
        assert session.not_kept is not None
        assert told.split(".*")[0] in session.not_kept
        await say(session, "hi")
        assert [turn.text for turn in session.turns] == ["hi", "an answer"]
        with pytest.raises(Mp13Error, match=told):
            await session.command("/resume")
        await session.close()

    async def test_when_the_file_is_broken_which_is_left_for_its_repair(self, tmp_path: Path) -> None:
        data_dir().mkdir(parents=True)
        (data_dir() / "conversations.db").write_bytes(b"no database" * 1000)
        await self.check(tmp_path, "not a database.*mp13 history repair")
        assert (data_dir() / "conversations.db").read_bytes() == b"no database" * 1000

    async def test_when_a_page_in_the_middle_is_broken(self, tmp_path: Path) -> None:
        session = open_session(tmp_path)
        for number in range(20):
            await say(session, f"{number} " + "x" * 2000)
        await session.close()
        data = bytearray((data_dir() / "conversations.db").read_bytes())
        for page in range(2, len(data) // 4096):
            data[page * 4096 : page * 4096 + 100] = b"\xff" * 100
        (data_dir() / "conversations.db").write_bytes(data)
        again = open_session(tmp_path)
        told = [event for event in await say(again, "hi") if isinstance(event, Keeping)]
        assert len(told) == 1 and "mp13 history repair" in str(told[0].problem)
        assert [turn.text for turn in again.turns] == ["hi", "an answer"]
        await again.close()

    async def test_when_the_file_is_of_a_newer_version_which_stays_as_it_is(self, tmp_path: Path) -> None:
        with ConversationStore() as store:
            store._db.execute("PRAGMA user_version = 99")
        before = (data_dir() / "conversations.db").read_bytes()
        await self.check(tmp_path, "newer mp13")
        assert (data_dir() / "conversations.db").read_bytes() == before

    async def test_when_the_folder_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`/proc/self` takes no file from anybody, not even from root."""
        monkeypatch.setenv("MP13_DATA_DIR", "/proc/self")
        await self.check(tmp_path, "cannot be written.*MP13_DATA_DIR")


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder on a disk of its own, of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk here")
    monkeypatch.setenv("MP13_DATA_DIR", str(folder))
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_is_told_once_and_what_was_said_is_stored_when_there_is_room_again(
    small_disk: Path, tmp_path: Path
) -> None:
    session = open_session(tmp_path)
    told = [event for event in await say(session, "before") if isinstance(event, Keeping)]
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 512)
    for number in range(5):
        told += [event for event in await say(session, f"full {number} " + "x" * 5000) if isinstance(event, Keeping)]
    assert len(told) == 1 and "full" in str(told[0].problem) and "make room" in str(told[0].problem)
    assert len(session.turns) == 12
    filler.unlink()
    assert [event for event in await say(session, "after") if isinstance(event, Keeping)] == [Keeping(None)]
    await session.close()
    with ConversationStore() as store:
        assert store.turns(session.conversation_id) == session.turns
        assert store._rows("PRAGMA integrity_check") == [("ok",)]


async def test_a_file_that_may_not_grow_is_like_a_full_disk(tmp_path: Path) -> None:
    session = open_session(tmp_path)
    await say(session, "before")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, before[1]))
    try:
        told = [event for n in range(20) for event in await say(session, f"{n} " + "x" * 9000)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [event.problem is None for event in told if isinstance(event, Keeping)] == [False]
    await say(session, "after")
    await session.close()
    with ConversationStore() as store:
        assert store.turns(session.conversation_id) == session.turns


def test_two_chats_write_into_one_store_at_the_same_time_and_lose_nothing(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from mp13.chat.conversation.store import ConversationStore\n"
        "from mp13.chat.conversation.turn import Turn\n"
        "id, parent = sys.argv[1], None\n"
        "sys.stdin.readline()\n"
        "store = ConversationStore()\n"
        "for number in range(150):\n"
        "    turn = Turn('user', f'{id} {number}', 'base', parent_id=parent)\n"
        "    if number % 3 == 0:\n"
        "        try:\n"
        "            draft = Turn('user', 'draft', 'base', parent_id=parent, id=turn.id, finish_reason='abort')\n"
        "            store.draft(id, draft)\n"
        "        except Exception: pass\n"
        "    store.add(id, turn)\n"
        "    parent = turn.id\n"
        "    if number == 75: print('half', sorted(info.id for info in store.conversations()), flush=True)\n"
    )
    chats = [
        subprocess.Popen(
            [sys.executable, "-c", script, id], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, **ENVIRONMENT},
        )
        for id in ("one", "two")
    ]  # fmt: skip
    for chat in chats:  # both create the file, if they can
        assert chat.stdin is not None
        chat.stdin.write("\n")
        chat.stdin.flush()
    ended = [chat.communicate(timeout=60) for chat in chats]
    assert [(chat.returncode, err) for chat, (_, err) in zip(chats, ended, strict=True)] == [(0, ""), (0, "")]
    assert any("['one', 'two']" in out for out, _ in ended)
    with ConversationStore() as store:
        for id in ("one", "two"):
            assert [turn.text for turn in store.turns(id)] == [f"{id} {number}" for number in range(150)]


async def test_each_of_two_chats_sees_what_the_other_one_said(tmp_path: Path) -> None:
    one, two = open_session(tmp_path), open_session(tmp_path)
    await say(one, "from one")
    await say(two, "from two")
    for session in (one, two):
        listed = (await session.command("/resume")).message
        assert "from one" in listed and "from two" in listed
        assert "from one" in (await session.command("/find one")).message
    await one.close()
    await two.close()


def test_a_chat_that_keeps_nothing_leaves_no_byte_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, runtime: Path
) -> None:
    """A real engine process on a tiny model; every file that it or the chat could have written is read."""
    from tests.engine.tiny_models import tiny_model

    model, script, temp = tiny_model(tmp_path / "model"), tmp_path / "script", tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setenv("TMPDIR", str(temp))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    secret = "xyzzyplugh"
    script.write_text(f"/system be {secret}\ntell me of {secret}\n/again\n/title {secret}\n")
    flags = ("--no-log", "--model", str(model), "--script", str(script), "--json", "--set", "max_tokens=24")
    result = Command(monkeypatch, capsys).run(mp13chat.main, *flags, stdin=io.StringIO())
    assert result.code == 2 and "--no-log" in result.err  # /title, at the end
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert len(answers) == 2
    for pid in engine_pids(runtime.parent):
        seconds_until_gone(pid)
    folders = [data_dir().parent, temp, tmp_path / "home", runtime.parent]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".log" for file in files)  # the engine's, which says nothing of it
    words = [secret, *(word for answer in answers for word in answer["text"].split() if len(word) > 5)]
    assert len(words) > 1
    for file in files:
        data = file.read_bytes()
        assert [word for word in words if word.encode() in data] == [], file
    assert not (data_dir() / "conversations.db").exists()
