"""Two GPUs train one adapter: what they make is what one makes of the same steps."""

from pathlib import Path

import pytest
import torch

from tests.engine.test_training_together import assert_as_one, data, model

__all__ = ["data", "model"]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs here")]


def test_two_gpus_make_what_one_makes(model: str, data: Path, tmp_path: Path) -> None:
    assert_as_one(model, data, tmp_path, "cuda")
