"""GGUF files in the models folder: listed, meant by name, removed, and known by the digest of the one file."""

from pathlib import Path

import pytest

from mp13.digests import file_digest
from mp13.engine.models.digest import base_digest
from mp13.errors import ModelError
from mp13.library.models import known_base, list_models, remove_model
from mp13.library.paths import models_dir
from tests.fakes.tiny_starter import write_tiny_gguf


@pytest.fixture
def file() -> Path:
    (models_dir() / "org").mkdir(parents=True)
    write_tiny_gguf(models_dir() / "org" / "tiny.gguf")
    return models_dir() / "org" / "tiny.gguf"


def test_gguf_files_are_listed_with_what_they_say_of_themselves(file: Path) -> None:
    (models_dir() / "broken.gguf").write_bytes(b"GGUF")
    (models_dir() / ".half.gguf").write_bytes(b"GGUF")
    broken, tiny = list_models()
    assert (tiny.name, tiny.path, tiny.architecture, tiny.quantization) == ("org/tiny.gguf", file, "llama", "gguf")
    assert tiny.size_bytes == file.stat().st_size
    assert tiny.unfit is None
    assert broken.name == "broken.gguf"
    assert "damaged or incomplete" in str(broken.unfit)


def test_its_digest_is_of_the_one_file_and_remembered(file: Path) -> None:
    assert known_base(str(file)) is None
    digest = base_digest(file)
    assert known_base(str(file)) == digest == base_digest(file.parent)
    file.write_bytes(file.read_bytes() + b"x")
    assert base_digest(file) != digest
    assert file_digest(file) != base_digest(file)


def test_removing_one_leaves_its_neighbours(file: Path) -> None:
    write_tiny_gguf(file.with_name("other.gguf"))
    assert remove_model("org/tiny.gguf").path == file
    assert [model.name for model in list_models()] == ["org/other.gguf"]
    remove_model("org/other.gguf")
    assert not file.parent.exists()
    with pytest.raises(ModelError, match=r"there is no model 'org/other\.gguf'"):
        remove_model("org/other.gguf")
