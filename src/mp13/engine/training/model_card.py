"""README.md of a trained adapter: what it is, what it was made of, and how it went."""

import json

from mp13.engine.training.record import RunRecord, versions


def model_card(record: RunRecord) -> str:
    """Markdown with the front matter that the Hugging Face Hub reads."""
    config, origin = record.config, record.origin
    front = {
        "base_model": origin.model, "library_name": "peft", "pipeline_tag": "text-generation",
        "tags": ["lora", "mp13"],
    }  # fmt: skip
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
        "---",
        "",
        f"# An adapter for {_plain(origin.model)}",
        "",
        f"Step {record.from_step or record.step} of {record.total_steps}; trained on {record.tokens:,} tokens. "
        f"{config.kind} of rank {config.rank}, alpha {config.full_alpha:g}, {record.num_parameters:,} parameters.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(record).items()),
        "",
        "Load it with PEFT (`PeftModel.from_pretrained(base, folder)`) or with mp13 (`/adapter`). The curves and all "
        "settings are in `training.json`.",
        "",
    ]
    return "\n".join(lines)


def _facts(record: RunRecord) -> dict[str, str]:
    config = record.config
    facts = {
        "targets": _plain(config.targets if isinstance(config.targets, str) else ", ".join(config.targets)),
        "learning rate": f"{config.lr:g}, {config.schedule}",
        "loss on": "the assistant's tokens" if config.loss == "assistant" else "all tokens",
        "seed": str(config.seed),
        "base digest": record.origin.base_digest,
        "template digest": record.origin.template_digest,
        "data digest": record.data_digest,
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    if record.losses:
        facts["training loss"] = f"{record.losses[0][1]:.4f} at first, {record.losses[-1][1]:.4f} at last"
    if record.best is not None:
        facts["evaluation loss"] = f"{record.best[1]:.4f} at step {record.best[0]}, the best"
    return facts


def _plain(text: str) -> str:
    """`text` where it cannot end a cell or a line of Markdown."""
    return " ".join(text.replace("|", "\\|").split())
