"""INSTALL.md: what it tells a reader to type exists, and its tables say what the two pyproject files say."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.packaging.source import ROOT

GUIDE = (ROOT / "INSTALL.md").read_text(encoding="utf-8")
STACKS = {
    name: tomllib.loads((ROOT / name).read_text(encoding="utf-8"))["project"]
    for name in ("pyproject.toml", "pyproject.toml_torch_2.6.0")
}
EXTRAS = STACKS["pyproject.toml"]["optional-dependencies"]


def table_under(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, without its head."""
    lines = GUIDE.partition(f"# {heading}\n")[2].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_every_extra_has_a_row_among_the_profiles_and_no_other_is_named() -> None:
    assert [row[0] for row in table_under("Profiles")] == ["minimal", *EXTRAS]
    named = re.findall(r'"?\.\[([\w,]+)\]', GUIDE) + re.findall(r'--extras "?([\w ]+)[`"\n]', GUIDE)
    assert {extra for group in named for extra in re.split(r"[, ]", group)} == set(EXTRAS)


@pytest.mark.parametrize(("torch", "xformers", "_"), table_under("xFormers and torch"))
def test_the_pairs_of_torch_and_xformers_are_pairs_that_a_stack_allows(torch: str, xformers: str, _: str) -> None:
    def allows(stack: str) -> bool:
        wanted = {r.name: r.specifier for r in map(Requirement, STACKS[stack]["dependencies"])}
        (kernels, *_) = map(Requirement, STACKS[stack]["optional-dependencies"]["xformers"])
        versions = re.findall(r"\d[\w.]*", torch), re.findall(r"\d[\w.]*", xformers)
        return all(map(wanted["torch"].contains, versions[0])) and all(map(kernels.specifier.contains, versions[1]))

    assert any(map(allows, STACKS))


def test_the_pairs_reach_from_one_end_of_the_torch_range_to_the_other() -> None:
    versions = [version for row in table_under("xFormers and torch") for version in re.findall(r"\d[\w.]*", row[0])]
    (torch,) = (r for r in map(Requirement, STACKS["pyproject.toml"]["dependencies"]) if r.name == "torch")
    bounds = {s.operator: s.version for s in torch.specifier}
    major, minor = bounds["<"].split(".")
    assert versions[1] == bounds[">="] and versions[-1] == f"{major}.{int(minor) - 1}"


def test_the_torch_it_names_is_the_one_that_is_asked_for() -> None:
    (asked,) = (text for text in STACKS["pyproject.toml"]["dependencies"] if Requirement(text).name == "torch")
    assert re.findall(r'"(torch[<>=][^"]*)" --index-url', GUIDE) == [asked]


def test_every_task_module_and_file_it_names_exists() -> None:
    tasks = re.search(r"^TASKS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert tasks is not None
    named = re.findall(r"(?:make|python dev\.py) ([a-z][\w-]+)", GUIDE)
    assert named and set(named) <= set(tasks[1].split())
    modules = re.findall(r"python -m (src\.\S+)", GUIDE)
    assert len(modules) == 3
    assert all((ROOT / (module.replace(".", "/") + ".py")).is_file() for module in modules)
    assert all((ROOT / name).is_file() for name in re.findall(r"pyproject\.toml[\w.]*|poetry\.lock", GUIDE))


def test_its_links_lead_somewhere() -> None:
    anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings()}
    linked = re.findall(r"\]\(#([^)]*)\)", GUIDE)
    assert linked and set(linked) <= anchors


def headings() -> list[str]:
    prose = re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL)
    return re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
