"""What cannot be combined is refused before weights are read, and the documentation says so in the same words."""

from pathlib import Path

import pytest

from tests.engine.refusals import BEGIN, CASES, END, PAGE, Refusal, message, row


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.options} on {case.where}")
def test_the_refusal_names_the_value_and_the_fix_and_the_table_has_it(case: Refusal, tmp_path: Path) -> None:
    said = message(case, tmp_path / "model")
    name, value = next(iter(case.options.items()))
    named = [f"{key} = {part!r}" for key, part in (value if isinstance(value, dict) else {name: value}).items()]
    assert any(words in said for words in named)
    assert "; " in said, "no way out is named"
    assert row(case, tmp_path / "again") in PAGE.read_text(encoding="utf-8"), "run: python -m tests.engine.refusals"


def test_the_table_has_nothing_else() -> None:
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    assert len(table) == 2 + len(CASES)
