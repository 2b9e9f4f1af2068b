"""Files in a prompt: what counts as a mention, what is put under the prompt, and what is refused."""

import os
from pathlib import Path

import pytest

from mp13.chat.conversation import attachments
from mp13.chat.conversation.attachments import attach, begun_mention, mentions
from mp13.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("one\ntwo\n")
    (tmp_path / "my notes.md").write_text("# mine")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("print(1)\n")
    (tmp_path / ".hidden").write_text("h")
    return tmp_path


def test_the_text_goes_under_the_prompt_in_a_block_with_the_files_name(folder: Path) -> None:
    assert attach("sum up @notes.txt", folder) == "sum up @notes.txt\n\nnotes.txt:\n```txt\none\ntwo\n```"


def test_a_name_with_spaces_stands_in_quotation_marks(folder: Path) -> None:
    assert attach('@"my notes.md"', folder).endswith("\n\nmy notes.md:\n```md\n# mine\n```")


def test_punctuation_behind_a_name_is_not_part_of_it(folder: Path) -> None:
    for text in ("read @notes.txt.", "read @notes.txt, please", "in (see @notes.txt)?"):
        assert "one\ntwo" in attach(text, folder)


def test_a_file_mentioned_twice_is_attached_once(folder: Path) -> None:
    assert attach("@notes.txt and @notes.txt and @src/main.py", folder).count("```txt") == 1


def test_paths_may_be_absolute_or_in_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    for path in (folder / "notes.txt", "~/notes.txt"):
        assert "one\ntwo" in attach(f"@{path}", Path("/"))


def test_a_block_is_not_closed_by_what_is_in_the_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("````\ncode\n````")
    assert attach("@notes.txt", folder).endswith("`````txt\n````\ncode\n````\n`````")


@pytest.mark.parametrize(
    "text", ["mail me@example.org", "@property", "what is @?", "@pytest.fixture", '@app.route("/")']
)
def test_an_at_sign_that_means_no_file_is_text(text: str, folder: Path) -> None:
    assert attach(text, folder) == text


def test_an_escaped_at_sign_is_text_without_its_backslash(folder: Path) -> None:
    assert attach(r"\@notes.txt", folder) == "@notes.txt"


@pytest.mark.parametrize("text", ["@note.txt", "@src/nothing", "@./x", '@"no such file"'])
def test_a_file_that_is_not_there_is_refused_by_name(text: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        attach(text, folder)


def test_folders_pipes_binary_and_long_files_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "image.bin").write_bytes(b"\x89PNG\0")
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    (folder / "long.txt").write_bytes(b"x" * (attachments.LARGEST + 1))
    for name, reason in (
        ("src", "a folder"),
        ("pipe", "no ordinary file"),
        ("image.bin", "not text"),
        ("latin.txt", "not text"),
        ("long.txt", "256 KiB"),
    ):
        with pytest.raises(ConfigError, match=reason):
            attach(f"@{name}", folder)


def test_a_file_as_long_as_may_be_is_taken(folder: Path) -> None:
    (folder / "long.txt").write_bytes(b"x" * attachments.LARGEST)
    assert len(attach("@long.txt", folder)) > attachments.LARGEST


def test_names_are_completed_folders_first_and_left_open(folder: Path) -> None:
    assert mentions("", folder) == ["@src/", '@"my notes.md"', "@notes.txt"]
    assert mentions("no", folder) == ["@notes.txt"]
    assert mentions("src/m", folder) == ["@src/main.py"]
    assert mentions(".h", folder) == ["@.hidden"]
    assert mentions("nowhere/x", folder) == []
    assert mentions(f"{folder}/no", Path("/")) == [f"@{folder}/notes.txt"]


def test_names_that_would_write_to_the_terminal_are_not_offered(folder: Path) -> None:
    (folder / "bad\x1b[2J.txt").write_text("x")
    assert mentions("bad", folder) == []


@pytest.mark.parametrize(
    ("text", "begun"),
    [("a @no", (2, "no")), ('@"my no', (0, "my no")), ("a@no", None), ("@no x", None), ("@", (0, "")), ("x", None)],
)
def test_a_mention_is_completed_while_it_is_typed(text: str, begun: tuple[int, str] | None) -> None:
    assert begun_mention(text) == begun
