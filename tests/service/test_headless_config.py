"""`mp13config`: what it shows, where things are, and what the doctor finds."""

import io
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mp13.chat.cli import config, doctor, probe
from mp13.chat.settings.load import config_file
from mp13.chat.settings.schema import Settings
from mp13.engine.attention import registry
from mp13.library.paths import config_dir, data_dir
from tests.fakes.command import Command, Outcome, Terminal

Run = Callable[..., Outcome]
HEALTHY: dict[str, Any] = {
    "packages": {"torch": ["2.13.0", ""], "transformers": ["5.23.0", ""]},
    "cpu": "AVX512, 2 threads", "gpus": [],
    "auto": "sdpa, the fastest at decoding that runs here",
    "attention": [["sdpa", None], ["reference", None], ["xformers", "it needs an NVIDIA GPU; choose 'sdpa'"]],
    "quantization": [["hqq-4bit", "int4 product", ""]],
}  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command; `keys` are typed at a terminal where they are given."""
    monkeypatch.chdir(tmp_path)

    command = Command(monkeypatch, capsys)

    def call(*arguments: str, keys: str | None = None) -> Outcome:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: keys is not None, raising=False)
        return command.run(config.main, *arguments, stdin=io.StringIO() if keys is None else Terminal(keys))

    return call


def findings(run_probe: Callable[[], dict[str, Any]] = lambda: HEALTHY) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.examine(run_probe)}


def test_show_tells_every_value_and_its_source(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP13_TOP_P", "0.5")
    code, out, _ = run("show")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert (code, list(rows)) == (0, list(Settings.model_fields))
    assert rows["top_p"] == ["0.5", "MP13_TOP_P"]
    assert rows["model"] == ['"starter"', "default"]
    assert {"key": "top_p", "value": 0.5, "source": "MP13_TOP_P"} in json.loads(run("show", "--json")[1])


def test_path_tells_where_things_are(run: Run) -> None:
    code, out, _ = run("path")
    assert code == 0
    assert dict(line.split(maxsplit=1) for line in out.splitlines())["config"] == str(config_file())
    assert json.loads(run("path", "--json")[1])["data"] == str(data_dir())


def test_alone_it_asks_when_nothing_is_configured_and_shows_otherwise(run: Run) -> None:
    code, out, _ = run(keys="org/name\n\n\n\n128\n")
    assert (code, str(config_file()) in out) == (0, True)
    assert tomllib.loads(config_file().read_text())["max_model_len"] == 128
    code, out, _ = run()
    assert (code, "org/name" in out) == (0, True)


def test_leaving_the_questions_writes_nothing(run: Run) -> None:
    assert run(keys="org/name\n")[0] == 130
    assert not config_file().exists()


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
    found = findings(lambda: {**HEALTHY, "packages": {"torch": ["", "ImportError: no libgomp"]}, "cpu": ""})
    assert {subject for subject, finding in found.items() if finding.mark == "fail"} == {
        "settings", "data folder", "torch",
    }  # fmt: skip
    assert "top_p = 7" in found["settings"].detail
    assert "MP13_DATA_DIR" in found["data folder"].fix
    assert "no libgomp" in found["torch"].detail
    assert "MP13_TEMPRATURE" in found["variable"].detail
    assert all(finding.fix for finding in found.values() if finding.mark != "ok")


def test_a_backend_that_does_not_run_says_why_and_what_to_do() -> None:
    found = findings()
    assert found["attention"].detail == "sdpa, reference"
    assert found["attention xformers"] == doctor.Finding(
        "no", "attention xformers", "it needs an NVIDIA GPU", "choose 'sdpa'"
    )
    assert found["attention auto"].detail == "sdpa, the fastest at decoding that runs here"
    none = findings(lambda: {**HEALTHY, "attention": [["sdpa", "broken; mend it"]]})
    assert none["attention"].mark == "fail"


def test_attention_is_judged_over_the_configured_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for package in ("flash_attn.flash_attn_interface", "triton"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setattr(registry, "_is_installed", lambda package: package in sys.modules)
    monkeypatch.setattr(registry, "_function", lambda name: name)
    for block_size, reason in ((16, "its cache blocks hold a multiple of 256 tokens, not 16"), (256, None)):
        backends, auto = probe._attention(torch, block_size)
        assert (dict(backends)["flash_attention_2"] or "").partition(";")[0] == (reason or "")
        assert auto.startswith("triton, " if reason else "flash_attention_2, ")
        assert (f"flash_attention_2: {reason}" in auto) is bool(reason)


def test_the_probe_is_asked_about_the_configured_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append(command[-1])
        return subprocess.CompletedProcess(command, 0, b"{}", b"")

    monkeypatch.setattr(subprocess, "run", run)
    for value in ("256", "nonsense"):
        monkeypatch.setenv("MP13_BLOCK_SIZE", value)
        doctor.probed()
    assert asked == ["256", "16"]


def test_a_quantization_says_how_it_multiplies_or_what_it_lacks() -> None:
    assert findings()["quantization hqq-4bit"] == doctor.Finding("ok", "quantization hqq-4bit", "int4 product")
    lacking = findings(lambda: {**HEALTHY, "quantization": [["hqq", "", "it needs hqq; pip install hqq"]]})
    assert lacking["quantization hqq"] == doctor.Finding("no", "quantization hqq", "it needs hqq", "pip install hqq")


def test_a_gpu_is_told_with_its_memory() -> None:
    found = findings(lambda: {**HEALTHY, "gpus": [{"name": "a card", "memory": 8 * 2**30}]})
    assert found["GPU"].detail == "a card, 8 GiB"


def test_a_probe_that_dies_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert findings(doctor.probed)["torch"].mark == "fail"


def test_the_doctor_asks_torch_in_another_process_and_exits_by_what_it_finds(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    code, out, _ = run("doctor")
    assert (code, "torch" in sys.modules) == (0, False)
    assert "  ok  torch: 2." in out
    assert "attention: sdpa, reference" in out
    assert "  ok  attention auto: sdpa, the fastest at decoding that runs here" in out
    monkeypatch.setattr(doctor, "probed", lambda: {"error": "torch is not installed"})
    code, out, _ = run("doctor")
    assert (code, "FAIL  torch: torch is not installed: " in out) == (1, True)
