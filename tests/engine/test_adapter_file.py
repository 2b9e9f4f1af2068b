"""PEFT folders on disk: the right ones compute what PEFT computes; the wrong ones are refused with a reason, and what
was loaded before goes on as if nothing had been tried."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mp13.digests import adapter_digest
from mp13.errors import AdapterError, MixError
from tests.engine.adapter_world import (
    GREEDY,
    PROMPT,
    Q0,
    Change,
    World,
    change_config,
    change_tensors,
    put,
)
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def spoiled(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.good, tmp_path / "spoiled"))


def test_the_configuration_is_judged_before_the_weights_are_read(world: World, spoiled: Path) -> None:
    change_config(spoiled, lora_bias=True)
    (spoiled / "adapter_model.safetensors").write_bytes(b"not read")
    assert "lora_bias = True cannot run as an adapter" in world.refuse(spoiled)
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


def test_only_what_is_loaded_can_be_unloaded(world: World) -> None:
    world.llm.load_adapter(world.good, "two")
    world.llm.unload_adapter("two")
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
    files = spoiled / "adapter_config.json", spoiled / "adapter_model.safetensors"
    assert adapter_digest(*files) == world.llm.adapters[-1].digest  # the library says the same without torch
    assert len(world.llm._core.adapters._contents) == 2  # what was replaced is forgotten
    world.llm.unload_adapter("copy")


def test_what_stays_in_memory_does_not_hold_the_whole_file(world: World, spoiled: Path) -> None:
    world.llm.load_adapter(spoiled, "spoiled")
    digest = next(info.digest for info in world.llm.adapters if info.name == "spoiled")
    for delta in world.llm._core.adapters._contents.find(digest).deltas.values():
        for tensor in (delta.a, delta.b):
            assert tensor.untyped_storage().resizable()  # memory of its own, not a view of what was read
    world.llm.unload_adapter("spoiled")


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
    loaded = world.read(path)
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world.model), path)
    assert len(loaded.deltas) == 2 * len(LLAMA_LINEARS)
    for module, delta in loaded.deltas.items():
        theirs = peft.get_submodule(f"base_model.model.{module}").get_delta_weight("default")
        torch.testing.assert_close(delta.b @ delta.a, theirs, atol=1e-6, rtol=1e-5)


NOT_COMPUTED: dict[str, dict[str, Any]] = {
    **{kind: {"peft_type": kind} for kind in ("ADALORA", "IA3", "LOHA", "LOKR", "VERA", "OFT", "BOFT", "C3A")},
    "whole modules": {"modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": [1, 2]},
    "biases": {"bias": "all"},
    "biases of the LoRA": {"lora_bias": True},
    "layers twice": {"layer_replication": [[0, 2], [1, 2]]},
    "Megatron": {"megatron_config": {"a": 1}},
    "parameters": {"target_parameters": ["mlp.experts"]},
    "pooled inputs": {"use_qalora": True},
    "blocks": {"use_bdlora": {"nblocks": 2}},
    "a router": {"arrow_config": {"top_k": 2}},
    "a truncated base": {"kasa_config": {"beta": 1}},
    "samples": {"monteclora_config": {"a": 1}},
    "very old": {"enable_lora": [True, False, True]},
    "a setting of tomorrow": {"use_wonder": True},
}


@pytest.mark.parametrize("case", NOT_COMPUTED)
def test_what_cannot_run_as_an_adapter_is_refused_with_the_command_that_makes_a_model_of_it(
    case: str, world: World, spoiled: Path
) -> None:
    change_config(spoiled, **NOT_COMPUTED[case])
    sentence = world.refuse(spoiled)
    assert "`mp13 adapters merge good --model OUT` makes a model of it" in sentence
    ((field, value),) = NOT_COMPUTED[case].items()
    assert (value if field == "peft_type" else field) in sentence


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "NEVER_HEARD_OF", 7, ["LORA"]])
def test_other_types_are_refused_by_name(kind: Any, world: World, spoiled: Path) -> None:
    change_config(spoiled, peft_type=kind)
    assert f"adapters of type {kind!r} cannot run here, only LORA can; train it again" in world.refuse(spoiled)


@pytest.mark.parametrize("init", ["pissa_niter_16", "corda", "lora_ga", "loftq", "PiSSA", 3])
def test_a_start_that_the_base_weights_do_not_tell_is_refused(init: Any, world: World, spoiled: Path) -> None:
    change_config(spoiled, init_lora_weights=init)
    sentence = world.refuse(spoiled)
    assert f"init_lora_weights = {init!r}" in sentence and "path_initial_model_for_weight_conversion" in sentence


def test_a_start_taken_out_of_the_head_is_refused(world: World, tmp_path: Path) -> None:
    path = tiny_adapter(tmp_path / "x", world.model, targets=["lm_head"], init_lora_weights="olora")
    assert "olora took a part out of lm_head" in world.refuse(path)


def test_mlx_folders_are_told_to_be_converted(world: World, spoiled: Path) -> None:
    config = spoiled / "adapter_config.json"
    content = config.read_text()
    config.write_text(json.dumps({"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8}}))
    assert "MLX's own format; convert the adapter to PEFT's" in world.refuse(spoiled)
    config.write_text("{}")
    assert "has no peft_type" in world.refuse(spoiled)
    config.write_text(content)
    (spoiled / "adapter_model.safetensors").rename(spoiled / "adapters.safetensors")
    assert "adapters.safetensors is MLX's own format" in world.refuse(spoiled)


def renamed(change: Callable[[str], str]) -> Change:
    return lambda folder: change_tensors(folder, lambda t: [t.update({change(key): t.pop(key)}) for key in list(t)])


SPELLINGS: dict[str, Callable[[str], str]] = {
    "without PEFT's prefix": lambda key: key.removeprefix("base_model.model."),
    "with half of it": lambda key: key.replace("base_model.model.", "base_model."),
    "with the adapter's name": lambda key: key.replace(".weight", ".default.weight"),
    "compiled": lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
    "sharded": lambda key: key.replace(".layers.0.", ".layers.0._fsdp_wrapped_module.").replace(
        "self_attn.", "_checkpoint_wrapped_module.self_attn."
    ),
    "of a model with pictures, today": lambda key: key.replace(
        "model.model.layers", "model.model.language_model.layers"
    ),
    "of a model with pictures, once": lambda key: key.replace(
        "model.model.layers", "model.language_model.model.layers"
    ),
    "of the inner model": lambda key: key.replace("model.model.layers", "model.layers"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_that_can_mean_only_one_module_are_understood(spelling: str, world: World, spoiled: Path) -> None:
    before = world.read(spoiled).deltas
    renamed(SPELLINGS[spelling])(spoiled)
    after = world.read(spoiled).deltas
    assert before.keys() == after.keys()
    assert all(
        torch.equal(before[path].a, after[path].a) and torch.equal(before[path].b, after[path].b) for path in before
    )


def test_a_regular_expression_is_held_against_the_names_of_the_model_it_was_trained_on(
    world: World, spoiled: Path
) -> None:
    renamed(SPELLINGS["of a model with pictures, today"])(spoiled)
    change_config(spoiled, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    assert len(world.read(spoiled).deltas) == 4
    put("base_model.model.model.language_model.layers.1.self_attn.v_proj.lora_B.weight", None)(spoiled)
    assert "layers.1.self_attn.v_proj lacks lora_B" in world.refuse(spoiled)


def test_magnitudes_of_dora_are_found_with_and_without_weight_in_their_name(world: World, tmp_path: Path) -> None:
    path = tiny_adapter(tmp_path / "x", world.model, use_dora=True)
    before = world.read(path).deltas
    renamed(lambda key: key.replace("magnitude_vector", "magnitude_vector.default.weight"))(path)
    after = world.read(path).deltas
    assert all(torch.equal(before[p].gain, after[p].gain) for p in before if before[p].gain is not None)
    assert all(delta.gain is not None for delta in after.values())


def test_a_copy_of_the_head_beside_its_lora_must_be_the_models_own(world: World, tmp_path: Path) -> None:
    path, key = (
        tiny_adapter(tmp_path / "x", world.model, targets=["lm_head"]),
        "base_model.model.lm_head.base_layer.weight",
    )
    assert key in load_file(path / "adapter_model.safetensors")  # PEFT saves one
    assert list(world.read(path).deltas) == ["lm_head"]
    change_tensors(path, lambda tensors: tensors.update({key: tensors[key].half()}))
    world.read(path)
    change_tensors(path, lambda tensors: tensors.update({key: tensors[key] * 1.1}))
    assert "lm_head is there as a whole, and differs from this model's; `mp13 adapters merge" in world.refuse(path)
    change_tensors(path, lambda tensors: tensors.update({key: torch.ones(322, 64)}))
    assert "If it resized the vocabulary, `mp13 adapters merge" in world.refuse(path)
