"""Where an adapter is said to be, and how lists show it: joined from the folder and from what engines have loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from mp13.chat.library.shelf import shelve
from mp13.chat.library.shown import adapter_lines, adapter_table, age, effect, size
from mp13.library.adapter_folder import AdapterOnDisk
from mp13.library.notes import Notes
from mp13.service.schema import AdapterInfo

ADAPTER = AdapterOnDisk(
    "pirate", Path("/data/adapters/pirate"), 8, "lora", 4_900_000, digest="d" * 64, targets=("q_proj",)
)
LOADED = AdapterInfo("pirate", "d" * 64, "lora", 8, ("q_proj",), 4_900_000, path=str(ADAPTER.path), state="slot")


def test_an_adapter_is_where_the_nearest_engine_has_it() -> None:
    in_memory = replace(LOADED, state="memory")
    assert [one.state for one in shelve([ADAPTER], [in_memory, LOADED])] == ["slot"]
    assert [one.state for one in shelve([ADAPTER], [in_memory])] == ["memory"]
    assert [(one.state, one.loaded) for one in shelve([ADAPTER], [replace(LOADED, state="disk")])] == [("disk", True)]
    assert [(one.state, one.loaded) for one in shelve([ADAPTER], [])] == [("disk", False)]


def test_an_adapter_of_another_folder_with_the_same_name_is_another_one() -> None:
    assert [one.state for one in shelve([ADAPTER], [replace(LOADED, path="/elsewhere/pirate")])] == ["disk"]


def test_a_folder_that_changed_after_it_was_loaded_is_told() -> None:
    (one,) = shelve([ADAPTER], [replace(LOADED, digest="e" * 64, effect=0.5)])
    assert (one.state, one.changed, one.adapter.effect) == ("slot", True, None)
    assert "in a slot, changed on disk" in adapter_table([one])


def test_the_effect_that_an_engine_measured_wins_over_the_remembered_one() -> None:
    (one,) = shelve([replace(ADAPTER, effect=0.25)], [replace(LOADED, effect=0.5)])
    assert one.adapter.effect == 0.5


def test_a_rank_that_the_settings_refuse_is_unfit_with_the_setting_to_change() -> None:
    (one,) = shelve([ADAPTER], [], max_rank=4)
    assert one.state == "unfit"
    assert adapter_table([one]).splitlines()[-1] == "pirate: rank 8 is over max_lora_rank = 4; raise max_lora_rank"


def test_columns_that_nobody_fills_are_left_out() -> None:
    table = adapter_table(shelve([ADAPTER], []))
    assert table.splitlines()[0].split() == ["NAME", "STATE", "KIND", "RANK", "SIZE", "DIGEST", "TARGETS"]
    tagged = replace(ADAPTER, notes=Notes(tags=("fun",)), effect=0.0, base_model="org/model")
    assert adapter_table(shelve([tagged], [])).splitlines()[1].split()[-1] == "fun"


def test_on_a_narrow_terminal_what_matters_least_leaves_first() -> None:
    shelf = shelve([replace(ADAPTER, base_model="org/model")], [])
    wide = adapter_table(shelf)
    assert adapter_table(shelf, len(wide.splitlines()[0]) + 100) == wide
    almost = adapter_table(shelf, max(map(len, wide.splitlines())) - 1).splitlines()[0].split()
    assert "DIGEST" not in almost and {"BASE", "TARGETS"} <= set(almost)
    assert adapter_table(shelf, 0).splitlines()[0].split() == ["NAME", "STATE", "KIND", "RANK", "SIZE"]


def test_what_strangers_wrote_into_files_never_acts_on_a_terminal() -> None:
    hostile = "x\x1b]0;title\x07\x1b[2J\n\u202egnp\r" + "y" * 1000
    adapter = replace(
        ADAPTER,
        kind=hostile,
        base_model=hostile,
        targets=(hostile,),
        notes=Notes((hostile,), hostile, hostile),
        unfit=hostile,
    )
    one = shelve([adapter], [])
    assert len(adapter_table(one).splitlines()) == 3
    assert len(adapter_lines(one[0]).splitlines()) == 12
    for text in (adapter_table(one), adapter_lines(one[0])):
        assert not {"\x1b", "\u202e", "\r", "\x07"} & set(text)


@pytest.mark.parametrize(
    ("nats", "short", "long"),
    [(None, "", ""), (0.0, "none", "changes nothing measurable"), (1.694, "1.7", "1.69 nats (mean KL")],
)
def test_an_effect_is_a_number_or_none(nats: float | None, short: str, long: str) -> None:
    assert effect(nats, short=True) == short
    assert effect(nats).startswith(long)


def test_sizes_and_ages_are_for_people() -> None:
    assert [size(n) for n in (0, 1500, 4_939_072, 7 * 10**9)] == ["0 B", "1.5 kB", "4.9 MB", "7.0 GB"]
    assert age(0) == ""
