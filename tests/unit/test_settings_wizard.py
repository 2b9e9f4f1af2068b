"""Five questions that end in a configuration which works."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from mp13.chat.settings.load import config_file, load_settings
from mp13.chat.wizard.questions import QUESTIONS, ask_all


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answering(answers: dict[str, list[str]]) -> Callable[[str, str], str]:
    """Give these answers, one after the other; the default to a question that has none left."""
    keys = {question.text: question.key for question in QUESTIONS}

    def prompt(text: str, default: str) -> str:
        waiting = answers.get(keys[text], [])
        return waiting.pop(0) if waiting else default

    return prompt


def test_the_defaults_are_written_and_load_again() -> None:
    assert ask_all(answering({}), pytest.fail) == config_file()
    assert tomllib.loads(config_file().read_text()) == {
        "model": "starter", "quantization": "none", "attn_implementation": "auto",
    }  # fmt: skip
    assert load_settings().source("model") == str(config_file())


def test_an_answer_that_cannot_be_used_is_asked_again_with_the_reason(here: Path) -> None:
    (here / "weights").mkdir()
    (here / "mine").mkdir()
    complaints: list[str] = []
    answers = {
        "model": ["./nowhere", "weights"],
        "quantization": ["hqq-5bit", "none"],
        "attn_implementation": ["magic", "sdpa"],
        "adapters_folder": ["absent", "mine"],
        "max_model_len": ["many", "1", "256"],
    }
    ask_all(answering(answers), complaints.append)
    assert tomllib.loads(config_file().read_text()) == {
        "model": str(here / "weights"), "quantization": "none", "attn_implementation": "sdpa",
        "adapters_folder": str(here / "mine"), "max_model_len": 256,
    }  # fmt: skip
    reasons = ("./nowhere", "hqq-5bit", "magic", "absent", "many", "max_model_len = 1")
    assert len(complaints) == len(reasons)
    for complaint, reason in zip(complaints, reasons, strict=True):
        assert reason in complaint


def test_what_is_configured_is_the_default_of_the_next_time() -> None:
    ask_all(answering({"max_model_len": ["256"], "model": ["org/name"]}), pytest.fail)
    ask_all(answering({"max_model_len": ["none"]}), pytest.fail)
    settings = load_settings()
    assert (settings.model, settings.max_model_len) == ("org/name", None)
