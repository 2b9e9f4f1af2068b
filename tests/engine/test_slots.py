"""Slots hold the adapters in use and a few more: the ones used longest ago make room, and nothing else is disturbed."""

import random

import pytest
import torch

from mp13.engine.adapters.adapter_file import LoadedAdapter
from mp13.engine.adapters.budget import device_bytes
from mp13.engine.adapters.slots import AdapterSlots
from mp13.engine.context import StepContext
from mp13.engine.linear.adapted_linear import AdaptedLinear
from mp13.engine.linear.base_weight import base_weight
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.lora_batch import make_lora_batch
from mp13.engine.models.interface import AdapterTarget
from mp13.engine.request import AdapterInfo

SIZE = 8


class World:
    """Two linears, one of two parts, and adapters on disk by the name of their content."""

    def __init__(self, max_slots: int) -> None:
        self.context = StepContext()
        self.qk = AdaptedLinear(base_weight(torch.zeros(2 * SIZE, SIZE)), self.context, {"q": SIZE, "k": SIZE})
        self.down = AdaptedLinear(base_weight(torch.zeros(SIZE, SIZE)), self.context, {"down": SIZE})
        targets = {
            "q": AdapterTarget(self.qk, 0), "k": AdapterTarget(self.qk, 1), "down": AdapterTarget(self.down, 0)
        }  # fmt: skip
        self.disk: dict[str, LoadedAdapter] = {}
        self.reads: list[str] = []
        self.slots = AdapterSlots(targets, max_slots, self.find, lambda digest: device_bytes(self.disk[digest].deltas))

    def find(self, digest: str) -> LoadedAdapter:
        self.reads.append(digest)
        return self.disk[digest]

    def add(self, digest: str, value: float = 1.0, rank: int = 2, paths: tuple[str, ...] = ("q", "k", "down")) -> None:
        """An adapter that adds `value` * Σx to each output of the modules in `paths`."""
        delta = LinearDelta(torch.ones(rank, SIZE), torch.full((SIZE, rank), value / rank))
        info = AdapterInfo(digest, digest, "lora", rank, paths, 0)
        self.disk[digest] = LoadedAdapter(info, dict.fromkeys(paths, delta))

    def adds(self, digest: str, weight: float = 1.0) -> list[float]:
        """What a token of the adapter gets from q, k and down, for an x of ones divided by its length."""
        x = torch.full((1, SIZE), 1 / SIZE)
        runs = [(1, self.slots.slots_of(((digest, weight),)))]
        self.context.lora = make_lora_batch(runs, torch.tensor([0]))
        both = torch.cat([self.qk(x), self.down(x)], 1)[0]
        return [round(float(part.mean()), 4) for part in both.split(SIZE)]

    @property
    def held_bytes(self) -> int:
        stacks = [linear._lora for linear in (self.qk, self.down) if linear._lora is not None]
        return sum(
            tensor.nbytes for stack in stacks for parts in stack._deltas.values() for delta in parts.values()
            for tensor in (delta.a, delta.b)
        )  # fmt: skip


@pytest.fixture
def world() -> World:
    world = World(max_slots=2)
    for number, digest in enumerate("abcd", 1):
        world.add(digest, value=number)
    return world


def use(world: World, *digests: str) -> bool:
    adapters = tuple((digest, 1.0) for digest in digests)
    acquired = world.slots.acquire(adapters)
    if acquired:
        world.slots.release(adapters)
    return acquired


def test_the_adapter_used_longest_ago_makes_room(world: World) -> None:
    assert use(world, "a") and use(world, "b") and use(world, "a") and use(world, "c")
    assert set(world.slots.resident) == {"a", "c"}
    assert world.adds("a") == [1, 1, 1] and world.adds("c") == [3, 3, 3]


