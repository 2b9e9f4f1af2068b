"""`mp13 train runs`: which runs are on disk, how they stand, and what sets some of them apart."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mp13.chat.cli import mp13
from mp13.chat.library.runs_view import sparkline
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.record import Origin, RunRecord
from tests.fakes.command import Command, Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path))
    return tmp_path / "adapters"


@pytest.fixture
def run(library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    caller = Command(monkeypatch, capsys)
    return lambda *arguments: caller.run(mp13.main, "train", "runs", *arguments, stdin=io.StringIO())


def record(step: int, total: int = 10, *, from_step: int = 0, evals: bool = False, **config: Any) -> RunRecord:
    made = RunRecord(TrainConfig(**config), Origin("tiny", "b" * 64, "t" * 64), "d" * 64, total, 1000)
    made.step, made.from_step, made.tokens, made.seconds = step, from_step, 100 * step, 2.0 * step
    made.losses = [(i, 4.0 - 0.25 * i, 1e-3) for i in range(1, step + 1)]
    made.evals = [(i, 3.0 - 0.2 * i) for i in range(2, step + 1, 2)] if evals else []
    return made


def put(folder: Path, made: RunRecord) -> None:
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(made.to_json())


class TestList:
    def test_each_run_says_how_it_stands(self, run: Run, library: Path) -> None:
        put(library / "whole", record(10, from_step=10))
        put(library / "stopped", record(4, from_step=4))
        put(library / "killed" / "checkpoints" / "step-00000006", record(6))
        put(library / "live" / "checkpoints" / "step-00000002", record(2))
        (library / "no-run").mkdir()
        with FileLock(library / "live" / "checkpoints" / ".lock"):
            found = run()
        assert found.code == 0
        header, *rows = [line.split("  ") for line in found.out.splitlines()]
        assert header[0] == "NAME"
        states = {row[0]: next(cell.strip() for cell in row[1:] if cell.strip()) for row in rows}
        assert states == {"whole": "done", "stopped": "ended early", "killed": "broken off", "live": "running"}
        assert "3.750 → 1.500" in found.out and "50" in found.out

    def test_what_is_later_than_the_finished_adapter_counts(self, run: Run, library: Path) -> None:
        put(library / "a", record(4, from_step=4))
        put(library / "a" / "checkpoints" / "step-00000008", record(8))
        (one,) = json.loads(run("--json").out)
        assert (one["step"], one["state"], one["last_loss"]) == (8, "broken off", 2.0)

    def test_a_damaged_record_is_named_and_hides_no_other(self, run: Run, library: Path) -> None:
        put(library / "good", record(10, from_step=10))
        (library / "bad").mkdir()
        (library / "bad" / "training.json").write_text("{")
        out = run().out
        assert "good" in out and "bad: " in out and "cannot be read" in out
        assert {one["name"]: "problem" in one for one in json.loads(run("--json").out)} == {"good": False, "bad": True}

    def test_without_any_it_says_how_to_begin_one(self, run: Run) -> None:
        assert run().out.endswith("`mp13 train` begins one\n")


class TestCompared:
    def test_settings_that_differ_are_shown_and_no_others(self, run: Run, library: Path) -> None:
        put(library / "a", record(10, from_step=8, evals=True, lr=1e-3))
        put(library / "b", record(6, from_step=6, lr=2e-3, rank=4))
        out = run("a", "b").out
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
        assert rows["lr"] == ["0.001", "0.002"] and rows["rank"] == ["16", "4"]
        assert "seed" not in rows and "alpha" not in rows
        assert rows["steps"] == ["10/10", "6/10"] and rows["best"] == ["eval", "1.0000"]
        curves = out.partition("loss, from 1.5000 to 3.7500")[2].splitlines()
        assert curves[1].split() == ["a", "█▇▆▆▅▄▃▃▂▁"] and curves[2].split() == ["b", "█▇▆▆▅▄"]

    def test_a_folder_is_as_good_as_a_name(self, run: Run, library: Path, tmp_path: Path) -> None:
        put(library / "a", record(10, from_step=10))
        put(tmp_path / "elsewhere" / "a", record(10, from_step=10, rank=2))
        rows = json.loads(run("a", str(tmp_path / "elsewhere" / "a"), "--json").out)
        assert [row["config"]["rank"] for row in rows] == [16, 2]
        assert "elsewhere/a" in run("a", str(tmp_path / "elsewhere" / "a")).out

    def test_one_that_is_not_there_is_told_with_those_that_are(self, run: Run, library: Path) -> None:
        put(library / "a", record(10, from_step=10))
        code, _, err = run("a", "b")
        assert code == 2 and "there is no training run 'b'; known are: a" in err


def test_a_curve_of_many_points_is_made_of_means() -> None:
    assert sparkline([0.0, 0.0, 1.0, 1.0], 0, 1, 2) == "▁█"
    assert sparkline([1.0], 1, 1, 5) == "▁" and sparkline([], 0, 1, 5) == ""
