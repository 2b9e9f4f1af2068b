"""What a merge may be asked, and what becomes of it when its process fails. No torch."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from mp13.errors import AdapterError, ConfigError, MixError, Mp13Error
from mp13.library import worker
from mp13.library.merging import METHODS, MergeReport, MergeRequest, merge

ADAPTERS = (("a", "/adapters/a"), ("b", "/adapters/b"))


def request(
    out: Path | str = "/adapters/new", mix: str = "a+b", target: str = "adapter", **options: object
) -> MergeRequest:
    return MergeRequest("base", mix, ADAPTERS, str(out), target, **options)


class TestARequest:
    @pytest.mark.parametrize(
        ("options", "error", "says"),
        [
            ({"mix": "base"}, MixError, "the base itself"),
            ({"mix": "a:0+b:0"}, MixError, "weight other than 0"),
            ({"mix": "a++b"}, MixError, "is not a mix"),
            ({"mix": "a+c"}, MixError, "names 'c', for which no folder is given"),
            ({"method": "blend"}, ConfigError, "choose one of cat, linear, svd"),
            ({"rank": 4}, ConfigError, "an svd method takes one"),
            ({"rank": 0, "method": "svd"}, ConfigError, "rank = 0"),
            ({"density": 0.5, "method": "linear"}, ConfigError, "density = 0.5"),
            ({"density": 1.5, "method": "ties"}, ConfigError, "at most 1"),
            ({"density": 0, "method": "dare_linear"}, ConfigError, "density = 0"),
            ({"out": "/adapters/base"}, MixError, "cannot name an adapter"),
            ({"out": "/adapters/a b"}, MixError, "cannot name an adapter"),
        ],
    )
    def test_that_makes_no_sense_is_refused(
        self, options: dict[str, object], error: type[Exception], says: str
    ) -> None:
        with pytest.raises(error, match=says):
            request(**options)

    @pytest.mark.parametrize("method", METHODS)
    def test_of_every_method_passes(self, method: str) -> None:
        assert request(method=method).parsed.names == ("a", "b")

    def test_for_a_model_may_have_any_folder(self) -> None:
        assert request("/models/my model", target="model").out == "/models/my model"


class TestTheProcess:
    """Stands in for the one that merges."""

    @pytest.fixture
    def pretend(self, monkeypatch: pytest.MonkeyPatch) -> object:
        def pretend(code: str) -> None:
            def spawn(module: str, diagnostics: object, processes: int) -> "subprocess.Popen[str]":
                command = [sys.executable, "-c", f"import json, sys; request = json.load(sys.stdin)\n{code}"]
                pipe = subprocess.PIPE
                return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=diagnostics, encoding="utf-8")

            monkeypatch.setattr(worker, "_spawn", spawn)

        return pretend

    def test_gets_a_hidden_folder_which_becomes_the_new_one(self, pretend, tmp_path: Path) -> None:
        report = MergeReport(
            "", "adapter", "a+b", (("a", "f00", 1.0), ("b", "ba4", 1.0)), "cat", 16, 9, 0.1, 0.01, ("w",)
        )
        pretend(
            "open(request['out'] + '/made', 'w').write(request['mix'])\n"
            "print(json.dumps({'stage': 'write', 'fraction': 0.5}))\n"
            f"print(json.dumps({{'report': {dataclasses.asdict(report)!r}}}))"
        )
        stages: list[tuple[str, float | None]] = []
        made = merge(request(tmp_path / "new"), lambda *stage: stages.append(stage))
        assert made == dataclasses.replace(report, path=str(tmp_path / "new"))
        assert (tmp_path / "new" / "made").read_text() == "a+b"
        assert stages == [("write", 0.5)]
        assert [path.name for path in tmp_path.iterdir()] == ["new"]

    def test_that_refuses_leaves_nothing(self, pretend, tmp_path: Path) -> None:
        pretend("print(json.dumps({'error': 'AdapterError', 'message': 'it does not fit'}))")
        with pytest.raises(AdapterError, match="it does not fit"):
            merge(request(tmp_path / "new"))
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize("code", ["raise MemoryError('no room')", "sys.exit('MemoryError: no room')"])
    def test_that_dies_says_its_last_words(self, pretend, tmp_path: Path, code: str) -> None:
        pretend(code)
        with pytest.raises(Mp13Error, match=r"ended without a result \(MemoryError: no room\)"):
            merge(request(tmp_path / "new"))
        assert not any(tmp_path.iterdir())

    def test_ends_when_whoever_watches_has_enough(self, pretend, tmp_path: Path) -> None:
        pretend("import time; print(json.dumps({'stage': 'live', 'fraction': None}), flush=True); time.sleep(600)")

        def give_up(stage: str, fraction: float | None) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            merge(request(tmp_path / "new"), give_up)
        assert not any(tmp_path.iterdir())

    def test_a_folder_that_exists_is_never_touched(self, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        with pytest.raises(ConfigError, match="exists; choose another name"):
            merge(request(tmp_path / "new"))
