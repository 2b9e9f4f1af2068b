"""The models on disk: in the data folder, and in the Hugging Face cache, which is shared with other programs.

Fetched ones go to `<data>/models/org/name`, pinned to one commit, and are then meant by `org/name` everywhere. Whether
the engine can run a model is its own to say.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mp13.engine.models.digest import remembered_base_digest
from mp13.engine.models.model_files import weight_files
from mp13.errors import AdapterError, ModelError
from mp13.library.hub import HubPlace, fetched, is_path, parse_place
from mp13.library.hub_choice import model_files
from mp13.library.hub_transfer import Progress
from mp13.library.notes import read_notes, write_notes
from mp13.library.paths import given_path, models_dir
from mp13.library.placing import changing, discard, place, readable_errors

_LARGEST_CONFIG = 16 << 20  # bytes


@dataclass(frozen=True)
class ModelOnDisk:
    """A folder in Hugging Face format, or a GGUF file. `unfit` is None, or why it cannot be loaded and what to do."""

    name: str  # what `--model` takes
    path: Path
    place: Literal["data folder", "Hugging Face cache"]
    architecture: str
    size_bytes: int  # of the weights
    dtype: str | None = None
    quantization: str | None = None
    revision: str | None = None  # the commit, where it is known
    modified: float = 0.0  # of its configuration, in seconds since 1970
    unfit: str | None = None


def list_models() -> list[ModelOnDisk]:
    """Every model in the data folder and in the Hugging Face cache, sorted by name, the data folder's first."""
    own = [_look_at_own(name, path) for name, path in _own_models()]
    return sorted([*own, *_cached_models()], key=lambda model: (model.name.lower(), model.place))


def model_folder(name: str) -> Path:
    """The folder or GGUF file of a model on this machine: a path, or a name that `list_models` has.

    Raises:
        ModelError: it is none of these.
    """
    path = given_path(name)
    if path.exists():
        return path
    for model in list_models():
        if model.name == name:
            return model.path
    raise ModelError(f"there is no model {name!r} on this machine; `mp13 models list` shows those that are")


def known_base(model: str) -> str | None:
    """The digest of a model's content, one on disk or of the Hugging Face cache; None if it was never computed."""
    try:
        if Path(model).exists() or is_path(model):
            return remembered_base_digest(Path(model))
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(model, "config.json")
        return remembered_base_digest(Path(config).parent) if isinstance(config, str | Path) else None
    except (OSError, ValueError, ModelError):  # ValueError: the Hub has no such ids
        return None


def pull_model(
    what: str, *, replace_it: bool = False, progress: Progress = lambda stage, fraction: None
) -> ModelOnDisk:
    """Fetch org/name (or org/name@revision) from the Hub into the data folder.

    Raises:
        ModelError: it is no repository with safetensors, is here already (unless `replace_it`), or the Hub or the
            disk refuses.
    """
    source = parse_place(what)
    if not isinstance(source, HubPlace) or source.folder:
        raise ModelError(f"{what!r} is no Hub id; give org/name, or use a folder as it is: mp13chat --model FOLDER")
    target = models_dir() / source.repo
    taken = ModelError(f"{source.repo} is here already, in {target}; to fetch it anew, replace it (--replace)")
    if target.exists() and not replace_it:
        raise taken
    with fetched(source, model_files, models_dir(), progress, ModelError) as repository, readable_errors(ModelError):
        weight_files(repository.folder)  # says what is missing
        if not repository.folder.is_relative_to(models_dir()):
            return _look_at(repository.folder, source.repo, "Hugging Face cache", repository.revision)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_notes(repository.folder, {"source": source.text, "revision": repository.revision, "added_at": now})
        place(repository.folder, target, models_dir(), replace_it, taken)
    return _look_at(target, source.repo, "data folder")


