"""`mp13 adapters evaluate`: the table on stdout, the progress on stderr, and mistakes as sentences."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mp13.chat.cli import mp13
from mp13.service import launcher
from tests.fakes.command import Command, Outcome
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost

Run = Callable[..., Outcome]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    scripted = FakeHost()
    monkeypatch.setattr(launcher, "connect", scripted)
    monkeypatch.setenv("MP13_MODEL", str(tmp_path))
    make_adapter("pirate")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x", "completion": "a b c"}\n{"prompt": "x", "completion": "d"}\n')
    monkeypatch.chdir(tmp_path)
    return scripted


@pytest.fixture
def run(host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    command = Command(monkeypatch, capsys)
    return lambda *arguments: command.run(mp13.main, "adapters", "evaluate", *arguments, stdin=io.StringIO())


def test_the_mixes_are_judged_and_set_against_each_other(run: Run, host: FakeHost) -> None:
    code, out, err = run("pirate:0.50", "base", "--data", "rows.jsonl")
    assert code == 0
    assert [line.split() for line in out.splitlines()[:3]] == [
        ["MIX", "PERPLEXITY", "ACCURACY", ">", "pirate:0.5", ">", "base"],
        ["pirate:0.5", "1.649", "100.0%", "·", "100%"],
        ["base", "12.182", "50.0%", "0%", "·"],
    ]
    assert out.splitlines()[3].startswith("2 rows, 4 tokens")
    assert "evaluating" in err
    assert all(request.mixes == ("pirate:0.5", "base") for request in host.scored)
    assert host.clients[0].closed


def test_as_json_it_says_what_was_judged_by_what(run: Run, host: FakeHost) -> None:
    found = json.loads(run("base", "pirate", "--data", "rows.jsonl", "--limit", "1", "--json").out)
    assert (found["data"], found["rows"], found["tokens"]) == ("rows.jsonl", 1, 3)
    assert found["adapters"] == {"pirate": host.clients[0].placed["pirate"].digest}
    assert [result["mix"] for result in found["results"]] == ["base", "pirate"]
    assert found["results"][0].keys() == {"mix", "perplexity", "token_accuracy", "mean_logprob", "wins"}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("base", "base", "--data", "rows.jsonl"), 2, "base is given twice"),
        (("a+", "--data", "rows.jsonl"), 2, "is not a mix"),
        (("nobody", "--data", "rows.jsonl"), 1, "there is no adapter 'nobody'"),
        (("base", "--data", "nowhere.jsonl"), 2, "nowhere.jsonl: there is no such file"),
        (("base", "--data", "bad.jsonl"), 2, "bad.jsonl:2: is not JSON"),
    ],
)
def test_a_mistake_is_a_sentence(run: Run, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    Path("bad.jsonl").write_text('{"text": "a b"}\n{"text"')
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert sentence in outcome.err
