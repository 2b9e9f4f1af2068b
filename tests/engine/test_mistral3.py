"""Ministral 3: its text tower in our decoder, out of every layout it is published in, and mistral-common's prompts."""

import copy
import json
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mp13 import LLM, SamplingParams
from mp13.engine.models.fp8 import dequantized
from mp13.engine.models.mistral_tokenizer import MistralTokenizer, mistral_tokenizer_file
from mp13.engine.text.chat_template import ChatMessage, begun_ids, chat_token_ids, continuation_ids, template_digest
from mp13.engine.text.detokenizer import Detokenizer
from mp13.errors import AdapterError, ConfigError, ModelError
from tests.engine.tiny_models import randomize, reference_logits, tiny_adapter, tiny_model, tiny_tokenizer

needs_ministral3 = pytest.mark.skipif(
    not hasattr(transformers, "Ministral3Config"), reason="this Transformers has no Ministral 3"
)
NUM_SPECIAL, VOCAB_SIZE = 1000, 2000
ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1}  # fmt: skip
SHAPE = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
         "rope_parameters": ROPE}  # fmt: skip
TEXT = [1, *range(1000, 1120)]  # several times the context that the queries' scale is measured in


def write_tekken(folder: Path, version: str = "v13") -> Path:
    """The tokenizer file that mistral-common ships, cut to a small vocabulary, as of `version`."""
    data = copy.deepcopy(small_tekken())
    data["config"]["version"] = version
    (folder / "tekken.json").write_text(json.dumps(data), encoding="utf-8")
    return folder / "tekken.json"


