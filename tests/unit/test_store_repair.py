"""A broken conversations file is repaired: what can be read is there again, and the broken one is kept."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.chat.history.repair import repair
from mp13.errors import ConfigError, Mp13Error
from mp13.library.paths import data_dir
from tests.unit.test_store import SRC

PAGE = 4096


def fill(conversations: int = 20, turns: int = 20) -> Path:
    with ConversationStore() as store:
        for number in range(conversations):
            path: list[Turn] = []
            for count in range(turns):
                role = "assistant" if count % 2 else "user"
                parent = path[-1].id if path else None
                text = f"conversation {number} turn {count} " + "x" * 300
                path.append(Turn(role, text, "base", parent, finish_reason="stop" if count % 2 else None))  # type: ignore[arg-type]
            store.add_all(f"c{number:02}", path, head=path[-1].id, title=f"Title {number}")
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return data_dir() / "conversations.db"


def smash(path: Path, pages: list[int]) -> bytes:
    data = bytearray(path.read_bytes())
    for page in pages:
        data[page * PAGE : (page + 1) * PAGE] = random.Random(page).randbytes(PAGE)
    path.write_bytes(data)
    return bytes(data)


def pages_of(path: Path, text: str) -> list[int]:
    data = path.read_bytes()
    return [page for page in range(len(data) // PAGE) if text.encode() in data[page * PAGE : (page + 1) * PAGE]]


def test_a_whole_file_is_left_alone() -> None:
    path = fill()
    before = path.read_bytes()
    repaired = repair(path)
    assert (repaired.problem, repaired.aside, str(repaired)[:30]) == (None, None, "the conversations file is whol")
    assert path.read_bytes() == before
    assert [file.name for file in data_dir().iterdir()] == ["conversations.db"]


def test_what_stands_beside_broken_pages_is_recovered_and_the_broken_file_kept_as_it_was() -> None:
    path = fill()
    broken = smash(path, pages_of(path, "conversation 7 turn 4 ")[:1])
    repaired = repair(path)
    assert repaired.aside is not None
    assert repaired.aside.read_bytes() == broken
    assert repaired.aside.stat().st_mode & 0o077 == 0
    assert 0 < repaired.lost < 20
    assert (repaired.conversations, repaired.turns + repaired.lost) == (20, 400)
    assert f"{repaired.lost} turns could not be read" in str(repaired)
    with ConversationStore() as store:
        assert store._rows("PRAGMA integrity_check") == [("ok",)]
        assert len(store.conversations(100)) == 20
        assert [turn.text[:25] for turn in store.turns("c03")] == [
            f"conversation 3 turn {n} xxxxx"[:25] for n in range(20)
        ]
        assert store.search("turn 19") != []
        assert len(store.turns("c07")) > 0
        store.add("c07", Turn("user", "on", "base", store.turns("c07")[-1].id))
    assert repair(path).problem is None


@pytest.mark.parametrize("seed", range(12))
def test_whatever_page_is_broken_the_store_opens_afterwards(seed: int) -> None:
    path = fill(8, 10)
    pages = len(path.read_bytes()) // PAGE
    smash(path, random.Random(seed).sample(range(pages), 2))
    repaired = repair(path)
    with ConversationStore() as store:
        assert store._rows("PRAGMA integrity_check") == [("ok",)]
        recovered = sum(info.turns for info in store.conversations(100))
        if repaired.problem is not None:
            assert recovered == repaired.turns
        for info in store.conversations(100):
            assert store.turns(info.id)


def test_what_the_wal_holds_is_recovered_too() -> None:
    path = fill()
    script = (
        "import os\n"
        "from mp13.chat.conversation.store import ConversationStore\n"
        "from mp13.chat.conversation.turn import Turn\n"
        "ConversationStore().add('late', Turn('user', 'said last', 'base'))\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(SRC), "MP13_DATA_DIR": str(data_dir())})
    assert b"said last" in (data_dir() / "conversations.db-wal").read_bytes()
    smash(path, pages_of(path, "conversation 1 turn 0 ")[:1])
    assert repair(path).problem is not None
    with ConversationStore() as store:
        assert [turn.text for turn in store.turns("late")] == ["said last"]
    assert b"said last" in (data_dir() / "conversations.db.broken-1-wal").read_bytes()


def test_of_a_turn_with_garbage_in_it_the_text_is_recovered() -> None:
    path = fill(5, 10)
    with ConversationStore() as store:
        said = Turn("assistant", "kept " * 400, "base", store.turns("c01")[-1].id, token_ids=(1234567, 2))
        store.add("c01", said)
    data = path.read_bytes().replace(b"[1234567, 2]", b"\xff\x00garbage!{\x01")
    path.write_bytes(data)
    smash(path, [0])
    repair(path)
    with ConversationStore() as store:
        recovered = store.turns("c01")[-1]
        assert (recovered.text, recovered.token_ids) == ("kept " * 400, None)
        assert len(store.turns("c03")) == 10


@pytest.mark.parametrize("in_wal", [False, True])
def test_a_file_whose_first_page_is_broken_gives_all_its_turns_back(in_wal: bool) -> None:
    path = fill(5, 10)
    if in_wal:
        script = (
            "import os\n"
            "from mp13.chat.conversation.store import ConversationStore\n"
            "from mp13.chat.conversation.turn import Turn\n"
            "ConversationStore().add('late', Turn('user', 'said last ' * 5000, 'base'))\n"
            "os._exit(1)\n"
        )
        subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(SRC), "MP13_DATA_DIR": str(data_dir())})
        data = (data_dir() / "conversations.db-wal").read_bytes()
        (data_dir() / "conversations.db-wal").write_bytes(b"\xff" * 32 + data[32:])  # SQLite does not believe it now
    else:
        with ConversationStore() as store:
            store.add("late", Turn("user", "said last " * 5000, "base", created_at=7.0))
    smash(path, [0])
    repaired = repair(path)
    assert (repaired.problem, repaired.conversations, repaired.turns) == ("file is not a database", 6, 51)
    with ConversationStore() as store:
        assert [turn.text for turn in store.turns("late")] == ["said last " * 5000]
        texts = [turn.text.rstrip("x") for turn in store.turns("c03")]
        assert texts == [f"conversation 3 turn {count} " for count in range(10)]
        assert {info.title for info in store.conversations()} >= {f"Title {number}" for number in range(5)}
        assert store._rows("PRAGMA foreign_key_check") == []


def test_a_file_that_is_no_database_makes_way_for_a_new_one_and_is_kept() -> None:
    path = data_dir() / "conversations.db"
    path.parent.mkdir(parents=True)
    for number in (1, 2):
        path.write_bytes(b"no database" * 1000)
        repaired = repair(path)
        assert (repaired.problem, repaired.turns) == ("file is not a database", 0)
        assert repaired.aside == data_dir() / f"conversations.db.broken-{number}"
        assert repaired.aside.read_bytes() == b"no database" * 1000
        ConversationStore().close()


def test_a_file_that_a_chat_has_open_is_left_alone() -> None:
    path = fill(2, 2)
    script = (
        "from mp13.chat.conversation.store import ConversationStore\n"
        "store = ConversationStore(); store.conversations(); print('open', flush=True); input()\n"
    )
    environment = {"PYTHONPATH": str(SRC), "MP13_DATA_DIR": str(data_dir())}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as chat:
        assert chat.stdout is not None
        chat.stdout.readline()
        with pytest.raises(ConfigError, match=r"a chat has .* open"):
            repair(path)
        chat.communicate(b"\n")
    assert repair(path).problem is None


def test_no_file_and_a_newer_one_are_sentences() -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        repair(data_dir() / "conversations.db")
    path = fill(1, 2)
    with ConversationStore() as store:
        store._db.execute("PRAGMA user_version = 99")
    with pytest.raises(Mp13Error, match="newer mp13"):
        repair(path)
    assert [file.name for file in data_dir().iterdir()] == ["conversations.db"]
