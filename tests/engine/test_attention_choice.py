"""Which attention backend runs, and why not another: said by name, before anything heavy is loaded."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mp13.engine.attention import registry
from mp13.engine.attention.registry import AttentionNeed, available, choose_attention, why_not
from mp13.engine.config import ATTENTION_NAMES
from mp13.errors import UnsupportedError

ON_CPU = AttentionNeed(torch.device("cpu"), torch.float32, head_dim=64, block_size=16)
ON_GPU = AttentionNeed(torch.device("cuda:0"), torch.bfloat16, head_dim=128, block_size=16)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with an H100 and Triton, and no other kernels."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(registry, "_is_installed", lambda package: package == "triton")
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setattr(registry, "_function", lambda name: name)


def install(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(registry, "_is_installed", lambda package: package in packages)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, ModuleType(package))


def test_on_a_cpu_auto_is_sdpa_or_for_capped_scores_the_reference() -> None:
    assert choose_attention("auto", ON_CPU).name == "sdpa"
    capped = choose_attention("auto", replace(ON_CPU, softcap=True))
    assert capped.name == "reference"
    assert capped.reason == (
        "the fastest at decoding that runs here (sdpa: it cannot cap attention scores, which this model needs)"
    )


@pytest.mark.usefixtures("hopper")
def test_on_a_gpu_auto_is_triton_where_no_flash_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose_attention("auto", ON_GPU)
    assert choice.name == "triton"
    assert "flash_attention_3: flash_attn_interface is not installed" in choice.reason
    install(monkeypatch, "triton", "flash_attn.flash_attn_interface")
    assert choose_attention("auto", ON_GPU).name == "triton"  # flash-attn 2 has no pages of 16 tokens
    assert choose_attention("auto", replace(ON_GPU, block_size=256)).name == "flash_attention_2"
    install(monkeypatch, "triton", "flash_attn.flash_attn_interface", "flash_attn_interface")
    assert choose_attention("auto", ON_GPU).name == "flash_attention_3"
    assert choose_attention("auto", replace(ON_GPU, dtype=torch.float32)).name == "sdpa"


@pytest.mark.usefixtures("hopper")
def test_a_package_that_breaks_on_import_is_passed_over_by_auto_and_named_to_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """The usual case: it was built for another torch."""
    monkeypatch.setattr(registry, "_is_installed", lambda package: package in ("triton", "flash_attn_interface"))

    def broken(name: str) -> ModuleType:
        if name == "flash_attn_interface":
            raise ImportError("undefined symbol: _ZN3c104cuda9SetDeviceEi\nand more")
        return ModuleType(name)

    monkeypatch.setattr(registry, "import_module", broken)
    assert choose_attention("auto", ON_GPU).name == "triton"
    with pytest.raises(
        UnsupportedError, match=r"does not work with this torch \(ImportError: undefined symbol: \S+\);"
    ):
        choose_attention("flash_attention_3", ON_GPU)


BROKEN = {  # what flash_attn/__init__.py does, and what is said of it
    "for another torch": ("raise ImportError('undefined symbol: _ZN3c10')", "ImportError: undefined symbol: _ZN3c10"),
    "without its kernels": ("import flash_attn_2_cuda", "ModuleNotFoundError: No module named 'flash_attn_2_cuda'"),
    "for another CUDA": ("raise OSError('no libcudart.so.12')", "OSError: no libcudart.so.12"),
}


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder of a package flash_attn, on an H100."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    folder = tmp_path / "flash_attn"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]:
        del sys.modules[name]


@pytest.mark.parametrize("case", BROKEN)
def test_a_flash_attn_that_breaks_as_a_whole_is_no_reason_for_auto_to_fail(flash_attn: Path, case: str) -> None:
    code, said = BROKEN[case]
    (flash_attn / "__init__.py").write_text(code)
    (flash_attn / "flash_attn_interface.py").touch()
    need = replace(ON_GPU, block_size=256)
    assert "flash_attn.flash_attn_interface does not work with this torch" in choose_attention("auto", need).reason
    assert f"does not work with this torch ({said}); pip install" in (why_not("flash_attention_2", need) or "")


def test_flash_attn_4_alone_is_no_flash_attn_2(flash_attn: Path) -> None:
    (flash_attn / "cute").mkdir()
    (flash_attn / "cute" / "__init__.py").touch()
    need = replace(ON_GPU, block_size=256)
    assert why_not("flash_attention_4", need) is None
    assert (why_not("flash_attention_2", need) or "").startswith("flash_attn.flash_attn_interface is not installed; ")


@pytest.mark.usefixtures("hopper")
def test_an_old_gpu_is_told_its_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_attention("auto", ON_GPU).name == "sdpa"
    with pytest.raises(UnsupportedError, match=r"compute capability 8\.0, and this one has 7\.5; choose 'sdpa'"):
        choose_attention("triton", ON_GPU)


def test_every_name_of_the_settings_is_a_backend_and_every_backend_has_a_name() -> None:
    assert set(registry._BACKENDS) == set(ATTENTION_NAMES) - {"auto"}
    assert [name for name, reason in available(ON_CPU) if reason is None] == ["sdpa", "reference"]
    for name in set(ATTENTION_NAMES) - {"auto", "sdpa", "reference"}:
        assert "needs an NVIDIA GPU, and the device is cpu; choose 'sdpa'" in (why_not(name, ON_CPU) or "")


def test_what_is_not_installed_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(registry, "_is_installed", lambda package: False)
    lines = {name: why_not(name, ON_GPU) or "" for name in set(ATTENTION_NAMES) - {"auto", "sdpa", "reference"}}
    assert lines["flash_attention_2"].startswith("flash_attn is not installed; pip install --no-build-isolation")
    assert all(" is not installed; " in line for line in lines.values())
