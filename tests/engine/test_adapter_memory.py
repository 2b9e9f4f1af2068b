"""Adapters on a GPU take what they weigh, once, and never more than is kept for them; on a CPU no more than thrice."""

import random
from pathlib import Path

import pytest
import torch

from mp13 import SamplingParams
from mp13.engine.adapters.budget import adapter_budget, device_bytes
from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.linear.delta import LinearDelta
from mp13.engine.linear.gathered_lora import GatheredLora
from mp13.engine.linear.lora_batch import make_lora_batch
from mp13.engine.linear.lora_stack import LoraStack
from mp13.errors import AdapterError, MixError
from tests.engine.test_slots import SIZE, World, use
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter, tiny_model

RANKS = [1, 2, 3, 5, 8, 13]


class GpuStack:
    """The adapters of one packed linear, kept as they are on a GPU."""

    def __init__(self) -> None:
        self.world = World(max_slots=6)
        self.parts = list(self.world.qk.parts.values())
        self.stack = LoraStack(self.parts, self.world.qk.base)
        self.stack._on_gpu = True
        self.placed: dict[int, dict[int, LinearDelta]] = {}

    def write(self, slot: int, rank: int, parts: tuple[int, ...] = (0, 1)) -> None:
        deltas = {part: LinearDelta(torch.randn(rank, SIZE), torch.randn(SIZE, rank)) for part in parts}
        self.placed[slot] = deltas
        self.stack.write(slot, {p: LinearDelta(d.a.clone(), d.b.clone()) for p, d in deltas.items()})

    def erase(self, slot: int) -> None:
        self.stack.erase(slot)
        del self.placed[slot]

    def added(self, stack: LoraStack, slots: tuple[int, ...]) -> torch.Tensor:
        x, y = torch.ones(1, SIZE), torch.zeros(1, 2 * SIZE)
        lora = make_lora_batch([(1, [(slot, 1.0) for slot in slots])], torch.tensor([0]))
        assert lora is not None
        stack.add_to(y, x, lora)
        return y

    def expected(self, slots: tuple[int, ...]) -> torch.Tensor:
        fresh = LoraStack(self.parts, self.world.qk.base)
        for slot in slots:
            fresh.write(slot, self.placed[slot])
        return self.added(fresh, slots)

    @property
    def held_bytes(self) -> int:
        """Of everything that is reachable, each storage once."""
        stacked = [g._stacked for g in self.stack._gathered.values() if "_stacked" in vars(g)]
        gathered = [t for lora in stacked for t in (lora._a, *lora._b) if t is not None]
        resident = [t for parts in self.stack._deltas.values() for d in parts.values() for t in (d.a, d.b)]
        return sum({s.data_ptr(): s.nbytes() for t in gathered + resident if (s := t.untyped_storage())}.values())

    @property
    def own_bytes(self) -> int:
        return sum(t.nbytes for parts in self.placed.values() for d in parts.values() for t in (d.a, d.b))


def test_whatever_steps_use_adapters_are_held_once_and_add_what_they_add() -> None:
    gpu, choose = GpuStack(), random.Random(0)
    torch.manual_seed(0)
    for slot in range(6):
        gpu.write(slot, choose.choice(RANKS), choose.choice([(0, 1), (0,), (1,)]))
    for _ in range(200):
        slots = tuple(sorted(choose.sample(sorted(gpu.placed), choose.randint(1, 4))))
        assert torch.allclose(gpu.added(gpu.stack, slots), gpu.expected(slots), atol=1e-5)
        assert gpu.held_bytes == gpu.own_bytes
        slot = choose.randrange(6)
        if choose.random() < 0.3:
            gpu.write(slot, choose.choice(RANKS), choose.choice([(0, 1), (0,), (1,)]))
            assert gpu.held_bytes == gpu.own_bytes
        elif choose.random() < 0.3 and slot in gpu.placed and len(gpu.placed) > 4:
            gpu.erase(slot)
            assert gpu.held_bytes == gpu.own_bytes


def test_going_on_with_the_same_adapters_gathers_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, made = GpuStack(), []
    gpu.write(0, 2)
    gpu.write(1, 3)
    real = GatheredLora.__init__
    monkeypatch.setattr(GatheredLora, "__init__", lambda self, *a, **k: (made.append(a), real(self, *a, **k))[1])
    for _ in range(3):
        gpu.added(gpu.stack, (0, 1))
    assert len(made) == 1


