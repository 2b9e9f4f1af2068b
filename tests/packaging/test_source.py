"""The shape of the source: small files, small functions, docstrings, nothing of anyone's machine."""

import ast
import re

from tests.packaging.source import ROOT, SRC, package_files

MOST_LINES_IN_A_FILE = 300
MOST_LINES_IN_A_FUNCTION = 60


def test_files_stay_short() -> None:
    lengths = {path.relative_to(SRC): len(path.read_text(encoding="utf-8").splitlines()) for path in package_files()}
    assert {path: lines for path, lines in lengths.items() if lines >= MOST_LINES_IN_A_FILE} == {}


def test_functions_stay_short() -> None:
    lengths = {}
    for path in package_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f"{path.relative_to(SRC)}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert {name: lines for name, lines in lengths.items() if lines >= MOST_LINES_IN_A_FUNCTION} == {}


def test_every_module_says_what_it_owns() -> None:
    silent = [
        path.relative_to(SRC)
        for path in package_files()
        if (tree := ast.parse(path.read_text(encoding="utf-8"))).body and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_imports_are_absolute() -> None:
    relative = [
        f"{path.relative_to(SRC)}:{node.lineno}"
        for path in package_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_entry_points_of_a_checkout_stay_thin() -> None:
    for path in sorted((SRC / "app").glob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 12, path


def test_no_file_names_a_folder_of_a_developers_machine() -> None:
    private = re.compile(rf"{re.escape(str(ROOT.parent))}/|/(home|Users)/\w+/")
    suffixes = {".py", ".md", ".toml", ".json", ".tcss", ".jsonl", ".svg"}
    tracked = [path for folder in ("src", "docs", "configs", "benchmarks") for path in (ROOT / folder).rglob("*")]
    tracked += [path for path in ROOT.iterdir() if path.is_file()]
    named = [p.relative_to(ROOT) for p in tracked if p.suffix in suffixes and private.search(p.read_text("utf-8"))]
    assert named == []
