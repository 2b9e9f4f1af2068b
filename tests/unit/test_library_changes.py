"""Putting adapters into the library and taking them out: whole or not at all, and nothing outside it is touched."""

import json
import re
import threading
from pathlib import Path

import pytest

from mp13.errors import AdapterError, MixError
from mp13.library import changes, starter
from mp13.library.adapters import find_adapter, list_adapters
from mp13.library.changes import add_adapter, export_adapter, remove_adapter, rename_adapter, tag_adapter
from mp13.library.notes import read_notes
from mp13.library.paths import adapters_dir
from mp13.library.placing import changing
from tests.fakes.fake_adapter import make_adapter


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def names() -> list[str]:
    return [adapter.name for adapter in list_adapters([adapters_dir()])]


def left_behind() -> list[str]:
    """What is in the library's folder besides adapters and the lock."""
    return sorted({path.name for path in adapters_dir().iterdir()} - {*names(), ".lock"})


def test_a_folder_is_copied_with_what_matters_and_a_note_of_its_origin(tmp_path: Path) -> None:
    source = make_adapter("pirate", folder=tmp_path)
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "evil.py",
        ".hidden.json",
        "tokenizer.json",
        "chat_template.jinja",
    ):
        (source / name).write_text("{}")
    (source / "checkpoint-5").mkdir()
    added = add_adapter(str(source), tags=["fun"])
    assert added.path == adapters_dir() / "pirate"
    assert {path.name for path in added.path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "mp13.json"
    }  # fmt: skip
    assert (added.notes.source, added.notes.tags, added.unfit) == (str(source), ("fun",), None)
    assert added.notes.added_at is not None
    assert added.digest is not None
    assert left_behind() == []


def test_the_authors_own_notes_stay_but_not_what_they_say_of_the_origin(tmp_path: Path) -> None:
    source = make_adapter("pirate", folder=tmp_path)
    notes = {"system_prompt": "Arr.", "tags": ["sea"], "source": "famous/name", "revision": "1"}
    (source / "mp13.json").write_text(json.dumps(notes))
    added = add_adapter(str(source), "corsair", tags=["fun"])
    assert (added.notes.source, added.notes.revision, added.notes.tags) == (str(source), None, ("fun", "sea"))
    assert json.loads((added.path / "mp13.json").read_text())["system_prompt"] == "Arr."


def test_a_file_of_an_adapter_stands_for_its_folder_and_links_become_files(tmp_path: Path) -> None:
    blobs = make_adapter("blobs", folder=tmp_path)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    added = add_adapter(str(snapshot / "adapter_model.safetensors"), "pirate")
    assert added.unfit is None
    assert not any(path.is_symlink() for path in added.path.iterdir())


def test_what_can_only_be_merged_comes_in_and_says_so(tmp_path: Path) -> None:
    added = add_adapter(str(make_adapter("a", folder=tmp_path, peft_type="IA3")))
    assert "mp13 adapters merge a" in str(added.unfit)
    assert names() == ["a"]


def test_what_is_damaged_stays_out(tmp_path: Path) -> None:
    source = make_adapter("a", folder=tmp_path)
    weights = source / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(AdapterError, match=re.escape(f"{weights} is damaged")):
        add_adapter(str(source))
    assert (names(), left_behind()) == ([], [])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "nothing", "is not a folder"),
        (lambda folder: folder, "holds no adapter_config.json"),
        (lambda folder: make_adapter("inner", folder=folder).parent, r"holds adapters \(inner\) and is none"),
        (lambda folder: adapters_dir() / "taken", "there is an adapter 'taken' already"),
    ],
)
def test_what_is_no_adapter_is_told_with_a_way_out(tmp_path: Path, make: object, expected: str) -> None:
    make_adapter("taken")
    with pytest.raises(AdapterError, match=expected):
        add_adapter(str(make(tmp_path)))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["base", "..", "a/b", "a b", "", "a\0b", "\x1b[2J"])
def test_no_name_becomes_a_path_unchecked(tmp_path: Path, name: str) -> None:
    source = make_adapter("good", folder=tmp_path)
    make_adapter("mine")
    if name:  # an empty one means the folder's own
        with pytest.raises(MixError, match="cannot name an adapter"):
            add_adapter(str(source), name)
    with pytest.raises(MixError, match="cannot name an adapter"):
        rename_adapter("mine", name, [adapters_dir()])
    for change in (remove_adapter, lambda name, folders: tag_adapter(name, [], folders)):
        with pytest.raises(AdapterError, match="there is no adapter"):
            change(name, [adapters_dir()])
    assert names() == ["mine"]


@pytest.mark.parametrize("name", [".hidden", ".removed-soon"])
def test_no_name_hides_an_adapter_from_lists(tmp_path: Path, name: str) -> None:
    source = make_adapter("good", folder=tmp_path)
    make_adapter("mine")
    for change in (lambda: add_adapter(str(source), name), lambda: rename_adapter("mine", name, [adapters_dir()])):
        with pytest.raises(MixError, match="begins with a dot"):
            change()
    assert names() == ["mine"]


def test_replacing_is_asked_for_and_leaves_no_trace_of_the_old_one(tmp_path: Path) -> None:
    add_adapter(str(make_adapter("a", folder=tmp_path / "one")))
    other = make_adapter("a", "other", folder=tmp_path / "two", rank=16)
    with pytest.raises(AdapterError, match="there is an adapter 'a' already"):
        add_adapter(str(other))
    assert add_adapter(str(other), replace_it=True).rank == 16
    assert (names(), left_behind()) == (["a"], [])


