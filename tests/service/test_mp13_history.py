"""`mp13 history` as the shell sees it: text and JSON, exit codes, sentences, and nothing that acts on a terminal."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mp13.chat.cli import mp13 as mp13_command
from mp13.chat.conversation.prompt_history import PromptHistory, history_file
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import Turn
from mp13.library.paths import data_dir
from tests.fakes.command import Command, Outcome, Terminal

Run = Callable[..., Outcome]
HOSTILE = "\x1b]0;owned\x07\x9b31m\u202etfel"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    command = Command(monkeypatch, capsys)
    return lambda *words: command.run(mp13_command.main, "history", *words, stdin=io.StringIO())


@pytest.fixture
def stored() -> None:
    """Two conversations, the older archived, and a deleted one."""
    with ConversationStore() as store:
        for id, text, at in (
            ("aaaa1", "where is the harbour", 1e9),
            ("bbbb2", f"红茶 {HOSTILE}", 2e9),
            ("cccc3", "x", 3e9),
        ):
            asked = Turn("user", text, "base", id=f"{id}-p", created_at=at)
            said = Turn("assistant", f"so: {text}", "base", asked.id, finish_reason="stop", id=f"{id}-a", created_at=at)
            store.add_all(id, [asked, said], head=said.id)
        store.delete("cccc3")


@pytest.mark.usefixtures("stored")
class TestLooking:
    def test_conversations_are_listed_the_newest_first(self, run: Run) -> None:
        lines = run("list").out.splitlines()
        assert [line.split()[0] for line in lines] == ["ID", "bbbb2", "aaaa1"]
        listed = json.loads(run("list", "--json").out)
        assert [(row["id"], row["turns"], row["title"]) for row in listed] == [
            ("bbbb2", 2, f"红茶 {HOSTILE}"), ("aaaa1", 2, "where is the harbour"),
        ]  # fmt: skip
        assert [row["id"] for row in json.loads(run("list", "-n", "1", "--json").out)] == ["bbbb2"]
        assert [row["id"] for row in json.loads(run("list", "--deleted", "--json").out)] == ["cccc3"]
        with ConversationStore() as store:
            store.archive("aaaa1", True)
        assert [row["id"] for row in json.loads(run("list", "--archived", "--json").out)] == ["aaaa1"]

    def test_search_finds_in_any_script_and_shows_where(self, run: Run) -> None:
        assert "[harbour]" in run("search", "harbour").out
        hits = json.loads(run("search", "红茶", "--json").out)
        assert {hit["conversation_id"] for hit in hits} == {"bbbb2"}
        assert "[红茶]" in hits[0]["snippet"]
        assert run("search", 'no"', "such").out == "nothing contains 'no\" such'\n"

    def test_a_conversation_is_shown_by_the_beginning_of_its_id(self, run: Run) -> None:
        assert "## You\n\nwhere is the harbour" in run("show", "aaaa").out
        (one,) = json.loads(run("show", "latest", "--json").out)["conversations"]
        assert (one["id"], len(one["turns"])) == ("bbbb2", 2)
        code, _, err = run("show", "zzz")
        assert code == 1 and "no conversation begins with 'zzz'; the latest are bbbb2" in err

    @pytest.mark.parametrize("words", [("list",), ("search", "红茶"), ("show", "bbbb"), ("export", "bbbb"),
                                       ("show", "bbbb", "--json"), ("export", "bbbb", "--format", "json"),
                                       ("export", "bbbb", "--format", "jsonl")])  # fmt: skip
    def test_nothing_in_a_conversation_acts_on_a_terminal(
        self, run: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        screen = Terminal()
        monkeypatch.setattr("sys.stdout", screen)
        assert run(*words).code == 0
        assert not set(screen.getvalue()) & {"\x1b", "\x9b", "\x07", "\u202e"}
        assert "tfel" in screen.getvalue()


@pytest.mark.usefixtures("stored")
class TestFiles:
    def test_all_go_out_and_come_back(self, run: Run, tmp_path: Path) -> None:
        assert run("export", "--all", "all.json").out == "2 conversations in all.json\n"
        with ConversationStore() as store:
            before = [store.whole(id) for id in store.known_ids()]
        assert run("forget", "--all").out == "3 conversations are forgotten\n"
        assert run("list").out == "no conversation is stored\n"
        assert run("import", "all.json").out == "2 conversations imported\n"
        with ConversationStore() as store:
            assert [store.whole(id) for id in store.known_ids()] == before
        assert json.loads(run("import", "all.json", "--json").out) == {"ids": [], "known": 2}
        assert run("import", "all.json", "--copy").out == "2 conversations imported\n"

    def test_training_data_holds_the_chosen_turns(self, run: Run, tmp_path: Path) -> None:
        told = json.loads(run("export", "aaaa", "a.jsonl", "--turns", "1-2", "--json").out)
        assert told == {"out": "a.jsonl", "format": "jsonl", "conversations": 1}
        (row,) = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert run("export", "aaaa", "--format", "jsonl").out == (tmp_path / "a.jsonl").read_text()

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("export",), "name one conversation, or give --all"),
            (("export", "aaaa", "x", "--all"), "name one conversation, or give --all"),
            (("export", "aaaa", "--format", "pdf"), "'pdf' is no format; give md, json or jsonl"),
            (("export", "aaaa", "x.md", "--turns", "2"), "chosen for training data alone"),
            (("export", "aaaa", "x.jsonl", "--turns", "9"), "there is no turn 9"),
            (("forget",), "say what to forget"),
            (("forget", "aaaa", "--all"), "say what to forget"),
            (("forget", "zzz"), "no conversation begins with 'zzz'"),
            (("import", "none.json"), "none.json cannot be read"),
        ],
    )
    def test_what_cannot_be_done_is_a_sentence_and_changes_nothing(
        self, run: Run, words: tuple[str, ...], told: str, tmp_path: Path
    ) -> None:
        code, out, err = run(*words)
        assert (code, out) == (2, "") and told in err
        assert list(tmp_path.glob("x*")) == []
        assert len(json.loads(run("list", "--json").out)) == 2

    def test_each_broken_line_is_told(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"messages": []}\n{\n')
        code, _, err = run("import", "a.jsonl")
        assert (code, [line.partition(": ")[0] for line in err.splitlines()]) == (2, ["a.jsonl:1", "a.jsonl:2"])


@pytest.mark.usefixtures("stored")
def test_forgetting_by_id_reaches_deleted_ones_and_by_date_what_is_older(run: Run) -> None:
    assert run("forget", "cccc").out == "1 conversation is forgotten\n"
    assert json.loads(run("forget", "--before", "2010-01-01", "--json").out)["forgotten"] == ["aaaa1"]
    assert [row["id"] for row in json.loads(run("list", "--json").out)] == ["bbbb2"]
    assert run("forget", "--before", "soon").code == 2


@pytest.mark.usefixtures("stored")
def test_forgetting_all_ends_the_prompts_that_were_typed_and_forgetting_one_says_that_they_stay(run: Run) -> None:
    PromptHistory(history_file()).add("a secret prompt")
    history_file().with_suffix(".new").write_text('"a secret pro')
    one = run("forget", "cccc").out
    assert one.startswith("1 conversation is forgotten\n") and "`mp13 history forget --all` ends them" in one
    assert json.loads(run("forget", "bbbb", "--json").out)["prompt_history"] == "kept"
    assert run("forget", "--all").out == "1 conversation is forgotten; so are the prompts that Up brings back\n"
    left = [path for path in data_dir().rglob("*") if path.is_file()]
    assert left and not any(b"a secret pro" in path.read_bytes() for path in left)
    assert json.loads(run("forget", "--all", "--json").out)["prompt_history"] == "none"


def test_prompts_that_cannot_be_removed_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    PromptHistory(history_file()).add("a secret prompt")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        code, _, err = run("forget", "--all")
    assert code == 2 and "cannot be removed (Permission denied); remove the file yourself" in err


def test_repair_says_what_it_found(run: Run) -> None:
    code, _, err = run("repair")
    assert code == 2 and "there is no file" in err
    ConversationStore().close()
    assert run("repair").out == "the conversations file is whole; nothing was changed\n"
    (data_dir() / "conversations.db").write_bytes(b"no database" * 1000)
    code, _, err = run("list")
    assert code == 1 and "`mp13 history repair`" in err
    told = json.loads(run("repair", "--json").out)
    assert (told["problem"], told["aside"]) == ("file is not a database", str(data_dir() / "conversations.db.broken-1"))
    assert run("list").code == 0
