"""PEFT folders on disk: the right ones compute what PEFT computes; the wrong ones are refused with a reason, and what
was loaded before goes on as if nothing had been tried."""

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mp13 import LLM, SamplingParams
from mp13.engine.adapters.adapter_file import load_adapter_file
from mp13.errors import AdapterError, MixError
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter, tiny_model

PROMPT = [5, 40, 7, 81, 200, 13]
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
Change = Callable[[Path], None]


class World:
    """An engine with one good adapter in it, and a copy of that adapter for each test to spoil."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny_model(folder / "model")
        self.good = tiny_adapter(folder / "good", self.model, rank=4, seed=1)
        self.llm = LLM(
            self.model, dtype="float32", kv_cache_memory="1MiB", max_lora_rank=8, max_loras=2, max_cpu_loras=3
        )
        self.llm.load_adapter(self.good)
        self.answer = self.ask()

    def ask(self) -> list[int]:
        return self.llm.generate([PROMPT], GREEDY, "good")[0].token_ids

    def refuse(self, folder: Path, name: str | None = "good", kind: type[Exception] = AdapterError) -> str:
        """The sentence that refuses `folder`, after a look that nothing has changed."""
        before = self.llm.adapters, self.llm._core.adapters.slots.resident
        with pytest.raises(kind) as refused:
            self.llm.load_adapter(folder, name)
        assert (self.llm.adapters, self.llm._core.adapters.slots.resident) == before
        assert self.ask() == self.answer
        sentence = str(refused.value)
        assert "\n" not in sentence and len(sentence) < 600
        return sentence


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def spoiled(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.good, tmp_path / "spoiled"))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_header(folder: Path, change: Callable[[str], str]) -> None:
    """Rewrite the header's text, length included; the data stays."""
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = change(content[8 : 8 + length].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])


def put(key: str, tensor: torch.Tensor | None) -> Change:
    def change(folder: Path) -> None:
        change_tensors(folder, lambda t: t.pop(key) if tensor is None else t.update({key: tensor}))

    return change


def turned(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({key: t.T for key, t in tensors.items()}))


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


WRONG_TENSORS: dict[str, tuple[Change, str]] = {
    "only a pickle": (pickled, "adapter_model.bin is a pickle, which is never loaded"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    "A too narrow": (put(f"{Q0}.lora_A.weight", torch.ones(4, 63)), "has shape [4, 63], this model needs [4, 64]"),
    "B too short": (put(f"{Q0}.lora_B.weight", torch.ones(32, 4)), "has shape [32, 4], this model needs [64, 4]"),
    "rank differs": (put(f"{Q0}.lora_A.weight", torch.ones(3, 64)), "has shape [3, 64], this model needs [4, 64]"),
    "one dimension": (put(f"{Q0}.lora_A.weight", torch.ones(256)), "has shape [256], this model needs [4, 64]"),
    "transposed": (turned, "this model needs"),
    "A missing": (put(f"{Q0}.lora_A.weight", None), "layers.0.self_attn.q_proj lacks lora_A"),
    "B missing": (put(f"{Q0}.lora_B.weight", None), "layers.0.self_attn.q_proj lacks lora_B"),
    "module missing": (
        lambda f: (put(f"{Q0}.lora_A.weight", None)(f), put(f"{Q0}.lora_B.weight", None)(f))[0],
        "layers.0.self_attn.q_proj lacks lora_A and lora_B",
    ),
    "surplus tensor": (put("base_model.model.lm_head.weight", torch.ones(320, 64)), "lm_head.weight' is not part"),
    "surplus module": (
        lambda f: (put(Q0.replace("q_proj", "k_proj") + ".lora_A.weight", torch.ones(4, 64))(f),
                   put(Q0.replace("q_proj", "k_proj") + ".lora_B.weight", torch.ones(32, 4))(f))[0],
        "'model.layers.0.self_attn.k_proj', which target_modules does not name",
    ),
    "layer too many": (put(Q0.replace("0", "2") + ".lora_A.weight", torch.ones(4, 64)), "no module 'model.layers.2."),
    "magnitude of DoRA": (put(f"{Q0}.lora_magnitude_vector", torch.ones(64)), "lora_magnitude_vector' is not part"),
    "integers": (put(f"{Q0}.lora_A.weight", torch.ones(4, 64, dtype=torch.int32)), "has type 'I32'"),
    "NaN": (put(f"{Q0}.lora_A.weight", torch.full((4, 64), math.nan)), "q_proj is NaN or infinite in float32"),
    "infinity": (put(f"{Q0}.lora_B.weight", torch.full((64, 4), math.inf)), "q_proj is NaN or infinite in float32"),
    "beyond float32": (
        put(f"{Q0}.lora_A.weight", torch.full((4, 64), 1e300, dtype=torch.float64)), "NaN or infinite in float32",
    ),
    "infinite once scaled": (
        lambda f: (put(f"{Q0}.lora_B.weight", torch.full((64, 4), 1e38))(f), change_config(f, lora_alpha=64))[0],
        "NaN or infinite in float32",
    ),
    "rank over the maximum": (lambda f: change_config(f, r=9), "rank 9 is over max_lora_rank = 8"),
    "a long strange key": (put("k" * 9000, torch.ones(1)), "is not part of a LoRA adapter"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_tensors_that_do_not_fit_are_refused(case: str, world: World, spoiled: Path) -> None:
    spoil, reason = WRONG_TENSORS[case]
    spoil(spoiled)
    assert reason in world.refuse(spoiled)


def cut(num_bytes: int) -> Change:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:num_bytes])

    return change


def claim(length: int) -> Change:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])

    return change


