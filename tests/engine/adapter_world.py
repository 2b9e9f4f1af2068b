"""An engine with an adapter in use, and ways to spoil a copy of that adapter's folder."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mp13 import LLM, SamplingParams
from mp13.engine.adapters.adapter_file import LoadedAdapter, load_adapter_file
from mp13.errors import AdapterError
from tests.engine.tiny_models import tiny_adapter, tiny_model

PROMPT = [5, 40, 7, 81, 200, 13]
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
Change = Callable[[Path], None]


class World:
    """An engine with one good adapter in it."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny_model(folder / "model", vocab_size=328)  # rows beyond the tokenizer's 320
        self.good = tiny_adapter(folder / "good", self.model, rank=4, seed=1)
        self.llm = LLM(
            self.model, dtype="float32", kv_cache_memory="1MiB", max_lora_rank=8, max_loras=2, max_cpu_loras=3
        )
        self.llm.load_adapter(self.good)
        self.answer = self.ask()

    def ask(self) -> list[int]:
        return self.llm.generate([PROMPT], GREEDY, "good")[0].token_ids

    def read(self, folder: Path) -> LoadedAdapter:
        """What the engine makes of the folder."""
        core = self.llm._core
        return load_adapter_file(
            folder,
            "x",
            core.runner.model.targets,
            max_rank=8,
            dtype=torch.float32,
            model="model",
            vocab_size=core.vocab_size,
            tokenizer=core.tokenizer,
        )

    def refuse(self, folder: Path, name: str | None = "good", kind: type[Exception] = AdapterError) -> str:
        """The sentence that refuses `folder`, after a look that nothing has changed."""
        before = self.llm.adapters, self.llm._core.adapters.slots.resident
        with pytest.raises(kind) as refused:
            self.llm.load_adapter(folder, name)
        assert (self.llm.adapters, self.llm._core.adapters.slots.resident) == before
        assert self.ask() == self.answer
        sentence = str(refused.value)
        assert "\n" not in sentence and len(sentence) < 600
        return sentence


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_header(folder: Path, change: Callable[[str], str]) -> None:
    """Rewrite the header's text, length included; the data stays."""
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = change(content[8 : 8 + length].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])


def put(key: str, tensor: torch.Tensor | None) -> Change:
    def change(folder: Path) -> None:
        change_tensors(folder, lambda t: t.pop(key) if tensor is None else t.update({key: tensor}))

    return change