def remove_model(name: str) -> ModelOnDisk:
    """Delete `name` from the data folder.

    Raises:
        ModelError: it isn't there; the Hugging Face cache is left alone.
    """
    own = dict(_own_models())
    if name not in own:
        if any(model.name == name for model in list_models()):
            raise ModelError(
                f"{name!r} is in the Hugging Face cache, which other programs use, too; "
                f"remove it there: hf cache rm model/{name}"
            )
        raise ModelError(f"there is no model {name!r} in {models_dir()}; there: {', '.join(sorted(own)) or 'none yet'}")
    model = _look_at_own(name, own[name])
    if model.path.parent.is_symlink():
        raise ModelError(f"{name!r} is in a folder of yours, {model.path.parent.resolve()}, by a link; remove it there")
    with readable_errors(ModelError), changing(models_dir()):
        discard(model.path, models_dir())
        if model.path.parent != models_dir() and not any(model.path.parent.iterdir()):
            model.path.parent.rmdir()
    return model


def _own_models() -> Iterator[tuple[str, Path]]:
    """Name and place: directly in the data folder, or under an organisation's name there."""
    yield from ((file.name, file) for file in _gguf_files(models_dir()))
    for folder in _folders(models_dir()):
        if (folder / "config.json").is_file():
            yield folder.name, folder
        else:
            yield from ((f"{folder.name}/{file.name}", file) for file in _gguf_files(folder))
            for inner in _folders(folder):
                if (inner / "config.json").is_file():
                    yield f"{folder.name}/{inner.name}", inner


def _gguf_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.gguf") if path.is_file() and not path.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []


def _cached_models() -> Iterator[ModelOnDisk]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return
    for repo in cache.repos:
        main = next((r for r in repo.revisions if "main" in r.refs), None)
        revision = main or max(repo.revisions, key=lambda r: r.last_modified, default=None)
        if repo.repo_type == "model" and revision is not None:
            folder = Path(revision.snapshot_path)
            if (folder / "config.json").is_file():
                yield _look_at(folder, repo.repo_id, "Hugging Face cache", revision.commit_hash)


def _look_at_own(name: str, path: Path) -> ModelOnDisk:
    return _look_at_gguf(path, name) if path.is_file() else _look_at(path, name, "data folder")


def _look_at_gguf(path: Path, name: str) -> ModelOnDisk:
    from mp13.engine.models.gguf_file import GGUFFile  # loads numpy, which only who has such files should wait for

    metadata, unfit = {}, None
    try:
        metadata = GGUFFile(path, only_head=True).metadata
    except ModelError as error:
        unfit = str(error)
    stat = path.stat()
    return ModelOnDisk(
        name=name,
        path=path,
        place="data folder",
        architecture=str(metadata.get("general.architecture", "unknown"))[:60],
        size_bytes=stat.st_size,
        quantization="gguf",
        modified=stat.st_mtime,
        unfit=unfit,
    )


def _look_at(
    folder: Path, name: str, where: Literal["data folder", "Hugging Face cache"], revision: str | None = None
) -> ModelOnDisk:
    config, unfit, size = _config(folder), None, 0
    try:
        size = sum(path.stat().st_size for path in weight_files(folder))
        if not config:
            raise ModelError(f"{folder / 'config.json'} cannot be read; fetch the model again")
        revision = revision or read_notes(folder).revision
    except (ModelError, AdapterError) as error:
        unfit = str(error)
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) and architectures else [config.get("model_type")]
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    return ModelOnDisk(
        name=name,
        path=folder,
        place=where,
        architecture=str(names[0] or "unknown")[:60],
        size_bytes=size,
        dtype=_text(config.get("dtype") or config.get("torch_dtype")),
        quantization=_text(method),
        revision=revision,
        modified=(folder / "config.json").stat().st_mtime,
        unfit=unfit,
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        with (folder / "config.json").open("rb") as file:
            content = json.loads(file.read(_LARGEST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(value: Any) -> str | None:
    return str(value)[:40] if value else None
