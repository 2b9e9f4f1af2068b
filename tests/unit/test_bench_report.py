"""How `make bench` turns measured values into ratios, verdicts and tables."""

import json

import pytest

from benchmarks.report import Bar, Series, as_json, judge, markdown, text_table

OURS = Series("ours", "tok/s", (30.0, 60.0, 45.0))
THEIRS = Series("theirs", "tok/s", (20.0, 30.0, 15.0))
AT_LEAST_TWICE = Bar("ours", "theirs", 2.0)


def test_a_ratio_is_taken_within_a_round_and_then_the_median_over_rounds() -> None:
    (verdict,) = judge([OURS, THEIRS], [AT_LEAST_TWICE])
    assert verdict.ratios == (1.5, 2.0, 3.0)
    assert verdict.ratio == 2.0


@pytest.mark.parametrize(
    ("limit", "at_least", "met"),
    [(2.0, True, True), (2.1, True, False), (2.0, False, True), (1.9, False, False)],
)
def test_a_bar_is_met_at_its_limit_and_missed_beyond_it(limit: float, at_least: bool, met: bool) -> None:
    (verdict,) = judge([OURS, THEIRS], [Bar("ours", "theirs", limit, at_least)])
    assert verdict.met is met
    assert str(verdict).startswith("met" if met else "MISSED")


def test_a_verdict_says_ratio_bar_spread_and_what_was_compared() -> None:
    (verdict,) = judge([OURS, THEIRS], [AT_LEAST_TWICE])
    assert str(verdict) == "met     2.00x (bar >= 2.00x; rounds 1.50 to 3.00)  ours / theirs"


def test_a_bar_over_something_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError, match="nobody"):
        judge([OURS], [Bar("ours", "nobody", 1.0)])


def test_speeds_and_waiting_times_have_no_ratio() -> None:
    with pytest.raises(ValueError, match=r"'ours' is in tok/s, 'wait' in ms"):
        judge([OURS, Series("wait", "ms", (1.0, 1.0, 1.0))], [Bar("ours", "wait", 1.0)])


def test_series_of_different_length_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="shorter"):
        judge([OURS, Series("theirs", "tok/s", (20.0,))], [AT_LEAST_TWICE])


def test_the_text_table_aligns_medians_and_shows_the_span() -> None:
    assert text_table([OURS, THEIRS]).splitlines() == [
        "ours        45.0 tok/s  (30.0 to 60.0)",
        "theirs      20.0 tok/s  (15.0 to 30.0)",
    ]


def test_the_markdown_shows_values_ratios_and_the_machine() -> None:
    verdicts = judge([OURS, THEIRS], [AT_LEAST_TWICE, Bar("ours", "theirs", 1.0, at_least=False)])
    lines = markdown([OURS, THEIRS], verdicts, {"processor": "a fast one"}).splitlines()
    assert "| ours | 45.0 tok/s | 30.0 to 60.0 |" in lines
    assert "| ours / theirs | 2.00× | ≥ 2.00× | met |" in lines
    assert "| ours / theirs | 2.00× | ≤ 1.00× | missed |" in lines
    assert lines[-1] == "- processor: a fast one"


def test_the_json_keeps_every_value() -> None:
    verdicts = judge([OURS, THEIRS], [AT_LEAST_TWICE])
    data = json.loads(json.dumps(as_json([OURS, THEIRS], verdicts, {"threads": "2"})))
    assert data["environment"] == {"threads": "2"}
    assert data["series"][0] == {"name": "ours", "unit": "tok/s", "values": [30.0, 60.0, 45.0], "median": 45.0}
    assert data["verdicts"][0]["ratios"] == [1.5, 2.0, 3.0]
    assert data["verdicts"][0]["met"] is True
