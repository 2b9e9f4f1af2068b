"""One request on its way through the engine: its tokens, its blocks, how far it has been computed.

Pure bookkeeping; when it runs and where its KV entries lie is decided by the scheduler and the block pool.
"""

import hashlib
import struct
from array import array
from dataclasses import dataclass

from mp13.engine.request import SamplingParams

AdapterWeights = tuple[tuple[str, float], ...]  # (content digest, weight), sorted by digest; empty is the base


def adapter_key(adapters: AdapterWeights) -> bytes:
    """What names an adapter mix inside a block hash: content and weight of each member, never a name.

    A member of weight 0 changes nothing and leaves no trace, so `a:0` shares the base's blocks.
    """
    return b"".join(bytes.fromhex(digest) + struct.pack("<d", weight) for digest, weight in adapters if weight != 0.0)


@dataclass(eq=False)
class Sequence:
    """`token_ids` are prompt and answer in one list; the first `num_computed_tokens` have their KV entries cached."""

    request_id: str
    token_ids: list[int]
    params: SamplingParams
    adapters: AdapterWeights = ()
    seed: int = 0
    max_len: int = 1 << 30  # the answer ends when prompt and answer together reach this many tokens

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)
        self.num_computed_tokens = 0
        self.num_cached_tokens: int | None = None  # prompt tokens found in the cache; None until first scheduled
        self.block_table: list[int] = []
        self.num_published_blocks = 0
        self._key = adapter_key(self.adapters)
        self._hashes: list[bytes] = []  # of full blocks, each chained to the one before

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_generated_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def block_hashes(self, num_blocks: int, block_size: int, salt: bytes = b"") -> list[bytes]:
        """Content keys of the first `num_blocks` full blocks: SHA-256 over (parent, adapter key, salt, token ids)."""
        while len(self._hashes) < num_blocks:
            start = len(self._hashes) * block_size
            parent = self._hashes[-1] if self._hashes else b""
            tokens = array("q", self.token_ids[start : start + block_size]).tobytes()
            content = [parent, self._key, salt, tokens]
            lengths = struct.pack("<4Q", *map(len, content))  # so that no part can pass for its neighbour's bytes
            self._hashes.append(hashlib.sha256(lengths + b"".join(content)).digest())
        return self._hashes[:num_blocks]

    def forget_blocks(self) -> None:
        """Called on preemption: everything is computed anew."""
        self.block_table = []
        self.num_computed_tokens = 0
        self.num_published_blocks = 0
