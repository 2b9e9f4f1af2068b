"""Adapters by name: load, replace, unload, and the meaning of a mix at this moment. Content is what counts underneath:
two names of the same bytes share a slot, and a name whose content changed never meets its old cache blocks.

Any number can be loaded; where their tensors are is left to `slots` (the device) and `contents` (memory and disk).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from mp13.engine.adapters.adapter_file import LoadedAdapter, load_adapter_file
from mp13.engine.adapters.adapter_text import AdapterText
from mp13.engine.adapters.budget import adapter_budget, device_bytes
from mp13.engine.adapters.contents import AdapterContents
from mp13.engine.adapters.folder_stamp import FolderStamp, folder_stamp
from mp13.engine.adapters.slots import AdapterSlots
from mp13.engine.models.interface import AdapterTarget
from mp13.engine.request import AdapterInfo
from mp13.engine.scheduling.sequence import AdapterWeights, last_invocation
from mp13.engine.sizes import shown_size
from mp13.errors import AdapterError, MixError, Mp13Error
from mp13.mix import Mix, check_name, parse_mix, version_of

_MAX_WEIGHT = 1000  # of an adapter in a mix, in either direction


@dataclass(frozen=True)
class _Named:
    info: AdapterInfo  # as it was read; state and effect are added when asked for
    folder: Path
    stamp: FolderStamp
    text: AdapterText | None
    device_bytes: int


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
        vocab_size: int,
        tokenizer: Any,
    ) -> None:
        def read(folder: Path, name: str) -> LoadedAdapter:
            return load_adapter_file(
                folder,
                name,
                targets,
                max_rank=max_rank,
                dtype=dtype,
                model=model,
                vocab_size=vocab_size,
                tokenizer=tokenizer,
            )

        self._read = read
        self._contents = AdapterContents(max_cpu_loras, read)
        self.reserved_bytes = adapter_budget(targets.values(), max_loras, max_rank)
        on_gpu = any(target.linear.base.device.type == "cuda" for target in targets.values())
        self._max_bytes = self.reserved_bytes if on_gpu else None  # main memory is not shared out so strictly
        self.slots = AdapterSlots(targets, max_loras, self._contents.find, self._size_of, self._max_bytes)
        self._by_name: dict[str, _Named] = {}
        self._users: Counter[str] = Counter()  # requests per digest

    @property
    def infos(self) -> list[AdapterInfo]:
        return [self._info(named.info) for named in list(self._by_name.values())]  # a copy: other threads ask, too

    def load(self, path: Path, name: str | None, version: int | None = None) -> AdapterInfo:
        """Load the folder `path` under `name` (its own name by default); a used name is replaced. Requests that use
        what it replaces finish with that.

        Raises:
            AdapterError, MixError: the adapter or its name cannot be used; nothing has changed then.
        """
        if "\0" in str(path):
            raise AdapterError(f"{str(path)!r} cannot be a folder's path; an adapter is a folder that PEFT saved")
        name = check_name(path.resolve().name if name is None else name)
        name = name if version is None else f"{name}@{version}"
        if self.slots.max_slots == 0:
            raise AdapterError(f"{name!r} cannot be loaded: max_loras is 0; raise max_loras")
        folder = path.absolute()
        stamp = folder_stamp(folder)  # before it is read: what changes meanwhile shows as a change
        adapter = self._read(folder, name)
        self._require_room(repr(name), device_bytes(adapter.deltas), AdapterError)
        self._contents.add(adapter, folder)
        replaced = self._by_name.get(name)
        self._by_name[name] = _Named(adapter.info, folder, stamp, adapter.text, device_bytes(adapter.deltas))
        if replaced is not None:
            self._forget_if_unused(replaced.info.digest)
        self._shrink_memory()
        return self._info(adapter.info)

    def unload(self, name: str) -> None:
        """Requests that already use the adapter finish with it.

        Raises:
            AdapterError: no adapter of that name is loaded.
        """
        if name not in self._by_name:
            raise AdapterError(f"no adapter {name!r} is loaded; loaded are: {self._names()}")
        self._forget_if_unused(self._by_name.pop(name).info.digest)

    def is_used(self, name: str) -> bool:
        """Whether a request has yet to finish with what the name means now."""
        return self._users[self._by_name[name].info.digest] > 0

    def changed(self) -> list[str]:
        """Names of the adapters whose folder's files have changed since they were read, or are gone."""
        return [name for name, named in list(self._by_name.items()) if folder_stamp(named.folder) != named.stamp]

    def resolve(self, text: str) -> tuple[Mix, tuple[tuple[str, str, float], ...]]:
        """The mix, and (name, digest, weight) of its members as loaded now.

        Raises:
            MixError: malformed, names an adapter that is not loaded, has more members than there are slots or room for,
                sums an activated LoRA with others, or has a weight so large that nothing but noise could follow.
        """
        loaded = dict(self._by_name)
        mix = _at_latest(parse_mix(text), loaded)
        for name, weight in mix.members:
            if name not in loaded:
                raise MixError(f"{str(mix)!r} names {name!r}, which is not loaded; loaded are: {self._names()}")
            if abs(weight) > _MAX_WEIGHT:
                raise MixError(
                    f"{str(mix)!r}: the weight of {name!r} is beyond {_MAX_WEIGHT}; try one between -2 and 2"
                )
            if len(mix.members) > 1 and loaded[name].info.kind == "alora":
                raise MixError(f"{str(mix)!r}: {name!r} is an activated LoRA, which does not mix; use it alone")
        if len(mix.members) > self.slots.max_slots:
            raise MixError(f"{str(mix)!r} has {len(mix.members)} members, over max_loras = {self.slots.max_slots}")
        sizes = {loaded[name].info.digest: loaded[name].device_bytes for name, _ in mix.members}
        self._require_room(repr(str(mix)), sum(sizes.values()), MixError)
        return mix, tuple((name, loaded[name].info.digest, weight) for name, weight in mix.members)

    def require_together(self, groups: Iterable[set[str]]) -> None:
        """Raises MixError where the adapters of a group, given by digest, can never be on the device all at once."""
        for digests in groups:
            if len(digests) > (most := self.slots.max_slots):
                raise MixError(
                    f"a comparison of {len(digests)} adapters needs them all at once; raise max_loras = {most}"
                )
            what = f"a comparison of {len(digests)} adapters, all at once,"
            self._require_room(what, self.slots.bytes_of(digests), MixError)

    def text_of(self, name: str) -> AdapterText | None:
        """What the adapter brings beside weights: chat template, tokens, system prompt.

        Raises:
            MixError: it is gone, as it may be when another thread asks.
        """
        if (named := self._by_name.get(name)) is None:
            raise MixError(f"adapter {name!r} was unloaded just now; load it again")
        return named.text

    def active_from(self, adapters: AdapterWeights, token_ids: list[int]) -> int:
        """The first of the tokens that the adapters act on: an activated LoRA's last invocation, for all others 0."""
        invocations = [self._contents[digest].invocation_tokens for digest, _ in adapters]
        return max((last_invocation(token_ids, invocation) for invocation in invocations if invocation), default=0)

    def invocation_tokens(self, digest: str) -> tuple[int, ...]:
        """What switches an activated LoRA on; empty for all others."""
        return self._contents[digest].invocation_tokens

    def lacks_effect(self, digest: str) -> bool:
        """Whether the content is still there, and its effect is not known yet."""
        return digest in self._contents and self._contents[digest].effect is None

    def note_effect(self, digest: str, effect: float) -> None:
        """The adapter's effect on the probe prompt was measured; it holds for its content, whatever its name."""
        self._contents[digest].effect = effect

    def retain(self, adapters: AdapterWeights) -> None:
        """A request begins that needs these adapters until `drop`, whatever happens to their names."""
        for digest, _ in adapters:
            self._users[digest] += 1
            self._contents.used(digest)

    def drop(self, adapters: AdapterWeights) -> None:
        for digest, _ in adapters:
            self._users[digest] -= 1
            self._forget_if_unused(digest)
        self._shrink_memory()

    def _info(self, info: AdapterInfo) -> AdapterInfo:
        in_slot, in_memory = info.digest in self.slots.resident, info.digest in self._contents.in_memory
        state: Literal["slot", "memory", "disk"] = "slot" if in_slot else "memory" if in_memory else "disk"
        return replace(info, state=state, effect=self._contents.effect(info.digest))

    def _size_of(self, digest: str) -> int:
        return self._contents[digest].device_bytes

    def _require_room(self, what: str, num_bytes: int, kind: type[Mp13Error]) -> None:
        if self._max_bytes is not None and num_bytes > self._max_bytes:
            raise kind(
                f"{what} takes {shown_size(num_bytes, up=True)} on the GPU, over the {shown_size(self._max_bytes)} "
                f"kept for max_loras = {self.slots.max_slots} adapters; raise max_loras"
            )

    def _shrink_memory(self) -> None:
        """What lies in a slot stays, and so does what no name leads to: its requests could not get it back."""
        resident, named = self.slots.resident, self._named()
        self._contents.shrink(lambda digest: digest in named and digest not in resident)

    def _forget_if_unused(self, digest: str) -> None:
        if self._users[digest] > 0 or digest in self._named():
            return
        self._users.pop(digest, None)
        self._contents.forget(digest)
        self.slots.evict(digest)

    def _named(self) -> set[str]:
        return {named.info.digest for named in self._by_name.values()}

    def _names(self) -> str:
        return ", ".join(sorted(self._by_name)) or "none"


def _at_latest(mix: Mix, loaded: Collection[str]) -> Mix:
    """The mix with the step in place of `latest`, so that an answer says what gave it."""
    members: dict[str, float] = {}
    for name, weight in mix.members:
        version = version_of(name)
        if version is not None and version[1] is None:
            steps = [v[1] for v in map(version_of, loaded) if v is not None and v[0] == version[0]]
            if not steps:
                raise MixError(f"{name!r} has no version yet; wait for the first, or start its training")
            name = f"{version[0]}@{max(step for step in steps if step is not None)}"
        if name in members:
            raise MixError(f"{str(mix)!r} names {name!r} twice; give it once with the sum of its weights")
        members[name] = weight
    return Mix(tuple(sorted(members.items())))


def merge_members(members: tuple[tuple[str, str, float], ...]) -> AdapterWeights:
    """(digest, weight) sorted by digest; two names of the same content add up."""
    weights: dict[str, float] = {}
    for _, digest, weight in members:
        weights[digest] = weights.get(digest, 0.0) + weight
    return tuple(sorted(weights.items()))
