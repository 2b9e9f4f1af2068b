"""A mix becomes an adapter or a model, and is held against what the live mix says before anybody can use it.

What happens, in which order; how each step is done is its own module's. At no time is more than one model in memory.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from mp13.digests import adapter_digest
from mp13.engine.adapters.adapter_config import CONFIG_FILE, merge_hint, read_lora_settings
from mp13.engine.adapters.adapter_file import LoadedAdapter, load_adapter_file
from mp13.engine.adapters.adapter_text import MixText, mix_text, read_adapter_text
from mp13.engine.adapters.tensor_file import WEIGHTS_FILE
from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.merging import foreign
from mp13.engine.merging.adapter_folder import write_adapter
from mp13.engine.merging.agreement import (
    FLOAT32,
    HALF_ARITHMETIC,
    HALF_WEIGHTS,
    Agreement,
    compare,
    log_probs,
    own_log_probs,
    probe_ids,
)
from mp13.engine.merging.combine import Deltas, Member, combine
from mp13.engine.merging.model_folder import (
    add_to_weights,
    is_quantized,
    read_model,
    require_space,
    separate_head,
    write_model,
)
from mp13.engine.merging.request import DEFAULT_DENSITY, EXACT_METHOD, MergeReport, MergeRequest
from mp13.engine.merging.text_files import write_system_prompt, write_tokenizer
from mp13.engine.models.model_files import weight_files
from mp13.engine.models.weights import model_path
from mp13.engine.request import AdapterInfo, OnProgress
from mp13.errors import AdapterError, ModelError
from mp13.mix import Mix

_RESULT = "merged"
_PROBE = [[*range(1, 33)]]  # token ids that every vocabulary has
_ANY_RANK = 1 << 20
_CACHE_BYTES = 64 << 20  # holds any probe text
_SPARE_BYTES = 1 << 30


def merge(request: MergeRequest, on_progress: OnProgress) -> MergeReport:
    """Fill the folder `request.out`, which is there and empty.

    Raises:
        ModelError, AdapterError, MixError, ConfigError: it cannot be done; what is in the folder is worthless then.
    """
    folder, out = model_path(request.model, on_progress), Path(request.out)
    if not folder.is_dir():
        raise ModelError(f"{folder} is a GGUF file, and merging needs the model's safetensors; give their folder")
    if request.target == "model":
        require_space(out, sum(path.stat().st_size for path in weight_files(folder)))
    if not is_quantized(folder):
        return _Merge(request, folder, on_progress).run()
    with TemporaryDirectory(dir=out, prefix=".") as scratch:
        on_progress("dequantize", None)
        model = read_model(folder, trust_remote_code=request.trust_remote_code)
        base = Path(scratch) / Path(request.model).name  # adapters are asked whether they were made for that name
        base.mkdir()
        write_model(model, base, folder, trust_remote_code=request.trust_remote_code)
        plain = own_log_probs(model.float(), _PROBE)
        del model
        return _Merge(request, base, on_progress, plain).run()


class _Merge:
    """`base` is a folder with plain weights; where they came out of a quantized model, `plain` is what that one says
    of `_PROBE`."""

    def __init__(
        self, request: MergeRequest, base: Path, on_progress: OnProgress, plain: torch.Tensor | None = None
    ) -> None:
        self.request, self.base, self.on_progress = request, base, on_progress
        self.out = Path(request.out)
        self.plain = plain
        self.members = [(name, weight) for name, weight in request.parsed.members if weight]
        self.folders = {name: Path(folder).expanduser() for name, folder in request.adapters}
        self.warnings: list[str] = []
        self.recorded: set[str | None] = set()  # what the members say that they were made for
        self.text = MixText(None)
        self.arithmetic = self._arithmetic()

    def run(self) -> MergeReport:
        core = self._engine(self.request.model if self.plain is None else str(self.base))
        if self.plain is not None:
            found = compare(self.plain, log_probs(core, _PROBE, "base"))
            found.require("the dequantized base", self._tolerance(core, torch.float32))
        try:
            infos = [core.adapters.load(self.folders[name], name) for name, _ in self.members]
            self.warnings += [warning for info in infos for warning in info.warnings]
            self.recorded = {info.base_model for info in infos}
        except AdapterError as error:
            if not any(merge_hint(name) in str(error) for name, _ in self.members):
                raise
            return self._foreign(core, error)
        deltas = self._combined(core, infos)
        self.on_progress("live", None)
        probes = probe_ids(core.tokenizer, core.vocab_size)
        live = log_probs(core, probes, str(Mix(tuple(self.members))))
        tokenizer = core.tokenizer
        if self.request.target == "adapter":
            return self._adapter(core, deltas, probes, live)
        del core  # one model at a time
        model = self._read_base()
        separate_head(model)
        add_to_weights(model, deltas)
        return self._model(model, tokenizer, probes, live)

    def _arithmetic(self) -> str:
        """float32 if memory allows: beside its rounding, that of 16 bits would hide small faults of a merge."""
        wide_bytes = 2 * sum(path.stat().st_size for path in weight_files(self.base))
        if psutil.virtual_memory().available > wide_bytes + _SPARE_BYTES:
            return "float32"
        self.warnings.append("checked at 16 bits for want of memory: their rounding is in the distance, too")
        return "auto"

    def _engine(self, model: str) -> EngineCore:
        config = EngineConfig(
            model,
            dtype=self.arithmetic,
            device="cpu",
            trust_remote_code=self.request.trust_remote_code,
            max_num_seqs=1,
            kv_cache_memory=_CACHE_BYTES,
            enable_prefix_caching=False,
            max_loras=len(self.members),
            max_cpu_loras=len(self.members),
            max_lora_rank=self._largest_rank(),
        )
        return EngineCore(config, self.on_progress)

    def _largest_rank(self) -> int:
        """Of an adapter that this merge loads, at most: what comes of them has all members side by side, of which those
        with a PiSSA start count twice. For adapters of this rank the engine keeps memory."""
        total = self.request.rank or 1
        for name, _ in self.members:
            with suppress(AdapterError):  # said when it is loaded
                choice = read_lora_settings(self.folders[name], name)[0].choice
                total += 2 * max([choice.rank, *(rank for _, rank in choice.rank_pattern)])
        return total

    def _combined(self, core: EngineCore, infos: Sequence[AdapterInfo]) -> Deltas:
        method, target = self.request.method, self.request.target
        for info in infos:
            if info.kind == "alora":
                raise AdapterError(
                    f"{info.name!r} is an activated LoRA: merged, it would act on every token, not only on those after "
                    "its invocation; use it as it is"
                )
            if info.kind == "dora" and (target == "adapter" or method != EXACT_METHOD):
                raise AdapterError(
                    f"{info.name!r} is a DoRA, which also scales the base weights, and cannot become part of a plain "
                    f"LoRA; {merge_hint(str(self.request.parsed))}"
                )
        self.on_progress("combine", None)
        loaded = [(name, weight, self._read(core, name)) for name, weight in self.members]
        self.text = mix_text(core.tokenizer, [(name, weight, adapter.text) for name, weight, adapter in loaded])
        members = [
            Member(name, weight, adapter.deltas, self._scales(name, adapter)) for name, weight, adapter in loaded
        ]
        density = self.request.density or (DEFAULT_DENSITY if self.request.prunes else None)
        return combine(members, method, rank=self.request.rank, density=density, seed=self.request.seed)

    def _read(self, core: EngineCore, name: str) -> LoadedAdapter:
        """The adapter as its file has it, whatever dtype the engine runs in."""
        return load_adapter_file(
            self.folders[name],
            name,
            core.runner.model.targets,
            max_rank=_ANY_RANK,
            dtype=torch.float32,
            model=self.request.model,
            vocab_size=core.vocab_size,
            tokenizer=core.tokenizer,
        )

    def _scales(self, name: str, adapter: LoadedAdapter) -> dict[str, float]:
        settings, _ = read_lora_settings(self.folders[name], name)
        return {path: settings.scale_of(path) for path in adapter.deltas}

    def _adapter(self, core: EngineCore, deltas: Deltas, probes: list[list[int]], live: torch.Tensor) -> MergeReport:
        self.on_progress("write", None)
        used = Path(self.request.model)
        recorded = next(iter(self.recorded)) if len(self.recorded) == 1 else None
        base = recorded or (used.name if used.is_dir() else str(used))
        rank = write_adapter(self.out, deltas, core.runner.model.targets, base)
        write_tokenizer(self.out, self.text, core.tokenizer)
        write_system_prompt(self.out, self.text)
        self.on_progress("check", None)
        for name, _ in self.members:
            core.adapters.unload(name)
        core.adapters.load(self.out, _RESULT)
        agreement = self._judge(live, log_probs(core, probes, _RESULT), core, torch.float32)
        if rank > (usual := EngineConfig("any").max_lora_rank):
            self.warnings.append(f"rank {rank} is over the usual max_lora_rank = {usual}; raise that, or merge by svd")
        return self._report(agreement, rank)

    def _foreign(self, core: EngineCore, refusal: AdapterError) -> MergeReport:
        """An adapter that the engine cannot serve goes into the weights by PEFT's own arithmetic, in float32."""
        (name, weight), *others = self.members
        if self.request.target == "adapter":
            raise refusal
        if others or weight != 1 or self.request.method != EXACT_METHOD:
            raise AdapterError(f"{refusal}; only alone, with weight 1 and method {EXACT_METHOD}") from refusal
        config, tensors = foreign.read_foreign(self.folders[name])
        tokenizer, probes = core.tokenizer, probe_ids(core.tokenizer, core.vocab_size)
        del core
        model = self._read_base()
        dtype = model.dtype
        foreign.make_room(model, tensors)
        self.text = self._foreign_text(tokenizer, model.get_input_embeddings().weight.shape[0], name)
        separate_head(model)
        adapted = foreign.attach(model.float(), config, tensors, name)
        live = own_log_probs(adapted, probes)
        return self._model(foreign.merged(adapted, name).to(dtype), tokenizer, probes, live)

    def _foreign_text(self, tokenizer: Any, vocab_size: int, name: str) -> MixText:
        try:
            text = read_adapter_text(self.folders[name], tokenizer, vocab_size, name)
        except AdapterError as error:
            if merge_hint(name) not in str(error):
                raise
            raise AdapterError(
                f"{name!r} has tokens for which neither the model nor itself has embeddings; save it again with "
                "PEFT's save_embedding_layers"
            ) from error
        return mix_text(tokenizer, [(name, 1.0, text)])

    def _read_base(self) -> PreTrainedModel:
        self.on_progress("merge", None)
        return read_model(self.base, trust_remote_code=self.request.trust_remote_code)

    def _model(
        self, model: PreTrainedModel, tokenizer: Any, probes: list[list[int]], live: torch.Tensor
    ) -> MergeReport:
        self.on_progress("write", None)
        write_model(model, self.out, self.base, trust_remote_code=self.request.trust_remote_code)
        kept = model.dtype
        del model
        write_tokenizer(self.out, self.text, tokenizer)
        if self.text.system_from:
            self.warnings.append(
                f"the system prompt of {self.text.system_from!r} is no part of a model; give it yourself"
            )
        self.on_progress("check", None)
        core = self._engine(self.request.out)
        return self._report(self._judge(live, log_probs(core, probes, "base"), core, kept), None)

    def _judge(self, live: torch.Tensor, merged: torch.Tensor, core: EngineCore, kept: torch.dtype) -> Agreement:
        agreement = compare(live, merged)
        if self.request.method == EXACT_METHOD:
            agreement.require(f"the merged {self.request.target}", self._tolerance(core, kept))
        return agreement

    def _tolerance(self, core: EngineCore, kept: torch.dtype) -> float:
        """`kept` is the dtype of what was written."""
        if core.info.dtype != "float32":
            return HALF_ARITHMETIC
        return FLOAT32 if kept == torch.float32 else HALF_WEIGHTS

    def _report(self, agreement: Agreement, rank: int | None) -> MergeReport:
        return MergeReport(
            path=self.request.out,
            target=self.request.target,
            mix=str(self.request.parsed),
            members=tuple((name, self._digest(name), weight) for name, weight in self.members),
            method=self.request.method,
            rank=rank,
            size_bytes=sum(path.stat().st_size for path in weight_files(self.out)),
            max_gap=agreement.max_gap,
            mean_kl=agreement.mean_kl,
            warnings=tuple(dict.fromkeys(self.warnings)),
        )

    def _digest(self, name: str) -> str:
        return adapter_digest(self.folders[name] / CONFIG_FILE, self.folders[name] / WEIGHTS_FILE)