def test_a_pinned_adapter_stays_and_the_request_waits(world: World) -> None:
    assert world.slots.acquire((("a", 1.0),)) and world.slots.acquire((("b", 1.0),))
    assert not use(world, "c")
    assert set(world.slots.resident) == {"a", "b"}
    world.slots.release((("a", 1.0),))
    assert use(world, "c")
    assert set(world.slots.resident) == {"b", "c"}


def test_while_there_is_no_room_nothing_is_read(world: World) -> None:
    assert world.slots.acquire((("a", 1.0), ("b", 1.0)))
    assert not use(world, "c")
    world.slots._max_bytes = world.slots.bytes_of("ab")
    world.slots.release((("b", 1.0),))
    world.add("large", rank=3)
    assert not use(world, "large")
    assert world.reads == ["a", "b"]
    assert use(world, "c") and world.reads == ["a", "b", "c"]


def test_what_could_be_held_is_told_by_number_and_bytes_whatever_is_in_use(world: World) -> None:
    assert world.slots.acquire((("a", 1.0), ("b", 1.0)))
    assert world.slots.could_hold("cd") and not world.slots.could_hold("bcd")
    world.slots._max_bytes = world.slots.bytes_of("cd")
    world.add("large", rank=3)
    assert world.slots.could_hold("cd") and not world.slots.could_hold(["c", "large"])


def test_a_slot_keeps_nothing_of_the_adapter_before(world: World) -> None:
    world.add("only q", value=9, rank=4, paths=("q",))
    assert use(world, "a", "b") and use(world, "only q", "d")
    assert world.adds("only q") == [9, 0, 0] and world.adds("d") == [4, 4, 4]
    world.add("only down", value=-1, rank=1, paths=("down",))
    assert use(world, "only down", "d")
    assert world.adds("only down") == [0, 0, -1] and world.adds("d", 0.5) == [2, 2, 2]


def test_a_weight_of_0_takes_no_slot(world: World) -> None:
    assert world.slots.acquire((("a", 0.0), ("b", 1.0)))
    assert world.slots.resident == ("b",) and world.slots.num_pins == 1
    assert world.slots.slots_of((("a", 0.0), ("b", 1.0))) == [(0, 1.0)]


def test_an_adapter_that_cannot_be_found_changes_nothing(world: World) -> None:
    assert use(world, "a", "b")
    with pytest.raises(KeyError):
        world.slots.acquire((("c", 1.0), ("gone", 1.0)))
    assert set(world.slots.resident) == {"a", "b"} and world.slots.num_pins == 0
    assert world.adds("a") == [1, 1, 1]


def test_an_adapter_for_which_there_is_no_room_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    assert use(world, "a")
    held = world.held_bytes
    with monkeypatch.context() as patch:
        patch.setattr(world.down, "write", full)
        with pytest.raises(torch.OutOfMemoryError):
            use(world, "b")
    assert world.slots.resident == ("a",) and world.held_bytes == held
    assert use(world, "b") and world.adds("b") == [2, 2, 2]


def test_memory_is_that_of_the_residents_whatever_came_before() -> None:
    world, choose = World(max_slots=4), random.Random(0)
    ranks = [1, 2, 3, 5, 8, 13, 21, 64]
    for number in range(50):
        world.add(str(number), value=number, rank=choose.choice(ranks))
    for _ in range(300):
        mix = choose.sample(range(50), choose.randint(1, 4))
        assert use(world, *map(str, mix))
        for number in mix:
            assert world.adds(str(number)) == [number] * 3
        expected = sum(3 * 4 * 2 * SIZE * world.disk[digest].info.rank for digest in world.slots.resident)
        assert world.held_bytes == expected


def test_an_adapter_in_use_is_never_evicted(world: World) -> None:
    assert world.slots.acquire((("a", 1.0),))
    with pytest.raises(RuntimeError, match="while in use"):
        world.slots.evict("a")
    assert world.slots.resident == ("a",) and world.adds("a") == [1, 1, 1]
