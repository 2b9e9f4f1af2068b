"""A later mp13 ships other adapters: those that an earlier one installed are replaced, and nothing of the user's."""

import hashlib
import os
from pathlib import Path

import pytest

from mp13.chat.conversation import connection
from mp13.chat.conversation.turn import LoadNote
from mp13.errors import AdapterError
from mp13.library import placing, starter_updates
from mp13.library.changes import tag_adapter
from mp13.library.notes import read_notes
from mp13.library.paths import adapters_dir
from mp13.library.starter_updates import update_adapters
from tests.fakes.fake_adapter import make_adapter

ROOT = Path(__file__).parents[2]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def sums(folder: Path) -> list[str]:
    return [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {folder.name}/{file.name}" for file in folder.iterdir()]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """`one` and `two` in the library as an earlier mp13 shipped them; this one has others."""
    shipped = tmp_path / "starter_adapters"
    earlier = [make_adapter(name) for name in ("one", "two")]
    known = [line for folder in earlier for line in sums(folder)]
    for folder in earlier:
        later = shipped / folder.name
        later.mkdir(parents=True)
        (later / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"later")
        (later / CONFIG).write_bytes((folder / CONFIG).read_bytes())
        known += sums(later)
    (shipped / "SHA256SUMS").write_text("\n".join(sorted(known)) + "\n")
    monkeypatch.setattr(starter_updates.resources, "files", lambda package: tmp_path)
    return earlier


def is_later(folder: Path) -> bool:
    return (folder / WEIGHTS).read_bytes().endswith(b"later")


def test_those_of_an_earlier_mp13_are_replaced_once(installed: list[Path]) -> None:
    assert update_adapters() == ["one", "two"]
    assert [is_later(folder) for folder in installed] == [True, True]
    assert sorted(path.name for path in adapters_dir().iterdir()) == [".lock", "one", "two"]
    assert update_adapters() == []


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_one_that_was_changed_stays_as_it_is(installed: list[Path], file: str) -> None:
    mine = installed[0] / file
    mine.write_bytes(mine.read_bytes() + b" ")
    before = mine.read_bytes()
    assert update_adapters() == ["two"]
    assert mine.read_bytes() == before
    assert not is_later(installed[0])


def test_what_the_user_put_beside_them_stays(installed: list[Path]) -> None:
    tag_adapter("one", ["mine"], [adapters_dir()])
    (installed[0] / "notes").mkdir()
    (installed[0] / "notes" / "text.md").write_text("mine")
    update_adapters()
    assert is_later(installed[0])
    assert read_notes(installed[0]).tags == ("mine",)
    assert (installed[0] / "notes" / "text.md").read_text() == "mine"


def test_links_and_what_is_missing_stay_so(installed: list[Path], tmp_path: Path) -> None:
    elsewhere = installed[0].rename(tmp_path / "one")
    os.symlink(elsewhere, installed[0])
    (installed[1] / WEIGHTS).unlink()
    assert update_adapters() == []
    assert not is_later(elsewhere)
    assert [path.name for path in installed[1].iterdir()] == [CONFIG]


def test_what_fails_in_the_middle_leaves_the_old_one_whole(
    installed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if target == installed[1] and ".add-" in str(self):
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(placing.Path, "rename", refused)
    with pytest.raises(AdapterError, match="free some space"):
        update_adapters()
    assert [is_later(folder) for folder in installed] == [True, False]
    assert sorted(path.name for path in installed[1].iterdir()) == [CONFIG, WEIGHTS]


async def test_a_chat_says_it_in_one_line_and_starts_where_it_cannot_be_done(
    installed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "install_starter", lambda progress: None)

    async def told() -> list[str]:
        return [event.text async for event in connection._install() if isinstance(event, LoadNote)]

    assert await told() == ["one, two: this mp13 brought new ones, which took the place of the starter's old"]
    assert await told() == []

    def refused() -> list[str]:
        raise AdapterError("the library may not be changed")

    monkeypatch.setattr(connection, "update_adapters", refused)
    [line] = await told()
    assert line == "the starter's adapters are still those of an earlier mp13: the library may not be changed"


def test_every_file_that_is_shipped_is_among_the_known_ones() -> None:
    """training/starter/ship.py puts them there; without that, nobody who has them gets the next."""
    shipped = ROOT / "src/mp13/library/starter_adapters"
    known = (shipped / "SHA256SUMS").read_text().splitlines()
    now = [line for folder in shipped.iterdir() if folder.is_dir() for line in sums(folder)]
    assert len(now) >= 6
    assert set(now) <= set(known)
