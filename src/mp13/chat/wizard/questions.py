"""Five questions that make a configuration. Each answer is tried on the spot, so that what is written works.

How a question is put and answered is the caller's; a terminal's prompt, or a test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp13.chat.settings.load import change_settings, load_settings, save_settings
from mp13.chat.settings.schema import Settings
from mp13.engine.config import ATTENTION_NAMES, QUANTIZATION_NAMES
from mp13.errors import ConfigError, Mp13Error

Prompt = Callable[[str, str], str]  # (question, default) -> answer


@dataclass(frozen=True)
class Question:
    key: str
    text: str


QUESTIONS = (
    Question("model", "Model: starter, a folder, or a Hugging Face Hub id"),
    Question("quantization", f"Quantization: {', '.join(QUANTIZATION_NAMES)}"),
    Question("attn_implementation", f"Attention: {', '.join(ATTENTION_NAMES)}"),
    Question("adapters_folder", "A folder of your adapters (none: only those in the data folder)"),
    Question("max_model_len", "Context window in tokens (none: the model's own)"),
)


def ask_all(prompt: Prompt, complain: Callable[[str], None]) -> Path:
    """Ask every question until its answer can be used; the file that was written.

    Raises:
        ConfigError: the file cannot be written.
    """
    settings = load_settings()
    for question in QUESTIONS:
        settings = _answered(question, settings, prompt, complain)
    kept = {question.key: _stored(getattr(settings, question.key)) for question in QUESTIONS}
    return save_settings({key: value for key, value in kept.items() if value is not None})


def _answered(question: Question, settings: Settings, prompt: Prompt, complain: Callable[[str], None]) -> Settings:
    now = getattr(settings, question.key)
    while True:
        answer = prompt(question.text, "none" if now is None else str(now)).strip()
        try:
            return _tried(question, settings, answer)
        except Mp13Error as error:
            complain(str(error))


def _tried(question: Question, settings: Settings, answer: str) -> Settings:
    if question.key == "model" and Path(answer).expanduser().exists():
        answer = str(Path(answer).expanduser().absolute())  # the file is read from any working directory
    changed = change_settings(settings, {question.key: answer}, "your answer")
    changed.engine_config()
    folder = changed.adapters_folder
    if question.key != "adapters_folder" or folder is None:
        return changed
    if not folder.expanduser().is_dir():
        raise ConfigError(f"there is no folder {str(folder)!r}; make it first, or answer none")
    return change_settings(settings, {question.key: str(folder.expanduser().absolute())}, "your answer")


def _stored(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
