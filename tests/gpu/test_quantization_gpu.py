"""Quantized weights on a CUDA GPU: torch's int4 product, what loading needs, adapters on a 4-bit base."""

from pathlib import Path

import pytest
import torch

from mp13 import LLM, SamplingParams
from mp13.engine.config import EngineConfig
from mp13.engine.linear.int4_cuda import Int4CUDAWeight
from mp13.engine.linear.quantized_choice import quantized_weight
from mp13.engine.linear.quantized_tensor import QuantizedTensor, quantize
from mp13.engine.linear.quantized_weight import DequantizedWeight
from mp13.engine.models.loader import load_model
from mp13.errors import ConfigError
from tests.engine.tiny_models import LLAMA_LINEARS, tiny_adapter, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def quantized(rows: int, width: int, bits: int, group_size: int, axis: int = 1) -> QuantizedTensor:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows + width))
    return quantize(weight, bits, group_size, axis, torch.bfloat16, torch.device("cuda:0"))


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("sizes", [(64,), (1024, 256, 256), (8, 16)], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 16, 33, 64, 65, 300])
def test_the_int4_product_is_that_of_the_dequantized_weight(group_size: int, sizes: tuple[int, ...], rows: int) -> None:
    tensors = [quantized(n, 1024, 4, group_size) for n in sizes]
    weight = quantized_weight(tensors, None, demanded=False)
    assert isinstance(weight, Int4CUDAWeight)
    dense = torch.cat([tensor.dense(torch.float32) for tensor in tensors])
    assert torch.equal(weight.dense(torch.float32), dense)
    x = torch.randn(rows, 1024, device="cuda", dtype=torch.bfloat16)
    assert relative_error(weight(x), x.float() @ dense.T) <= 5e-3


def test_the_kernel_dequantizes_as_torch_does() -> None:
    pytest.importorskip("triton")
    weight = quantized_weight([quantized(256, 1024, 4, 64), quantized(24, 1024, 4, 64)], None, demanded=True)
    assert isinstance(weight, Int4CUDAWeight)
    for rows in (range(280), range(8, 16), range(264, 280)):
        found, dense = weight._dequantized(rows, torch.bfloat16), weight._dense(rows, torch.bfloat16)
        torch.testing.assert_close(found, dense, atol=0, rtol=2**-8)  # at most one rounding apart


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_width_and_axis_is_near_the_weight_and_multiplies_as_dequantized(bits: int, axis: int) -> None:
    tensor = quantized(256, 512, bits, 64, axis)
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(256 + 512)).cuda()
    dense = tensor.dense(torch.float32)
    assert relative_error(dense, weight) <= {8: 0.01, 4: 0.12, 3: 0.25, 2: 0.6}[bits]
    x = torch.randn(5, 512, device="cuda", dtype=torch.bfloat16)
    product = DequantizedWeight([tensor], None)(x)
    assert relative_error(product, x.float() @ dense.T) <= 5e-3
    if axis == 1:
        rows = torch.tensor([3, 255, 0], device="cuda")
        assert torch.equal(tensor.rows(rows, torch.float32), dense[rows])


def test_the_int4_product_runs_inside_a_cuda_graph() -> None:
    weight = quantized_weight([quantized(512, 1024, 4, 64)], None, demanded=False)
    x = torch.randn(4, 1024, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        wanted = weight(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = weight(x)
        y.zero_()
        graph.replay()
    assert torch.equal(y, wanted)


@pytest.mark.parametrize("model_impl", ["native", "transformers"])
def test_loading_never_needs_more_than_the_quantized_model_and_its_largest_layer(
    model_impl: str, tmp_path: Path
) -> None:
    hidden, inner, layers, vocab = 2048, 8192, 8, 320
    path = tiny_model(tmp_path, "llama", hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
                      num_attention_heads=16, num_key_value_heads=8)  # fmt: skip
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    config = EngineConfig(str(path), device="cuda", dtype="bfloat16", quantization="hqq-4bit", model_impl=model_impl)
    loaded = load_model(config, lambda stage, fraction: None)
    now, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    numbers = layers * (3 * hidden * inner + 3 * hidden * hidden)
    assert "int4 product" in loaded.notes[-1]
    assert now <= 1.05 * (numbers * (0.5 + 4 / 64) + 4 * vocab * hidden)
    pieces = 12 * 4 * (1 << 22)
    assert peak <= now + 2 * 2 * hidden * inner + pieces
    assert peak < 0.8 * 2 * numbers


@pytest.mark.parametrize("model_impl", ["native", "transformers"])
def test_adapters_on_a_4_bit_base_say_what_they_say_on_its_dequantized_weights(
    model_impl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(tmp_path / "model", "llama", hidden_size=256, intermediate_size=512, num_attention_heads=4)
    adapters = {
        "a": tiny_adapter(tmp_path / "a", path, targets=LLAMA_LINEARS),
        "d": tiny_adapter(tmp_path / "d", path, targets=("q_proj", "down_proj"), use_dora=True, seed=2),
    }
    prompts = [[3 + (7 * i * i + 31 * seed + i) % 300 for i in range(30)] for seed in range(4)]
    mixes = ["base", "a", "d:0.5", "a:0.7+d:-0.4"]

    def scores() -> torch.Tensor:
        llm = LLM(path, device="cuda", dtype="bfloat16", quantization="hqq-4bit", model_impl=model_impl,
                  kv_cache_memory="16MiB")  # fmt: skip
        for name, folder in adapters.items():
            llm.load_adapter(folder, name)
        assert all(out.token_ids for out in llm.generate(prompts, GREEDY, mixes))
        return torch.tensor([row[1:] for row in llm.score(prompts, mixes)])

    by_kernel = scores()
    monkeypatch.setattr(Int4CUDAWeight, "few_rows", 0)  # the same codes, dequantized for every product
    gap = (by_kernel - scores()).abs()
    assert gap.mean() < 0.05  # rounding in bfloat16; the mixes themselves are far further apart
    assert (by_kernel[0] - by_kernel[1]).abs().mean() > 0.5


def test_the_int4_product_is_refused_in_float16(tmp_path: Path) -> None:
    path = tiny_model(tmp_path, "llama", hidden_size=256, intermediate_size=512, num_attention_heads=4)
    with pytest.raises(ConfigError, match="needs dtype bfloat16 on a GPU, and this is float16"):
        LLM(path, device="cuda", dtype="float16", quantization="hqq-4bit kernel int4")
    info = LLM(path, device="cuda", dtype="float16", quantization="hqq-4bit", kv_cache_memory="16MiB").info
    assert "dequantized before each product" in info.notes[-1]
