#!/usr/bin/env python3
"""Every task of this repository, for any system with Python 3.11 to 3.13: `python dev.py TASK`.

Makes `.venv` and installs what a task needs, once for each pyproject.toml. Standard library only. What the
tasks do is in the tools' own configuration (pyproject.toml); this file only starts them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LEGACY = ROOT / "pyproject.toml_torch_2.6.0"
EXTRAS = ("dev", "datasets", "hqq", "mistral3", "triton")  # all but the first for their tests, which run on a CPU
WORKERS = min(2 * (os.cpu_count() or 1), 8)  # many tests wait
TEST = ("-m", "pytest", "-q", "-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder")  # long files first
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
USAGE = """\
usage: python dev.py TASK [ARGUMENT ...]

  setup        make .venv and install mp13 in it with all that the other tasks need
  chat         the terminal chat; arguments pass through: python dev.py chat -p "hello"
  demo         one conversation under several adapters, without a terminal
  test         the test suite; arguments go to pytest: python dev.py test -k mix
  test-legacy  the same under torch 2.6.0 and Transformers 4.53.1, in a venv of its own outside
               the checkout (MP13_LEGACY_VENV chooses where)
  lint         ruff, mypy and import-linter
  bench        our speed against Transformers and PEFT on this CPU
  soak         the randomized tests at full count; takes long
  clean        remove .venv, caches and build outputs

