"""dev.py: its tasks, its one sentence on failure, and that it installs once for each pyproject.toml."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.packaging.source import ROOT, imports


@pytest.fixture
def dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Installer:
    """Stands in for the commands that would make and fill a virtual environment."""

    def __init__(self, dev: ModuleType, venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.python = Path(dev.python_of(venv))
        monkeypatch.setattr(dev, "run", self.run)
        monkeypatch.setattr(dev, "index_answers", lambda: False)
        monkeypatch.setattr(dev.subprocess, "call", lambda *_, **__: 0)  # pip is there

    def run(self, command: list[str], doing: str, venv: Path) -> None:
        self.commands.append(command)
        self.python.parent.mkdir(parents=True, exist_ok=True)
        self.python.touch()


def run_dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "dev.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_needs_nothing_but_the_standard_library() -> None:
    assert set(imports(ROOT / "dev.py")) <= sys.stdlib_module_names


def test_make_has_a_target_for_every_task(dev: ModuleType) -> None:
    targets = re.search(r"^TASKS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets is not None and targets[1].split() == list(dev.TASKS)


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",), ("help",)])
def test_without_a_task_it_tells_the_tasks(arguments: tuple[str, ...], dev: ModuleType) -> None:
    told = run_dev(*arguments)
    assert told.returncode == 0
    assert all(re.search(rf"^  {task} ", told.stdout, re.MULTILINE) for task in dev.TASKS)


@pytest.mark.parametrize("arguments", [("tset",), ("lint", "--fix"), ("clean", "all")])
def test_what_it_cannot_do_is_a_usage_error_in_one_line(arguments: tuple[str, ...]) -> None:
    told = run_dev(*arguments)
    assert told.returncode == 2 and told.stdout == ""
    assert told.stderr.count("\n") == 1 and arguments[-1] in told.stderr


def test_a_failed_step_ends_with_one_sentence_and_the_log(
    dev: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "print('Collecting x'); print('ERROR: no disk space'); print('note: bye'); exit(3)"
    with pytest.raises(SystemExit) as end:
        dev.run([sys.executable, "-c", script], "installing torch", tmp_path)
    (log,) = tmp_path.iterdir()
    assert end.value.code == 1
    assert capsys.readouterr().err == f"dev.py: installing torch failed: ERROR: no disk space (all of it: {log})\n"
    assert "Collecting x" in log.read_text()


def test_torch_comes_first_and_once_for_each_pyproject(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, pyproject = tmp_path / "venv", tmp_path / "pyproject.toml"
    installer = Installer(dev, venv, monkeypatch)
    pyproject.write_text("first")
    dev.install(venv, pyproject, ["torch>=2"], ["-e", "."])
    assert [command[1:3] for command in installer.commands] == [["-m", "venv"], ["-m", "pip"], ["-m", "pip"]]
    assert installer.commands[1][-1] == "torch>=2"
    assert installer.commands[2][-2:] == ["-e", "."]

    dev.install(venv, pyproject, ["torch>=2"], ["-e", "."])
    assert len(installer.commands) == 3

    pyproject.write_text("second")
    dev.install(venv, pyproject, ["torch>=2"], ["-e", "."])
    assert [command[1:3] for command in installer.commands[3:]] == [["-m", "pip"], ["-m", "pip"]]


def test_an_interrupted_installation_is_taken_up_again(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, pyproject = tmp_path / "venv", tmp_path / "pyproject.toml"
    pyproject.write_text("first")
    installer = Installer(dev, venv, monkeypatch)

    def interrupt(command: list[str], doing: str, venv: Path) -> None:
        installer.run(command, doing, venv)
        if command[-1] == ".":
            raise KeyboardInterrupt

    monkeypatch.setattr(dev, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dev.install(venv, pyproject, ["torch"], ["-e", "."])
    monkeypatch.setattr(dev, "run", installer.run)
    dev.install(venv, pyproject, ["torch"], ["-e", "."])
    assert installer.commands[-1][-2:] == ["-e", "."]


@pytest.mark.parametrize(("answers", "expected"), [(True, True), (False, False)])
def test_the_cpu_index_is_used_where_it_answers_and_no_gpu_is_there(
    answers: bool, expected: bool, dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("first")
    installer = Installer(dev, tmp_path / "venv", monkeypatch)
    monkeypatch.setattr(dev, "wants_cpu_build", lambda: True)
    monkeypatch.setattr(dev, "index_answers", lambda: answers)
    dev.install(tmp_path / "venv", pyproject, ["torch"], ["-e", "."])
    assert [dev.CPU_INDEX in command for command in installer.commands] == [False, expected, False]


def test_the_torch_installed_first_is_the_one_pyproject_asks_for(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(dev, "install", lambda venv, pyproject, torch, rest: asked.append(torch))
    dev.setup()
    assert asked == [["torch>=2.9.1,<2.14"]]


def test_both_stacks_get_the_extras_whose_tests_run_on_a_cpu(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(dev, "install", lambda venv, pyproject, torch, rest: asked.append(rest))
    monkeypatch.setattr(dev, "become", lambda command: 0)
    monkeypatch.setenv("PYTHONPATH", "")  # which test_legacy sets for what it starts
    dev.setup()
    dev.test_legacy([])
    assert asked[0] == ["-e", f"{ROOT}[dev,datasets,hqq,mistral3,triton]"]
    names = {re.split(r"[<>=;]", requirement)[0] for requirement in asked[1]}
    assert {"torch", "pytest", "hqq", "mistral-common", "triton"} <= names


def test_the_legacy_stack_gets_the_whole_suite_and_the_arguments(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(dev, "install", lambda *_: None)
    monkeypatch.setattr(dev, "become", lambda command: started.append(command) or 0)
    monkeypatch.setenv("PYTHONPATH", "")
    dev.test_legacy(["-k", "mix"])
    assert started[0][1:] == [*dev.TEST, "-k", "mix"]
