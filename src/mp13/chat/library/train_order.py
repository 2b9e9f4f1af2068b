"""What `mp13 train` is asked, from its flags, a recipe file and the settings; running it is library/training.py's.

A recipe is a TOML file of training settings by TrainConfig's names, with `data`, `eval`, `model`, `name` and `max_len`
beside them. Files it names lie beside it.
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mp13.chat.library.stored_data import STORE, data_set
from mp13.chat.settings.load import load_settings
from mp13.chat.settings.model import STARTER_NAMES
from mp13.engine.request import OnProgress
from mp13.engine.training.checkpoints import RunFolder
from mp13.engine.training.config import TrainConfig
from mp13.errors import ConfigError
from mp13.library.data.reading import DataSet
from mp13.library.paths import adapters_dir, given_path
from mp13.library.placing import check_new_name
from mp13.library.starter import STARTER, install_starter
from mp13.library.training import TrainingOrder

_SETTINGS = tuple(field.name for field in dataclasses.fields(TrainConfig))
_FILES = ("data", "eval")
_OTHERS = ("model", "name", "max_len", *_FILES)
_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}  # of the base, too


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe's values, the files it names as paths that hold here.

    Raises:
        ConfigError: it cannot be read, or says something that is no setting.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give a recipe, a TOML file") from None
    except ValueError as error:  # TOML's and UTF-8's
        raise ConfigError(f"{path} is no TOML ({error}); mend it") from None
    if unknown := sorted(values.keys() - {*_SETTINGS, *_OTHERS}):
        raise ConfigError(f"{path}: {unknown[0]!r} is no setting of a training run; remove it")
    for key in _FILES:
        if key in values:
            values[key] = [_beside(path, source) for source in _texts(path, key, values[key])]
    return values


def training_order(
    flags: Mapping[str, Any], recipe: Path | None, *, output: Path | None, resume: bool, dry_run: bool,
    format: str | None, on_progress: OnProgress, processes: int = 1,
) -> TrainingOrder:  # fmt: skip
    """`flags` are values by the names a recipe has; what is None was not given. The starter is installed if it is to be
    trained and is not here yet.

    Raises:
        ConfigError, MixError, ModelError, UnsupportedError: something is missing, or has a value that cannot be used.
        TrainingError: the output folder is in use, or holds nothing that could go on.
    """
    values = ({} if recipe is None else read_recipe(recipe)) | {k: v for k, v in flags.items() if v is not None}
    options = {name: values[name] for name in _SETTINGS if name in values}
    if options.get("max_grad_norm") == 0:
        options["max_grad_norm"] = None  # TOML and flags have no word for it
    TrainConfig(**options)  # each value is in range
    folder = _output(values.get("name"), output)
    RunFolder(folder).require(resume=resume)
    data, held_out = _data(values, "data", format), _data(values, "eval", format)
    if not data:
        raise ConfigError("there is nothing to learn from; give --data FILE")
    if held_out and options.get("eval_split"):
        raise ConfigError("--eval gives the samples to evaluate by, and --eval-share would draw others; give one")
    if options.get("patience") and not held_out and not options.get("eval_split") and not resume:
        raise ConfigError("--early-stop goes by evaluations; give --eval FILE or --eval-share 0.1, too")
    chosen = {"model": values.get("model"), "dtype": _DTYPES.get(options.get("dtype", ""))}
    settings = load_settings({key: value for key, value in chosen.items() if value is not None})
    if settings.model in STARTER_NAMES:
        install_starter(on_progress)
    engine = settings.engine_config()
    return TrainingOrder(
        engine,
        _base_name(engine.model),
        data,
        held_out,
        folder,
        options,
        values.get("max_len"),
        resume,
        dry_run,
        processes,
    )


def _output(name: Any, output: Path | None) -> Path:
    """Where the adapter will be."""
    if output is not None:
        folder = given_path(output).absolute()
        return folder / check_new_name(name) if name is not None else folder
    if not isinstance(name, str):
        raise ConfigError("the adapter needs a name; give --name NAME")
    return adapters_dir() / check_new_name(name)


def _data(values: Mapping[str, Any], key: str, format: str | None) -> list[DataSet]:
    return [data_set(source, format) for source in values.get(key) or ()]


def _base_name(model: str) -> str:
    """What the adapter's files call the base: no path of this machine."""
    path = Path(model)
    return STARTER if path.name == STARTER else path.name if path.is_absolute() else model


def _texts(path: Path, key: str, value: Any) -> Sequence[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{path}: {key} = {value!r} cannot be used; give a file, or a list of files")
    return texts


def _beside(recipe: Path, source: str) -> str:
    """`source` where it is a file beside the recipe; what is not there may be of the Hub."""
    near = recipe.parent / source
    return str(near) if not source.startswith(STORE) and near.exists() else source
