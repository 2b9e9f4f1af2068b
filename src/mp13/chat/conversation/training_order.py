"""What `/train` asks for, checked before the engine hears of it: settings, name, folder and data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from mp13.chat.library.stored_data import STORE, data_set
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.sample import Sample
from mp13.errors import ConfigError
from mp13.library.data.check import check
from mp13.library.data.reading import DataSet
from mp13.library.paths import adapters_dir, given_path
from mp13.library.placing import check_new_name

SETTINGS = tuple(field.name for field in fields(TrainConfig))
OTHERS = ("eval", "format", "every", "resume", "prompt")
_FIXED_PROMPTS = 2
_WORDS: dict[str, Any] = {"true": True, "yes": True, "false": False, "no": False, "none": None}


@dataclass(frozen=True)
class Order:
    """`data` is what the engine's process reads by itself; what only the chat can read goes along as `samples`.
    `prompts` are answered with every version."""

    source: str
    name: str
    output: Path
    data: str | None
    samples: tuple[dict[str, Any], ...] | None
    eval_data: str | None
    format: str | None
    settings: dict[str, Any]
    publish_every: int | None
    resume: bool
    prompts: tuple[str, ...]


def checked_order(source: str, name: str | None, values: Sequence[tuple[str, str]]) -> Order:
    """Reads all of the data, so it may take a while.

    Raises:
        ConfigError: a setting is unknown or cannot be used; of data, with its line.
        AdapterError: the name cannot be one, or is taken.
        TrainingError: the folder is in use, or holds nothing to go on with.
    """
    given = {key: _value(text) for key, text in values if key != "prompt"}
    if unknown := [key for key in given if key not in (*SETTINGS, *OTHERS)]:
        raise ConfigError(f"{unknown[0]!r} is no setting of a training run; there: {', '.join((*SETTINGS, *OTHERS))}")
    settings = {key: given[key] for key in SETTINGS if key in given}
    TrainConfig(**settings)
    name = check_new_name(name or Path(source).stem)
    resume = _is(given, "resume")
    output = adapters_dir() / name
    RunFolder(output).require(resume=resume)
    form = None if given.get("format") is None else str(given["format"])
    held_out = None if given.get("eval") is None else _placed(str(dict(values)["eval"]))
    placed = _placed(source)
    data = data_set(placed, form)
    check([data], [data_set(held_out, form)] if held_out else [], None, lambda *_: None).raise_errors()
    asked = [text for key, text in values if key == "prompt"]
    is_stored = placed.startswith(STORE)
    return Order(
        placed, name, output, None if is_stored else placed,
        tuple(sample.row() for sample in data.samples()) if is_stored else None, held_out, form, settings,
        _every(given), resume, tuple(asked or first_prompts(data)),
    )  # fmt: skip


def first_prompts(data: DataSet) -> list[str]:
    """The first questions of the data, each once."""
    asked = (question for sample in islice(data.samples(), 50) if (question := question_of(sample)))
    return list(islice(dict.fromkeys(asked), _FIXED_PROMPTS))


def question_of(sample: Sample) -> str:
    return next((message.content for message in sample.messages if message.role == "user"), sample.prompt)


def check_setting(key: str, text: str) -> None:
    """Raises ConfigError."""
    TrainConfig(**{key: _value(text)})


def _every(given: Mapping[str, Any]) -> int | None:
    every = given.get("every")
    if every is not None and (not isinstance(every, int) or every < 1):
        raise ConfigError(f"every = {every!r} cannot be used; give a whole number, 1 or more")
    return every


def _is(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} = {value!r} cannot be used; give yes or no")
    return value


def _placed(source: str) -> str:
    """A file by its absolute path, since the engine's process stands elsewhere; what is no file may be of the Hub."""
    path = given_path(source)
    return source if source.startswith(STORE) or not path.exists() else str(path.resolve())


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
