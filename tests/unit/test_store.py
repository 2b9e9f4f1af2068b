"""Conversations on disk: what is acknowledged is kept, nobody else reads it, and what cannot work says why."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.store_schema import SCHEMA_VERSION
from mp13.chat.conversation.turn import Turn
from mp13.errors import Mp13Error
from mp13.library.paths import data_dir
from mp13.service.schema import Metrics, Provenance, SamplingParams, UsedAdapter

SRC = Path(__file__).parents[2] / "src"
PROVENANCE = Provenance(
    model="m", base_digest="b" * 64, dtype="float32", device="cpu", quantization="none", model_impl="native",
    attn_implementation="sdpa", adapters=(UsedAdapter(name="a", digest="d" * 64, weight=-0.5),), kv_policy="exact",
    template_digest="t" * 64, sampling=SamplingParams(stop=("x",), seed=3), seed=3, versions={"mp13": "0"},
)  # fmt: skip
METRICS = Metrics(prompt_tokens=10, cached_tokens=4, generated_tokens=3, ttft_s=0.25, tokens_per_s=40.5)


def answer_to(prompt: Turn, text: str = "an answer") -> Turn:
    return Turn("assistant", text, "a:-0.5", prompt.id, None, (5, 6, 7), "stop", PROVENANCE, METRICS)


@pytest.fixture
def store() -> Iterator[ConversationStore]:
    with ConversationStore() as opened:
        yield opened


def test_turns_come_back_as_they_were(store: ConversationStore) -> None:
    prompt = Turn("user", "ask", "a:-0.5", system="be brief")
    turns = [prompt, answer_to(prompt)]
    for turn in turns:
        store.add("one", turn)
    store.close()
    assert ConversationStore().turns("one") == turns


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8")), ids=st.lists(st.integers(0, 2**31)))
def test_any_text_and_ids_come_back(store: ConversationStore, text: str, ids: list[int]) -> None:
    turn = Turn("assistant", text, "base", token_ids=tuple(ids), finish_reason="abort")
    store.add(turn.id, turn)
    assert store.turns(turn.id) == [turn]


def test_the_path_follows_the_parents_of_the_latest_turn(store: ConversationStore) -> None:
    root = Turn("user", "root", "base")
    first = answer_to(root, "first")
    second = answer_to(root, "second")
    leaf = Turn("user", "leaf", "base", parent_id=second.id)
    for turn in (root, first, second, leaf):
        store.add("one", turn)
    store.add("two", Turn("user", "elsewhere", "base"))
    assert [turn.text for turn in store.turns("one")] == ["root", "second", "leaf"]


def test_an_answer_beside_the_kept_one_is_stored_and_the_path_goes_around_it(store: ConversationStore) -> None:
    prompt = Turn("user", "ask", "base")
    kept, beside = answer_to(prompt, "kept"), answer_to(prompt, "beside")
    store.add("one", prompt)
    store.add("one", kept)
    store.add("one", beside, kept=False)
    assert store.turns("one") == [prompt, kept]
    assert store.tree("one").turns == [prompt, kept, beside]
    store.move("one", beside.id)
    leaf = Turn("user", "leaf", "base", parent_id=beside.id)
    store.add("one", leaf)
    assert ConversationStore().turns("one") == [prompt, beside, leaf]
    with pytest.raises(Mp13Error, match="cannot be used"):
        store.move("one", "nobody")


def test_a_turn_that_was_acknowledged_survives_kill_9(store: ConversationStore) -> None:
    script = (
        "import sys, time\n"
        "from mp13.chat.conversation.store import ConversationStore\n"
        "from mp13.chat.conversation.turn import Turn\n"
        "store = ConversationStore()\n"
        "parent = None\n"
        "while True:\n"
        "    turn = Turn('user', 'x' * 500, 'base', parent_id=parent)\n"
        "    store.add('one', turn)\n"
        "    parent = turn.id\n"
        "    print(turn.id, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    stored = [turn.id for turn in store.turns("one")]
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) - len(acknowledged) <= 1  # the one that was written and not yet told


def test_a_turn_that_cannot_be_stored_leaves_nothing_behind(store: ConversationStore) -> None:
    orphan = Turn("user", "x", "base", parent_id="nobody")
    with pytest.raises(Mp13Error, match="cannot be used"):
        store.add("one", orphan)
    assert store.conversations() == []
    store.add("one", Turn("user", "y", "base"))
    assert [info.title for info in store.conversations()] == ["y"]


def test_only_the_owner_can_read_it_from_the_moment_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    connect = sqlite3.connect

    def watched(path: Path, **options: object) -> sqlite3.Connection:
        made.append(stat.S_IMODE(path.stat().st_mode))
        return connect(path, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", watched)
    before = os.umask(0)
    try:
        store = ConversationStore()
        store.add("one", Turn("user", "secret", "base"))
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in data_dir().iterdir()}
    assert made == [0o600]
    assert modes.keys() == {"conversations.db", "conversations.db-wal", "conversations.db-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(data_dir().stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_closed_to_them() -> None:
    ConversationStore().close()
    (data_dir() / "conversations.db").chmod(0o644)
    ConversationStore().close()
    assert stat.S_IMODE((data_dir() / "conversations.db").stat().st_mode) == 0o600


def test_two_chats_write_to_one_file() -> None:
    with ConversationStore() as one, ConversationStore() as two:
        for count in range(5):
            one.add("one", Turn("user", f"{count}", "base"))
            two.add("two", Turn("user", f"{count}", "base"))
        assert [(info.id, info.turns, info.title) for info in one.conversations()] == [("two", 5, "0"), ("one", 5, "0")]


def test_it_waits_for_the_disk(store: ConversationStore) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_file_of_a_newer_version_is_left_alone(store: ConversationStore) -> None:
    store.add("one", Turn("user", "kept", "base"))
    store._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    store.close()
    with pytest.raises(Mp13Error, match=rf"newer mp13 .*{SCHEMA_VERSION + 1}.*update mp13"):
        ConversationStore()
    with sqlite3.connect(data_dir() / "conversations.db") as db:
        assert db.execute("SELECT text FROM turns").fetchall() == [("kept",)]
    db.close()


def test_a_file_that_is_no_database_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database " * 100)
    with pytest.raises(Mp13Error, match=r"x\.db cannot be used \(file is not a database\).*--no-log"):
        ConversationStore(tmp_path / "x.db")


def test_a_data_folder_that_cannot_be_written_is_a_sentence() -> None:
    data_dir().parent.mkdir(parents=True, exist_ok=True)
    data_dir().write_text("a file in the folder's place")
    with pytest.raises(Mp13Error, match=r"cannot be written.*MP13_DATA_DIR"):
        ConversationStore()


def test_a_conversation_is_found_by_the_beginning_of_its_id_or_as_the_latest(store: ConversationStore) -> None:
    for id, text in (("abc1", "first"), ("abd2", "second"), ("xyz3", "third")):
        store.add(id, Turn("user", text, "base"))
    assert store.find("latest") == "xyz3"
    assert store.find("abd") == "abd2"
    store.add("abc1", Turn("user", "again", "base"))
    assert store.find("latest") == "abc1"
    with pytest.raises(Mp13Error, match=r"2 conversations begin with 'ab'; the latest are abc1 .'first'.*xyz3"):
        store.find("ab")
    with pytest.raises(Mp13Error, match="no conversation begins with '%'"):
        store.find("%")
    with pytest.raises(Mp13Error, match="no conversation begins with ''"):
        store.find("")


def test_without_conversations_there_is_nothing_to_find(store: ConversationStore) -> None:
    with pytest.raises(Mp13Error, match="no conversation to resume"):
        store.find("latest")


def test_text_is_found_by_its_words(store: ConversationStore) -> None:
    prompt = Turn("user", "Where does the Gulf Stream go?", "base")
    store.add("one", prompt)
    store.add("one", answer_to(prompt, "To the north."))
    store.add("two", Turn("user", "a stream of words", "base"))
    assert [hit.turn_id for hit in store.search("gulf STREAM")] == [prompt.id]
    assert {hit.conversation_id for hit in store.search("str")} == {"one", "two"}
    assert store.search('no" OR "such') == []
    assert store.search("  ") == []
