"""`mp13config` without a screen: what each verb prints, as text and as JSON, and how it ends."""

import io
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mp13.chat.cli import config, doctor
from mp13.chat.settings.load import config_file
from mp13.chat.settings.schema import Settings
from mp13.chat.settings.user_file import Written
from mp13.chat.wizard import app as wizard
from mp13.library.paths import data_dir
from tests.fakes.command import Command, Outcome, Terminal

Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command, on a terminal or not."""
    monkeypatch.chdir(tmp_path)
    command = Command(monkeypatch, capsys)

    def call(*arguments: str, terminal: bool = False) -> Outcome:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        return command.run(config.main, *arguments, stdin=Terminal("") if terminal else io.StringIO())

    return call


def write_config(text: str) -> None:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text(text)


class TestShow:
    def test_it_tells_every_value(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MP13_TOP_P", "0.5")
        code, out, _ = run("show")
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
        assert (code, list(rows)) == (0, list(Settings.model_fields))
        assert (rows["top_p"], rows["model"], rows["seed"]) == (["0.5"], ['"starter"'], ["none"])

    def test_with_origin_it_tells_where_each_comes_from(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MP13_TOP_P", "0.5")
        write_config("top_k = 5\n")
        rows = {line.split()[0]: line.split()[1:] for line in run("show", "--origin").out.splitlines()}
        assert rows["top_p"] == ["0.5", "MP13_TOP_P"]
        assert rows["top_k"] == ["5", str(config_file())]
        assert rows["model"] == ['"starter"', "default"]

    def test_json_has_both(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MP13_TOP_P", "0.5")
        found = json.loads(run("show", "--json").out)
        assert {"key": "top_p", "value": 0.5, "source": "MP13_TOP_P"} in found
        assert {"key": "seed", "value": None, "source": "default"} in found


class TestDiff:
    def test_only_what_differs_from_the_defaults_is_told(self, run: Run) -> None:
        assert run("diff").out == "nothing differs from the defaults\n"
        assert json.loads(run("diff", "--json").out) == []
        write_config("top_p = 0.9\ntop_k = 5\nmax_model_len = 512\n")
        lines = [line.split() for line in run("diff").out.splitlines()]
        assert lines == [["top_k", "0", "5", str(config_file())], ["max_model_len", "none", "512", str(config_file())]]
        assert json.loads(run("diff", "--json").out)[0] == {
            "key": "top_k", "value": 5, "source": str(config_file()), "default": 0,
        }  # fmt: skip


class TestGet:
    @pytest.mark.parametrize(
        ("key", "text", "value"),
        [("top_p", "0.9", 0.9), ("seed", "none", None), ("model", "starter", "starter"), ("log", "true", True),
         ("stop", "[]", [])],
    )  # fmt: skip
    def test_it_tells_one_value_as_set_takes_it(self, run: Run, key: str, text: str, value: Any) -> None:
        assert run("get", key) == (0, f"{text}\n", "")
        assert json.loads(run("get", key, "--json").out) == {"key": key, "value": value, "source": "default"}

    def test_what_a_terminal_would_obey_is_not_printed(self, run: Run) -> None:
        write_config('system = "a\\u001b[31mb"\n')
        assert run("get", "system").out == "ab\n"

    def test_an_unknown_key_gets_a_suggestion(self, run: Run) -> None:
        assert run("get", "temprature") == (
            2, "", "mp13config: unknown setting 'temprature'; did you mean 'temperature'?\n",
        )  # fmt: skip


class TestSet:
    def test_it_changes_the_file_and_says_so(self, run: Run) -> None:
        write_config("# mine\ntop_k = 1  # few\n")
        assert run("set", "top_k", "5") == (0, f"top_k = 5 in {config_file()}\n", "")
        assert config_file().read_text() == "# mine\ntop_k = 5  # few\n"
        found = json.loads(run("set", "stop", '["a"]', "--json").out)
        assert found == {"key": "stop", "value": ["a"], "path": str(config_file())}

    def test_a_negative_number_is_no_flag(self, run: Run) -> None:
        assert run("set", "presence_penalty", "-0.5").code == 0
        assert run("get", "presence_penalty").out == "-0.5\n"
        assert run("set", "top_p", "0.5", "--jsno").code == 2

    def test_what_wins_over_the_file_is_named(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MP13_TOP_K", "9")
        code, _, err = run("set", "top_k", "5")
        assert (code, err) == (0, f"mp13config: here MP13_TOP_K sets top_k, and wins over {config_file()}\n")

    @pytest.mark.parametrize(
        ("arguments", "code", "sentence"),
        [
            (("set", "top_p", "7"), 2, "top_p = 7.0 cannot be used"),
            (("set", "volume", "7"), 2, "unknown setting 'volume'"),
            (("set", "model", "./nowhere"), 1, "there is no model './nowhere'"),
            (("set", "top_p"), 2, "VALUE"),
            (("unset", "volume"), 2, "unknown setting 'volume'"),
        ],
    )
    def test_what_cannot_be_done_is_a_sentence(
        self, run: Run, arguments: tuple[str, ...], code: int, sentence: str
    ) -> None:
        found = run(*arguments)
        assert (found.code, sentence in found.err, config_file().exists()) == (code, True, False)

    def test_unset_takes_it_out(self, run: Run) -> None:
        write_config("top_k = 1\ntop_p = 0.5\n")
        assert run("unset", "top_k").out == f"top_k is no longer set in {config_file()}; its default is 0\n"
        assert config_file().read_text() == "top_p = 0.5\n"
        assert "nothing was changed" in run("unset", "top_k").out
        found = json.loads(run("unset", "top_p", "--json").out)
        assert found == {"key": "top_p", "changed": True, "path": str(config_file())}


class TestInit:
    def test_it_writes_a_file_that_teaches(self, run: Run) -> None:
        code, out, _ = run("init")
        assert (code, str(config_file()) in out) == (0, True)
        assert tomllib.loads(config_file().read_text()) == {}
        assert "#temperature = 0.7" in config_file().read_text()

    def test_with_a_profile_it_sets_what_that_sets(self, run: Run) -> None:
        found = json.loads(run("init", "--profile", "cpu-laptop", "--json").out)
        assert found == {"path": str(config_file()), "profile": "cpu-laptop", "backup": None}
        assert tomllib.loads(config_file().read_text())["device"] == "cpu"

    def test_a_file_that_is_there_is_not_replaced_unasked(self, run: Run) -> None:
        write_config("top_k = 1\n")
        code, _, err = run("init")
        assert (code, "--force" in err, config_file().read_text()) == (2, True, "top_k = 1\n")
        backup = Path(json.loads(run("init", "--force", "--json").out)["backup"])
        assert backup.read_text() == "top_k = 1\n"

    def test_an_unknown_profile_is_named(self, run: Run) -> None:
        code, _, err = run("init", "--profile", "gpu")
        assert (code, "no profile 'gpu'" in err, config_file().exists()) == (2, True, False)


class TestValidate:
    def test_every_problem_is_told_with_its_line(self, run: Run) -> None:
        write_config("top_p = 7\n\nvolume = 1\n")
        code, out, _ = run("validate")
        assert code == 1
        assert [line.partition(": ")[0] for line in out.splitlines()] == [f"{config_file()}:1", f"{config_file()}:3"]
        found = json.loads(run("validate", "--json").out)
        assert (found["valid"], found["files"]) == (False, [str(config_file())])
        assert found["problems"][1] == {
            "file": str(config_file()), "line": 3, "key": "volume",
            "message": "unknown setting 'volume'; `mp13config show` lists them all",
        }  # fmt: skip

    def test_the_projects_file_is_looked_at_too_and_may_set_less(self, run: Run) -> None:
        write_config("trust_remote_code = true\n")
        Path("mp13.toml").write_text("top_p = 0.5\ntrust_remote_code = true\n")
        code, out, _ = run("validate")
        assert code == 1
        assert out.splitlines()[0].startswith("mp13.toml:2: ./mp13.toml may not set trust_remote_code")
        assert out.splitlines()[1] == f"{config_file()}: all settings can be used"

    def test_any_file_can_be_named(self, run: Run) -> None:
        Path("mine.toml").write_text("top_k = 1\nx = \n")
        code, out, _ = run("validate", "mine.toml")
        assert (code, out.startswith("mine.toml:2: this is no TOML")) == (1, True)
        code, _, err = run("validate", "absent.toml")
        assert (code, "absent.toml cannot be read" in err) == (2, True)

    def test_without_a_file_there_is_nothing_wrong(self, run: Run) -> None:
        assert run("validate").code == 0
        assert json.loads(run("validate", "--json").out) == {"valid": True, "files": [], "problems": []}


def test_path_tells_where_things_are(run: Run) -> None:
    code, out, _ = run("path")
    assert code == 0
    assert dict(line.split(maxsplit=1) for line in out.splitlines())["config"] == str(config_file())
    assert json.loads(run("path", "--json").out)["data"] == str(data_dir())


class TestDoctor:
    FINDINGS = (doctor.Finding("ok", "Python", "3.12"), doctor.Finding("no", "attention triton", "no GPU", "use sdpa"))
    BROKEN = doctor.Finding("fail", "torch", "not installed", "install it")

    def test_it_prints_every_finding(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "examine", lambda: iter(self.FINDINGS))
        assert run("doctor") == (0, "  ok  Python: 3.12\n  no  attention triton: no GPU: use sdpa\n", "")
        assert json.loads(run("doctor", "--json").out)[1] == {
            "mark": "no", "subject": "attention triton", "detail": "no GPU", "fix": "use sdpa",
        }  # fmt: skip

    def test_it_ends_with_1_when_something_would_fail(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "examine", lambda: iter((self.BROKEN,)))
        assert run("doctor") == (1, "FAIL  torch: not installed: install it\n", "")
        code, out, _ = run("doctor", "--json")
        assert (code, json.loads(out)[0]["mark"]) == (1, "fail")


class TestAlone:
    def test_on_a_terminal_it_is_the_wizard(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        backup = Path("config.toml.old-1")
        monkeypatch.setattr(wizard, "run", lambda: Written(config_file(), backup))
        code, out, _ = run(terminal=True)
        assert (code, str(config_file()) in out, str(backup) in out, "mp13chat" in out) == (0, True, True, True)

    def test_a_wizard_that_was_left_is_an_interruption(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wizard, "run", lambda: None)
        assert run(terminal=True) == (130, "", "mp13config: nothing was written\n")

    def test_without_a_terminal_it_shows_what_is_configured_or_says_what_to_do(self, run: Run) -> None:
        code, out, err = run()
        assert (code, out, "mp13config set KEY VALUE" in err, str(config_file()) in err) == (2, "", True, True)
        write_config("model = 'org/name'\n")
        code, out, _ = run()
        assert (code, "org/name" in out) == (0, True)
