"""One request on its way through the engine: its tokens, its blocks, how far it has been computed.

Pure bookkeeping; when it runs and where its KV entries lie is decided by the scheduler and the block pool.
"""

import hashlib
import struct
import sys
from array import array
from dataclasses import dataclass

from mp13.engine.request import KVPolicy, SamplingParams

AdapterWeights = tuple[tuple[str, float], ...]  # (content digest, weight), sorted by digest; empty is the base
NEVER = sys.maxsize  # `active_from` of adapters that act on no token
_ANY_MIX = b"keep"  # the key of blocks that any mix may have computed; no adapter key has this length


def adapter_key(adapters: AdapterWeights) -> bytes:
    """What names an adapter mix inside a block hash: content and weight of each member, never a name.

    A member of weight 0 changes nothing and leaves no trace, so `a:0` shares the base's blocks.
    """
    return b"".join(bytes.fromhex(digest) + struct.pack("<d", weight) for digest, weight in adapters if weight != 0.0)


def last_invocation(token_ids: list[int], invocation: tuple[int, ...]) -> int:
    """Where `invocation` begins for the last time in `token_ids`, from where an activated LoRA acts (as in PEFT);
    NEVER if it does not occur."""
    length = len(invocation)
    starts = range(len(token_ids) - length, -1, -1)
    return next((start for start in starts if tuple(token_ids[start : start + length]) == invocation), NEVER)


@dataclass(eq=False)
class Sequence:
    """`token_ids` are prompt and answer in one list; the first `num_computed_tokens` have their KV entries cached.

    An answer that was cut off and goes on begins with its last `num_given_tokens`, which count as said by the model.
    """

    request_id: str
    token_ids: list[int]
    params: SamplingParams
    adapters: AdapterWeights = ()
    seed: int = 0
    max_len: int = 1 << 30  # the answer ends when prompt and answer together reach this many tokens
    active_from: int = 0  # the adapters act on tokens from here on (activated LoRA); those before are the base's
    kv_policy: KVPolicy = "exact"
    is_background: bool = False  # runs only while nothing else wants to, and gives way at once
    generates: bool = True  # False: its tokens are computed and cached, and nothing is sampled (prefill)
    num_given_tokens: int = 0
    ending: frozenset[int] = frozenset()  # tokens that end its answer: EOS and stop tokens

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids) - self.num_given_tokens
        self.num_computed_tokens = 0
        self.num_cached_tokens: int | None = None  # prompt tokens found in the cache; None until first scheduled
        self.block_table: list[int] = []
        self.num_published_blocks = 0
        self.num_overtaken = 0  # how often a later request went first while this one waited for an adapter slot
        self._key = adapter_key(self.adapters)
        if self._key and self.active_from:
            self._key += struct.pack("<Q", self.active_from)
        self._hashes: dict[KVPolicy, list[bytes]] = {"exact": [], "keep": []}  # of full blocks, each chained

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_generated_tokens(self) -> int:
        """Of the whole answer, what was given of it included."""
        return len(self.token_ids) - self.num_prompt_tokens

    def block_hashes(
        self, num_blocks: int, block_size: int, salt: bytes = b"", policy: KVPolicy = "exact"
    ) -> list[bytes]:
        """Content keys of the first `num_blocks` full blocks: SHA-256 over (parent, adapter key, salt, token ids).

        Under "keep" the adapter key says that any mix may have computed the block.
        """
        hashes = self._hashes[policy]
        while len(hashes) < num_blocks:
            start = len(hashes) * block_size
            parent = hashes[-1] if hashes else b""
            key = self._key_of(start + block_size) if policy == "exact" else _ANY_MIX
            tokens = array("q", self.token_ids[start : start + block_size]).tobytes()
            content = [parent, key, salt, tokens]
            lengths = struct.pack("<4Q", *map(len, content))  # so that no part can pass for its neighbour's bytes
            hashes.append(hashlib.sha256(lengths + b"".join(content)).digest())
        return hashes[:num_blocks]

    def _key_of(self, block_end: int) -> bytes:
        """The base's key for a block that lies wholly before the adapters act."""
        return b"" if block_end <= self.active_from else self._key

    def forget_blocks(self) -> None:
        """Called on preemption: everything is computed anew."""
        self.block_table = []
        self.num_computed_tokens = 0
        self.num_published_blocks = 0
