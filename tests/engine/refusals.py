"""What cannot be combined, and what is said then, before any weight is read. Makes a table of docs/attention.md:
`python -m tests.engine.refusals` writes it, and a test holds it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from mp13 import LLM
from mp13.engine.attention import registry
from mp13.engine.models import choices, fitting, transformers_bridge
from mp13.engine.models.weights import Checkpoint
from mp13.errors import Mp13Error
from tests.engine.tiny_models import tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "attention.md"
BEGIN, END = "<!-- refusals: made by tests/engine/refusals.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Refusal:
    """A combination that is refused. `capability` is that of the GPU that the machine is taken to have."""

    where: str
    options: dict[str, Any]
    family: str = "llama"
    capability: tuple[int, int] | None = None
    installed: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)  # of the model


HOPPER, AMPERE, TURING = (9, 0), (8, 0), (7, 5)
CASES = [
    *(
        Refusal("a CPU", {"attn_implementation": name})
        for name in ("flash_attention_2", "flash_attention_3", "flash_attention_4", "xformers", "triton")
    ),
    Refusal("a model that caps its scores (Gemma 2)", {"attn_implementation": "sdpa"}, family="gemma2"),
    Refusal(
        "the same, on a GPU", {"attn_implementation": "xformers", "dtype": "bfloat16"}, family="gemma2",
        capability=HOPPER, installed=("xformers.ops",), config={"head_dim": 64},
    ),
    Refusal(
        "a GPU, float32", {"attn_implementation": "triton", "dtype": "float32"},
        capability=HOPPER, installed=("triton",),
    ),
    Refusal(
        "a GPU", {"attn_implementation": "flash_attention_2", "dtype": "bfloat16"},
        capability=HOPPER, installed=("flash_attn.flash_attn_interface",),
    ),
    Refusal(
        "a GPU", {"attn_implementation": "xformers", "dtype": "bfloat16"},
        capability=HOPPER, installed=("xformers.ops",),
    ),
    Refusal(
        "a GPU, heads of 96", {"attn_implementation": "xformers", "dtype": "bfloat16", "block_size": 64},
        capability=HOPPER, installed=("xformers.ops",), config={"head_dim": 96},
    ),
    Refusal(
        "a GPU, heads of 8", {"attn_implementation": "triton", "dtype": "bfloat16"},
        capability=HOPPER, installed=("triton",), config={"head_dim": 8},
    ),
    Refusal("a GPU", {"attn_implementation": "flash_attention_3", "dtype": "bfloat16"}, capability=HOPPER),
    Refusal("an A100", {"attn_implementation": "flash_attention_3", "dtype": "bfloat16"}, capability=AMPERE),
    Refusal("an A100", {"attn_implementation": "flash_attention_4", "dtype": "bfloat16"}, capability=AMPERE),
    Refusal("a T4", {"attn_implementation": "triton", "dtype": "float16"}, capability=TURING),
    Refusal("anything", {"quantization": {"bits": 3, "kernel": "int4"}}),
    Refusal("anything", {"quantization": {"bits": 4, "axis": 0, "kernel": "int4"}}),
    Refusal("layers of 64 inputs", {"quantization": {"bits": 4, "group_size": 128}}),
    Refusal("a GPU, float16", {"quantization": {"bits": 4, "kernel": "int4"}, "dtype": "float16"}, capability=HOPPER),
    Refusal(
        "a GPU, layers of 64 inputs", {"quantization": {"bits": 4, "kernel": "int4"}, "dtype": "bfloat16"},
        capability=HOPPER,
    ),
]  # fmt: skip


def message(case: Refusal, folder: Path) -> str:
    """What is said. Whoever reads a weight fails otherwise."""
    model = tiny_model(folder, case.family, **case.config)
    with machine(case), pytest.raises(Mp13Error) as refused:
        LLM(model, **case.options)
    return str(refused.value).replace(str(model), "MODEL")


@contextmanager
def machine(case: Refusal) -> Iterator[None]:
    """This machine, or for a case on a GPU one that has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "read", None)
        patch.setattr(transformers_bridge, "read_whole", None)
        if case.capability is not None:
            patch.setattr(choices, "choose_device", lambda name: torch.device("cuda"))
            patch.setattr(torch.cuda, "get_device_capability", lambda device: case.capability)
            patch.setattr(fitting, "room_for", lambda *_: 2**40)
            patch.setattr(registry, "_is_installed", lambda package: package in case.installed)
        yield


def row(case: Refusal, folder: Path) -> str:
    """Of the documentation's table."""
    settings = ", ".join(f"`{key} = {value!r}`" for key, value in case.options.items() if key != "dtype")
    return f"| {case.where} | {settings} | {message(case, folder)} |"


def write_table() -> None:
    rows = ["| where | setting | refused with |", "|---|---|---|"]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(case, Path(folder)))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    lines = "\n".join([BEGIN, *rows, END])
    PAGE.write_text(f"{before}{lines}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    write_table()
