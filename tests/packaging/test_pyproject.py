"""What pyproject.toml promises: versions, extras and scripts, a lock that fits, and a wheel with everything in it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import mp13
from tests.packaging.source import ROOT, SRC, imports, package_files

LOADED_BY_NAME = {"peft"}  # declared for the scripts that train and measure


def read(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


PYPROJECT = read("pyproject.toml")
LEGACY = read("pyproject.toml_torch_2.6.0")
LOCK = read("poetry.lock")
MAINLINE_REQUIREMENTS = {Requirement(text).name: Requirement(text) for text in PYPROJECT["project"]["dependencies"]}


def test_the_version_is_the_packages_own() -> None:
    assert PYPROJECT["project"]["version"] == LEGACY["project"]["version"] == mp13.__version__


def test_the_mainline_stack_is_the_one_that_is_tested() -> None:
    project = PYPROJECT["project"]
    assert SpecifierSet(project["requires-python"]) == SpecifierSet(">=3.11,<3.14")
    assert MAINLINE_REQUIREMENTS["torch"].specifier == SpecifierSet(">=2.9.1,<2.14")
    assert MAINLINE_REQUIREMENTS["transformers"].specifier == SpecifierSet(">=5,<6")
    assert MAINLINE_REQUIREMENTS["textual"].specifier.contains("8.2.8")
    assert not MAINLINE_REQUIREMENTS["textual"].specifier.contains("8.2.7")


def test_the_legacy_stack_pins_what_it_is_named_for() -> None:
    pins = [text for text in LEGACY["project"]["dependencies"] if "==" in text]
    assert {"torch==2.6.0", "transformers==4.53.1"} <= set(pins)
    assert {Requirement(text).name for text in pins} == {"torch", "transformers", "peft", "accelerate"}


def test_the_legacy_stack_differs_in_nothing_but_the_model_libraries() -> None:
    stacks = {"torch", "transformers", "peft", "accelerate", "huggingface-hub"}
    legacy = {r.name: r for r in map(Requirement, LEGACY["project"]["dependencies"])}
    ours = {name: str(r) for name, r in MAINLINE_REQUIREMENTS.items() if name not in stacks}
    assert {name: str(r) for name, r in legacy.items() if name not in stacks} == ours
    assert LEGACY["project"]["optional-dependencies"]["dev"] == PYPROJECT["project"]["optional-dependencies"]["dev"]
    for table in ("scripts", "requires-python", "license", "readme"):
        assert LEGACY["project"][table] == PYPROJECT["project"][table]
    assert LEGACY["tool"] == PYPROJECT["tool"]


@pytest.mark.parametrize("pyproject", [PYPROJECT, LEGACY], ids=["mainline", "legacy"])
def test_the_extras_exist_and_gpu_kernels_are_for_linux_only(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    assert set(extras) == {"triton", "flashattn", "mistral3", "xformers", "dev"}
    for name in ("triton", "flashattn", "xformers"):
        for requirement in map(Requirement, extras[name]):
            assert requirement.marker is not None
            assert requirement.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"})
            assert not requirement.marker.evaluate({"sys_platform": "win32", "platform_machine": "AMD64"})
            assert not requirement.marker.evaluate({"sys_platform": "darwin", "platform_machine": "arm64"})


def test_the_scripts_lead_to_functions_that_exist() -> None:
    scripts = PYPROJECT["project"]["scripts"]
    assert {"mp13chat", "mp13config"} <= set(scripts)
    for target in scripts.values():
        module, _, function = target.partition(":")
        path = SRC / (module.replace(".", "/") + ".py")
        assert re.search(rf"^def {function}\(", path.read_text(encoding="utf-8"), re.MULTILINE), target


def test_everything_imported_is_declared_and_everything_declared_is_imported() -> None:
    """So that no import stands on what another package happens to bring, and nothing is installed for nothing."""
    needed = distributions_imported_by(package_files())
    declared = {normalized(name) for name in MAINLINE_REQUIREMENTS}
    assert needed - declared == set()
    assert declared - needed - LOADED_BY_NAME == set()


def test_what_tests_benchmarks_and_training_import_comes_with_the_dev_extra() -> None:
    files = [path for folder in ("tests", "benchmarks", "training", "docs") for path in (ROOT / folder).rglob("*.py")]
    development = map(Requirement, PYPROJECT["project"]["optional-dependencies"]["dev"])
    declared = {normalized(r.name) for r in [*MAINLINE_REQUIREMENTS.values(), *development]}
    assert distributions_imported_by(files) - declared == set()


def distributions_imported_by(files: list[Path]) -> set[str]:
    """The installed distributions whose modules `files` import; a module that lies beside its importer is none."""
    distributions = metadata.packages_distributions()
    beside = {"mp13", "tests", "benchmarks"} | {
        neighbour.stem for path in files for neighbour in path.parent.glob("*.py")
    }
    foreign = {name for path in files for name in imports(path)} - sys.stdlib_module_names
    foreign -= beside | {"mp13", "tests", "benchmarks"}
    return {normalized(distributions.get(name, [name])[0]) for name in foreign}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_holds_a_version_that_fits_for_every_dependency() -> None:
    locked: dict[str, list[str]] = {}
    for package in LOCK["package"]:
        locked.setdefault(package["name"], []).append(package["version"])
    extras = PYPROJECT["project"]["optional-dependencies"]
    for text in [*PYPROJECT["project"]["dependencies"], *(text for group in extras.values() for text in group)]:
        requirement = Requirement(text)
        versions = locked.get(normalized(requirement.name), [])
        assert any(requirement.specifier.contains(v, prereleases=True) for v in versions), (text, versions)
    assert LOCK["metadata"]["python-versions"] == PYPROJECT["project"]["requires-python"]
    assert {k: sorted(v) for k, v in LOCK["extras"].items()} == {
        name: sorted(normalized(Requirement(text).name) for text in group) for name, group in extras.items()
    }


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("system", "platform", "machine"),
    [
        ("Linux", "linux", "x86_64"),
        ("Linux", "linux", "aarch64"),
        ("Darwin", "darwin", "arm64"),
        ("Windows", "win32", "AMD64"),
    ],
)
def test_the_lock_gives_each_machine_one_version_of_a_package(
    python: str, system: str, platform: str, machine: str
) -> None:
    machine_facts = {"platform_system": system, "sys_platform": platform, "platform_machine": machine}
    facts = {**machine_facts, "python_version": python, "python_full_version": f"{python}.5", "extra": ""}
    chosen = [p["name"] for p in LOCK["package"] if "markers" not in p or fits(p["markers"], facts)]
    assert "torch" in chosen
    assert [name for name in sorted(set(chosen)) if chosen.count(name) > 1] == []


def fits(markers: str | dict[str, str], facts: dict[str, str]) -> bool:
    texts = markers.values() if isinstance(markers, dict) else [markers]  # a dict has one for each dependency group
    return any(Marker(text).evaluate(facts) for text in texts)


def test_the_lock_says_nothing_of_where_its_packages_came_from() -> None:
    assert not any("source" in package for package in LOCK["package"])
    assert "://" not in (ROOT / "poetry.lock").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("poetry") is None, reason="poetry is not installed")
def test_poetry_accepts_pyproject_and_lock() -> None:
    result = subprocess.run(["poetry", "check", "--lock"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("poetry.core.masonry.api", reason="poetry-core, the build backend, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from poetry.core.masonry.api import build_wheel; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {path.relative_to(SRC).as_posix() for path in (SRC / "mp13").rglob("*") if path.is_file()}
    assert names == {name for name in ours if "__pycache__" not in name}
    assert {Path(name).suffix for name in names} >= {".py", ".tcss", ".safetensors", ".json"}
    assert any(name.startswith("mp13/library/starter_adapters/") for name in names)


def test_the_wheel_brings_the_scripts_and_the_license(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    scripts = wheel.read(entry_points).decode()
    for name, target in PYPROJECT["project"]["scripts"].items():
        assert f"{name}={target}" in scripts.replace(" ", "")
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_editors_configurations_start_things_that_exist() -> None:
    launch = json.loads((ROOT / ".vscode" / "launch.json").read_text(encoding="utf-8"))["configurations"]
    assert len(launch) >= 4
    for configuration in launch:
        if program := configuration.get("program"):
            assert Path(program.replace("${workspaceFolder}", str(ROOT))).is_file()
        elif (module := configuration["module"]) != "pytest":
            roots = (ROOT, SRC)
            assert any((root / (module.replace(".", "/") + ".py")).is_file() for root in roots), module
