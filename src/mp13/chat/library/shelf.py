"""Where each adapter is now: in an engine's slot or memory, on disk, or unfit. Joins the library with what engines say.

What is on disk is the library's to know, and how it is shown is shown.py's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mp13.chat.settings.schema import Settings
from mp13.errors import Mp13Error
from mp13.library.adapters import AdapterOnDisk, with_digests
from mp13.library.models import known_base
from mp13.service.schema import AdapterInfo

State = Literal["slot", "memory", "disk", "unfit"]
_NEAREST: tuple[State, ...] = ("slot", "memory", "disk")


@dataclass(frozen=True)
class Shelved:
    """An adapter and its place. `changed` means that an engine still has what its folder held before."""

    adapter: AdapterOnDisk
    state: State
    loaded: bool = False  # whether an engine knows it by name
    changed: bool = False


def shelve(
    adapters: Iterable[AdapterOnDisk], loaded: Sequence[AdapterInfo], max_rank: int | None = None
) -> list[Shelved]:
    """Each of `adapters` with its place; `loaded` is what engines have. A rank above `max_rank` makes one unfit."""
    return [_place(_judged(adapter, max_rank), loaded) for adapter in adapters]


def look(
    settings: Settings,
    adapters: Sequence[AdapterOnDisk],
    loaded: Sequence[AdapterInfo],
    progress: Callable[[str, float | None], None] | None = None,
) -> list[Shelved]:
    """`adapters` with digests, with effects on the settings' model, and with their places. Hashes with `progress`."""
    try:
        base = known_base(settings.engine_config().model)
    except Mp13Error:  # a list needs no model
        base = None
    return shelve(with_digests(adapters, progress, base), loaded, settings.max_lora_rank)


async def loaded_now() -> list[AdapterInfo]:
    """What all engine processes that are ready have loaded."""
    from mp13.service.processes import running

    found: list[AdapterInfo] = []
    try:
        clients = await running()
    except Mp13Error:  # no private folder, so no engine either
        return []
    for client in clients:
        try:
            found += await client.adapters()
        except Mp13Error:  # it has ended just now
            continue
        finally:
            await client.close()
    return found


def _judged(adapter: AdapterOnDisk, max_rank: int | None) -> AdapterOnDisk:
    if adapter.unfit is None and max_rank is not None and adapter.rank > max_rank:
        return replace(adapter, unfit=f"rank {adapter.rank} is over max_lora_rank = {max_rank}; raise max_lora_rank")
    return adapter


def _place(adapter: AdapterOnDisk, loaded: Sequence[AdapterInfo]) -> Shelved:
    own = [info for info in loaded if _is_of(info, adapter)]
    current = [info for info in own if adapter.digest in (None, info.digest)]
    effects = [info.effect for info in current if info.effect is not None]
    if effects:
        adapter = replace(adapter, effect=effects[0])
    states = {info.state for info in own}
    state: State = next((state for state in _NEAREST if state in states), "disk")
    if adapter.unfit is not None and not own:
        state = "unfit"
    return Shelved(adapter, state, bool(own), changed=len(current) < len(own))


def _is_of(info: AdapterInfo, adapter: AdapterOnDisk) -> bool:
    return Path(info.path) == adapter.path.resolve() if info.path else info.name == adapter.name