Each task first makes .venv and installs what is missing, once for each pyproject.toml.
"""


def main(task: str, *arguments: str) -> int:
    if task in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if task not in TASKS:
        fail(f"there is no task {task!r}; choose one of {', '.join(TASKS)}", status=2)
    if arguments[:1] == ("--",):
        arguments = arguments[1:]
    if arguments and task in ("setup", "lint", "clean"):
        fail(f"{task} takes no arguments, but got {' '.join(arguments)}", status=2)
    os.chdir(ROOT)
    return TASKS[task](list(arguments))


def chat(arguments: list[str]) -> int:
    return become([python_of(setup()), "-m", "src.app.mp13chat", *arguments])


def demo(arguments: list[str]) -> int:
    return become([python_of(setup()), "-m", "mp13.chat.cli.demo", *arguments])


def test(arguments: list[str]) -> int:
    return become([python_of(setup()), *TEST, *arguments])


def soak(arguments: list[str]) -> int:
    os.environ["MP13_SOAK"] = "1"
    return become([python_of(setup()), "-m", "pytest", "-q", "-m", "soak", *arguments])


def bench(arguments: list[str]) -> int:
    return become([python_of(setup()), str(ROOT / "benchmarks" / "bench_cpu.py"), *arguments])


def lint(_: list[str]) -> int:
    python = python_of(setup())
    lint_imports = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    checks = {
        "ruff check": ["-m", "ruff", "check", "--quiet"],
        "ruff format": ["-m", "ruff", "format", "--check", "--quiet"],
        "mypy": ["-m", "mypy"],
        "import-linter": ["-c", lint_imports, "--no-logo"],
    }
    failed = [name for name, command in checks.items() if subprocess.call([python, *command])]
    say(f"lint: {', '.join(failed)} found something" if failed else f"lint: {', '.join(checks)} found nothing")
    return 1 if failed else 0


def test_legacy(arguments: list[str]) -> int:
    venv = Path(os.environ.get("MP13_LEGACY_VENV") or user_cache() / "mp13" / "legacy-venv")
    requirements = legacy_requirements()
    torch = [spec for spec in requirements if re.match(r"torch\b(?!-)", spec)]
    install(venv, LEGACY, torch, requirements)
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    return become([python_of(venv), *TEST, *arguments])


def clean(_: list[str]) -> int:
    caches = (".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache", "build", "dist")
    folders = [VENV, *(ROOT / name for name in caches)]
    for part in ("src", "tests", "benchmarks", "docs"):
        folders += (ROOT / part).rglob("__pycache__")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    say("clean: removed .venv, caches and build outputs")
    return 0


def setup() -> Path:
    """Bring `.venv` up to date with pyproject.toml; the folder."""
    torch = re.findall(r'"(torch[<>=][^"]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    install(VENV, ROOT / "pyproject.toml", torch, ["-e", f"{ROOT}[{','.join(EXTRAS)}]"])
    return VENV


def install(venv: Path, pyproject: Path, torch: list[str], rest: list[str]) -> None:
    """Make `venv` hold `torch` and then `rest` (arguments of pip), unless it already does for this `pyproject`."""
    state = f"{sys.version_info[:2]} {torch} {rest}\n".encode() + pyproject.read_bytes()
    stamp = venv / "mp13-stamp"
    digest = hashlib.sha256(state).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    started = time.monotonic()
    if not Path(python_of(venv)).exists():
        say(f"creating {venv}")
        run([sys.executable, "-m", "venv", str(venv)], "creating the virtual environment", venv)
    stamp.unlink(missing_ok=True)
    pip = [python_of(venv), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if subprocess.call([*pip[:3], "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        run([python_of(venv), "-m", "ensurepip"], "putting pip into the virtual environment", venv)
    cpu = wants_cpu_build() and index_answers()
    say(f"installing torch{' (CPU build)' if cpu else ''}; this can take minutes")
    run([*pip, *(["--index-url", CPU_INDEX] if cpu else []), *torch], "installing torch", venv)
    say("installing everything else")
    run([*pip, *rest], "installing mp13's dependencies", venv)
    stamp.write_text(digest)
    say(f"ready after {time.monotonic() - started:.0f} s")


def wants_cpu_build() -> bool:
    """Linux without an NVIDIA driver, where plain `pip install torch` would bring gigabytes of CUDA libraries."""
    driver = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # the last one is WSL's
    return sys.platform == "linux" and not any(map(os.path.exists, driver)) and not shutil.which("nvidia-smi")


def index_answers() -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(CPU_INDEX + "/torch/", method="HEAD"), timeout=5).close()
    except OSError:
        return False
    return True


def legacy_requirements() -> list[str]:
    import tomllib

    project = tomllib.loads(LEGACY.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(requirement for name in EXTRAS for requirement in extras[name])]


def user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def python_of(venv: Path) -> str:
    return str(venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))


def run(command: list[str], doing: str, venv: Path) -> None:
    """Run quietly into `venv`/mp13-setup.log; a failure ends with its last error line."""
    venv.mkdir(parents=True, exist_ok=True)
    log = venv / "mp13-setup.log"
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if "error" in line.lower()] or lines or [f"exit status {status}"]
        fail(f"{doing} failed: {errors[-1].strip()} (all of it: {log})")


def become(command: list[str]) -> int:
    """Give this process over to `command`; on Windows, where that can't be, wait for it and return its status."""
    if sys.platform != "win32":
        sys.stdout.flush()
        os.execv(command[0], command)
    return subprocess.call(command)


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


def fail(text: str, status: int = 1) -> NoReturn:
    say(text)
    sys.exit(status)


TASKS = {
    "setup": lambda _: int(not setup()), "chat": chat, "demo": demo, "test": test, "test-legacy": test_legacy,
    "lint": lint, "bench": bench, "soak": soak, "clean": clean,
}  # fmt: skip

if __name__ == "__main__":
    try:
        if not (3, 11) <= sys.version_info[:2] <= (3, 13):
            other = next(filter(None, map(shutil.which, ("python3.13", "python3.12", "python3.11"))), None)
            if other is None:
                fail(f"mp13 needs Python 3.11, 3.12 or 3.13, and this is {sys.version.split()[0]}; install one of them")
            sys.exit(become([other, *sys.argv]))
        sys.exit(main(*sys.argv[1:] or ["--help"]))
    except KeyboardInterrupt:
        sys.exit(130)
