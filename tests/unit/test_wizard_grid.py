"""Will it fit? Every quantization beside every length, what each takes, and why one cannot be chosen."""

from typing import Any

import pytest

from mp13.chat.wizard.grid import Grid, chosen_cell, fit_grid
from mp13.engine.config import EngineConfig
from mp13.engine.models.footprint import model_shape
from mp13.library.fit import SavedModel, fit_of
from mp13.library.machine import Kernel, Room
from mp13.library.starter import STARTER_SHAPE
from tests.fakes.fake_machine import GB, LLAMA_8B

CARD = Room(12 * GB, on_gpu=True)
LAPTOP = Room(9 * GB, on_gpu=False, cpu_itemsize=2)
RUNS = tuple(Kernel(f"hqq-{bits}bit") for bits in (8, 4, 3, 2))


def grid(room: Room, kernels: tuple[Kernel, ...] = RUNS, saved: str | None = None, **settings: Any) -> Grid:
    return fit_grid(SavedModel(model_shape(LLAMA_8B), 2, saved), EngineConfig("any", **settings), room, kernels)


@pytest.mark.parametrize("room", [CARD, LAPTOP])
def test_a_cell_is_what_the_library_reckons_for_these_settings(room: Room) -> None:
    found = grid(room, max_num_seqs=4)
    model, config = SavedModel(model_shape(LLAMA_8B), 2, None), EngineConfig("any", max_num_seqs=4, max_model_len=4096)
    for name in found.quantizations:
        fit = fit_of(model, config, name, room.memory, on_gpu=room.on_gpu, cpu_itemsize=room.cpu_itemsize)
        assert found.cells[name, 4096].fit == fit
        assert (found.cells[name, 4096].why_not == "") is fit.holds(4096)


def test_the_lengths_are_usual_ones_the_models_own_and_as_long_as_fits() -> None:
    assert grid(CARD).contexts == (4096, 8192, 16384, 32768, 131072, None)
    starter = fit_grid(SavedModel(model_shape(STARTER_SHAPE), 2, None), EngineConfig("any"), LAPTOP, RUNS)
    assert starter.contexts == (1024, 2048, 4096, 8192, None)


def test_what_the_settings_say_is_always_among_them() -> None:
    settings: dict[str, Any] = {"quantization": "hqq-4bit head 4bit", "max_model_len": 3000}
    found = grid(CARD, **settings)
    row, column = chosen_cell(found, EngineConfig("any", **settings))
    assert (found.quantizations[row], found.contexts[column]) == ("hqq-4bit head 4bit", 3000)
    assert chosen_cell(grid(CARD), EngineConfig("any")) == (0, 5)


def test_more_bits_and_longer_contexts_never_take_less() -> None:
    found = grid(Room(80 * GB, on_gpu=True), max_num_seqs=1)
    lengths = [length for length in found.contexts if length]
    totals = [[found.cells[name, length].fit.total for length in lengths] for name in found.quantizations]
    assert totals == sorted(totals, reverse=True)
    assert all(row == sorted(row) for row in totals)


def test_each_reason_is_its_own() -> None:
    assert "the weights alone take 16.1 GB, and there are 10.8 GB free within 90%" in (
        grid(CARD).cells["none", 4096].why_not
    )
    assert "at least (" in grid(CARD).cells["hqq-4bit", 131072].why_not
    large = Room(64 * GB, on_gpu=False, cpu_itemsize=2)
    assert "2.1 GB is the most it is given unasked; `mp13config set kv_cache_memory`" in (
        grid(large).cells["none", 32768].why_not
    )
    broken = tuple(Kernel(kernel.name, why_not="hqq is missing", fix="pip install hqq") for kernel in RUNS)
    lacking = grid(large, broken)
    assert lacking.cells["hqq-4bit", 4096].why_not == "hqq is missing; pip install hqq"
    assert lacking.cells["none", 4096].why_not == ""


def test_a_model_that_is_saved_quantized_has_one_row_and_keeps_the_setting_at_none() -> None:
    found = grid(LAPTOP, saved="hqq-4bit")
    assert (found.quantizations, found.cells["hqq-4bit", 4096].quantization) == (("hqq-4bit",), "none")


def test_the_longest_is_shown_by_its_length() -> None:
    cell = grid(LAPTOP).cells["hqq-4bit", None]
    assert cell.short == f"{cell.fit.longest:,} ✓"
    assert grid(LAPTOP).cells["none", None].short == "✗"
