"""How many blocks the KV cache gets, and how long a sequence may become. Arithmetic; the tensors are kv_cache's."""

from collections.abc import Callable
from dataclasses import dataclass

from mp13.engine.config import EngineConfig
from mp13.engine.execution.step_cost import StepCost
from mp13.engine.sizes import shown_size
from mp13.errors import ConfigError

DEFAULT_ON_CPU = 2 * 2**30  # bytes at most, where nobody says; a laptop has other things to remember


@dataclass(frozen=True)
class Room:
    """What the cache may take.

    `left`: bytes that the device has left beside weights and adapters. `step_bytes`: what a step needs of that, by the
    length of the longest sequence. `default`: the cache's size where nobody says; None is all that is left.
    """

    device: str
    left: int
    step_bytes: Callable[[int], int]
    default: int | None


def size_cache(config: EngineConfig, block_bytes: int, max_position: int, room: Room) -> tuple[int, int]:
    """Number of blocks, and the longest sequence.

    Args:
        block_bytes: of one block, keys and values of all layers.
        max_position: the longest sequence that the model was made for.

    Raises:
        ConfigError: the configured length or size does not fit the model or the memory; says what would.
    """
    if config.max_model_len and config.max_model_len > max_position:
        raise ConfigError(
            f"max_model_len = {config.max_model_len} is over the {max_position} tokens this model was made "
            "for; lower it, or leave it out"
        )
    num_blocks, longest = share_cache(config, block_bytes, max_position, room)
    if config.kv_cache_bytes is not None and longest >= 2:
        _require_left(config, room, longest, block_bytes)
    if longest < 2 or (config.max_model_len and longest < config.max_model_len):
        raise _too_small(config, room, longest, block_bytes)
    return num_blocks, longest


def share_cache(config: EngineConfig, block_bytes: int, max_position: int, room: Room) -> tuple[int, int]:
    """As `size_cache`, but what fits, whatever the configuration demands; a longest of 0 where nothing does."""
    limit = config.kv_cache_bytes or room.default

    def blocks(length: int) -> int:
        """Those that fit beside steps over sequences of `length`."""
        left = room.left - room.step_bytes(length)
        return max(0, left if limit is None else min(left, limit)) // block_bytes

    target = min(config.max_model_len or max_position, max_position)
    longest = largest(target, lambda length: blocks(length) * config.block_size >= length)
    wanted = config.max_num_seqs * -(-longest // config.block_size)
    return blocks(longest) if config.kv_cache_bytes is not None else min(wanted, blocks(longest)), longest


def require_step(config: EngineConfig, device: str, left: int, cost_of: Callable[[int], StepCost | None]) -> StepCost:
    """The cost of a step of `max_num_batched_tokens`. `cost_of` gives that of so many tokens; None: it does not run.

    Raises:
        ConfigError: such a step does not fit into `left` bytes; says which would.
    """

    def fits(num_tokens: int) -> bool:
        cost = cost_of(num_tokens)
        return cost is not None and cost.whole < left

    tokens = config.max_num_batched_tokens
    if fits(tokens) and (cost := cost_of(tokens)) is not None:
        return cost
    fitting = largest(tokens, fits)
    fix = f"max_num_batched_tokens = {fitting} fits" if fitting else "choose a smaller model, or free some memory"
    raise ConfigError(
        f"a step of max_num_batched_tokens = {tokens} does not fit the {shown_size(left)} that {device} has left "
        f"beside weights and adapters; {fix}"
    )


def largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` for which `fits`, which holds for every smaller one, too; 0 if for none."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _require_left(config: EngineConfig, room: Room, longest: int, block_bytes: int) -> None:
    left = room.left - room.step_bytes(longest)
    if (config.kv_cache_bytes or 0) - left >= block_bytes:
        raise ConfigError(
            f"kv_cache_memory = {config.kv_cache_memory!r} does not fit: {room.device} has {shown_size(left)} left "
            f"beside weights, adapters and the work of a step; at most kv_cache_memory = {shown_size(left)!r} does"
        )


def _too_small(config: EngineConfig, room: Room, longest: int, block_bytes: int) -> ConfigError:
    limit = config.kv_cache_bytes or room.default
    wanted = config.max_model_len or 2
    needed = -(-wanted // config.block_size) * block_bytes
    work = room.step_bytes(wanted)
    if limit is not None and limit < needed <= room.left - work:
        fix = f"kv_cache_memory = {shown_size(needed, up=True)!r} holds it"
    else:
        fix = f"{room.device} has {shown_size(room.left)} left for it and for the {shown_size(work)} of a step"
    at_most = f"; at most max_model_len = {longest} fits" if longest >= 2 else ""
    return ConfigError(
        f"the KV cache holds {longest} tokens, fewer than max_model_len = {wanted}, which needs "
        f"{shown_size(needed, up=True)}: {fix}{at_most}"
    )
