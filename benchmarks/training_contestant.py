"""Trains the starter once, as one contestant of bench_training.py does it, and prints what it took as JSON.

    python benchmarks/training_contestant.py ours|trainer|trl WORK.json ADAPTER_FOLDER

Run in a process of its own, so that its peak of memory is its own; TRL's may be another Python, which needs no mp13.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch


class Clock:
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._started)


def ours(work: dict[str, Any], folder: Path) -> list[float]:
    """Seconds a step; the adapter is in `folder`."""
    from mp13.engine.config import EngineConfig
    from mp13.engine.models.loader import load_model
    from mp13.engine.training.config import TrainConfig
    from mp13.engine.training.events import StepDone
    from mp13.engine.training.passes import Base
    from mp13.engine.training.record import Origin
    from mp13.engine.training.rows import TrainingRow
    from mp13.engine.training.trainer import Trainer

    config = EngineConfig(work["model"], dtype=work["dtype"], device=work["device"], quantization=work["quantization"])
    loaded = load_model(config, lambda stage, fraction: None)
    base = Base(loaded.model, loaded.context, loaded.vocab_size, loaded.device, loaded.activation_dtype)
    rows = [TrainingRow(ids, mask) for ids, mask in work["samples"]]
    settings = TrainConfig(**work["settings"], save_every=1 << 20)
    trainer = Trainer(base, rows, settings, folder, Origin(work["model"], "", ""))
    tokens = [0]
    seconds = []
    for event in trainer.run():
        if isinstance(event, StepDone):
            seconds.append((event.tokens - tokens[-1]) / event.tokens_per_s)
            tokens.append(event.tokens)
    return seconds


def theirs(kind: str, work: dict[str, Any], folder: Path) -> list[float]:
    """The same with PEFT's adapter under Transformers' Trainer, or TRL's SFTTrainer."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed

    settings, clock = work["settings"], Clock()
    set_seed(settings["seed"])

    class Timing(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.stop()

    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=getattr(torch, work["dtype"]))
    lora = peft.LoraConfig(
        r=settings["rank"], lora_alpha=settings["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    common = {
        "output_dir": str(folder), "max_steps": settings["steps"], "learning_rate": settings["lr"], "report_to": [],
        "lr_scheduler_type": settings["schedule"], "warmup_steps": settings["warmup_steps"], "logging_steps": 1,
        "save_strategy": "no", "use_cpu": work["device"] == "cpu", "seed": settings["seed"],
        "bf16": work["device"] == "cuda" and work["dtype"] == "bfloat16",  # the adapter's products, as TRL's default is
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "weight_decay": 0.0, "max_grad_norm": 1.0, "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    build = _trl if kind == "trl" else _trainer
    trainer = build(work, common, model, lora, tokenizer, Timing())
    trainer.train()
    trainer.model.save_pretrained(folder)
    return clock.seconds


def _trl(work: dict[str, Any], common: dict[str, Any], model: Any, lora: Any, tokenizer: Any, timing: Any) -> Any:
    """TRL's packing without padding, on our packs in our order."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    packs = [[work["samples"][i] for i in pack] for pack in work["packs"]]
    rows = [
        {
            "input_ids": [token for ids, _ in pack for token in ids],
            "labels": [
                t if m and i else -100 for ids, mask in pack for i, (t, m) in enumerate(zip(ids, mask, strict=True))
            ],
            "seq_lengths": [len(ids) for ids, _ in pack],
        }
        for pack in packs
    ]
    arguments = SFTConfig(
        **common, per_device_train_batch_size=1, padding_free=True, max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    return InOrder(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=lora, callbacks=[timing],
    )  # fmt: skip


def _trainer(work: dict[str, Any], common: dict[str, Any], model: Any, lora: Any, tokenizer: Any, timing: Any) -> Any:
    """Batches of samples in `work`'s random order, padded to the longest, as the Trainer's own collator does."""
    import peft
    from torch.utils.data import SequentialSampler
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    rows = []
    for i in work["shuffled"]:
        ids, mask = work["samples"][i]
        labels = [token if m else -100 for token, m in zip(ids, mask, strict=True)]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    arguments = TrainingArguments(**common, per_device_train_batch_size=work["rows_a_batch"])
    return InOrder(
        model=peft.get_peft_model(model, lora), args=arguments, train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer), callbacks=[timing],
    )  # fmt: skip


def tokens_a_step(kind: str, work: dict[str, Any]) -> list[int]:
    """Padding is no token."""
    lens = [len(ids) for ids, _ in work["samples"]]
    if kind != "trainer":
        return [sum(lens[i] for i in pack) for pack in work["packs"]]
    size, order = work["rows_a_batch"], work["shuffled"]
    return [sum(lens[i] for i in order[at : at + size]) for at in range(0, len(order), size)]


def peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main(kind: str, work_file: str, folder: str) -> None:
    work = json.loads(Path(work_file).read_text())
    seconds = ours(work, Path(folder)) if kind == "ours" else theirs(kind, work, Path(folder))
    tokens = tokens_a_step(kind, work)[: len(seconds)]
    skipped = min(2, len(seconds) - 1)  # the first steps pay for what is made once
    speed = sum(tokens[skipped:]) / sum(seconds[skipped:])
    print(json.dumps({"tokens_per_s": speed, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
