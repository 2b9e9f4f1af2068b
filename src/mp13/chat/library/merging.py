"""What a merge needs to know, from a mix and the settings, and its report as text. Merging is library/merging.py's."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mp13.chat.library.shown import size
from mp13.chat.settings.schema import Settings
from mp13.chat.text import one_line
from mp13.errors import AdapterError, ConfigError
from mp13.library.adapters import find_adapter
from mp13.library.merging import MergeReport, MergeRequest
from mp13.library.paths import adapters_dir, given_path
from mp13.library.placing import check_new_name
from mp13.mix import parse_mix


def merge_request(
    settings: Settings,
    mix: str,
    name: str | None,
    model: Path | None,
    *,
    method: str,
    rank: int | None,
    density: float | None,
    seed: int,
) -> MergeRequest:
    """Merge `mix` into the adapter `name` of the library, or with the settings' base into the folder `model`.

    Raises:
        AdapterError: a member is not there or damaged, or what the engine cannot run should become an adapter.
        ConfigError, MixError, ModelError: these do not describe a merge.
    """
    if (name is None) == (model is None):
        raise ConfigError("say what to make: --name NEW for an adapter, or --model OUT for a model; one of the two")
    out = given_path(model).absolute() if model is not None else adapters_dir() / check_new_name(name or "")
    members = []
    for member in parse_mix(mix).names:
        adapter = find_adapter(member, settings.adapter_folders)
        if adapter.unfit is not None and not (adapter.whole and model is not None):
            raise AdapterError(f"{member!r} cannot be merged: {adapter.unfit}")
        members.append((member, str(adapter.path)))
    return MergeRequest(
        model=settings.engine_config().model,
        mix=mix,
        adapters=tuple(members),
        out=str(out),
        target="adapter" if model is None else "model",
        method=method,
        rank=rank,
        density=density,
        seed=seed,
        trust_remote_code=settings.trust_remote_code,
    )


def merge_json(report: MergeReport) -> dict[str, Any]:
    members = [{"name": name, "digest": digest, "weight": weight} for name, digest, weight in report.members]
    return asdict(report) | {"members": members}


def merge_text(report: MergeReport) -> str:
    """What was made, and how near it is to the live mix."""
    rank = f"rank {report.rank}, " if report.rank else ""
    method = f" by {report.method}" if report.target == "adapter" else ""
    made = f"{report.mix} merged{method} into the {report.target} {report.path}"
    gap = f"log-probabilities by up to {report.max_gap:.2g}, mean KL {report.mean_kl:.2g} nats"
    return one_line(f"{made} ({rank}{size(report.size_bytes)}); on probe texts it differs from the live mix in {gap}")
