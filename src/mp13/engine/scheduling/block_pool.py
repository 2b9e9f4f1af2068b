"""Which KV-cache block belongs to whom, and which content can be found again. Numbers only; no tensor is touched here.

A block is free, or held by one or more sequences. A full block that was computed is published under the hash of its
content (prefix caching, as in vLLM's automatic prefix caching); it stays findable after its last holder left, until
the block is needed for something else. The block freed longest ago goes first.

What a mix computed exactly has a second name, of its tokens alone, under which requests that keep the cache across
mixes find it. What such a request computes rests on another mix's past and has that second name only.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from mp13.engine.request import KVPolicy
from mp13.engine.scheduling.sequence import Sequence as _Sequence


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens. `salt` keeps blocks of different kinds from meeting."""

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool = True, salt: bytes = b"") -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.salt = salt
        self._ref_counts = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # least recently used first
        self._hashes_of: dict[int, list[bytes]] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    def find_prefix(self, seq: _Sequence) -> list[int]:
        """The published blocks that begin `seq`. At least one token is left out: its logits must be computed."""
        if not self.enable_prefix_caching:
            return []
        found = []
        for names in self._names(seq, (seq.num_tokens - 1) // self.block_size, "exact", seq.kv_policy):
            if (block := next((self._block_of[name] for name in names if name in self._block_of), None)) is None:
                break
            found.append(block)
        return found

    def allocate(self, seq: _Sequence, num_tokens: int, prefix: Sequence[int] = ()) -> bool:
        """Give `seq` the shared blocks of `prefix` and new ones until `num_tokens` fit; all or nothing."""
        revived = sum(self._ref_counts[block] == 0 for block in prefix)
        missing = -(-num_tokens // self.block_size) - len(seq.block_table) - len(prefix)
        if missing + revived > len(self._free):
            return False
        for block in prefix:
            self._hold(block)
        seq.block_table.extend(prefix)
        seq.block_table.extend(self._take() for _ in range(missing))
        return True

    def publish(self, seq: _Sequence) -> None:
        """Make the full, computed blocks of `seq` findable by their content."""
        if not self.enable_prefix_caching:
            return
        full = seq.num_computed_tokens // self.block_size
        if full <= seq.num_published_blocks:
            return
        published = list(zip(seq.block_table, self._names(seq, full, seq.kv_policy, "keep"), strict=False))
        for block, names in published[seq.num_published_blocks :]:
            for name in names:
                if self._block_of.setdefault(name, block) == block:
                    self._hashes_of.setdefault(block, []).append(name)
        seq.num_published_blocks = full

    def retract(self, seq: _Sequence) -> None:
        """Let nobody find the blocks of `seq` from now on: what was computed into them is no use."""
        for block in seq.block_table:
            self._forget(block)

    def _names(self, seq: _Sequence, num_blocks: int, *policies: KVPolicy) -> Iterator[tuple[bytes, ...]]:
        """Of each of the first blocks of `seq`, its names under the policies."""
        names = [seq.block_hashes(num_blocks, self.block_size, self.salt, policy) for policy in dict.fromkeys(policies)]
        return zip(*names, strict=True)

    def release(self, seq: _Sequence) -> None:
        """`seq` lets go of its blocks. Last block first, so that a prefix outlives its continuations."""
        for block in reversed(seq.block_table):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._free[block] = None
                if block not in self._hashes_of:  # nothing worth keeping: the next to be taken
                    self._free.move_to_end(block, last=False)
        seq.forget_blocks()

    def _hold(self, block: int) -> None:
        if self._ref_counts[block] == 0:
            del self._free[block]
        self._ref_counts[block] += 1

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        self._forget(block)
        self._ref_counts[block] = 1
        return block

    def _forget(self, block: int) -> None:
        for stale in self._hashes_of.pop(block, ()):
            del self._block_of[stale]
