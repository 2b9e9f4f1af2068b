"""Who is measured: Transformers `generate`, the same under PEFT, vLLM, and mp13. Each turns prompts into token ids,
greedily, and always makes exactly as many tokens as asked: the end-of-text token ends nothing.
"""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mp13 import LLM, SamplingParams


class Transformers:
    """`generate` as it comes, in bfloat16 with its default attention (SDPA). Prompts of one call have one length."""

    def __init__(self, model: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()

    def generate(self, prompts: list[list[int]], num_new: int, **options: Any) -> list[list[int]]:
        input_ids = torch.tensor(prompts)
        output = self.model.generate(
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids), pad_token_id=0, do_sample=False,
            min_new_tokens=num_new, max_new_tokens=num_new, **options,
        )  # fmt: skip
        return output[:, input_ids.shape[1] :].tolist()


class Peft(Transformers):
    """The same with all adapters loaded, as PEFT does it by default: adapters in float32, in a bfloat16 model."""

    def __init__(self, model: Path, adapters: Sequence[Path]) -> None:
        super().__init__(model)
        self.model = PeftModel.from_pretrained(self.model, adapters[0], adapters[0].name)
        for path in adapters[1:]:
            self.model.load_adapter(path, path.name)
        self.model.eval()

    def generate_with(self, prompts: list[list[int]], num_new: int, adapter: str) -> list[list[int]]:
        """All rows under one adapter."""
        self.model.set_adapter(adapter)
        return self.generate(prompts, num_new)

    def generate_mixed(self, prompts: list[list[int]], num_new: int, adapters: list[str]) -> list[list[int]]:
        """Each row under its own adapter."""
        return self.generate(prompts, num_new, adapter_names=adapters)


class Vllm:
    """vLLM in a process of its own, run by `python`, which has it installed. It may poll while idle, and take the cores
    of the others; so it is stopped except in its own turns."""

    def __init__(self, python: Path, model: Path, adapters: Sequence[Path]) -> None:
        own = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        environment = {"VLLM_CPU_KVCACHE_SPACE": "2"} | os.environ | own  # GiB; one process is stopped more surely
        environment.pop("PYTHONPATH", None)
        worker = Path(__file__).with_name("vllm_worker.py")
        self._process = subprocess.Popen(
            [python, worker, model, *adapters], text=True, env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._answer()
        self._signal(signal.SIGSTOP)

    def generate_mixed(self, prompts: list[list[int]], num_new: int, adapters: list[str]) -> list[list[int]]:
        """Each row under its own adapter."""
        self._signal(signal.SIGCONT)
        try:
            assert self._process.stdin
            print(json.dumps({"prompts": prompts, "num_new": num_new, "adapters": adapters}), file=self._process.stdin)
            self._process.stdin.flush()
            return list(self._answer())
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"vLLM ended with exit code {self._process.wait()}; its last lines above say why")
        return json.loads(line)

    def _signal(self, number: int) -> None:
        """To the process and all that it started."""
        os.killpg(self._process.pid, number)


class Ours:
    def __init__(self, model: Path, adapters: Sequence[Path], **options: Any) -> None:
        self.llm = LLM(model, dtype="bfloat16", device="cpu", **options)
        for path in adapters:
            self.llm.load_adapter(path)

    def generate(
        self, prompts: list[list[int]], num_new: int, adapters: str | list[str] | None = None
    ) -> list[list[int]]:
        params = SamplingParams(temperature=0, max_tokens=num_new, ignore_eos=True)
        return [output.token_ids for output in self.llm.generate(prompts, params, adapters)]
