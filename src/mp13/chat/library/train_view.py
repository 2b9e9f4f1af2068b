"""Training as people read it: the plan, a dry run, how a run went."""

from dataclasses import asdict
from typing import Any

from mp13.chat.library.shown import size
from mp13.chat.text import one_line
from mp13.engine.training.config import TrainConfig
from mp13.engine.training.events import Finished, Rehearsal, TrainingPlan
from mp13.engine.training.process.request import Started
from mp13.errors import ConfigError

_MINUTE, _HOUR = 60, 3600


def plan_text(started: Started) -> str:
    """One line: what, on how much, for how long."""
    plan, config = started.plan, TrainConfig.from_json(started.config)
    passes = plan.total_steps / plan.steps_per_epoch
    held_out = f", {plan.num_eval_rows:,} held out" if plan.num_eval_rows else ""
    return one_line(
        f"{config.kind} of rank {config.rank}, lr {config.lr:g}: {plan.num_parameters:,} parameters; {plan.num_rows:,} "
        f"samples{held_out}, {plan.num_tokens:,} tokens, {plan.loss_tokens:,} carry loss; {plan.total_steps:,} steps, "
        f"{passes:.2g} {'pass' if passes == 1 else 'passes'}"
    )


def rehearsal_text(plan: TrainingPlan, tried: Rehearsal) -> str:
    passes = plan.total_steps / plan.steps_per_epoch
    lines = (
        f"steps    {plan.total_steps:,}, of {plan.steps_per_epoch:,} a pass",
        f"tokens   {plan.num_tokens:,} a pass, {round(plan.num_tokens * passes):,} in all",
        f"memory   {size(tried.memory_bytes)}, {size(plan.trained_bytes)} of it for the adapter and its optimizer",
        f"time     about {duration(tried.seconds)}, at {tried.tokens_per_s:,.0f} tokens a second",
    )
    return "\n".join(lines)


def rehearsal_json(started: Started, tried: Rehearsal) -> dict[str, Any]:
    return {"plan": asdict(started.plan), **asdict(tried), "config": started.config}


def finished_text(finished: Finished) -> str:
    """How a run went that made an adapter of the library, or elsewhere."""
    if finished.path is None:
        raise ConfigError("the run made no adapter")
    early = {"early stop": "evaluations got no better; ", "stopped": "it was stopped; "}.get(finished.reason, "")
    evaluated = "" if finished.eval_loss is None else f", {finished.eval_loss:.4f} on what was held out"
    return one_line(
        f"{early}{_losses(finished)}{evaluated}, in {finished.step:,} steps and {duration(finished.seconds)}"
        f"{_best(finished)}; the adapter is {finished.path}"
    )


def finished_json(finished: Finished) -> dict[str, Any]:
    return {
        "adapter": None if finished.path is None else str(finished.path),
        "first_loss": finished.first_loss,
        "last_loss": finished.last_loss,
        "eval_loss": finished.eval_loss,
        "tokens_per_s": finished.tokens / finished.seconds if finished.seconds else None,
        "steps": finished.step,
        "adapter_step": finished.from_step,
        "tokens": finished.tokens,
        "seconds": finished.seconds,
        "reason": finished.reason,
    }


def duration(seconds: float) -> str:
    """About how long."""
    if seconds >= 2 * _HOUR:
        return f"{seconds / _HOUR:.1f} hours"
    return f"{seconds / _MINUTE:.1f} minutes" if seconds >= 2 * _MINUTE else f"{seconds:.0f} s"


def _losses(finished: Finished) -> str:
    if finished.first_loss is None or finished.last_loss is None:
        return "no step was done"
    return f"loss {finished.first_loss:.4f} at first, {finished.last_loss:.4f} at last"


def _best(finished: Finished) -> str:
    return f" (the best was step {finished.from_step:,}, which is kept)" if finished.from_step < finished.step else ""
