"""A GGUF file opens as the model it was made of: same weights, same tokens, same answers."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from mp13 import LLM, SamplingParams
from mp13.engine.models.gguf_checkpoint import GGUFCheckpoint
from mp13.engine.models.gguf_config import model_config
from mp13.engine.models.gguf_file import GGUFFile
from mp13.errors import ModelError
from tests.engine.gguf_files import dequantized_copy, finish, write_gguf
from tests.engine.tiny_models import tiny_adapter, tiny_model

TEXT = list(range(3, 60))
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}


def engine(model: Path) -> LLM:
    return LLM(str(model), dtype="float32", device="cpu", kv_cache_memory="8MiB")


def assert_same_scores(ours: LLM, theirs: LLM) -> None:
    assert ours.score([TEXT]) == theirs.score([TEXT])


@pytest.mark.parametrize("family", ["llama", "llama-tied", "llama-bias", "smollm", "qwen2", "qwen3"])
def test_every_layout_computes_what_its_safetensors_compute(tmp_path: Path, family: str) -> None:
    model = tiny_model(tmp_path / "model", family)
    assert_same_scores(engine(write_gguf(tmp_path / "model.gguf", model)), engine(model))


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_quantized_weights_are_what_gguf_dequantizes(tmp_path: Path, kind: Kind) -> None:
    model = tiny_model(tmp_path / "model")
    plain = dequantized_copy(model, tmp_path / "plain", kind)
    assert_same_scores(engine(write_gguf(tmp_path / "model.gguf", model, kind)), engine(plain))


@pytest.mark.parametrize(
    "name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ3_S", "IQ4_XS", "IQ1_M", "TQ2_0"]
)
def test_super_blocks_are_read_although_gguf_cannot_write_them(tmp_path: Path, name: str) -> None:
    kind = Kind[name]
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 60, (6, 2 * block_bytes), np.uint8)  # no NaN in the scales
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", raw, raw_dtype=kind)
    finish(writer)
    file = GGUFFile(tmp_path / "model.gguf")
    config = {"architectures": ["LlamaForCausalLM"]}
    with GGUFCheckpoint(file, config, torch.float32, torch.device("cpu"), lambda *_: None) as checkpoint:
        weight = checkpoint.read("model.embed_tokens.weight")
    assert weight.shape == (6, 2 * per_block)
    assert weight.any()
    torch.testing.assert_close(weight, torch.from_numpy(gguf.dequantize(raw, kind)), rtol=0, atol=0)


def test_large_tensors_are_dequantized_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mp13.engine.models.gguf_checkpoint._SLAB", 100)  # less than two rows
    model = tiny_model(tmp_path / "model")
    plain = dequantized_copy(model, tmp_path / "plain", Kind.Q8_0)
    assert_same_scores(engine(write_gguf(tmp_path / "model.gguf", model, Kind.Q8_0)), engine(plain))


ROPES = {  # rope_scaling, and what the file says about it
    "linear": ({"rope_type": "linear", "factor": 4.0},
               {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}),
    "linear by default": ({"rope_type": "linear", "factor": 4.0}, {"llama.rope.scaling.factor": 4.0}),
    "linear by its old name": ({"rope_type": "linear", "factor": 4.0}, {"llama.rope.scale_linear": 4.0}),
    "yarn": ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32.0,
              "beta_slow": 1.0},
             {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
              "llama.rope.scaling.original_context_length": 128}),
    "llama3": ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192}, {}),  # a tensor says it
}  # fmt: skip


@pytest.mark.parametrize("name", ROPES)
def test_scaled_rotary_embeddings_are_found_again(tmp_path: Path, name: str) -> None:
    scaling, fields = ROPES[name]
    model = tiny_model(tmp_path / "model", rope_scaling=dict(scaling), rope_theta=500000.0)
    path = write_gguf(tmp_path / "model.gguf", model, **fields)
    assert model_config(GGUFFile(path))["rope_scaling"] == pytest.approx(scaling)
    assert_same_scores(engine(path), engine(model))
    plain = tiny_model(tmp_path / "plain", rope_theta=500000.0)
    assert engine(plain).score([TEXT]) != engine(model).score([TEXT])


def test_the_file_alone_is_the_base_that_answers_are_stored_with(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "model"))
    llm = engine(path)
    digest = llm.info.base_digest
    assert digest == engine(path).info.base_digest
    assert digest != engine(tmp_path / "model").info.base_digest
    assert any("GGUF" in note for note in llm.info.notes)


def test_adapters_of_the_safetensors_model_fit(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    adapter = tiny_adapter(tmp_path / "adapter", model, targets=("q_proj", "k_proj", "down_proj"))
    ours, theirs = engine(write_gguf(tmp_path / "model.gguf", model)), engine(model)
    for llm in (ours, theirs):
        llm.load_adapter(adapter, "a")
    assert ours.score([TEXT], adapters="a") == theirs.score([TEXT], adapters="a") != theirs.score([TEXT])


def test_a_chat_ends_at_every_end_that_the_file_names(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    llm = engine(write_gguf(tmp_path / "model.gguf", model, **{"tokenizer.ggml.eot_token_id": 7}))
    assert llm.info.eos_token_ids == {2, 7}
    greedy = SamplingParams(temperature=0, max_tokens=4)
    conversation = [[{"role": "user", "content": "hello <|im_end|>"}]]
    assert llm.chat(conversation, greedy)[0].token_ids == engine(model).chat(conversation, greedy)[0].token_ids
    assert llm.info.template_digest == engine(model).info.template_digest


def test_a_folder_with_one_file_is_that_model(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    model = tiny_model(tmp_path / "model")
    path = write_gguf(tmp_path / "folder" / "a.gguf", model)
    assert_same_scores(engine(tmp_path / "folder"), engine(path))
    write_gguf(tmp_path / "folder" / "b.gguf", model)
    with pytest.raises(ModelError, match=r"holds 2 GGUF files; give one of them as the model: a\.gguf, b\.gguf"):
        engine(tmp_path / "folder")


REFUSED = {  # what the file says, and what the error says
    "architecture": ({"general.architecture": "gemma3"}, "architecture 'gemma3' is not one of llama, qwen2, qwen3"),
    "experts": ({"llama.expert_count": 8}, "mixture of 8 experts"),
    "window": ({"llama.attention.sliding_window": 4096}, "window of 4096 tokens"),
    "part": ({"split.count": 3}, "one of 3 parts, which llama-gguf-split --merge joins"),
    "half heads": ({"llama.rope.dimension_count": 8}, "heads have 16 dimensions, and rope.dimension_count is 8"),
    "rope": ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "in the way 'longrope'"),
    "yarn": ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0,
              "llama.rope.scaling.original_context_length": 64, "llama.rope.scaling.yarn_log_multiplier": 0.1},
             "yarn_log_multiplier = 0.1"),
    "heads differ": ({"llama.attention.head_count_kv": [2, 1]}, "llama.attention.head_count_kv, where one number"),
    "no layers": ({"llama.block_count": None}, "says nothing for llama.block_count"),
    "too many layers": ({"llama.block_count": 4_000_000_000}, "no tensor for model.layers.2"),
    "too few layers": ({"llama.block_count": 1}, "tensor 'blk.1.attn_k.weight' has no place"),
    "no heads": ({"llama.attention.head_count": 0}, "0 for attention.head_count"),
    "wrong width": ({"llama.feed_forward_length": 95}, r"tensor 'blk.0.ffn_gate.weight' has the shape \(96, 64\)"),
    "no tokenizer": ({"tokenizer.ggml.tokens": None}, "has no tokenizer"),
    "other tokenizer": ({"tokenizer.ggml.model": "t5"}, "tokenizer 't5' is not one of"),
    "other words": ({"tokenizer.ggml.pre": "viking"}, "cuts words in the way 'viking'"),
    "no words": ({"tokenizer.ggml.pre": None}, "cuts words in the way 'None'"),
    "no merges": ({"tokenizer.ggml.merges": None}, "has no merges"),
    "half the types": ({"tokenizer.ggml.token_type": [1, 1]}, "320 tokens and 2 token types"),
    "end": ({"tokenizer.ggml.eos_token_id": 320}, "eos_token_id is 320, which is no token"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_by_name(tmp_path: Path, case: str) -> None:
    fields, reason = REFUSED[case]
    path = write_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "model"), **fields)
    with pytest.raises(ModelError, match=rf"model\.gguf cannot run here: .*{reason}.*; use this model's safetensors"):
        engine(path)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_no_model_type_brings_rules_for_words_of_its_own(tmp_path: Path, family: str) -> None:
    model = tiny_model(tmp_path / "model", family)
    tokenizer = engine(
        write_gguf(tmp_path / "model.gguf", model, **{"tokenizer.ggml.pre": "llama-bpe"})
    )._core.tokenizer
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("12345")  # Qwen's rules give a digit at a time
    assert [word for word, _ in cut] == ["123", "45"]


def test_the_bridge_does_not_read_gguf(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "model"))
    with pytest.raises(ModelError, match=r"'transformers' \(.*\) cannot read a GGUF file; choose 'auto' or 'native'"):
        LLM(str(path), model_impl="transformers")
