"""The real starter model, for the few tests that want a real tokenizer or real weights."""

from pathlib import Path

import pytest

from mp13.errors import ModelError
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
