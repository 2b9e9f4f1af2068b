"""Nobody's adapter folder harms the engine: each is refused with its reason, before memory is taken, and the adapter in
use answers the same."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from mp13.engine.adapters.tensor_file import OpenTensorFile
from mp13.errors import Mp13Error
from tests.engine.adapter_world import World, change_config
from tests.engine.hostile_folders import HOSTILE, WRONG_VALUES


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def spoiled(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.good, tmp_path / "spoiled"))


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 120
    assert HOSTILE.keys() >= WRONG_VALUES


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_refused_with_its_reason_before_memory_is_taken(
    case: str, world: World, spoiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, reason = HOSTILE[case]
    if "too long" in reason:
        monkeypatch.setattr("mp13.engine.adapters.module_choice._SECONDS", 0.05)
    if case not in WRONG_VALUES:
        monkeypatch.setattr(OpenTensorFile, "read", lambda file: pytest.fail("the tensors were read"))
    spoil(spoiled)
    sentence = world.refuse(spoiled)
    assert reason in sentence
    assert sentence.isprintable()


NO_FOLDERS = (
    "",
    "/",
    "/dev/null",
    "..",
    "../../../../etc",
    "a\0b",
    "\x1b[2J",
    "x" * 5000,
    "~",
    "~nobody-here/x",
    "x\n",
)


@pytest.mark.parametrize("path", NO_FOLDERS)
def test_a_path_that_holds_no_adapter_is_refused(path: str, world: World) -> None:
    with pytest.raises(Mp13Error):
        world.llm.load_adapter(path, "good")
    with pytest.raises(Mp13Error):
        world.llm.load_adapter(path)
    assert world.ask() == world.answer


def test_code_that_a_folder_names_is_not_imported(world: World, spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (spoiled / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(spoiled)
    change_config(spoiled, auto_mapping={"base_model_class": "Model", "parent_library": "evil"}, megatron_core="evil")
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "evil.Tokenizer"}
    (spoiled / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    world.llm.load_adapter(spoiled, "spoiled")
    assert "evil" not in sys.modules
    world.llm.unload_adapter("spoiled")


def test_what_changes_while_it_is_read_is_refused(world: World, spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read = OpenTensorFile.read

    def shrinking(file: Any) -> bytes:
        return real_read(file)[:-1]

    monkeypatch.setattr(OpenTensorFile, "read", shrinking)
    assert "is damaged" in world.refuse(spoiled)