def test_adapters_make_room_by_their_bytes_and_wait_while_all_others_are_in_use() -> None:
    world = World(max_slots=4)
    for digest, rank in (("a", 2), ("b", 2), ("c", 4)):
        world.add(digest, rank=rank)
    world.slots._max_bytes = device_bytes(world.disk["a"].deltas) * 3
    assert use(world, "a", "b") and world.slots.acquire((("a", 1.0),))
    assert use(world, "c") and set(world.slots.resident) == {"a", "c"}
    assert world.slots.acquire((("c", 1.0),)) and not use(world, "b")
    assert set(world.slots.resident) == {"a", "c"} and world.adds("a") == [1, 1, 1]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> EngineCore:
    folder = tmp_path_factory.mktemp("adapter-memory")
    tiny_adapter(folder / "a", tiny_model(folder / "model"), seed=1)
    return EngineCore(EngineConfig(str(folder / "model"), dtype="float32", kv_cache_memory="64KiB", max_loras=3))


def test_room_is_kept_for_plausible_adapters_on_all_linears_of_the_layers(core: EngineCore) -> None:
    attention, mlp = 2 * (64 + 64) + 2 * (64 + 32), 3 * (64 + 96)  # inputs and outputs; k and v are half as wide
    per_rank = 2 * 4 * (attention + mlp)  # layers, bytes
    targets = core.adapters.slots._targets.values()
    assert adapter_budget(targets, max_loras=8, max_rank=64) == 8 * 16 * per_rank
    assert adapter_budget(targets, max_loras=8, max_rank=4) == 8 * 4 * per_rank
    assert adapter_budget(targets, max_loras=0, max_rank=64) == 0


def test_the_largest_adapter_that_the_settings_allow_fits_what_is_kept(
    core: EngineCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [*LLAMA_LINEARS, "lm_head"]
    path = tiny_adapter(tmp_path / "large", core.config.model, targets=everything, rank=64, use_dora=True)
    targets = core.adapters.slots._targets.values()
    monkeypatch.setattr(core.adapters, "_max_bytes", adapter_budget(targets, max_loras=1, max_rank=64))
    assert core.load_adapter(path).rank == 64
    assert core.adapters._by_name["large"].device_bytes == core.adapters._max_bytes
    core.unload_adapter("large")


def test_an_adapter_larger_than_what_is_kept_is_refused_with_the_numbers(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.adapters, "_max_bytes", 1000)
    with pytest.raises(AdapterError, match=r"'a' takes [\d.]+KiB on the GPU, over the 1000B kept for max_loras = 3"):
        core.load_adapter(Path(core.config.model).parent / "a")
    assert core.adapters.infos == []


def test_a_mix_larger_than_what_is_kept_is_refused_before_it_waits_for_ever(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(core.config.model).parent / "a"
    core.load_adapter(folder)
    core.load_adapter(tiny_adapter(folder.with_name("b"), core.config.model, seed=2))
    monkeypatch.setattr(core.adapters, "_max_bytes", core.adapters._by_name["a"].device_bytes)
    with pytest.raises(MixError, match=r"'a\+b' takes .* over the .* kept for max_loras = 3"):
        core.add([1, 2, 3], SamplingParams(), "a+b")
    assert not core.scheduler.has_work()


def test_on_a_cpu_small_sets_that_take_turns_stay_gathered_and_large_ones_do_not() -> None:
    held = GpuStack()
    held.stack._on_gpu = False
    for slot in range(6):
        held.write(slot, rank=2)
    for slots in ((0,), (1,), (0, 1)):  # one adapter, another, and their comparison
        assert torch.allclose(held.added(held.stack, slots), held.expected(slots), atol=1e-5)
    assert list(held.stack._gathered) == [(0,), (1,), (0, 1)]
    for slots in ((0, 1, 2, 3, 4), (1, 2, 3, 4, 5)):
        assert torch.allclose(held.added(held.stack, slots), held.expected(slots), atol=1e-5)
        assert list(held.stack._gathered) == [slots]
