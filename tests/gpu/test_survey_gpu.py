"""What the survey tells of a real GPU."""

import asyncio

import pytest
import torch

from mp13.library.machine import survey

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]


def test_the_card_is_told_with_its_driver_and_what_is_free_of_it() -> None:
    found = asyncio.run(survey(16))
    assert found.error == "" and found.no_gpu == ""
    for gpu in found.gpus:
        assert 0 < gpu.free <= gpu.total
        assert gpu.name and gpu.capability.count(".") == 1
    assert found.gpus and found.driver
    assert not found.attention_auto.startswith("reference")
