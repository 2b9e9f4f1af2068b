"""The first step: what this machine has. Processor and memory are told at once, the rest when torch has answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from mp13.chat.library.shown import size
from mp13.chat.text import printable
from mp13.chat.wizard.step import Busy, Step
from mp13.library.machine import Computer, Gpu, Kernel, Survey

Row = tuple[str, str]


class MachineStep(Step):
    NAME = "Machine"
    HEADING = "What this machine has"
    HINT = "Eight short steps to a configuration that works here. Nothing is written before the last one."

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="facts"):
            for remark in self.state.draft.remarks:
                yield Static(Content(printable(remark)), classes="warning")
            yield Static(_table(computer_rows(self.state.world.computer())), id="computer")
            yield Static(id="survey")
            yield Busy("asking torch for GPUs and kernels; you can go on meanwhile", id="asking")

    def on_mount(self) -> None:
        self.surveyed()

    def surveyed(self) -> None:
        if (survey := self.state.survey) is not None:
            self.query_one("#asking", Busy).show("")
            self.query_one("#survey", Static).update(_table(survey_rows(survey)))


def computer_rows(found: Computer) -> list[Row]:
    cores = f"{found.cores} cores, " if found.cores else ""
    rows = [("processor", f"{found.processor}, {cores}{found.threads} threads")]
    if found.instructions:
        rows.append(("instructions", ", ".join(found.instructions)))
    return [*rows, ("memory", f"{size(found.memory_free)} free of {size(found.memory_total)}")]


def survey_rows(found: Survey) -> list[Row]:
    if found.error:
        return [("torch", f"✗ {found.error}"), ("", "`mp13config doctor` says more; install mp13 anew")]
    versions = [f"{package.name} {package.version}" for package in found.packages if package.version]
    broken = [("", f"✗ {package.name}: {package.reason}") for package in found.packages if not package.version]
    rows = [("packages", ", ".join(versions)), *broken, *_gpu_rows(found)]
    rows += [("attention", line) for line in _kernel_lines(found.attention, shorter=True)]
    rows += [("quantization", line) for line in _kernel_lines(found.quantization)]
    return list(_labelled_once(rows))


def _gpu_rows(found: Survey) -> list[Row]:
    rows = [("GPU", _gpu(gpu)) for gpu in found.gpus]
    if found.no_gpu:
        rows.append(("GPU", f"✗ {found.no_gpu}"))
    elif not found.gpus:
        rows.append(("GPU", "none that torch can use; models run on the processor"))
    return [*rows, ("driver", found.driver)] if found.driver else rows


def _gpu(gpu: Gpu) -> str:
    return f"{gpu.name}, {size(gpu.free)} free of {size(gpu.total)}, compute capability {gpu.capability}"


def _kernel_lines(kernels: Sequence[Kernel], shorter: bool = False) -> list[str]:
    """Those that run, then those that do not, with one reason together."""
    lines = []
    if running := [kernel for kernel in kernels if kernel.runs]:
        lines.append(f"✓ {', '.join(kernel.name for kernel in running)}")
    for reason in dict.fromkeys(
        (kernel.why_not, "" if shorter else kernel.fix) for kernel in kernels if not kernel.runs
    ):
        names = [k.name for k in kernels if not k.runs and (k.why_not, "" if shorter else k.fix) == reason]
        lines.append(f"– {', '.join(names)}: {'; '.join(filter(None, reason))}")
    return lines


def _labelled_once(rows: Iterable[Row]) -> Iterable[Row]:
    before = ""
    for label, text in rows:
        yield ("" if label == before else label, text)
        before = label


def _table(rows: Iterable[Row]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=12, no_wrap=True)
    for label, text in rows:
        table.add_row(Text(label, "bold"), Text(printable(text)))
    return table