def header(change: Callable[[str], str]) -> Change:
    return lambda folder: change_header(folder, change)


def entry(**fields: Any) -> Change:
    """Change fields of the first tensor's entry in the header."""

    def change(text: str) -> str:
        entries = json.loads(text)
        entries[f"{Q0}.lora_A.weight"].update(fields)
        return json.dumps(entries)

    return header(change)


def append(folder: Path) -> None:
    with (folder / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")


DAMAGED: dict[str, tuple[Change, str]] = {
    "empty": (cut(0), "header claims 0 bytes"),
    "cut in the length": (cut(5), "damaged"),
    "cut in the header": (cut(100), "damaged"),
    "cut in the data": (cut(-1), "where its header describes"),
    "a byte too many": (append, "where its header describes"),
    "length of nothing": (claim(0), "header claims 0 bytes"),
    "length too large": (claim(2**40), f"header claims {2**40} bytes"),
    "length of 2^64": (claim(2**64 - 1), "damaged"),
    "length too small": (claim(50), "header cannot be read"),
    "key twice": (header(lambda text: text.strip()[:-1] + "," + text[1:]), "a key stands twice"),
    "a list": (header(lambda text: "[" + text + "]"), "header cannot be read"),
    "deep": (header(lambda text: "[" * 100_000 + "]" * 100_000), "header cannot be read"),
    "no tensors": (header(lambda text: '{"__metadata__": {}}'), "holds no tensors"),
    "entry is a number": (header(lambda text: '{"a": 5}'), "header cannot be read"),
    "type is a list": (entry(dtype=["F32"]), "header cannot be read"),
    "type unknown": (entry(dtype="F7"), "has type 'F7'"),
    "shape is a number": (entry(shape=5), "header cannot be read"),
    "shape is infinite": (entry(shape=[4, math.inf]), "has shape [4, inf]"),
    "shape is long": (entry(shape=[4] * 9000), "has shape [4, 4"),
    "no offsets": (entry(data_offsets=None), "header cannot be read"),
    "three offsets": (entry(data_offsets=[0, 1, 2]), "header cannot be read"),
    "offsets backwards": (entry(data_offsets=[1024, 0]), "header cannot be read"),
    "offsets of text": (entry(data_offsets=["0", "9"]), "header cannot be read"),
    "offsets that overlap": (entry(data_offsets=[512, 1536]), "damaged"),
    "offset far away": (entry(data_offsets=[0, 2**70]), "where its header describes"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused(case: str, world: World, spoiled: Path) -> None:
    spoil, reason = DAMAGED[case]
    spoil(spoiled)
    assert reason in world.refuse(spoiled)


def test_the_configuration_is_judged_before_the_weights_are_read(world: World, spoiled: Path) -> None:
    change_config(spoiled, use_dora=True)
    (spoiled / "adapter_model.safetensors").write_bytes(b"not read")
    assert "use_dora = True is not supported" in world.refuse(spoiled)
    (spoiled / "adapter_config.json").write_text("[1]")
    assert "holds list" in world.refuse(spoiled)


def test_a_folder_that_is_none_is_refused(world: World, tmp_path: Path) -> None:
    assert f"{str(tmp_path / 'nowhere')!r} is not a folder" in world.refuse(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is not a folder" in world.refuse(tmp_path / "file")
    assert "is not a folder" in world.refuse(Path("~no-such-user/adapter"))
    assert "cannot be read" in world.refuse(tmp_path / ("x" * 300))


def test_a_file_that_may_not_be_read_is_refused(world: World, spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open

    def forbidden(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "adapter_model.safetensors":
            raise PermissionError(13, "Permission denied")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbidden)
    assert "cannot be read (Permission denied)" in world.refuse(spoiled)


@pytest.mark.parametrize("name", ["", "base", "a b", "a+b", "a:1", "../x", "a/b", "ü", "x" * 65, ".", "..", "a\n"])
def test_a_name_that_no_mix_could_say_is_refused(name: str, world: World) -> None:
    assert repr(name) in world.refuse(world.good, name, MixError)


def test_a_folder_whose_own_name_cannot_be_said_needs_another(world: World, tmp_path: Path) -> None:
    folder = shutil.copytree(world.good, tmp_path / "my adapter")
    assert "'my adapter' cannot name an adapter" in world.refuse(Path(folder), None, MixError)
    assert world.llm.load_adapter(folder, "mine").name == "mine"
    world.llm.unload_adapter("mine")


def test_one_adapter_too_many_is_refused_but_a_replacement_is_not(world: World) -> None:
    world.llm.load_adapter(world.good, "two")
    world.llm.load_adapter(world.good, "three")
    assert "max_cpu_loras = 3" in world.refuse(world.good, "four")
    world.llm.load_adapter(world.good, "three")
    for name in ("two", "three"):
        world.llm.unload_adapter(name)
    with pytest.raises(AdapterError, match="no adapter 'two' is loaded; loaded are: good"):
        world.llm.unload_adapter("two")


@pytest.mark.parametrize("mix", ["good:1001", "good:-100000", "good:" + "9" * 30, "good:1" + "0" * 39])
def test_a_weight_under_which_nothing_is_left_of_the_model_is_refused(mix: str, world: World) -> None:
    with pytest.raises(MixError, match="the weight of 'good' is beyond 1000"):
        world.llm.generate([PROMPT], GREEDY, mix)


def test_what_is_loaded_is_described(world: World, tmp_path: Path) -> None:
    path = tiny_adapter(tmp_path / "x", world.model, rank=3, targets=["down_proj", "q_proj"], rslora=True)
    info = world.llm.load_adapter(path)
    assert (info.name, info.kind, info.rank, info.target_modules) == ("x", "rslora", 3, ("down_proj", "q_proj"))
    assert info.size_bytes == (path / "adapter_model.safetensors").stat().st_size
    assert len(bytes.fromhex(info.digest)) == 32 and info.warnings == ()
    assert info in world.llm.adapters
    world.llm.unload_adapter("x")


def test_a_digest_is_of_the_content(world: World, tmp_path: Path, spoiled: Path) -> None:
    good = world.llm.adapters[0].digest
    digests = {good}
    assert world.llm.load_adapter(spoiled, "copy").digest == good
    change_config(spoiled, lora_alpha=9)
    digests.add(world.llm.load_adapter(spoiled, "copy").digest)
    change_tensors(spoiled, lambda tensors: tensors[f"{Q0}.lora_A.weight"].add_(1))
    digests.add(world.llm.load_adapter(spoiled, "copy").digest)
    assert len(digests) == 3
    assert len(world.llm._core.adapters._by_digest) == 2  # what was replaced is forgotten
    world.llm.unload_adapter("copy")


def test_another_base_in_the_record_is_a_warning_not_a_refusal(world: World, spoiled: Path) -> None:
    change_config(spoiled, base_model_name_or_path="someone/other-model")
    assert world.llm.load_adapter(spoiled, "other").warnings == ("made for 'other-model', used on 'model'",)
    change_config(spoiled, base_model_name_or_path="C:\\models\\Model\\")
    assert world.llm.load_adapter(spoiled, "other").warnings == ()
    world.llm.unload_adapter("other")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_read(dtype: torch.dtype, world: World, spoiled: Path) -> None:
    change_tensors(spoiled, lambda tensors: tensors.update({key: t.to(dtype) for key, t in tensors.items()}))
    assert world.llm.load_adapter(spoiled, "other").rank == 4
    world.llm.unload_adapter("other")


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.parametrize(("rank", "alpha"), [(4, 8), (3, 1), (8, 8)])
def test_the_change_is_exactly_the_one_peft_makes(
    rslora: bool, rank: int, alpha: int, world: World, tmp_path: Path
) -> None:
    path = tiny_adapter(tmp_path / "x", world.model, rank=rank, alpha=alpha, rslora=rslora, targets=LLAMA_LINEARS)
    targets = world.llm._core.runner.model.targets
    loaded = load_adapter_file(path, "x", targets, max_rank=8, dtype=torch.float32, model="model")
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world.model), path)
    assert len(loaded.pairs) == 2 * len(LLAMA_LINEARS)
    for module, (a, b) in loaded.pairs.items():
        theirs = peft.get_submodule(f"base_model.model.{module}").get_delta_weight("default")
        torch.testing.assert_close(b @ a, theirs, atol=1e-6, rtol=1e-5)


def test_a_regular_expression_adapts_what_the_file_holds(world: World, tmp_path: Path) -> None:
    path = tiny_adapter(tmp_path / "x", world.model, targets=r".*layers\.1\..*(q|v)_proj")
    targets = world.llm._core.runner.model.targets
    pairs = load_adapter_file(path, "x", targets, max_rank=8, dtype=torch.float32, model="model").pairs
    assert sorted(pairs) == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    (path / "adapter_config.json").write_text(
        (path / "adapter_config.json").read_text().replace(r".*layers\\.1\\..*(q|v)_proj", "(a+)+$")
    )
    change_tensors(path, lambda tensors: tensors.pop(next(iter(tensors))))
    assert "lacks lora_" in world.refuse(path)
