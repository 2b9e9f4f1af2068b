"""Lines of a settings file: found, put in and taken out, and nothing else moves."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp13.chat.settings.toml_text import assigned, removed, statements, toml_value

OWN = """\
# my settings

top_p = 0.5   # as Greta said
system = '''
be brief
# and kind
'''
stop = [
  "a#b",  # one
]

# the keys
[keys]
"adapters.pick" = "f5"
# of an old laptop
[extra]
x = 1
"""


def test_every_statement_is_found_with_its_lines() -> None:
    found = [(each.key, each.start, each.end, each.is_table) for each in statements(OWN)]
    assert found == [
        ("top_p", 2, 3, False), ("system", 3, 7, False), ("stop", 7, 10, False), ("keys", 12, 14, True),
        ("extra", 15, 17, True),
    ]  # fmt: skip


def test_a_value_takes_the_place_of_the_old_one_and_its_comment_stays() -> None:
    assert assigned(OWN, "top_p", 0.9) == OWN.replace("top_p = 0.5 ", "top_p = 0.9 ")
    assert assigned('stop = ["a#b"]# two', "stop", ("c",)) == 'stop = ["c"]# two\n'


def test_a_value_of_several_lines_is_replaced_as_a_whole() -> None:
    after = assigned(OWN, "system", "kind")
    assert after == OWN.replace("system = '''\nbe brief\n# and kind\n'''\n", 'system = "kind"\n')


def test_a_new_key_goes_above_the_tables_and_what_is_said_of_them() -> None:
    assert assigned(OWN, "seed", 7) == OWN.replace("# the keys\n", "seed = 7\n# the keys\n")
    assert assigned("top_p = 1", "seed", None) == 'top_p = 1\nseed = "none"\n'
    assert assigned("", "seed", 7) == "seed = 7\n"


def test_a_new_key_goes_under_its_default_in_a_comment() -> None:
    text = "# what it is\n#seed = 1\n\n# the other\n# top_k = 0\nx = 1\n"
    assert assigned(text, "seed", 7) == text.replace("#seed = 1\n", "#seed = 1\nseed = 7\n")
    assert assigned(text, "top_k", 7) == text.replace("# top_k = 0\n", "# top_k = 0\ntop_k = 7\n")


def test_dotted_keys_and_tables_are_one_setting() -> None:
    assert removed("a.x = 1\nb = 2\na.y = 3\n", "a") == "b = 2\n"
    assert assigned("a.x = 1\nb = 2\na.y = 3\n", "a", {"z": 4}) == "a = { z = 4 }\nb = 2\n"
    assert removed(OWN, "keys") == OWN.replace('[keys]\n"adapters.pick" = "f5"\n', "")
    assert tomllib.loads(assigned(OWN, "keys", {"a.b": "f6"}))["keys"] == {"a.b": "f6"}


def test_line_endings_of_windows_stay() -> None:
    assert assigned("a = 1 # x\r\nb = 2\r\n", "a", 5) == "a = 5 # x\r\nb = 2\r\n"
    assert assigned("a = 1\r\n", "b", 2) == "a = 1\r\nb = 2\r\n"


@pytest.mark.parametrize(
    "value", ["a # b", 'quoted " \\ ä', "two\nlines", "\x1b[31m", 1.5, 7, True, ("a", "b"), (), {}]
)
def test_what_is_written_is_what_is_read(value: Any) -> None:
    assert "\n" not in toml_value(value)
    read = tomllib.loads(f"x = {toml_value(value)}")["x"]
    assert read == (list(value) if isinstance(value, tuple) else value)


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.one_of(st.integers(0, 9), st.text("a#'\"\\\n[]= ", max_size=6), st.lists(st.text("#]\"'", max_size=2)))
BETWEEN = st.sampled_from(["", "\n", "# a = 1\n", "#b = [\n", "  # '''\n"])


@given(st.lists(st.tuples(BETWEEN, KEYS, VALUES), unique_by=lambda line: line[1]), BETWEEN, KEYS, VALUES)
def test_whatever_the_file_only_that_key_changes(
    lines: list[tuple[str, str, Any]], end: str, key: str, value: Any
) -> None:
    text = "".join(f"{between}{name} = {toml_value(each)} # {name}\n" for between, name, each in lines) + end
    before = tomllib.loads(text)
    assert tomllib.loads(assigned(text, key, value)) == {**before, key: value}
    without = removed(text, key)
    assert tomllib.loads(without) == {name: each for name, each in before.items() if name != key}
    kept = [line for line in text.splitlines() if not line.startswith(f"{key} = ")]
    assert without.splitlines() == kept
    assert [line for line in assigned(text, key, value).splitlines() if not line.startswith(f"{key} = ")] == kept
