"""What the library says about adapter folders, good and bad, without reading a weight."""

import json
import os
import struct
from pathlib import Path

import pytest

from mp13.digests import adapter_digest
from mp13.engine.adapters.folder_stamp import folder_stamp
from mp13.errors import AdapterError
from mp13.library.adapters import AdapterOnDisk, find_adapter, list_adapters, with_digests
from mp13.library.changes import add_adapter, tag_adapter
from mp13.library.effects import known_effects, remember_effects
from mp13.library.notes import Notes, read_notes, write_notes
from mp13.library.paths import adapters_dir, data_dir
from tests.fakes.fake_adapter import make_adapter

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def write_adapter(folder: Path, config: object = CONFIG, rank: int = 8) -> Path:
    """A sound adapter but for its configuration."""
    make_adapter(folder.name, folder=folder.parent, rank=rank)
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def only(folder: Path) -> AdapterOnDisk:
    (adapter,) = list_adapters([folder])
    return adapter


def reason(folder: Path) -> str:
    unfit = only(folder).unfit
    assert unfit is not None
    return unfit


def test_adapters_are_listed_by_name_with_what_their_files_say(tmp_path: Path) -> None:
    write_adapter(tmp_path / "one" / "b", CONFIG | {"use_rslora": True, "r": 32}, rank=32)
    path = write_adapter(tmp_path / "two" / "a", CONFIG | {"base_model_name_or_path": "org/model"})
    os.utime(path / "adapter_config.json", (1, 1))
    first, second = list_adapters([tmp_path / "one", tmp_path / "two"])
    weights = path / "adapter_model.safetensors"
    assert (first.name, first.path, first.rank, first.kind) == ("a", path, 8, "lora")
    assert (first.size_bytes, first.modified) == (weights.stat().st_size, pytest.approx(weights.stat().st_mtime))
    assert (first.targets, first.base_model, first.unfit, first.whole) == (("q_proj",), "org/model", None, True)
    assert (second.name, second.rank, second.kind, second.unfit) == ("b", 32, "rslora", None)


def test_rank_and_targets_are_those_of_the_weights_where_the_configuration_is_a_pattern(tmp_path: Path) -> None:
    pattern = {"r": 4, "rank_pattern": {"q_proj": 16}, "target_modules": ".*(q|v)_proj"}
    write_adapter(tmp_path / "a", CONFIG | pattern, rank=16)
    assert (only(tmp_path).rank, only(tmp_path).targets) == (16, ("q_proj",))


@pytest.mark.parametrize(
    ("config", "kind"),
    [({"use_dora": True}, "dora"), ({"alora_invocation_tokens": [1, 2]}, "alora"), ({"use_rslora": True}, "rslora")],
)
def test_every_kind_that_the_engine_serves_has_its_name(tmp_path: Path, config: dict[str, object], kind: str) -> None:
    write_adapter(tmp_path / "a", CONFIG | config)
    assert (only(tmp_path).kind, only(tmp_path).unfit) == (kind, None)


@pytest.mark.parametrize("config", [{"peft_type": "IA3"}, {"peft_type": "LOHA"}, {"modules_to_save": ["lm_head"]}])
def test_what_can_only_be_merged_is_unfit_and_names_the_command(tmp_path: Path, config: dict[str, object]) -> None:
    write_adapter(tmp_path / "a", CONFIG | config)
    assert "`mp13 adapters merge a --model OUT`" in reason(tmp_path)
    assert only(tmp_path).whole
    assert only(tmp_path).kind == str(config.get("peft_type", "lora")).lower()


def test_a_folder_is_looked_at_again_when_a_file_of_it_changes(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    assert only(tmp_path).rank == 8
    write_adapter(path, CONFIG | {"r": 32}, rank=32)
    assert only(tmp_path).rank == 32
    write_notes(path, {"tags": ["new"]})
    assert only(tmp_path).notes.tags == ("new",)


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
    folders = [tmp_path / "one", tmp_path / "two"]
    by_path = {adapter.path: adapter.unfit for adapter in list_adapters(folders)}
    assert by_path[first] is None
    assert by_path[tmp_path / "two" / "a"] == f"{first} has the same name; rename one of the two folders"
    assert find_adapter("a", folders).path == first


def test_a_name_that_is_not_there_gets_the_nearest_suggested(tmp_path: Path) -> None:
    write_adapter(tmp_path / "pirate")
    with pytest.raises(AdapterError, match=r"there is no adapter 'pirat' in .*; did you mean 'pirate'"):
        find_adapter("pirat", [tmp_path])
    with pytest.raises(AdapterError, match="there: pirate"):
        find_adapter("zzz", [tmp_path])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{", "adapter_config.json is not JSON"),
        ("[" * 100_000, "adapter_config.json is not JSON"),
        ("[]", "adapter_config.json is not a JSON object"),
        ({"r": 8}, "has no peft_type"),
        (CONFIG | {"r": 0}, "r = 0 is not a rank"),
        (CONFIG | {"r": True}, "r = True is not a rank"),
        (CONFIG | {"r": "8"}, "r = '8' is not a rank"),
        (CONFIG | {"rank_pattern": {"q_proj": 1.5}}, "1.5"),
        (CONFIG | {"rank_pattern": [4]}, "rank_pattern"),
        (CONFIG | {"peft_type": {"x": 1}}, "cannot run here"),
        ("x" * 2_000_000, "larger than"),
    ],
)
def test_a_configuration_that_cannot_work_is_told(tmp_path: Path, config: object, expected: str) -> None:
    write_adapter(tmp_path / "a", config)
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(reason(tmp_path))


