"""Adapters between slots, host memory and disk: more of them than fit, folders that change or go, and nobody who waits
for ever. 60 adapters in `test`, 500 in `soak`."""

import gc
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mp13.engine.config import EngineConfig
from mp13.engine.core import EngineCore
from mp13.engine.llm import LLM
from mp13.engine.request import ErrorEvent, FinishEvent, RequestOutput, SamplingParams
from mp13.errors import AdapterError
from tests.engine.tiny_models import assert_greedy_matches, reference_model, tiny_adapter, tiny_model

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
PROMPT = [5, 9, 13, 17, 21, 25, 29]
NUM_SLOTS, NUM_IN_MEMORY = 2, 3


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and five adapters, "a0" to "a4"."""
    folder = tmp_path_factory.mktemp("tiers")
    model = tiny_model(folder / "model")
    tiny_adapter(folder / "a0", model)
    for i in range(1, 5):
        another(folder / "a0", folder / f"a{i}", seed=i)
    return folder


def another(pattern: Path, folder: Path, seed: int) -> Path:
    """An adapter like `pattern`, with other weights."""
    shutil.copytree(pattern, folder)
    change(folder, seed)
    return folder


def change(folder: Path, seed: int = 9) -> None:
    """Other weights in the same folder."""
    path = folder / "adapter_model.safetensors"
    generator = torch.Generator().manual_seed(seed)
    tensors = safetensors.torch.load(path.read_bytes())
    changed = {key: value * (1 + torch.randn(value.shape, generator=generator)) for key, value in tensors.items()}
    safetensors.torch.save_file(changed, path)


@pytest.fixture
def folders(library: Path, tmp_path: Path) -> list[Path]:
    """Copies of the adapters that a test may spoil."""
    return [Path(shutil.copytree(library / f"a{i}", tmp_path / f"a{i}")) for i in range(5)]


@pytest.fixture(scope="module")
def shared(library: Path) -> EngineCore:
    return new_core(library)


def new_core(library: Path, **options: int) -> EngineCore:
    limits = {"max_loras": NUM_SLOTS, "max_cpu_loras": NUM_IN_MEMORY, **options}
    return EngineCore(EngineConfig(str(library / "model"), dtype="float32", kv_cache_memory="2MiB", **limits))


@pytest.fixture
def core(shared: EngineCore) -> Iterator[EngineCore]:
    yield shared
    run(shared)
    for info in shared.adapters.infos:
        shared.unload_adapter(info.name)
    assert shared.pool.num_free == shared.pool.num_blocks and shared.adapters.slots.num_pins == 0
    assert not len(shared.adapters._contents) and not +shared.adapters._users


def run(core: EngineCore) -> dict[str, RequestOutput | Exception]:
    """Step until nothing is left; how each request ended, in that order."""
    ends: dict[str, RequestOutput | Exception] = {}
    while core.has_work():
        for event in core.step():
            if isinstance(event, FinishEvent | ErrorEvent):
                ends[event.request_id] = event.output if isinstance(event, FinishEvent) else event.error
    return ends


def answer(core: EngineCore, mix: str) -> list[int]:
    request_id = core.add(PROMPT, GREEDY, mix)
    end = run(core)[request_id]
    assert isinstance(end, RequestOutput), end
    return end.token_ids


def states(core: EngineCore) -> dict[str, str]:
    return {info.name: info.state for info in core.adapters.infos}


def test_any_number_can_be_loaded_and_each_says_where_it_is(core: EngineCore, folders: list[Path]) -> None:
    for folder in folders:
        core.load_adapter(folder)
    core.measure_effects()  # goes through the slots, in order of loading
    assert states(core) == {"a0": "disk", "a1": "disk", "a2": "memory", "a3": "slot", "a4": "slot"}
    answer(core, "a0")
    assert states(core) == {"a0": "slot", "a1": "disk", "a2": "disk", "a3": "memory", "a4": "slot"}


def test_an_adapter_read_again_from_disk_answers_as_before(
    core: EngineCore, folders: list[Path], library: Path
) -> None:
    for folder in folders:
        core.load_adapter(folder)
    for i in (0, 1, 2, 3, 4, 0):
        reference = reference_model(library / "model", [(folders[i], 1.0)])
        assert_greedy_matches(reference, PROMPT, answer(core, f"a{i}"))


def test_a_mix_whose_members_are_all_on_disk_answers(core: EngineCore, folders: list[Path], library: Path) -> None:
    for folder in folders:
        core.load_adapter(folder)
    answer(core, "a3+a4")
    assert {states(core)[name] for name in ("a0", "a1")} == {"disk"}
    reference = reference_model(library / "model", [(folders[0], 0.5), (folders[1], 0.5)])
    assert_greedy_matches(reference, PROMPT, answer(core, "a0:0.5+a1:0.5"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder), "'a0' had to be read from disk again, but .* is not a folder"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"?" * 99), "is damaged"),
        (change, "holds another adapter now; load it again"),
    ],
    ids=["gone", "damaged", "changed"],
)
def test_a_folder_spoilt_meanwhile_ends_the_request_that_needs_it_alone(
    core: EngineCore, folders: list[Path], spoil: Callable[[Path], object], sentence: str
) -> None:
    for folder in folders:
        core.load_adapter(folder)
    core.measure_effects()
    expected = answer(core, "a4")
    assert states(core)["a0"] == "disk"
    spoil(folders[0])
    spoilt, other = (core.add(PROMPT, GREEDY, mix) for mix in ("a0", "a4"))
    ends = run(core)
    assert isinstance(ends[spoilt], AdapterError) and re.search(sentence, str(ends[spoilt]))
    assert ends[other].token_ids == expected  # type: ignore[union-attr]


def test_what_lies_in_memory_needs_its_folder_no_more(core: EngineCore, folders: list[Path]) -> None:
    for folder in folders[:3]:
        core.load_adapter(folder)
    expected = [answer(core, f"a{i}") for i in range(3)]
    for folder in folders:
        shutil.rmtree(folder)
    assert [answer(core, f"a{i}") for i in range(3)] == expected


def test_a_content_loaded_from_two_folders_survives_the_loss_of_one(core: EngineCore, folders: list[Path]) -> None:
    twin = Path(shutil.copytree(folders[0], folders[0].parent / "twin"))
    for folder in (folders[0], twin, *folders[1:]):
        core.load_adapter(folder)
    shutil.rmtree(folders[0])
    assert states(core)["a0"] == "disk"
    assert answer(core, "a0") == answer(core, "twin")


def test_a_changed_folder_is_noticed_and_picked_up_by_loading_it_again(core: EngineCore, folders: list[Path]) -> None:
    for folder in folders[:2]:
        core.load_adapter(folder)
    before, other = core.adapters.infos[0].digest, answer(core, "a1")
    assert core.adapters.changed() == []
    change(folders[0])
    assert core.adapters.changed() == ["a0"]
    old = answer(core, "a0")
    assert core.load_adapter(folders[0]).digest != before
    assert core.adapters.changed() == []
    assert answer(core, "a0") != old
    assert answer(core, "a1") == other
    (folders[1] / "mp13.json").write_text('{"tags": ["sea"]}')
    assert core.adapters.changed() == []
    (folders[1] / "mp13.json").write_text('{"system_prompt": "Arr."}')
    assert core.adapters.changed() == ["a1"]
    shutil.rmtree(folders[1])
    assert core.adapters.changed() == ["a1"]


def test_running_and_waiting_requests_finish_on_the_weights_they_were_asked_with(
    core: EngineCore, folders: list[Path], library: Path
) -> None:
    core.load_adapter(folders[0])
    old = reference_model(library / "model", [(folders[0], 1.0)])
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    num_rows = core.config.max_num_seqs
    before = [core.add([*PROMPT, 30 + i], params, "a0") for i in range(num_rows + 2)]  # two must wait for a row
    core.step()
    change(folders[0])
    core.load_adapter(folders[0])
    for folder in folders[1:]:  # more than memory holds: what cannot be read again must stay
        core.load_adapter(folder)
    after = core.add(PROMPT, GREEDY, "a0")
    ends = run(core)
    for i, request_id in enumerate(before):
        assert_greedy_matches(old, [*PROMPT, 30 + i], ends[request_id].token_ids)  # type: ignore[union-attr]
    new = reference_model(library / "model", [(folders[0], 1.0)])
    assert_greedy_matches(new, PROMPT, ends[after].token_ids)  # type: ignore[union-attr]


def test_a_request_that_waits_for_a_slot_gets_the_weights_it_was_asked_with(
    core: EngineCore, folders: list[Path], library: Path
) -> None:
    for i in (1, 2, 0):
        core.load_adapter(folders[i])
    old = reference_model(library / "model", [(folders[0], 1.0)])
    for name in ("a1", "a2"):
        core.add(PROMPT, SamplingParams(temperature=0, max_tokens=9, ignore_eos=True), name)
    waits = core.add(PROMPT, GREEDY, "a0")
    core.step()
    assert "a0" not in {info.name for info in core.adapters.infos if info.state == "slot"}
    change(folders[0])
    for i in (0, 3, 4):  # nothing leads to the old weights any more, and memory is full
        core.load_adapter(folders[i])
    assert_greedy_matches(old, PROMPT, run(core)[waits].token_ids)  # type: ignore[union-attr]


def test_what_lies_in_a_slot_stays_in_memory(core: EngineCore, folders: list[Path]) -> None:
    for folder in folders[:2]:
        core.load_adapter(folder)
        answer(core, folder.name)
    for folder in folders[2:]:
        core.load_adapter(folder)
    assert states(core) == {"a0": "slot", "a1": "slot", "a2": "disk", "a3": "disk", "a4": "memory"}
    assert set(core.adapters.slots.resident) <= set(core.adapters._contents.in_memory)


def test_a_changed_adapter_never_meets_its_old_blocks(core: EngineCore, folders: list[Path]) -> None:
    prompt = PROMPT * 5
    cached = []
    for changes in (False, False, True):
        if changes:
            change(folders[0])
        core.load_adapter(folders[0])
        request_id = core.add(prompt, GREEDY, "a0")
        cached.append(run(core)[request_id].metrics.cached_tokens)  # type: ignore[union-attr]
    assert cached == [0, 32, 0]


def test_requests_of_more_adapters_than_slots_finish_in_the_order_they_came(
    core: EngineCore, folders: list[Path]
) -> None:
    for folder in folders:
        core.load_adapter(folder)
    ids = [core.add(PROMPT, GREEDY, f"a{i % 5}") for i in range(20)]
    ends = list(run(core))
    assert sorted(ends) == sorted(ids)
    first_of_each = [ends.index(request_id) for request_id in ids[:5]]
    assert first_of_each == sorted(first_of_each)


def test_llm_tells_of_changed_folders(library: Path, folders: list[Path]) -> None:
    llm = LLM(library / "model", dtype="float32", kv_cache_memory="1MiB")
    llm.load_adapter(folders[0])
    assert llm.changed_adapters() == []
    change(folders[0])
    assert llm.changed_adapters() == ["a0"]


def test_random_traffic_over_more_adapters_than_fit_fails_nobody(library: Path, tmp_path: Path) -> None:
    traffic(library, tmp_path, num_adapters=60, num_requests=150, max_loras=4, max_cpu_loras=8)


@pytest.mark.soak
def test_random_traffic_over_500_adapters(library: Path, tmp_path: Path) -> None:
    traffic(library, tmp_path, num_adapters=500, num_requests=5000, max_loras=8, max_cpu_loras=64)


def traffic(
    library: Path, folder: Path, *, num_adapters: int, num_requests: int, max_loras: int, max_cpu_loras: int
) -> None:
    """Requests come at random, some of mixes, some are aborted; all others end well, and no tensor is left behind."""
    core = new_core(library, max_loras=max_loras, max_cpu_loras=max_cpu_loras)
    bytes_before = tensor_bytes()
    names = [f"n{i}" for i in range(num_adapters)]
    for i, name in enumerate(names):
        core.load_adapter(another(library / "a0", folder / name, seed=100 + i))
    chance = random.Random(0)
    waiting: set[str] = set()
    asked: dict[str, str] = {}
    answers: dict[str, list[int]] = {}
    while len(asked) < num_requests or core.has_work():
        if len(asked) < num_requests and len(waiting) < 40:
            mix = "+".join(chance.sample(names, chance.choice((1, 1, 1, 2))))
            request_id = core.add(PROMPT, GREEDY, mix)
            asked[request_id] = mix
            waiting.add(request_id)
        elif waiting and chance.random() < 0.05:
            core.abort(gone := chance.choice(sorted(waiting)))
            waiting.remove(gone)
        if chance.random() < 0.5 or len(waiting) == 40:
            for event in core.step():
                assert not isinstance(event, ErrorEvent), event
                if isinstance(event, FinishEvent):
                    waiting.remove(event.request_id)
                    answers[event.request_id] = event.output.token_ids
            memory = core.adapters._contents.in_memory
            assert len(memory) <= max_cpu_loras + core.config.max_num_seqs
            assert len(core.adapters.slots.resident) <= max_loras
    assert not waiting and len(core.adapters._contents.in_memory) <= max_cpu_loras
    one_adapter = core.adapters.infos[0].size_bytes
    assert tensor_bytes() - bytes_before < (max_cpu_loras + 2 * max_loras) * one_adapter
    for request_id in chance.sample(sorted(answers), 5):
        members = [(folder / name, 1.0) for name in asked[request_id].split("+")]
        assert_greedy_matches(reference_model(library / "model", members), PROMPT, answers[request_id])


def tensor_bytes() -> int:
    """Memory of all tensors that anybody holds."""
    gc.collect()
    tensors = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))
    return sum(storage.nbytes() for storage in {t.data_ptr(): t.untyped_storage() for t in tensors}.values())