def test_an_adapter_is_removed_with_its_folder() -> None:
    make_adapter("a")
    make_adapter("b")
    assert remove_adapter("a", [adapters_dir()]).name == "a"
    assert (names(), left_behind()) == (["b"], [])


def test_of_a_link_only_the_link_is_removed(tmp_path: Path) -> None:
    source = make_adapter("mine", folder=tmp_path)
    adapters_dir().mkdir(parents=True)
    (adapters_dir() / "a").symlink_to(source)
    with pytest.raises(AdapterError, match=r"'a' is a link to .*mine and was not tagged"):
        tag_adapter("a", ["sea"], [adapters_dir()])
    assert not (source / "mp13.json").exists()
    remove_adapter("a", [adapters_dir()])
    assert names() == []
    assert (source / "adapter_model.safetensors").exists()


def test_folders_of_the_settings_are_only_read(tmp_path: Path) -> None:
    make_adapter("mine", folder=tmp_path)
    folders = [tmp_path, adapters_dir()]
    for change in (
        lambda: remove_adapter("mine", folders),
        lambda: rename_adapter("mine", "other", folders),
        lambda: tag_adapter("mine", ["x"], folders),
    ):
        with pytest.raises(AdapterError, match=r"only reads.*adapters_folder"):
            change()
    assert [adapter.name for adapter in list_adapters([tmp_path])] == ["mine"]


def test_of_two_with_one_name_the_librarys_own_is_changed(tmp_path: Path) -> None:
    make_adapter("a", folder=tmp_path)
    make_adapter("a")
    rename_adapter("a", "b", [tmp_path, adapters_dir()])
    assert names() == ["b"]
    assert (tmp_path / "a").is_dir()


def test_renaming_moves_the_folder_and_never_onto_another() -> None:
    make_adapter("a")
    make_adapter("b")
    with pytest.raises(AdapterError, match="there is an adapter 'b' already"):
        rename_adapter("a", "b", [adapters_dir()])
    assert rename_adapter("a", "a", [adapters_dir()]).name == "a"
    assert rename_adapter("a", "c", [adapters_dir()]).path == adapters_dir() / "c"
    assert names() == ["b", "c"]


def test_tags_replace_those_before_and_bad_ones_change_nothing() -> None:
    make_adapter("a")
    assert tag_adapter("a", ["x", "b", "x"], [adapters_dir()]).notes.tags == ("b", "x")
    for tag in ("", "two words", "x" * 41, "a\x1b[2J"):
        with pytest.raises(AdapterError, match="cannot be a tag"):
            tag_adapter("a", [tag], [adapters_dir()])
    assert read_notes(adapters_dir() / "a").tags == ("b", "x")
    assert tag_adapter("a", [], [adapters_dir()]).notes.tags == ()


def test_an_export_is_the_same_adapter_without_this_machines_paths(tmp_path: Path) -> None:
    digest = add_adapter(str(make_adapter("a", folder=tmp_path))).digest
    made = export_adapter("a", tmp_path / "out" / "mine", [adapters_dir()])
    assert made == tmp_path / "out" / "mine"
    assert read_notes(made).source is None
    assert add_adapter(str(made)).digest == digest


def test_an_export_goes_into_a_folder_that_exists_but_never_over_something(tmp_path: Path) -> None:
    make_adapter("a")
    (tmp_path / "out").mkdir()
    assert export_adapter("a", tmp_path / "out", [adapters_dir()]) == tmp_path / "out" / "a"
    for target in (tmp_path / "out", tmp_path / "out" / "a"):
        with pytest.raises(AdapterError, match="exists already"):
            export_adapter("a", target, [adapters_dir()])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_adapter("a", folder=tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "/data/x")

    monkeypatch.setattr(changes.shutil, "copy2", full)
    with pytest.raises(AdapterError, match="the disk of /data/x is full"):
        add_adapter(str(source))
    assert (names(), left_behind()) == ([], [])


def test_what_a_killed_process_left_is_cleared_away_by_the_next_change(tmp_path: Path) -> None:
    make_adapter("a")
    half_removed = adapters_dir() / ".removed-x" / "old"
    half_removed.mkdir(parents=True)
    somebody_adds = adapters_dir() / ".add-y"
    somebody_adds.mkdir()
    remove_adapter("a", [adapters_dir()])
    assert left_behind() == [".add-y"]


def test_two_that_add_one_name_do_not_mix_their_files(tmp_path: Path) -> None:
    sources = [make_adapter("a", f"content {n}", folder=tmp_path / str(n), rank=n + 1) for n in range(8)]
    results: list[object] = []

    def add(source: Path) -> None:
        try:
            results.append(add_adapter(str(source)))
        except AdapterError as error:
            results.append(error)

    threads = [threading.Thread(target=add, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, AdapterError) for result in results) == 7
    assert find_adapter("a", [adapters_dir()]).unfit is None
    assert left_behind() == []


def test_a_change_waits_for_the_one_before_and_gives_up_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    make_adapter("a")
    monkeypatch.setattr("mp13.library.placing._LOCK_S", 0.1)
    failures: list[Exception] = []

    def remove() -> None:
        try:
            remove_adapter("a", [adapters_dir()])
        except AdapterError as error:
            failures.append(error)

    with changing(adapters_dir()):
        other = threading.Thread(target=remove)
        other.start()
        other.join()
    assert "another mp13 is changing" in str(failures[0])
    assert names() == ["a"]


def test_a_starters_adapter_that_was_removed_or_renamed_does_not_come_back() -> None:
    starter._copy_adapters()
    shipped = names()
    remove_adapter(shipped[0], [adapters_dir()])
    rename_adapter(shipped[1], "mine", [adapters_dir()])
    starter._copy_adapters()
    assert names() == sorted({*shipped[2:], "mine"})
