"""What the library says about adapter folders, good and bad, without reading a weight."""

import json
import struct
from pathlib import Path

import pytest

from mp13.errors import AdapterError
from mp13.library.adapters import AdapterOnDisk, list_adapters

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def write_adapter(folder: Path, config: object = CONFIG, num_bytes: int = 64) -> Path:
    folder.mkdir(parents=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "adapter_config.json").write_text(text)
    header = json.dumps({"a": {"dtype": "BF16", "shape": [num_bytes // 2], "data_offsets": [0, num_bytes]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(num_bytes))
    return folder


def only(folder: Path) -> AdapterOnDisk:
    (adapter,) = list_adapters([folder])
    return adapter


def reason(folder: Path) -> str:
    unfit = only(folder).unfit
    assert unfit is not None
    return unfit


def test_adapters_are_listed_by_name_with_rank_kind_and_size(tmp_path: Path) -> None:
    write_adapter(tmp_path / "one" / "b", CONFIG | {"use_rslora": True, "rank_pattern": {"q_proj": 32}})
    path = write_adapter(tmp_path / "two" / "a")
    first, second = list_adapters([tmp_path / "one", tmp_path / "two"])
    assert first == AdapterOnDisk("a", path, 8, "lora", (path / "adapter_model.safetensors").stat().st_size)
    assert (second.name, second.rank, second.kind, second.unfit) == ("b", 32, "rslora", None)


def test_folders_that_are_missing_or_hold_something_else_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("")
    write_adapter(tmp_path / ".copy-x" / "a")
    assert list_adapters([tmp_path, tmp_path / "nowhere"]) == []


def test_the_same_folder_given_twice_lists_an_adapter_once(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    assert only(tmp_path).unfit is None
    assert len(list_adapters([tmp_path, tmp_path])) == 1


def test_a_name_met_again_is_unfit_and_the_first_stays(tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "one" / "a")
    write_adapter(tmp_path / "two" / "a")
    by_path = {adapter.path: adapter.unfit for adapter in list_adapters([tmp_path / "one", tmp_path / "two"])}
    assert by_path[first] is None
    assert by_path[tmp_path / "two" / "a"] == f"{first} has the same name; rename one of the two folders"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{", "adapter_config.json is not JSON"),
        ("[" * 100_000, "adapter_config.json is not JSON"),
        ("[]", "adapter_config.json is not a JSON object"),
        (CONFIG | {"peft_type": "IA3"}, "'ia3' is not supported"),
        (CONFIG | {"use_dora": True}, "'dora' is not supported"),
        ({"r": 8}, "'none' is not supported"),
        (CONFIG | {"r": 0}, r"ranks \[0\]"),
        (CONFIG | {"r": True}, r"ranks \[True\]"),
        (CONFIG | {"r": "8"}, r"ranks \['8'\]"),
        (CONFIG | {"rank_pattern": {"q_proj": 1.5}}, r"ranks \[8, 1.5\]"),
        (CONFIG | {"rank_pattern": [4]}, "rank_pattern"),
    ],
)
def test_a_configuration_that_cannot_work_is_told(tmp_path: Path, config: object, expected: str) -> None:
    write_adapter(tmp_path / "a", config)
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(reason(tmp_path))


def test_a_pickle_alone_is_never_loaded(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickle and is never loaded" in reason(tmp_path)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    assert reason(tmp_path).startswith("adapter_model.safetensors is missing")
    write_adapter(tmp_path / "other" / "b")
    (tmp_path / "other" / "b" / "adapter_config.json").unlink()
    assert reason(tmp_path / "other").startswith("adapter_config.json is missing")


@pytest.mark.parametrize("kept", [0, 5, 8, 40, -1])
def test_weights_that_are_cut_short_are_seen_from_the_header(tmp_path: Path, kept: int) -> None:
    file = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert "cut short" in reason(tmp_path)


def test_a_header_that_claims_a_huge_length_is_not_read(tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**63) + bytes(100))
    assert "cut short or not a safetensors file" in reason(tmp_path)


@pytest.mark.parametrize("entry", [{}, {"data_offsets": []}, {"data_offsets": "x"}, [], None])
def test_a_header_without_offsets_is_damaged(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"a": entry}).encode()
    file = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "damaged" in reason(tmp_path)


@pytest.mark.parametrize("name", ["base", "my adapter", "a+b", "ä", "x" * 65])
def test_a_name_that_no_mix_can_say_is_unfit(tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path / name)
    assert "cannot name an adapter" in reason(tmp_path)


@pytest.mark.parametrize("part", ["a", "a/adapter_config.json", "a/adapter_model.safetensors"])
def test_a_link_that_leads_out_of_the_folder_is_unfit(tmp_path: Path, part: str) -> None:
    inside = tmp_path / "adapters"
    write_adapter(inside / "a")
    outside = write_adapter(tmp_path / "secret")
    link = inside / part
    if part == "a":
        link.rename(tmp_path / "moved")
        link.symlink_to(outside)
    else:
        link.unlink()
        link.symlink_to(outside / link.name)
    assert "leads out of" in reason(inside)


def test_a_link_within_the_folder_works(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert [(adapter.name, adapter.unfit) for adapter in list_adapters([tmp_path])] == [("a", None), ("b", None)]


def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match=r"adapter folder .*file cannot be read"):
        list_adapters([tmp_path / "file"])
