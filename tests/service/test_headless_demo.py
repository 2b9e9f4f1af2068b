"""The demo's lines and measures, around a scripted engine."""

import re
import sys

import pytest

from mp13.chat.cli import demo
from mp13.chat.conversation import connection
from mp13.library.paths import data_dir
from mp13.service import launcher
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost


def run_demo(monkeypatch: pytest.MonkeyPatch, *adapters: str) -> int:
    def install(progress: object) -> None:
        for name in adapters:
            make_adapter(name)

    monkeypatch.setattr(connection, "install_starter", install)
    monkeypatch.setattr(launcher, "connect", FakeHost(*[["line one\n", "line two"]] * 5))
    monkeypatch.setattr(sys, "argv", ["demo"])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    return int(ended.value.code or 0)


def test_each_turn_is_one_line_and_the_measures_follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_demo(monkeypatch, demo.A, demo.B) == 0
    turns, measures = capsys.readouterr().out.split("\n\n")
    mixes = [line[1:].split(" ·")[0] for line in turns.splitlines()]
    assert mixes == ["base", "pirate", "json", "pirate", "json:0.5+pirate:0.5"]
    assert all(line.endswith("→ line one line two") for line in turns.splitlines())
    assert len(re.findall(r"switch to \S+: first token after \d+ ms", measures)) == 4
    assert "return to pirate: 12 of 20 prompt tokens came from its cache" in measures
    assert "38 tok/s over the five answers" in measures
    assert not (data_dir() / "conversations.db").exists()


def test_a_missing_adapter_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(monkeypatch, demo.A) == 1
    assert "demo: there is no adapter 'json'" in capsys.readouterr().err
