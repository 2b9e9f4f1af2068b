"""What an adapter would do on a model, found out by loading it: does it fit, what is to be minded, what it changes.

It is loaded beside what others use, under a name of its own, and taken out again.
"""

import asyncio
import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mp13.chat.library.shown import effect
from mp13.chat.text import one_line
from mp13.errors import AdapterError, Mp13Error
from mp13.library.adapters import AdapterOnDisk
from mp13.service.schema import NO_EFFECT, AdapterInfo

if TYPE_CHECKING:
    from mp13.service.client import EngineClient

_EFFECT_S = 60.0  # for the engine to measure the effect, which gives way to everybody's answers
_ASK_S = 0.1


@dataclass(frozen=True)
class CheckReport:
    """`problem` is None for an adapter that can be used. `model` is None where none was asked."""

    name: str
    path: str
    problem: str | None
    warnings: tuple[str, ...] = ()
    kind: str | None = None
    rank: int | None = None
    targets: tuple[str, ...] = ()
    digest: str | None = None
    brings: tuple[str, ...] = ()
    effect: float | None = None
    model: str | None = None

    @property
    def json(self) -> dict[str, Any]:
        return {"fits": self.problem is None, **asdict(self)}

    @property
    def text(self) -> str:
        """A line for each finding; the first is the verdict."""
        on = f" on {self.model}" if self.model else ""
        if self.problem is not None:
            return one_line(f"{self.name} cannot be used{on}: {self.problem}")
        lines = [f"{self.name} can be used{on}: {self.kind}, rank {self.rank}, {len(self.targets)} kinds of modules"]
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.brings:
            lines.append(f"brings its own {' and '.join(self.brings)}")
        if self.effect is not None:
            shown = effect(self.effect)
            lines.append(f"warning: it {shown} on a probe prompt" if self.effect < NO_EFFECT else f"effect: {shown}")
        elif self.model is not None:
            lines.append("effect: not measured; the engine was busy")
        return "\n".join(map(one_line, lines))


def check_on_disk(adapter: AdapterOnDisk) -> CheckReport:
    """What can be said without a model."""
    return CheckReport(
        adapter.name, str(adapter.path), adapter.unfit, kind=adapter.kind, rank=adapter.rank, targets=adapter.targets,
        digest=adapter.digest,
    )  # fmt: skip


async def check_in_engine(adapter: AdapterOnDisk, client: "EngineClient", model: str) -> CheckReport:
    """What the engine of `client`, which runs `model`, says of the adapter.

    Raises:
        EngineGone: the engine ended over it.
    """
    report = replace(check_on_disk(adapter), model=model)
    if report.problem is not None:
        return report
    name = f"check-{os.getpid()}-{id(report):x}"[:64]
    try:
        info = await client.load_adapter(str(adapter.path), name)
    except AdapterError as error:
        return replace(report, problem=str(error).replace(name, adapter.name))
    try:
        info = await _measured(client, info)
    finally:
        await client.unload_adapter(name)
    return replace(
        report, warnings=info.warnings, kind=info.kind, rank=info.rank, targets=info.target_modules,
        digest=info.digest, brings=info.brings, effect=info.effect,
    )  # fmt: skip


async def _measured(client: "EngineClient", info: AdapterInfo) -> AdapterInfo:
    """The same with its effect, if the engine finds the time."""
    try:
        async with asyncio.timeout(_EFFECT_S):
            while info.effect is None:
                await asyncio.sleep(_ASK_S)
                found = [adapter for adapter in await client.adapters() if adapter.name == info.name]
                if not found:
                    raise Mp13Error(f"the engine has let {info.name!r} go while it was checked; check it again")
                info = found[0]
    except TimeoutError:
        pass
    return info
