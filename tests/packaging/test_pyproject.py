"""What pyproject.toml promises: versions, extras and scripts, a lock that fits, and a wheel with everything in it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from copy import deepcopy
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import mp13
from tests.packaging.source import ROOT, SRC, imports, package_files

LOADED_BY_NAME = {"peft"}  # declared for the scripts that train and measure
INSTALLED_BY_HAND = {"flash-attn-interface", "fa3-fwd-interface"}  # FlashAttention 3, which INSTALL.md says how to get
EXTRAS = {"triton", "flashattn", "xformers", "mistral3", "hqq", "datasets"}  # what a user may ask for
TORCH_BOUND = {  # what may differ between the two stacks, and only in its version
    "torch", "transformers", "peft", "accelerate", "huggingface-hub",
    "triton", "triton-windows", "flash-attn", "xformers",
}  # fmt: skip
MACHINES = {
    "linux-x86_64": {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "x86_64"},
    "linux-aarch64": {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "aarch64"},
    "macos-arm64": {"platform_system": "Darwin", "sys_platform": "darwin", "platform_machine": "arm64"},
    "windows-amd64": {"platform_system": "Windows", "sys_platform": "win32", "platform_machine": "AMD64"},
}


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


def requirements(pyproject: dict[str, Any]) -> list[Requirement]:
    groups = pyproject["project"]["optional-dependencies"].values()
    return [Requirement(text) for text in chain(pyproject["project"]["dependencies"], *groups)]


def without_torch_bound_versions(pyproject: dict[str, Any]) -> dict[str, Any]:
    """`pyproject` as the two stacks share it: a torch-bound requirement keeps its name and marker alone."""

    def shared(group: list[str]) -> list[str]:
        parsed = [Requirement(text) for text in group]
        for requirement in parsed:
            if requirement.name in TORCH_BOUND:
                requirement.specifier = SpecifierSet()
        return [str(r) for r in parsed]

    copy = deepcopy(pyproject)
    copy["project"]["dependencies"] = shared(copy["project"]["dependencies"])
    extras = copy["project"]["optional-dependencies"]
    extras.update({name: shared(group) for name, group in extras.items()})
    return copy


def test_the_stacks_differ_in_nothing_but_torch_bound_versions() -> None:
    assert without_torch_bound_versions(LEGACY) == without_torch_bound_versions(PYPROJECT)


def test_every_torch_bound_version_differs_between_the_stacks() -> None:
    """So that nothing is excused from being equal without need."""
    mainline, legacy = ({r.name: str(r.specifier) for r in requirements(p)} for p in (PYPROJECT, LEGACY))
    assert set(legacy) >= TORCH_BOUND
    assert {name for name in TORCH_BOUND if mainline.get(name) == legacy[name]} == set()


# An extra brings a kernel only where the index has a build of it; the pure Python ones go anywhere.
BROUGHT = {
    "linux-x86_64": {"triton", "flash-attn", "xformers", "mistral-common", "hqq", "datasets", "pyarrow"},
    "linux-aarch64": {"mistral-common", "hqq", "datasets", "pyarrow"},
    "macos-arm64": {"mistral-common", "hqq", "datasets", "pyarrow"},
    "windows-amd64": {"triton-windows", "xformers", "mistral-common", "hqq", "datasets", "pyarrow"},
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("pyproject", [PYPROJECT, LEGACY], ids=["mainline", "legacy"])
def test_all_extras_together_bring_what_has_a_build_there(pyproject: dict[str, Any], machine: str) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    assert set(extras) == EXTRAS | {"dev"}
    asked = [Requirement(text) for name in EXTRAS for text in extras[name]]
    brought = [r.name for r in asked if r.marker is None or r.marker.evaluate(MACHINES[machine])]
    assert sorted(brought) == sorted(BROUGHT[machine])


def test_no_package_is_in_two_extras() -> None:
    """Each that was would double the number of times that `poetry lock` resolves everything."""
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    names = [Requirement(text).name for text in chain(*extras)]
    assert sorted(set(names)) == sorted(names)


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
    extras = PYPROJECT["project"]["optional-dependencies"]
    optional = {normalized(Requirement(text).name) for name in EXTRAS for text in extras[name]}
    assert needed - declared - optional - INSTALLED_BY_HAND == set()
    assert declared - needed - LOADED_BY_NAME == set()


def test_what_tests_benchmarks_and_training_import_comes_with_what_dev_py_installs() -> None:
    files = [path for folder in ("tests", "benchmarks", "training", "docs") for path in (ROOT / folder).rglob("*.py")]
    extras = PYPROJECT["project"]["optional-dependencies"]
    development = [
        Requirement(text) for name in ("dev", "datasets", "hqq", "mistral3", "triton") for text in extras[name]
    ]
    declared = {normalized(r.name) for r in [*MAINLINE_REQUIREMENTS.values(), *development]}
    assert distributions_imported_by(files) - declared == {"trl", "vllm"}  # whose workers have Pythons of their own


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
    assert {k: sorted(set(v)) for k, v in LOCK["extras"].items()} == {
        name: sorted({normalized(Requirement(text).name) for text in group}) for name, group in extras.items()
    }


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", MACHINES)
def test_the_lock_gives_each_machine_one_version_of_a_package(python: str, machine: str) -> None:
    chosen = locked_for(machine, python)
    assert "torch" in [p["name"] for p in chosen]
    names = [p["name"] for p in chosen]
    assert [name for name in sorted(set(names)) if names.count(name) > 1] == []


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", MACHINES)
def test_the_locked_kernels_fit_the_locked_torch(python: str, machine: str) -> None:
    """Nothing that a machine gets, with all extras, refuses the torch or the Triton that it gets beside it."""
    poetry = pytest.importorskip("poetry.core.constraints.version", reason="poetry-core is not installed")
    chosen = {p["name"]: p for p in locked_for(machine, python, *EXTRAS)}
    assert ("xformers" in chosen) == ("xformers" in BROUGHT[machine])
    refused = {
        f"{name} wants {other} {wanted}"
        for name, package in chosen.items()
        for other in ("torch", "triton")
        for wanted in versions_wanted(package.get("dependencies", {}).get(other), machine, python)
        if other in chosen
        and not poetry.parse_constraint(wanted).allows(poetry.Version.parse(chosen[other]["version"]))
    }
    assert refused == set()


def versions_wanted(dependency: Any, machine: str, python: str) -> list[str]:
    """The version sets of a dependency as poetry.lock writes it: a text, a table, or a list of tables with markers."""
    tables = dependency if isinstance(dependency, list) else [] if dependency is None else [dependency]
    tables = [{"version": table} if isinstance(table, str) else table for table in tables]
    return [t["version"] for t in tables if "markers" not in t or fits(t["markers"], facts(machine, python))]


def locked_for(machine: str, python: str, *extras: str) -> list[dict[str, Any]]:
    """The locked packages that `machine` gets with some extras."""
    asked = [facts(machine, python, extra) for extra in extras or ("",)]
    return [p for p in LOCK["package"] if "markers" not in p or any(fits(p["markers"], facts) for facts in asked)]


def facts(machine: str, python: str, extra: str = "") -> dict[str, str]:
    return {**MACHINES[machine], "python_version": python, "python_full_version": f"{python}.5", "extra": extra}


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
    ours |= {f"mp13/chat/settings/ready/{path.name}" for path in (ROOT / "configs").iterdir()}
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
