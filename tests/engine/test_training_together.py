"""Several processes train one adapter: what they make is what one process makes of the same steps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mp13.engine.config import EngineConfig
from mp13.engine.training.events import Saved, StepDone
from mp13.errors import ConfigError
from mp13.library.data.reading import DataSet
from mp13.library.training import JobEvent, Trained, TrainingOrder, train
from tests.engine.tiny_models import tiny_model
from tests.engine.training_world import relative_error

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {
    "rank": 4, "lr": 5e-3, "batch_tokens": 64, "accumulation": 2, "steps": 12, "save_every": 4, "eval_split": 0.2,
    "eval_every": 4, "dropout": 0.1, "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = "the quick brown fox jumps over the lazy dog and then the other dogs there".split()
    rows = [{"text": " ".join(words[i : i + 3 + i % 4])} for i in range(len(words) - 3)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def trained(
    model: str, data: Path, output: Path, processes: int, device: str = "cpu", **changed: Any
) -> tuple[Trained, list[JobEvent]]:
    events: list[JobEvent] = []
    order = TrainingOrder(
        EngineConfig(model, dtype="float32", device=device), "tiny", [DataSet(str(data))], [], output,
        SETTINGS | changed, processes=processes,
    )  # fmt: skip
    return train(order, lambda stage, fraction: None, events.append), events


def assert_as_one(model: str, data: Path, folder: Path, device: str) -> None:
    alone, together = folder / "alone", folder / "together"
    one, events_of_one = trained(model, data, alone, 1, device)
    two, events_of_two = trained(model, data, together, 2, device)
    assert one.finished is not None and two.finished is not None
    assert two.finished.path == together and two.finished.from_step == one.finished.from_step
    assert two.finished.eval_loss == pytest.approx(one.finished.eval_loss, rel=1e-4)
    losses = [[e.loss for e in events if isinstance(e, StepDone)] for events in (events_of_one, events_of_two)]
    assert len(losses[1]) == 12 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert [e.step for e in events_of_two if isinstance(e, Saved)] == [
        e.step for e in events_of_one if isinstance(e, Saved)
    ]
    expected, found = (load_file(path / "adapter_model.safetensors") for path in (alone, together))
    assert expected.keys() == found.keys()
    both = [torch.cat([tensors[key].flatten() for key in sorted(tensors)]) for tensors in (found, expected)]
    assert relative_error(*both) < 1e-4


def test_two_processes_make_what_one_makes(model: str, data: Path, tmp_path: Path) -> None:
    assert_as_one(model, data, tmp_path, "cpu")


def test_a_step_too_small_to_be_shared_is_refused(model: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a step of 1 rows leaves some of 2 processes without any; give --accumulate"):
        trained(model, data, tmp_path / "a", 2, accumulation=1)
    assert not (tmp_path / "a").exists()


def test_the_death_of_one_ends_all_with_a_sentence_and_a_whole_checkpoint(
    model: str, data: Path, tmp_path: Path
) -> None:
    script = (
        "import sys\nfrom tests.engine.test_training_together import trained\nfrom pathlib import Path\n"
        "from mp13.errors import Mp13Error\n"
        "try:\n    trained(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), 2, steps=100000)\n"
        "except Mp13Error as error:\n    print(type(error).__name__, error)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, model, str(data), str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "a").glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.05)
    ranks = processes_with("RANK=1\0", str(process.pid))
    assert len(ranks) == 1
    os.kill(ranks[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    assert out.startswith("TrainingError one of the 2 processes that trained ended without a result (")
    assert f"; the last checkpoint is {tmp_path / 'a' / 'checkpoints' / 'step-'}" in out
    assert not processes_with("RANK=0\0", str(process.pid))


def processes_with(entry: str, ancestor: str) -> list[int]:
    """Those below `ancestor` that have this in their environment."""
    found, below = [], {ancestor}
    for _ in range(3):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if parent in below and process.name not in below:
                    below.add(process.name)
                    if f"\0{entry}".encode() in b"\0" + (process / "environ").read_bytes():
                        found.append(int(process.name))
            except OSError:
                continue
    return found


def test_without_together_there_is_nobody_to_ask() -> None:
    from mp13.engine.training.peers import ALONE

    tensor = torch.ones(3)
    ALONE.add_up(tensor)
    assert tensor.tolist() == [1, 1, 1] and ALONE.share([1, 2, 3]) == [1, 2, 3] and ALONE.any(True)
