"""Who may load what: the chat's process stays without torch, and only its screens load Textual."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.source import SRC, module_name, package_files

LINTER = "from importlinter.cli import lint_imports_command; lint_imports_command()"
IMPORT_AND_LIST = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_by(*modules: str) -> set[str]:
    """The top-level modules that are in a fresh interpreter after it imported `modules`."""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    command = [sys.executable, "-c", IMPORT_AND_LIST, json.dumps(modules)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def modules_under(*packages: str) -> list[str]:
    names = [module_name(path) for path in package_files() if path.name != "__main__.py"]
    return [n for n in names if any(n == package or n.startswith(package + ".") for package in packages)]


@pytest.mark.parametrize(
    "packages",
    [
        ("mp13.chat",),
        ("mp13.library",),
        ("mp13.service.client", "mp13.service.launcher", "mp13.service.schema"),
        ("mp13.mix", "mp13.errors", "mp13.engine.scheduling", "mp13.engine.request", "mp13.engine.config"),
        tuple(f"mp13.engine.training.{name}" for name in ("config", "rows", "packing", "schedule", "events")),
    ],
    ids=lambda packages: packages[0],
)
def test_what_the_chats_process_imports_does_not_load_torch(packages: tuple[str, ...]) -> None:
    modules = modules_under(*packages)
    assert len(modules) >= len(packages)
    assert loaded_by(*modules) & {"torch", "transformers", "peft"} == set()


def test_importing_mp13_loads_neither_torch_nor_anything_else_heavy() -> None:
    assert loaded_by("mp13") & {"torch", "transformers", "peft", "textual", "pydantic", "httpx"} == set()


def test_an_engine_loads_neither_peft_nor_gguf_before_it_needs_them() -> None:
    assert loaded_by("mp13.engine.core") & {"peft", "gguf", "datasets", "accelerate"} == set()


def test_reading_what_a_model_is_does_not_load_the_compiler(tmp_path: Path) -> None:
    """hqq is installed, and Transformers imports it."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    code = (
        "import pathlib, sys; from mp13.engine.models import choices, source; path = pathlib.Path(sys.argv[1]);"
        "config = choices.read_config(source.ModelSource(path, path), False);"
        "print(config.model_type, 'hqq' in sys.modules, 'torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True)
    assert result.stdout.split() == ["llama", "True", "False"], result.stderr


def test_what_is_neither_tui_nor_wizard_does_not_load_textual() -> None:
    screens = modules_under("mp13.chat.tui", "mp13.chat.wizard")
    others = [name for name in modules_under("mp13.chat", "mp13.library", "mp13.service") if name not in screens]
    assert others
    assert "textual" not in loaded_by(*others)


def test_a_checkout_that_is_not_installed_runs_from_its_root() -> None:
    script = "import src.app, mp13, sys; print(mp13.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", "-c", script]  # -S leaves out site-packages, where mp13 may be installed
    result = subprocess.run(command, cwd=SRC.parent, env=environment, capture_output=True, text=True, timeout=60)
    assert Path(result.stdout.strip()) == SRC / "mp13" / "__init__.py", result.stderr


def test_the_import_directions_of_the_design_hold() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    result = subprocess.run(
        [sys.executable, "-c", LINTER], cwd=SRC.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
