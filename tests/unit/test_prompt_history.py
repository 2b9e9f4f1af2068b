"""The prompts of all chats: what is kept, how much of it, and who can read it."""

from pathlib import Path

import pytest

from mp13.chat.conversation import prompt_history
from mp13.chat.conversation.prompt_history import PromptHistory


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.jsonl"


def test_the_next_chat_finds_what_was_asked_in_this_one(file: Path) -> None:
    history = PromptHistory(file)
    for text in ("first", "two\nlines", "月"):
        history.add(text)
    assert PromptHistory(file).entries == ["first", "two\nlines", "月"]


def test_only_its_owner_can_read_it(file: Path) -> None:
    PromptHistory(file).add("a secret")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path / "data"))
    history = PromptHistory(None)
    history.add("a secret")
    assert history.entries == ["a secret"]
    assert list(tmp_path.iterdir()) == []


def test_the_same_prompt_twice_in_a_row_counts_once(file: Path) -> None:
    history = PromptHistory(file)
    for text in ("a", "a", "b", "a"):
        history.add(text)
    assert PromptHistory(file).entries == ["a", "b", "a"]


def test_it_is_capped_when_it_is_opened(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_history, "MOST", 3)
    for text in "abcde":
        PromptHistory(file).add(text)
    assert PromptHistory(file).entries == ["c", "d", "e"]
    assert file.read_text().count("\n") <= 4
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_huge_prompt_stays_in_its_own_chat(file: Path) -> None:
    history = PromptHistory(file)
    history.add("x" * (prompt_history.LONGEST + 1))
    assert len(history.entries) == 1
    assert PromptHistory(file).entries == []


def test_broken_lines_are_passed_over_and_the_rest_is_kept(file: Path) -> None:
    PromptHistory(file).add("whole")
    with open(file, "a") as broken:
        broken.write('{"no": "text"}\n"cut o')
    assert PromptHistory(file).entries == ["whole"]


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_chat(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    history = PromptHistory(tmp_path / "data" / "history.jsonl")
    history.add("first")
    assert history.entries == ["first"]


def test_a_search_finds_all_words_newest_first_and_each_prompt_once(file: Path) -> None:
    history = PromptHistory(file)
    for text in ("red fish", "blue Fish", "red bird", "red fish"):
        history.add(text)
    assert history.find("fish") == ["red fish", "blue Fish"]
    assert history.find("fish RED") == ["red fish"]
    assert history.find("") == ["red fish", "red bird", "blue Fish"]
