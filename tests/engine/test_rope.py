"""Rotary embeddings stretched by YaRN are those of the Transformers that is installed, or are left to it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mp13 import LLM
from mp13.engine.models.decoder_config import rope_parameters, why_not_native
from mp13.engine.models.rope import rope_config
from mp13.errors import ModelError
from tests.engine.gguf_files import write_gguf
from tests.engine.tiny_models import reference_logits, reference_model, tiny_model

TEXT = list(range(3, 200))
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0}
YARNS = {  # models have 512 positions
    "no original length": YARN,
    "lengths that agree with the factor": YARN | {"original_max_position_embeddings": 128},
    "lengths that do not": YARN | {"original_max_position_embeddings": 256},
    "ends within a pair": YARN | {"original_max_position_embeddings": 128, "truncate": False},
}


def engine(model: Path) -> LLM:
    return LLM(str(model), dtype="float32", device="cpu", kv_cache_memory="4MiB")


@pytest.mark.parametrize("case", YARNS)
def test_yarn_computes_what_transformers_computes(tmp_path: Path, case: str) -> None:
    model = tiny_model(tmp_path / "model", rope_scaling=dict(YARNS[case]), rope_theta=10000.0)
    expected = reference_logits(reference_model(model), TEXT).log_softmax(-1)
    (ours,) = engine(model).score([TEXT])
    for i in range(1, len(TEXT)):
        assert ours[i] == pytest.approx(float(expected[i - 1, TEXT[i]]), abs=1e-4), i


def as_in_transformers_4(case: str) -> Any:
    return SimpleNamespace(
        model_type="llama", hidden_act="silu", max_position_embeddings=512, rope_theta=10000.0, rope_scaling=YARNS[case]
    )


def test_without_an_original_length_it_is_the_model_s() -> None:
    rope = rope_config(rope_parameters(as_in_transformers_4("no original length")))
    assert (rope.original_max_len, rope.factor) == (512, 4.0)


def test_what_transformers_4_reads_in_another_way_is_left_to_it() -> None:
    assert [why_not_native(as_in_transformers_4(case)) for case in YARNS] == [
        None,
        None,
        "Transformers 4 stretches its YaRN embedding by 2, although it says 4",
        "Transformers 4 does not know `truncate` of a YaRN embedding",
    ]


def test_a_gguf_file_that_is_left_to_transformers_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "model"))
    monkeypatch.setattr("mp13.engine.models.support.why_not_native", lambda config: "it is odd")
    with pytest.raises(
        ModelError, match=r"\(it is odd\) cannot read a GGUF file; use this model's safetensors instead"
    ):
        engine(path)
