"""In a real terminal, nothing that a model, a file or an engine says acts on it: only what Textual itself sends."""

import re
import sys
from pathlib import Path

import pytest

from tests.fakes.hostile_chat import PARTS, SIZE, SOME
from tests.fakes.hostile_commands import COMMANDS
from tests.fakes.payloads import ESCAPES, MARKUP, PAYLOADS
from tests.fakes.terminal import Heard, on_terminal

# Styles are attributes, then the two colours; the rest are the keyboard's, the mouse's and the screen's modes.
STYLE = re.compile(r"\x1b\[(0|([123479];)*colour(;colour)?)m")
MODES = {
    f"\x1b[?{mode}{switch}" for mode in (7, 25, 1000, 1003, 1004, 1006, 1015, 1049, 2004) for switch in "hl"
} | {"\x1b[?2026$p", "\x1b[?2048$p", "\x1b[>25u", "\x1b[<u", "\x1b[;H", "\x1b]22;default\x07"}  # fmt: skip


def foreign(heard: Heard) -> list[str]:
    """What Textual does not send by itself."""
    return sorted(kind for kind in heard.kinds - MODES if not STYLE.fullmatch(kind)) + sorted(heard.acting)


def words(heard: Heard) -> set[int]:
    """The numbers of the payloads whose place was drawn."""
    return {int(number) for number in re.findall(r"\bq(\d+)", heard.text)}


def test_there_are_enough_payloads_and_no_two_are_one() -> None:
    assert len(set(ESCAPES)) > 290
    assert len(set(MARKUP)) > 15


@pytest.mark.parametrize("part", PARTS)
def test_in_the_chat(part: str, tmp_path: Path) -> None:
    heard = on_terminal(sys.executable, "-m", "tests.fakes.hostile_chat", part, size=SIZE, MP13_DATA_DIR=str(tmp_path))
    assert foreign(heard) == []
    assert len(words(heard)) >= (len(SOME) - 1 if part == "mixes" else len(PAYLOADS))


def test_in_the_wizard(tmp_path: Path) -> None:
    heard = on_terminal(sys.executable, "-m", "tests.fakes.hostile_chat", "wizard", size=SIZE, HOME=str(tmp_path))
    assert foreign(heard) == []
    assert len(words(heard)) > 50


@pytest.mark.parametrize("command", COMMANDS)
def test_in_the_commands_without_a_screen(command: str, tmp_path: Path) -> None:
    """A diff has its own styles; progress comes back to the beginning of its line."""
    run = (sys.executable, "-m", "tests.fakes.hostile_commands", command)
    heard = on_terminal(*run, MP13_DATA_DIR=str(tmp_path), MP13_CONFIG_DIR=str(tmp_path))
    diff = {"\x1b[1m", "\x1b[3m", "\x1b[4m", "\x1b[30;colourm", "\x1b[4;30;colourm"}
    own = {"\x1b[K"} | (diff if command == "headless" else set())
    assert [kind for kind in foreign(heard) if kind not in own] == []
    assert len(words(heard)) > (10 if command == "data" else 200)