def test_a_pickle_alone_is_never_loaded(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "is a pickle, which is never loaded" in reason(tmp_path)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in reason(tmp_path)
    write_adapter(tmp_path / "other" / "b")
    (tmp_path / "other" / "b" / "adapter_config.json").unlink()
    assert reason(tmp_path / "other").startswith("adapter_config.json is missing")


@pytest.mark.parametrize("kept", [0, 5, 8, 40, -1])
def test_weights_that_are_cut_short_are_seen_from_the_header(tmp_path: Path, kept: int) -> None:
    file = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert "damaged" in reason(tmp_path)
    assert not only(tmp_path).whole


def test_a_header_that_claims_a_huge_length_is_not_read(tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**63) + bytes(100))
    assert "damaged: its header claims 9223372036854775808 bytes" in reason(tmp_path)


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


@pytest.mark.parametrize("part", ["a", "a/adapter_config.json", "a/adapter_model.safetensors", "a/chat_template.jinja"])
def test_a_link_that_leads_out_of_the_folder_is_unfit(tmp_path: Path, part: str) -> None:
    inside = tmp_path / "adapters"
    write_adapter(inside / "a")
    outside = write_adapter(tmp_path / "secret")
    link = inside / part
    if part == "a":
        link.rename(tmp_path / "moved")
        link.symlink_to(outside)
    else:
        link.unlink(missing_ok=True)
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


def test_notes_are_read_with_the_folder_and_what_others_wrote_there_is_kept(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    (path / "mp13.json").write_text(json.dumps({"system_prompt": "Arr.", "tags": ["old"], "description": "a pirate"}))
    write_notes(path, {"tags": ["fun", "sea"], "source": "org/a", "description": None})
    assert only(tmp_path).notes == read_notes(path) == Notes(("fun", "sea"), source="org/a", system_prompt="Arr.")
    assert json.loads((path / "mp13.json").read_text())["system_prompt"] == "Arr."


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 100_000, '{"tags": 3}', '{"tags": [3]}', '{"tags": ["a\u001b[2J"]}', '{"source": []}']
)
def test_notes_that_are_no_notes_make_an_adapter_unfit(tmp_path: Path, content: str) -> None:
    (write_adapter(tmp_path / "a") / "mp13.json").write_text(content)
    assert reason(tmp_path)


def test_a_digest_is_computed_once_and_then_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_adapter(tmp_path / "adapters" / "a")
    adapters = list_adapters([path.parent])
    stages: list[str] = []
    assert with_digests(adapters)[0].digest is None
    first = with_digests(adapters, lambda stage, fraction: stages.append(stage))[0].digest
    assert first == adapter_digest(path / "adapter_config.json", path / "adapter_model.safetensors")
    assert with_digests(adapters)[0].digest == first
    assert stages == ["hashing"]
    os.utime(path / "adapter_config.json", (1, 1))
    assert with_digests(adapters)[0].digest is None


def test_an_effect_is_remembered_by_content_and_base(tmp_path: Path) -> None:
    remember_effects("one base", {"a" * 64: 0.5, "b" * 64: float("nan")})
    remember_effects("another", {"a" * 64: 0.25})
    assert known_effects("one base") == {"a" * 64: 0.5}
    assert known_effects("another") == {"a" * 64: 0.25}
    remember_effects("one base", {"a" * 64: 0.125})
    assert known_effects("one base") == {"a" * 64: 0.125}


def test_a_list_shows_effects_on_the_base_it_is_for_and_on_no_other(tmp_path: Path) -> None:
    path = make_adapter("a")
    digest = adapter_digest(path / "adapter_config.json", path / "adapter_model.safetensors")
    remember_effects("one base", {digest: 0.5})
    effects = [with_digests(list_adapters([path.parent]), base=base)[0].effect for base in ("one base", "other", None)]
    assert effects == [0.5, None, None]


def test_a_file_put_in_place_of_one_of_the_same_size_and_time_has_a_digest_of_its_own(tmp_path: Path) -> None:
    """As when one archive's adapters replace each other."""
    one, other = (make_adapter("a", name, folder=tmp_path / name) for name in ("left", "rear"))
    digests = []
    for folder in (one, other):
        for file in folder.iterdir():
            os.utime(file, (1, 1))
        copy = add_adapter(str(folder), replace_it=True).path
        digests.append(adapter_digest(copy / "adapter_config.json", copy / "adapter_model.safetensors"))
    assert digests[0] != digests[1]
    assert list_adapters([adapters_dir()])[0].size_bytes == (one / "adapter_model.safetensors").stat().st_size


def test_only_what_an_engine_reads_of_a_folder_changes_its_stamp(tmp_path: Path) -> None:
    path = make_adapter("a")
    before = folder_stamp(path)
    tag_adapter("a", ["sea"], [path.parent])
    assert folder_stamp(path) == before
    (path / "mp13.json").write_text('{"system_prompt": "Arr."}')
    assert folder_stamp(path) != before


@pytest.mark.parametrize("content", ["", "[]", '{"x": 3}', '{"x": {"base": "much"}}', "\x00"])
def test_a_damaged_file_of_effects_is_no_effects(content: str) -> None:
    data_dir().mkdir(parents=True)
    (data_dir() / "effects.json").write_text(content)
    assert known_effects("base") == {}
    remember_effects("base", {"a" * 64: 0.5})
    assert known_effects("base") == {"a" * 64: 0.5}


def test_notes_that_are_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mp13.json")
    with pytest.raises(AdapterError, match="it is not a file"):
        read_notes(tmp_path)
