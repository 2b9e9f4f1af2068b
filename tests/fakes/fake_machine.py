"""Machines that do not exist, as the survey would tell of them, and the models on their disks."""

from pathlib import Path
from typing import Any

from mp13.library.machine import Computer, Gpu, Kernel, Package, Survey
from mp13.library.models import ModelOnDisk

GB = 10**9
LAPTOP = Computer("AMD Ryzen 7", 8, 16, ("AVX2", "AVX-512", "AVX-512 BF16"), 16 * GB, 9 * GB)
PACKAGES = (Package("torch", "2.13.0"), Package("transformers", "5.24.0"), Package("peft", "0.21.2"))
NO_GPU = "it needs an NVIDIA GPU, and the device is cpu"
NO_HQQ = "quantization needs the package hqq, which cannot be imported (No module named 'hqq')"
TOO_OLD = "it needs a GPU of compute capability 9.0, and this one has 8.9"
ON_LAPTOP = Survey(
    packages=PACKAGES,
    processor="AVX512, 8 threads",
    cpu_itemsize=2,
    program_bytes=GB // 2,
    attention=(
        Kernel("flash_attention_3", why_not=NO_GPU, fix="choose 'sdpa'"),
        Kernel("flash_attention_2", why_not=NO_GPU, fix="choose 'sdpa'"),
        Kernel("triton", why_not=NO_GPU, fix="choose 'sdpa'"),
        Kernel("flash_attention_4", why_not=NO_GPU, fix="choose 'sdpa'"),
        Kernel("xformers", why_not=NO_GPU, fix="choose 'sdpa'"),
        Kernel("sdpa"),
        Kernel("reference"),
    ),
    attention_auto="sdpa, the fastest at decoding that runs here",
    quantization=tuple(Kernel(f"hqq-{bits}bit", "int4 product") for bits in (8, 4, 3, 2)),
)
ON_CARD = Survey(
    packages=PACKAGES,
    processor="AVX2, 8 threads",
    gpus=(Gpu("NVIDIA GeForce RTX 4070", 12 * GB, 11 * GB, "8.9"),),
    driver="570.124",
    attention=(
        Kernel("flash_attention_3", why_not=TOO_OLD, fix="choose 'sdpa'"),
        Kernel("flash_attention_2", why_not="flash_attn is not installed", fix="pip install 'mp13[flashattn]'"),
        Kernel("triton"),
        Kernel("flash_attention_4", why_not=TOO_OLD, fix="choose 'sdpa'"),
        Kernel("xformers", why_not="xformers is not installed", fix="pip install 'mp13[xformers]'"),
        Kernel("sdpa"),
        Kernel("reference"),
    ),
    attention_auto="triton, the fastest at decoding that runs here (flash_attention_2: flash_attn is not installed)",
    quantization=tuple(
        Kernel(f"hqq-{bits}bit", why_not=NO_HQQ, fix="pip install 'mp13[hqq]'") for bits in (8, 4, 3, 2)
    ),
)
LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip


def _model(name: str, place: Any, size: int, kind: str, unfit: str | None = None) -> ModelOnDisk:
    return ModelOnDisk(name, Path("/models") / name, place, kind, size, "bfloat16", unfit=unfit)


MODELS = [
    _model("meta-llama/Llama-3.1-8B-Instruct", "Hugging Face cache", 16 * GB, "llama"),
    _model("mine", "data folder", GB, "qwen2"),
    _model("org/half", "Hugging Face cache", 0, "llama", "it lacks model.safetensors; fetch the model again"),
    _model("smollm2-135m-instruct", "data folder", GB // 4, "llama"),
]
