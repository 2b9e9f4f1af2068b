"""What every test stands on: folders of its own, not the developer's; no model hub; the Hypothesis profile."""

import gc
import os
import shutil

if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run in Triton's interpreter; read when they are imported
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are slower on many threads; read when torch is imported

import pytest
from hypothesis import settings

gc.set_threshold(50_000, 20, 50)  # looking through all that torch and Textual bring costs a fourth of the run
settings.register_profile("test", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("soak", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("soak" if os.environ.get("MP13_SOAK") else "test")


@pytest.fixture(autouse=True)
def private_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the home of the person who runs it, nor follows their MP13_ variables. A terminal that a
    test makes has the size it gives, not the one that readline, once imported, writes into these two variables."""
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name in os.environ:
        if name.startswith("MP13_") and name != "MP13_SOAK":
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("mp13")
    monkeypatch.setenv("MP13_DATA_DIR", str(home / "data"))
    monkeypatch.setenv("MP13_CONFIG_DIR", str(home / "config"))
