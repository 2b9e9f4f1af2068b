"""What a training run inside an engine begins with: rendered rows, settings, the adapter; and whether it can run there.

Nothing here computes the model, so that answers go on meanwhile on the engine's own thread.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from mp13.engine.core import EngineCore
from mp13.engine.models.room import readable, room_for
from mp13.engine.sizes import shown_size
from mp13.engine.training.config import TrainConfig, suggested_config
from mp13.engine.training.job import TrainingJob
from mp13.engine.training.record import Origin
from mp13.engine.training.rendering.render import Renderer
from mp13.engine.training.rows import TrainingRow
from mp13.engine.training.sample import Sample
from mp13.engine.training.trainer import Trainer, recorded_config
from mp13.errors import ConfigError, TrainingError

_CPU_ROW_TOKENS = 256  # a longer row's layer would keep an answer waiting


def prepared(core: EngineCore, job: TrainingJob, between: Callable[[], None]) -> Trainer:
    """To be called on any thread, once `require_parts` has passed the model.

    Raises:
        ConfigError, TrainingError, OutOfMemory: it cannot run; nothing has changed.
    """
    rows, eval_rows, config = _rows_and_config(core, job)
    origin = Origin(core.config.model, core.info.base_digest, core.info.template_digest)
    _require_rank(core, config)
    _require_room(core, config)
    try:
        return Trainer(
            replace(core.base, is_shared=True), rows, config, job.output, origin,
            eval_rows=eval_rows, between=between, resume=job.resume,
        )  # fmt: skip
    except Exception as error:
        raise readable(error) from None


def _rows_and_config(
    core: EngineCore, job: TrainingJob
) -> tuple[list[TrainingRow], list[TrainingRow] | None, TrainConfig]:
    recorded = recorded_config(job.output).to_json() if job.resume else {}
    chosen = {**recorded, **job.settings}
    loss = chosen.get("loss", "assistant")
    renderer = Renderer(core.tokenizer, core.info.eos_token_ids)

    def rows_of(samples: Iterable[Sample]) -> list[TrainingRow]:
        return [TrainingRow(r.ids, r.mask) for sample in samples for r in renderer.render(sample, loss)]

    rows = rows_of(job.samples)
    eval_rows = None if job.eval_samples is None else rows_of(job.eval_samples)
    if recorded:
        return rows, eval_rows, TrainConfig.from_json(chosen)
    on_cpu = core.base.device.type == "cpu"
    if on_cpu and "batch_tokens" not in chosen and "batch_rows" not in chosen:
        longest = max((len(row.ids) for row in [*rows, *(eval_rows or ())]), default=0)
        chosen["batch_tokens"] = max(_CPU_ROW_TOKENS, longest)
    TrainConfig.from_json(chosen)  # a setting that is none has its own sentence
    config = suggested_config(
        hidden_size=next(iter(core.base.model.targets.values())).linear.in_features,
        num_rows=len(rows),
        num_tokens=sum(len(row.ids) for row in rows),
        num_loss_tokens=sum(len(row.learned(loss)) for row in rows),
        on_cpu=on_cpu,
        **chosen,
    )
    return rows, eval_rows, config


def _require_rank(core: EngineCore, config: TrainConfig) -> None:
    rank, most = config.rank * (1 if config.init == "default" else 2), core.config.max_lora_rank
    if rank > most or core.config.max_loras == 0:
        raise ConfigError(
            f"an adapter of rank {rank} could not answer while it learns: max_lora_rank is {most} and max_loras "
            f"{core.config.max_loras}; lower the rank, or raise these"
        )


def _require_room(core: EngineCore, config: TrainConfig) -> None:
    """Counted, not tried: what is trained with AdamW's means, and the activations that wait for the way back."""
    base = core.base
    shapes = {target.linear: target.linear.base.shape for target in base.model.targets.values()}
    width = sum(rows + columns for rows, columns in shapes.values())
    num_layers = len(list(base.model.layers)) if config.gradient_checkpointing else 1
    activations = config.batch_tokens * width * 2 * base.dtype.itemsize // num_layers
    needed = config.rank * width * 16 + activations
    room = room_for(base.device, 1.0)
    if needed > room:
        raise TrainingError(
            f"training takes about {shown_size(needed, up=True)} beside the model, and {shown_size(room)} are "
            "free; lower batch_tokens or rank, or turn gradient_checkpointing on"
        )
