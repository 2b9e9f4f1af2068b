"""The starter's own GGUF conversion against Transformers' GGUF reader, on a tiny file of the same layout."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mp13.library.convert_starter import convert
from tests.fakes.tiny_starter import write_tiny_gguf


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "converted").mkdir()
    convert(tmp_path / "tiny.gguf", tmp_path / "converted")
    return tmp_path / "converted"


def test_every_weight_equals_the_one_that_transformers_reads(converted: Path) -> None:
    config = pytest.importorskip("transformers.utils.quantization_config")
    options = {"quantization_config": config.GgufConfig(dequantize=True)} if hasattr(config, "GgufConfig") else {}
    theirs = AutoModelForCausalLM.from_pretrained(
        converted.parent, gguf_file="tiny.gguf", torch_dtype=torch.bfloat16, **options
    )
    ours = AutoModelForCausalLM.from_pretrained(converted, torch_dtype="auto")
    assert ours.dtype == torch.bfloat16
    expected = theirs.state_dict()
    assert expected.keys() == ours.state_dict().keys()
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_the_folder_loads_with_tied_embeddings_rope_and_chat_template(converted: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted)
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    rope = getattr(model.config, "rope_parameters", None) or {"rope_theta": model.config.rope_theta}
    assert rope["rope_theta"] == 100000.0
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert text == "<|im_start|>user\nhello<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
