"""What the wizard's reader has chosen, and the file that comes of it."""

import re
import tomllib
from pathlib import Path

import pytest

from mp13.chat.settings.load import config_file
from mp13.chat.settings.taught import taught
from mp13.chat.wizard.draft import Draft
from mp13.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    config_file().parent.mkdir(parents=True)
    return tmp_path


def test_without_a_file_it_begins_with_one_that_explains_everything() -> None:
    draft = Draft()
    assert (draft.text, draft.changes, draft.remarks) == (taught(), {}, ())


def test_only_what_differs_from_the_default_is_set() -> None:
    draft = Draft()
    draft.choose(quantization="hqq-4bit", attn_implementation="auto", max_model_len=2048, adapters_folder=None)
    assert draft.changes == {"quantization": "hqq-4bit", "max_model_len": 2048}
    assert tomllib.loads(draft.text) == draft.changes
    draft.choose(max_model_len=None)
    assert tomllib.loads(draft.text) == {"quantization": "hqq-4bit"}


def test_what_is_chosen_back_to_its_default_is_taken_out_of_the_file() -> None:
    config_file().write_text("# mine\nquantization = 'hqq-4bit'\nmax_model_len = 512\n")
    draft = Draft()
    draft.choose(quantization="none", max_model_len=512)
    assert draft.changes == {"quantization": "none"}
    assert draft.text == "# mine\nmax_model_len = 512\n"


def test_nothing_is_taken_in_of_a_choice_that_cannot_be_used() -> None:
    draft = Draft()
    with pytest.raises(ConfigError, match="max_model_len = 1"):
        draft.choose(quantization="hqq-4bit", max_model_len=1)
    assert draft.changes == {}


def test_only_the_file_counts_and_no_other_source(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("MP13_TOP_K", "9")
    (here / "mp13.toml").write_text("top_p = 0.1\n")
    config_file().write_text("temperature = 0.2\n")
    settings = Draft().settings
    assert (settings.temperature, settings.top_k, settings.top_p) == (0.2, 0, 0.9)


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (b"system = '\xff'", "is not UTF-8"),
        (b"top_p = 0.5\ntop_k = ", "Line 2 of .*: this is no TOML"),
        (b"top_p = 7\n", "Line 1 of .* is left out: top_p = 7.0 cannot be used"),
        (b"tempo = 7\n", "Line 1 of .* is left out: unknown setting 'tempo'"),
    ],
)
def test_what_cannot_be_used_is_told_and_left_out(content: bytes, remark: str) -> None:
    config_file().write_bytes(content)
    draft = Draft()
    assert len(draft.remarks) == 1
    assert re.search(remark, draft.remarks[0])
    assert tomllib.loads(draft.text) == {}
    written = draft.write()
    assert written.backup is not None and written.backup.read_bytes() == content


def test_a_folder_in_the_files_place_is_an_error_at_once() -> None:
    config_file().mkdir()
    with pytest.raises(ConfigError, match="is not a file; move it away"):
        Draft()
