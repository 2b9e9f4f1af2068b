"""Everything that produced an answer, put together from the engine, the request and the installed versions."""

import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Protocol

import mp13
from mp13.engine.request import NO_EFFECT, RequestOutput
from mp13.service.schema import AdapterInfo, Provenance, SamplingParams, UsedAdapter


class EngineDescription(Protocol):
    """What an engine says of itself: what its `auto` settings became, and the digests of what it loaded."""

    model: str
    model_type: str
    dtype: str
    device: str
    model_impl: str
    attn_implementation: str
    attn_reason: str
    quantization: str
    max_model_len: int
    kv_cache_tokens: int
    notes: tuple[str, ...]
    template_digest: str

    @property
    def base_digest(self) -> str: ...


def compose(
    engine: EngineDescription, adapters: Sequence[AdapterInfo], sampling: SamplingParams, output: RequestOutput
) -> Provenance:
    """`adapters` are loaded now, `sampling` is what was asked, `output` what was used.

    May wait for the base's hash: call it from a thread.
    """
    prompting = output.prompting
    effects = {info.digest: info.effect for info in adapters if info.effect is not None}
    return Provenance(
        model=engine.model,
        base_digest=engine.base_digest,
        dtype=engine.dtype,
        device=engine.device,
        quantization=engine.quantization,
        model_impl=engine.model_impl,
        attn_implementation=engine.attn_implementation,
        attn_reason=engine.attn_reason,
        adapters=tuple(UsedAdapter(name=name, digest=digest, weight=weight) for name, digest, weight in output.members),
        kv_policy=output.kv_policy,
        template_digest=prompting.template_digest if prompting else engine.template_digest,
        template_from=prompting.template_from if prompting else None,
        system_from=prompting.system_from if prompting else None,
        no_effect=tuple(name for name, digest, _ in output.members if effects.get(digest, NO_EFFECT) < NO_EFFECT),
        sampling=sampling,
        seed=output.seed,
        continued_at=output.continued_at,
        versions=_versions(),
    )


@cache
def _versions() -> dict[str, str]:
    installed = {name: version(name) for name in ("torch", "transformers")}
    return {"mp13": mp13.__version__, "python": platform.python_version(), **installed}
