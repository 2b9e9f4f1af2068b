"""What the doctor finds: a machine in good order, what would fail, and what torch says from a process of its own."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mp13.chat.cli import doctor
from mp13.chat.settings.load import config_file
from mp13.engine.attention import registry
from mp13.library import machine, machine_probe
from mp13.library.machine import Gpu, Kernel, Package, Survey
from mp13.library.paths import config_dir, data_dir

HEALTHY = Survey(
    packages=(Package("torch", "2.13.0"), Package("transformers", "5.23.0")),
    processor="AVX512, 2 threads",
    attention=(Kernel("sdpa"), Kernel("reference"), Kernel("xformers", "", "it needs an NVIDIA GPU", "choose 'sdpa'")),
    attention_auto="sdpa, the fastest at decoding that runs here",
    quantization=(Kernel("hqq-4bit", "int4 product"),),
)


def findings(found: Survey = HEALTHY) -> dict[str, doctor.Finding]:
    async def ask(block_size: int) -> Survey:
        return found

    return {finding.subject: finding for finding in doctor.examine(ask)}


def test_a_healthy_machine_has_nothing_to_mend_but_the_starter_to_fetch(tmp_path: Path) -> None:
    found = findings()
    assert {finding.mark for finding in found.values()} == {"ok", "no", "warn"}
    assert [subject for subject, finding in found.items() if finding.mark == "warn"] == ["starter"]
    assert {"Python", "settings", "data folder", "disk", "engine socket", "torch", "attention"} <= found.keys()


def test_the_doctor_names_what_would_fail_and_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir().parent.mkdir(parents=True, exist_ok=True)
    data_dir().write_text("a file in the folder's place")
    config_dir().mkdir(parents=True)
    config_file().write_text("top_p = 7")
    monkeypatch.setenv("MP13_TEMPRATURE", "1")
    found = findings(Survey(packages=(Package("torch", "", "ImportError: no libgomp"),)))
    assert {subject for subject, finding in found.items() if finding.mark == "fail"} == {
        "settings", "data folder", "torch",
    }  # fmt: skip
    assert "top_p = 7" in found["settings"].detail
    assert "MP13_DATA_DIR" in found["data folder"].fix
    assert "no libgomp" in found["torch"].detail
    assert "MP13_TEMPRATURE" in found["variable"].detail
    assert all(finding.fix for finding in found.values() if finding.mark != "ok")


def test_processor_and_memory_are_told_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    computer = machine.Computer("AMD", 4, 8, ("AVX2", "AVX-512"), 16_000_000_000, 9_500_000_000)
    monkeypatch.setattr(doctor, "computer", lambda: computer)
    found = findings(Survey(error="torch is broken"))
    assert found["processor"].detail == "AMD, 4 cores, 8 threads with AVX2, AVX-512"
    assert found["memory"].detail == "9.5 GB free of 16.0 GB"


def test_a_backend_that_does_not_run_says_why_and_what_to_do() -> None:
    found = findings()
    assert found["attention"].detail == "sdpa, reference"
    assert found["attention xformers"] == doctor.Finding(
        "no", "attention xformers", "it needs an NVIDIA GPU", "choose 'sdpa'"
    )
    assert found["attention auto"].detail == "sdpa, the fastest at decoding that runs here"
    none = findings(replace(HEALTHY, attention=(Kernel("sdpa", "", "broken", "mend it"),)))
    assert none["attention"].mark == "fail"


def test_a_quantization_says_how_it_multiplies_or_what_it_lacks() -> None:
    assert findings()["quantization hqq-4bit"] == doctor.Finding("ok", "quantization hqq-4bit", "int4 product")
    lacking = findings(replace(HEALTHY, quantization=(Kernel("hqq-4bit", "", "it needs hqq", "pip install hqq"),)))
    assert lacking["quantization hqq-4bit"] == doctor.Finding(
        "no", "quantization hqq-4bit", "it needs hqq", "pip install hqq"
    )


def test_a_gpu_is_told_with_what_is_free_of_it_and_its_driver() -> None:
    card = Gpu("a card", 8_000_000_000, free=7_500_000_000, capability="8.9")
    found = findings(replace(HEALTHY, gpus=(card,), driver="570.10"))
    assert found["GPU"].detail == "a card, compute capability 8.9, 7.5 GB free of 8.0 GB"
    assert found["NVIDIA driver"].detail == "570.10"


def test_a_gpu_that_torch_cannot_use_is_no_silence() -> None:
    found = findings(replace(HEALTHY, no_gpu="a card, which this torch was not built for; install another"))
    assert found["GPU"] == doctor.Finding(
        "warn", "GPU", "a card, which this torch was not built for", "install another"
    )


class TestProbe:
    def test_attention_is_judged_over_the_configured_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        for package in ("flash_attn.flash_attn_interface", "triton"):
            monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setattr(registry, "_is_installed", lambda package: package in sys.modules)
        monkeypatch.setattr(registry, "_function", lambda name: name)
        for block_size, reason in ((16, "its cache blocks hold a multiple of 256 tokens, not 16"), (256, "")):
            backends, auto = machine_probe._attention(torch, block_size)
            assert {kernel["name"]: kernel["why_not"] for kernel in backends}["flash_attention_2"] == reason
            assert auto.startswith("triton, " if reason else "flash_attention_2, ")
            assert (f"flash_attention_2: {reason}" in auto) is bool(reason)

    @pytest.mark.parametrize(
        ("built", "hidden", "reason"),
        [
            (None, "", "this torch was not built for; INSTALL.md"),
            ("13.0", "-1", "hidden by CUDA_VISIBLE_DEVICES; unset it"),
            ("13.0", "0", "its CUDA 13.0 may be newer than the driver"),
        ],
    )
    def test_why_a_card_is_of_no_use(
        self, monkeypatch: pytest.MonkeyPatch, built: str | None, hidden: str, reason: str
    ) -> None:
        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert reason in machine_probe._why_no_gpu(torch, "a card")

    @pytest.mark.parametrize(
        ("told", "expected"),
        [("570.10, A\n570.10, B\n", ("570.10", "A; B")), ("No devices were found\n", ("", "")), ("", ("", ""))],
    )
    def test_the_driver_is_asked_through_its_own_tool(
        self, monkeypatch: pytest.MonkeyPatch, told: str, expected: tuple[str, str]
    ) -> None:
        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess(command, 0, told, "")

        monkeypatch.setattr(machine_probe.shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(machine_probe.subprocess, "run", run)
        assert machine_probe._driver() == expected


class TestSurvey:
    def test_torch_is_asked_in_another_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        found = asyncio.run(machine.survey(16))
        assert "torch" not in sys.modules
        assert found.error == "" and found.packages[0].version.startswith("2.")
        assert [kernel.name for kernel in found.attention if kernel.runs][-2:] == ["sdpa", "reference"]
        assert found.program_bytes > 100_000_000 and found.cpu_itemsize in (2, 4)
        assert [kernel.name for kernel in found.quantization] == ["hqq-8bit", "hqq-4bit", "hqq-3bit", "hqq-2bit"]

    def test_it_is_asked_about_the_configured_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []

        async def ask(block_size: int) -> Survey:
            asked.append(block_size)
            return HEALTHY

        for value in ("256", "nonsense"):
            monkeypatch.setenv("MP13_BLOCK_SIZE", value)
            doctor.surveyed(ask)
        assert asked == [256, 16]

    @pytest.mark.parametrize("program", ["/bin/false", "/bin/echo"])
    def test_a_process_that_dies_or_babbles_is_an_error_in_words(
        self, monkeypatch: pytest.MonkeyPatch, program: str
    ) -> None:
        monkeypatch.setattr(sys, "executable", program)
        found = asyncio.run(machine.survey(16))
        assert found.error and not found.packages
        assert findings(found)["torch"].mark == "fail"

    async def test_cancelling_it_ends_the_process(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        script = tmp_path / "sleeper"
        script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        asking = asyncio.create_task(machine.survey(16))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asking, 60)
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


class TestComputer:
    def test_linux_tells_the_processor_and_its_instructions(self, tmp_path: Path) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f\n\nmodel name\t: AMD EPYC\n")
        assert machine._cpuinfo(cpuinfo) == ("AMD EPYC", {"fpu", "avx2", "avx512f"})
        cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
        assert machine._cpuinfo(cpuinfo) == ("", {"fp", "asimd", "bf16"})
        assert machine._cpuinfo(tmp_path / "absent") == ("", frozenset())

    def test_what_others_hold_of_a_gpu_is_not_ours(self) -> None:
        card = Gpu("card", 100, free=100, capability="9.0")
        assert card.usable(0.9) == 100
        assert int(replace(card, free=91).usable(0.9) * 0.9) == 81  # 90 of it, less the 9 of others
        assert replace(card, free=0).usable(0.9) == 0