@cache
def small_tekken() -> dict[str, Any]:
    pytest.importorskip("mistral_common")
    from mistral_common.tokens.tokenizers.base import SpecialTokens
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    data: dict[str, Any] = json.loads(shipped_tekken().read_text(encoding="utf-8"))
    data["config"]["default_vocab_size"] = VOCAB_SIZE
    data["vocab"] = data["vocab"][: VOCAB_SIZE - NUM_SPECIAL]
    special = [dict(token) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    known = {str(getattr(token["token_str"], "value", token["token_str"])) for token in special}
    names = [*(token["token_str"] for token in special), *(t for t in SpecialTokens if t.value not in known)]
    data["special_tokens"] = [
        {"rank": rank, "token_str": str(getattr(name, "value", name)), "is_control": True}
        for rank, name in enumerate(names)
    ]
    return data


def shipped_tekken() -> Path:
    package = pytest.importorskip("mistral_common")
    return Path(package.__file__).parent / "data" / "tekken_240911.json"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> MistralTokenizer:
    return MistralTokenizer(write_tekken(tmp_path_factory.mktemp("tekken")))


def write_text_model(folder: Path, **config: Any) -> Any:
    """A random Ministral3ForCausalLM in `folder`, without a tokenizer; returns the model."""
    text = transformers.Ministral3Config(**{**SHAPE, "rope_parameters": dict(ROPE), **config})
    model = transformers.Ministral3ForCausalLM(text).eval()
    model.set_attn_implementation("eager")
    randomize(model, 0)
    model.save_pretrained(folder)
    return model


def write_whole_model(folder: Path, text_model: Any, prefix: str) -> Path:
    """The same text within a Mistral3ForConditionalGeneration, its tensors named with `prefix`."""
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "head_dim": 8, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Mistral3Config(text_config=text_model.config.to_dict(), vision_config=vision)
    whole = transformers.Mistral3ForConditionalGeneration(config)
    state = {name: w.clone() for name, w in whole.state_dict().items() if "language_model" not in name}
    state.pop("lm_head.weight", None)
    state |= {f"{prefix}.{n}": w.clone() for n, w in text_model.model.state_dict().items()}
    if not text_model.config.tie_word_embeddings:
        head = "lm_head.weight" if prefix.startswith("model.") else "language_model.lm_head.weight"
        state[head] = text_model.lm_head.weight.detach().clone()
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def engine(folder: Path, **options: Any) -> LLM:
    return LLM(str(folder), **{"dtype": "float32", "device": "cpu", "kv_cache_memory": "8MiB", **options})


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ministral")
    write_text_model(folder)
    write_tekken(folder)
    return folder


@needs_ministral3
@pytest.mark.parametrize("model_impl", ["native", "transformers"])
def test_the_text_model_computes_what_transformers_computes(tmp_path: Path, model_impl: str) -> None:
    model = write_text_model(tmp_path)
    write_tekken(tmp_path)
    llm = engine(tmp_path, model_impl=model_impl)
    expected = torch.log_softmax(reference_logits(model, TEXT), -1)
    (ours,) = llm.score([TEXT])
    for i in range(1, len(TEXT)):
        assert ours[i] == pytest.approx(float(expected[i - 1, TEXT[i]]), abs=1e-4), i


@needs_ministral3
def test_what_makes_it_another_than_mistral_matters(tmp_path: Path) -> None:
    scores = []
    for name, change in {
        "whole": {},
        "beta": {"llama_4_scaling_beta": 0.0},
        "scale": {"attention_factor": 1.2},
    }.items():
        write_text_model(tmp_path / name, rope_parameters=ROPE | change)
        write_tekken(tmp_path / name)
        scores.append(engine(tmp_path / name).score([TEXT])[0])
    assert scores[0] != scores[1]
    assert scores[0][:32] == pytest.approx(scores[1][:32])  # queries grow from the second context on
    assert scores[0][2:] != pytest.approx(scores[2][2:], abs=1e-3)


@needs_ministral3
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("prefix", ["language_model.model", "model.language_model"])
def test_the_text_within_the_model_of_images_is_the_same(tmp_path: Path, prefix: str, tied: bool) -> None:
    text = write_text_model(tmp_path / "text", tie_word_embeddings=tied)
    write_whole_model(tmp_path / "whole", text, prefix)
    for folder in (tmp_path / "text", tmp_path / "whole"):
        write_tekken(folder)
    whole = engine(tmp_path / "whole")
    assert whole.score([TEXT]) == engine(tmp_path / "text").score([TEXT])
    assert whole.info.model_type == "mistral3"


@needs_ministral3
def test_adapters_of_either_form_fit_either(tmp_path: Path) -> None:
    text = write_text_model(tmp_path / "text", tie_word_embeddings=True)
    write_whole_model(tmp_path / "whole", text, "model.language_model")
    adapter = tiny_adapter(tmp_path / "a", tmp_path / "text")
    inner = tmp_path / "inner"
    shutil.copytree(adapter, inner)
    renamed = {n.replace("model.model.", "model.model.language_model."): w for n, w in
               load_file(adapter / "adapter_model.safetensors").items()}  # fmt: skip
    save_file(renamed, inner / "adapter_model.safetensors")
    scores = []
    for folder, path in ((tmp_path / "text", adapter), (tmp_path / "whole", adapter), (tmp_path / "whole", inner)):
        write_tekken(folder)
        llm = engine(folder)
        llm.load_adapter(path, "a")
        scores.append(llm.score([TEXT], adapters="a"))
        assert scores[-1] != llm.score([TEXT])
    assert scores[0] == scores[1] == scores[2]


def in_fp8(weight: torch.Tensor, blocks: tuple[int, int] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight in fp8 and its scales, one for all or one for each block."""
    if blocks is None:
        scale = weight.abs().max() / 448
        return (weight / scale).to(torch.float8_e4m3fn), scale
    a, b = (-(-size // block) for size, block in zip(weight.shape, blocks, strict=True))
    scale = torch.rand(a, b) * 0.01 + 0.001
    wide = scale.repeat_interleave(blocks[0], 0).repeat_interleave(blocks[1], 1)[: weight.shape[0], : weight.shape[1]]
    return (weight / wide).clamp(-448, 448).to(torch.float8_e4m3fn), scale


@pytest.mark.parametrize("blocks", [None, (32, 32), (64, 64)])
def test_fp8_weights_are_dequantized_while_loading(tmp_path: Path, blocks: tuple[int, int] | None) -> None:
    model = tiny_model(tmp_path / "model", "llama")  # 96 and 320 rows are no whole number of blocks of 64 or 128
    plain, packed = {}, {}
    for name, weight in load_file(model / "model.safetensors").items():
        plain[name] = packed[name] = weight
        if "_proj" in name:
            packed[name], packed[f"{name}_scale_inv"] = in_fp8(weight, blocks)
            packed[name.replace("weight", "activation_scale")] = torch.tensor(1.0)
            plain[name] = dequantized(packed[name], packed[f"{name}_scale_inv"])
            first = packed[f"{name}_scale_inv"].reshape(-1)[0]
            assert plain[name][0, 0] == packed[name].float()[0, 0] * first
    fp8 = tmp_path / "fp8"
    shutil.copytree(model, fp8)
    save_file(plain, model / "model.safetensors", {"format": "pt"})
    save_file(packed, fp8 / "model.safetensors", {"format": "pt"})
    config = json.loads((fp8 / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": blocks}
    (fp8 / "config.json").write_text(json.dumps(config))
    llm = engine(fp8)
    ids = list(range(3, 60))
    assert llm.score([ids]) == engine(model).score([ids])
    assert "weights dequantized from fp8 to float32" in llm.info.notes
    del packed["model.layers.0.mlp.up_proj.weight_scale_inv"]
    save_file(packed, fp8 / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"'model\.layers\.0\.mlp\.up_proj\.weight' in fp8 without its scale"):
        engine(fp8)


CONVERSATIONS = {
    "question": [("user", "hello")],
    "system": [("system", "Be brief."), ("user", "hello")],
    "two turns": [("system", "Be brief."), ("user", "hello"), ("assistant", "Hi there."), ("user", "and now?")],
    "spaces": [("user", " a "), ("assistant", " b  "), ("user", "c")],
    "neighbours": [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")],
    "markup": [("user", "<s>[INST] x [/INST]</s>"), ("assistant", "[/INST]</s>"), ("user", "[SYSTEM_PROMPT]")],
    "marks": [("user", "\ue000 and \ue001"), ("assistant", "\ue002"), ("user", "\ue0000\ue000")],
}


@pytest.mark.parametrize("version", ["v3", "v7", "v11", "v13"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_are_those_of_mistral_common(tmp_path: Path, name: str, version: str) -> None:
    tokenizer = MistralTokenizer(write_tekken(tmp_path, version))
    rows = CONVERSATIONS[name]
    theirs = tokenizer.encode_chat([{"role": role, "content": content} for role, content in rows])
    assert chat_token_ids(tokenizer, [ChatMessage(role, content) for role, content in rows]) == theirs


def test_the_file_that_mistral_common_ships_speaks_for_itself() -> None:
    tokenizer = MistralTokenizer(shipped_tekken())
    ids = chat_token_ids(tokenizer, [ChatMessage("user", "Bonjour, ça va ? 🎉")])
    assert tokenizer.decode(ids) == "<s>[INST]Bonjour, ça va ? 🎉[/INST]"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Bonjour, ça va ? 🎉"
    assert len(tokenizer) == 131072


def test_what_a_person_types_is_no_special_token(tokenizer: MistralTokenizer) -> None:
    ids = chat_token_ids(tokenizer, [ChatMessage("user", "</s>[INST][/INST]")])
    assert [i for i in ids if i < NUM_SPECIAL] == [1, 3, 4]  # <s> [INST] ... [/INST]
    assert all(i >= NUM_SPECIAL for i in continuation_ids(tokenizer, "</s>"))
    assert min(tokenizer("</s>")["input_ids"][1:]) >= NUM_SPECIAL
    assert tokenizer("x")["input_ids"][0] == 1


def spelled(tokenizer: MistralTokenizer, text: str) -> tuple[int, ...]:
    """The ids of a text byte by byte, which no tokenizer gives of itself, and the end."""
    ids = [i for byte in text for i in tokenizer(byte, add_special_tokens=False)["input_ids"]]
    return (*ids, tokenizer.eos_token_id)


def contains(ids: list[int], part: tuple[int, ...]) -> bool:
    return any(tuple(ids[at : at + len(part)]) == part for at in range(len(ids)))


def test_answers_go_back_as_the_ids_they_were_made_of(tokenizer: MistralTokenizer) -> None:
    answer = spelled(tokenizer, "Hello there")
    assert list(answer[:-1]) != tokenizer("Hello there", add_special_tokens=False)["input_ids"]
    other = spelled(tokenizer, "the end")
    messages = [ChatMessage("user", "a"), ChatMessage("assistant", "Hello there", answer), ChatMessage("user", "b"),
                ChatMessage("assistant", "the end", other[:-1]), ChatMessage("user", "c")]  # fmt: skip
    ids = chat_token_ids(tokenizer, messages)
    assert contains(ids, answer)
    assert contains(ids, other)
    plain = chat_token_ids(tokenizer, [ChatMessage(m.role, m.content) for m in messages])
    assert tokenizer.decode(ids) == tokenizer.decode(plain)


def test_ids_that_spell_something_else_are_left_out(tokenizer: MistralTokenizer) -> None:
    for content, ids in {"Hello": spelled(tokenizer, "Bye"), "Hello ": spelled(tokenizer, "Hello ")}.items():
        rows = [("user", "a"), ("assistant", content), ("user", "b")]
        theirs = tokenizer.encode_chat([{"role": role, "content": text} for role, text in rows])
        given = [ChatMessage(role, text, ids if role == "assistant" else None) for role, text in rows]
        assert chat_token_ids(tokenizer, given) == theirs  # mistral-common shows no space at an answer's end


def test_an_answer_that_goes_on_keeps_its_ids_and_a_text_alone_gives_none_that_is_special(
    tokenizer: MistralTokenizer,
) -> None:
    made, ending = spelled(tokenizer, "Hello there"), {tokenizer.eos_token_id}
    assert begun_ids(tokenizer, ChatMessage("assistant", "Hello", made), ending) == list(made[:-1])
    of_text = begun_ids(tokenizer, ChatMessage("assistant", "Bye</s>", made), ending)
    assert tokenizer.decode(of_text) == "Bye</s>"
    assert min(of_text) >= NUM_SPECIAL


def test_an_answer_cut_off_before_its_first_word_does_not_end_the_conversation(tokenizer: MistralTokenizer) -> None:
    rows = [ChatMessage("user", "a"), ChatMessage("assistant", ""), ChatMessage("user", "b")]
    assert tokenizer.decode(chat_token_ids(tokenizer, rows)) == "<s>[INST]a[/INST]</s>[INST]b[/INST]"


@pytest.mark.parametrize("version", ["v3", "v13"])
def test_the_past_is_what_the_next_turn_begins_with(tmp_path: Path, version: str) -> None:
    tokenizer = MistralTokenizer(write_tekken(tmp_path, version))
    past = [ChatMessage("user", "a"), ChatMessage("assistant", "Hello", spelled(tokenizer, "Hello"))]
    ids = chat_token_ids(tokenizer, past, is_past=True)
    following = chat_token_ids(tokenizer, [*past, ChatMessage("user", "more")])
    assert following[: len(ids)] == ids
    assert ids[-1] == tokenizer.eos_token_id


def test_a_past_of_joined_answers_is_what_the_next_turn_begins_with(
    tokenizer: MistralTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SentencePiece puts a space before a text, but not before the second of two answers in a row, which are one."""
    alone = MistralTokenizer.__call__

    def with_space(self: MistralTokenizer, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return alone(self, f" {text}", add_special_tokens)

    monkeypatch.setattr(MistralTokenizer, "__call__", with_space)
    past = [ChatMessage("user", "a"), ChatMessage("assistant", "so"), ChatMessage("assistant", "Hello")]
    ids = chat_token_ids(tokenizer, past, is_past=True)
    assert tokenizer.decode(ids) == "<s>[INST]a[/INST]so\n\nHello</s>"
    assert chat_token_ids(tokenizer, [*past, ChatMessage("user", "more")])[: len(ids)] == ids


def test_a_conversation_that_mistral_common_refuses_is_a_sentence(tokenizer: MistralTokenizer) -> None:
    with pytest.raises(ConfigError, match="mistral-common refuses this conversation: Unknown message role: narrator"):
        chat_token_ids(tokenizer, [ChatMessage("narrator", "x")])


def test_text_streams_without_half_characters(tokenizer: MistralTokenizer) -> None:
    text = "naïve 日本語 🎉 end"
    stream = Detokenizer(tokenizer)
    pieces = [stream.add(i) for i in (*tokenizer(text, add_special_tokens=False)["input_ids"], 2)]
    assert "".join(pieces) + stream.flush() == text
    assert "�" not in "".join(pieces)
    assert sum(map(bool, pieces)) > 5


def test_the_digest_is_of_the_file_and_the_library(tmp_path: Path, tokenizer: MistralTokenizer) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    same.mkdir()
    other.mkdir()
    assert template_digest(MistralTokenizer(write_tekken(same))) == template_digest(tokenizer)
    assert template_digest(MistralTokenizer(write_tekken(other, "v7"))) != template_digest(tokenizer)
    reloaded = MistralTokenizer(same / "tekken.json")
    reloaded._version = "another"
    assert template_digest(reloaded) != template_digest(tokenizer)


def test_which_tokenizer_speaks_for_a_folder(tmp_path: Path) -> None:
    assert mistral_tokenizer_file(tmp_path, "mistral3") is None
    (tmp_path / "tokenizer.model.v3").touch()
    assert mistral_tokenizer_file(tmp_path, "mistral") == tmp_path / "tokenizer.model.v3"
    (tmp_path / "tekken.json").touch()
    assert mistral_tokenizer_file(tmp_path, "mistral") == tmp_path / "tekken.json"
    (tmp_path / "tokenizer.json").touch()
    assert mistral_tokenizer_file(tmp_path, "mistral") is None
    assert mistral_tokenizer_file(tmp_path, "mistral3") == tmp_path / "tekken.json"


def test_without_mistral_common_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mistral_common")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mistral_common", None)
    with pytest.raises(ModelError, match=r'needs mistral-common, .*; pip install "mp13\[mistral3\]"'):
        MistralTokenizer(tmp_path / "tekken.json")


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no tokenizer": lambda data: data.clear(),
    "version": lambda data: data["config"].update(version="v99"),
    "vocabulary": lambda data: data.update(vocab=data["vocab"][:10]),
    "special tokens": lambda data: data.pop("special_tokens"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_tokenizer_is_a_sentence(tmp_path: Path, case: str) -> None:
    path = write_tekken(tmp_path)
    data = json.loads(path.read_text(encoding="utf-8"))
    BROKEN[case](data)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match=rf"the tokenizer {path} cannot be read: .{{1,200}}$"):
        MistralTokenizer(path)


@needs_ministral3
def test_a_conversation_goes_on_upon_its_cache(text_folder: Path) -> None:
    llm = engine(text_folder)
    assert 2 in llm.info.eos_token_ids
    messages: list[dict[str, Any]] = [{"role": "user", "content": "the quick brown fox jumps over the lazy dog"}]
    (first,) = llm.chat([messages], SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))
    answer = {"role": "assistant", "content": first.text, "token_ids": list(first.token_ids)}
    (second,) = llm.chat([[*messages, answer, {"role": "user", "content": "and"}]], SamplingParams(max_tokens=1))
    assert second.metrics.cached_tokens >= first.metrics.prompt_tokens + 16


@needs_ministral3
def test_adapters_may_bring_no_template_but_the_models_own(text_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(text_folder, folder)
    (folder / "chat_template.jinja").write_text("[INST]{{ messages }}")
    adapter = tiny_adapter(tmp_path / "a", text_folder)
    (adapter / "chat_template.jinja").write_text("[INST]{{ messages }}\n")
    llm = engine(folder)
    assert llm.load_adapter(adapter, "a").name == "a"
    (adapter / "chat_template.jinja").write_text("other")
    with pytest.raises(AdapterError, match="brings a chat template of its own, and mistral-common"):
        llm.load_adapter(adapter, "a")


def test_a_text_model_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    config = {"model_type": "mistral3", "text_config": {"model_type": "ministral99"}}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"is of type 'ministral99', which Transformers .* does not know"):
        engine(model)


def test_a_ministral_with_transformers_own_tokenizer_needs_no_mistral_common(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    assert mistral_tokenizer_file(tmp_path, "ministral3") is None
