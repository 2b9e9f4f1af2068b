"""Adapters by name: load, replace, unload, and the meaning of a mix at this moment. Content is what counts underneath:
two names of the same bytes share a slot, and a name whose content changed never meets its old cache blocks."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from mp13.engine.adapters.adapter_file import LoadedAdapter, load_adapter_file
from mp13.engine.adapters.slots import AdapterSlots
from mp13.engine.models.interface import AdapterTarget
from mp13.engine.request import AdapterInfo
from mp13.engine.scheduling.sequence import AdapterWeights
from mp13.errors import AdapterError, MixError
from mp13.mix import Mix, check_name, parse_mix

_MAX_WEIGHT = 1000  # of an adapter in a mix, in either direction


class AdapterManager:
    def __init__(
        self,
        targets: Mapping[str, AdapterTarget],
        *,
        max_loras: int,
        max_cpu_loras: int,
        max_rank: int,
        dtype: torch.dtype,
        model: str,
    ) -> None:
        self.slots = AdapterSlots(targets, max_loras, lambda digest: self._by_digest[digest])
        self._targets = targets
        self._max_cpu_loras = max_cpu_loras
        self._max_rank = max_rank
        self._dtype = dtype
        self._model = model
        self._by_name: dict[str, LoadedAdapter] = {}
        self._by_digest: dict[str, LoadedAdapter] = {}  # named ones, and those that requests still need
        self._users: Counter[str] = Counter()  # requests per digest

    @property
    def infos(self) -> list[AdapterInfo]:
        return [adapter.info for adapter in list(self._by_name.values())]  # a copy: other threads ask, too

    def load(self, path: Path, name: str | None) -> AdapterInfo:
        """Load the folder `path` under `name` (its own name by default); a used name is replaced.

        Raises:
            AdapterError, MixError: the adapter or its name cannot be used; nothing has changed then.
        """
        name = check_name(path.resolve().name if name is None else name)
        if self.slots.max_slots == 0:
            raise AdapterError(f"{name!r} cannot be loaded: max_loras is 0; raise max_loras")
        adapter = load_adapter_file(
            path, name, self._targets, max_rank=self._max_rank, dtype=self._dtype, model=self._model
        )
        if name not in self._by_name and len(self._by_name) >= self._max_cpu_loras:
            raise AdapterError(f"{name!r} is one adapter too many: max_cpu_loras = {self._max_cpu_loras}; unload one")
        replaced = self._by_name.get(name)
        self._by_name[name] = adapter
        self._by_digest.setdefault(adapter.info.digest, adapter)
        if replaced is not None:
            self._forget_if_unused(replaced.info.digest)
        return adapter.info

    def unload(self, name: str) -> None:
        """Requests that already use the adapter finish with it.

        Raises:
            AdapterError: no adapter of that name is loaded.
        """
        if name not in self._by_name:
            raise AdapterError(f"no adapter {name!r} is loaded; loaded are: {self._names()}")
        self._forget_if_unused(self._by_name.pop(name).info.digest)

    def resolve(self, text: str) -> tuple[Mix, tuple[tuple[str, str, float], ...]]:
        """The mix, and (name, digest, weight) of its members as loaded now.

        Raises:
            MixError: malformed, names an adapter that is not loaded, has more members than there are slots, or a weight
                so large that nothing but noise could follow.
        """
        mix, loaded = parse_mix(text), dict(self._by_name)
        for name, weight in mix.members:
            if name not in loaded:
                raise MixError(f"{str(mix)!r} names {name!r}, which is not loaded; loaded are: {self._names()}")
            if abs(weight) > _MAX_WEIGHT:
                raise MixError(
                    f"{str(mix)!r}: the weight of {name!r} is beyond {_MAX_WEIGHT}; try one between -2 and 2"
                )
        if len(mix.members) > self.slots.max_slots:
            raise MixError(f"{str(mix)!r} has {len(mix.members)} members, over max_loras = {self.slots.max_slots}")
        return mix, tuple((name, loaded[name].info.digest, weight) for name, weight in mix.members)

    def retain(self, adapters: AdapterWeights) -> None:
        """A request begins that needs these adapters until `drop`, whatever happens to their names."""
        self._users.update(digest for digest, _ in adapters)

    def drop(self, adapters: AdapterWeights) -> None:
        for digest, _ in adapters:
            self._users[digest] -= 1
            self._forget_if_unused(digest)

    def _forget_if_unused(self, digest: str) -> None:
        if self._users[digest] > 0 or any(a.info.digest == digest for a in self._by_name.values()):
            return
        self._users.pop(digest, None)
        self._by_digest.pop(digest, None)
        self.slots.evict(digest)

    def _names(self) -> str:
        return ", ".join(sorted(self._by_name)) or "none"


def merge_members(members: tuple[tuple[str, str, float], ...]) -> AdapterWeights:
    """(digest, weight) sorted by digest; two names of the same content add up."""
    weights: dict[str, float] = {}
    for _, digest, weight in members:
        weights[digest] = weights.get(digest, 0.0) + weight
    return tuple(sorted(weights.items()))
