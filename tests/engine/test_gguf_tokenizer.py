"""Tokenizers out of GGUF metadata: the ids of the tokenizer that the file was made from."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import TokenType
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mp13.engine.models.gguf_tokenizer import tokenizer_config, tokenizer_json
from mp13.errors import ModelError
from tests.engine.tiny_models import tiny_tokenizer
from tests.engine.tiny_tokenizers import make_tokenizer
from tests.fakes.tiny_starter import byte_alphabet

TEXTS = [
    "", " ", "hello world", " hello", "  two  spaces ", "the quick\nbrown\r\n\tfox", "don't WON'T", "1234567 2024",
    "ünïcödé naïve", "日本語 and 한국어", "👩‍👩‍👧 emoji 🎉", "<|im_start|>user\nhi<|im_end|>", "\x00\x1f",
    "▁ mark", "x = [i**2 for i in range(10)]  # code", "...!?;:", "\n\n\n", "tab\there", "CamelCaseWords",
    "a<think>b</think>",
]  # fmt: skip


def random_texts(count: int) -> list[str]:
    """Pieces of all sorts, put together at random."""
    draw = random.Random(0)
    pieces = [
        *TEXTS,
        "the",
        "fox",
        " and",
        "0",
        "'s",
        "\n",
        "  ",
        "é",
        "ß",
        "ſ",
        "Ⅷ",
        "½",
        "🙂",
        "\u200d",
        "<",
        ">",
        "|",
    ]
    return TEXTS + ["".join(draw.choices(pieces, k=draw.randint(1, 8))) for _ in range(count - len(TEXTS))]


def loaded(metadata: dict[str, Any], folder: Path) -> PreTrainedTokenizerBase:
    """As the loader does it."""
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(metadata)))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(metadata, 512)))
    return PreTrainedTokenizerFast.from_pretrained(folder)


def byte_level(pre: str, **more: Any) -> dict[str, Any]:
    """Bytes and a few words, as the metadata has them; the names of `more` lack their `tokenizer.ggml.`."""
    tokens = ["<s>", "</s>", "<think>", *byte_alphabet(), "he", "ll", "hell", "hello", "12", "123", "ĠH"]
    kinds = [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED] + [TokenType.NORMAL] * (len(tokens) - 3)
    fields = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "token_type": np.array(kinds, np.int32),
        "merges": ["h e", "l l", "he ll", "1 2", "12 3", "Ġ H"], "bos_token_id": 0, "eos_token_id": 1, **more,
    }  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


def sentencepiece(original: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a converter writes for a SentencePiece model: scores in place of merges, no special treatment of order."""
    data = json.loads(original.backend_tokenizer.to_str())
    vocab: dict[str, int] = data["model"]["vocab"]
    added = {token["content"]: token for token in data["added_tokens"]}
    tokens = sorted({**vocab, **{text: token["id"] for text, token in added.items()}}.items(), key=lambda item: item[1])
    first_merge = {"".join(pair): -rank for rank, pair in reversed(list(enumerate(data["model"]["merges"])))}
    kinds = [
        TokenType.UNKNOWN if text == "<unk>"
        else TokenType.BYTE if text.startswith("<0x")
        else TokenType.NORMAL if text not in added
        else TokenType.CONTROL if added[text]["special"] else TokenType.USER_DEFINED
        for text, _ in tokens
    ]  # fmt: skip
    fields = {
        "model": "llama", "tokens": [text for text, _ in tokens], "token_type": np.array(kinds, np.int32),
        "scores": np.array([first_merge.get(text, -1e6) for text, _ in tokens], np.float32),
        "bos_token_id": added["<s>"]["id"], "eos_token_id": added["</s>"]["id"], "unknown_token_id": 0,
    }  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


def test_sentencepiece_scores_are_the_merges_they_came_from(tmp_path: Path) -> None:
    original = make_tokenizer("sentencepiece")
    ours = loaded(sentencepiece(original), tmp_path)
    for text in random_texts(200):
        ids = original(text, add_special_tokens=False)["input_ids"]
        assert ours(text, add_special_tokens=False)["input_ids"] == ids, text
        assert ours.decode(ids) == original.decode(ids)


def test_sentencepiece_joins_over_spaces(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "▁b", "▁a▁b"]
    fields = {"model": "llama", "tokens": tokens, "scores": np.array([0, 0, 0, -9, -9, -9, -1, -2, -3], np.float32),
              "token_type": np.array([2, 3, 3, 1, 1, 1, 1, 1, 1], np.int32)}  # fmt: skip
    tokenizer = loaded({f"tokenizer.ggml.{name}": value for name, value in fields.items()}, tmp_path)
    assert tokenizer.tokenize("a b") == ["▁a▁b"]
    assert tokenizer("a b a")["input_ids"] == [1, 8, 6]  # its special tokens are where they always are


def test_sentencepiece_puts_its_beginning_first_and_a_space_unless_told_not_to(tmp_path: Path) -> None:
    metadata = sentencepiece(make_tokenizer("sentencepiece"))
    begin = metadata["tokenizer.ggml.bos_token_id"]
    assert loaded(metadata, tmp_path)("hello")["input_ids"][0] == begin
    with_space = loaded(metadata, tmp_path).tokenize("hello")
    metadata |= {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
    assert loaded(metadata, tmp_path)("hello")["input_ids"][0] != begin
    assert "".join(with_space) == "▁" + "".join(loaded(metadata, tmp_path).tokenize("hello"))


WORDS = {  # of "Hello12345 WORLD'S\n\n x_y  ", as each kind cuts it
    "gpt-2": ["Hello", "12345", "ĠWORLD", "'", "S", "ĊĊ", "Ġx", "_", "y", "ĠĠ"],
    "smollm": ["Hello", "1", "2", "3", "4", "5", "ĠWORLD", "'", "S", "ĊĊ", "Ġx", "_", "y", "ĠĠ"],
    "llama-bpe": ["Hello", "123", "45", "ĠWORLD", "'S", "ĊĊ", "Ġx", "_y", "ĠĠ"],
    "qwen2": ["Hello", "1", "2", "3", "4", "5", "ĠWORLD", "'S", "ĊĊ", "Ġx", "_y", "ĠĠ"],
    "tekken": ["Hello", "1", "2", "3", "4", "5", "ĠWORLD", "'S", "ĊĊ", "Ġx", "_y", "ĠĠ"],
    "default": ["Hello", "123", "45", "ĠWORLD", "'", "S", "ĊĊ", "Ġx", "_", "y", "ĠĠ"],
}


@pytest.mark.parametrize("kind", WORDS)
def test_each_kind_of_byte_level_tokenizer_cuts_words_its_own_way(tmp_path: Path, kind: str) -> None:
    backend = loaded(byte_level(kind), tmp_path).backend_tokenizer
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str("Hello12345 WORLD'S\n\n x_y  ")]
    assert words == WORDS[kind]


def test_tekken_parts_words_where_capitals_begin(tmp_path: Path) -> None:
    backend = loaded(byte_level("tekken"), tmp_path).backend_tokenizer
    assert [word for word, _ in backend.pre_tokenizer.pre_tokenize_str("helloWorld ABc")] == ["hello", "World", "ĠABc"]


@pytest.mark.parametrize("kind", WORDS)
def test_every_text_comes_back_from_its_tokens(tmp_path: Path, kind: str) -> None:
    tokenizer = loaded(byte_level(kind), tmp_path)
    for text in random_texts(200):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_whole_words_go_before_merges_where_the_kind_says_so(tmp_path: Path) -> None:
    assert loaded(byte_level("llama-bpe"), tmp_path).tokenize("hello") == ["hello"]
    assert loaded(byte_level("qwen2"), tmp_path).tokenize("hello") == ["hell", "o"]  # there is no merge to "hello"


def test_plain_prompts_begin_and_end_as_the_file_says(tmp_path: Path) -> None:
    def ids(pre: str, **flags: bool) -> list[int]:
        found: list[int] = loaded(byte_level(pre, **flags), tmp_path)("h")["input_ids"]
        return found

    h = ids("qwen2")
    assert len(h) == 1
    assert ids("llama-bpe") == ids("qwen2", add_bos_token=True) == [0, *h]
    assert ids("llama-bpe", add_bos_token=False) == h
    assert ids("qwen2", add_eos_token=True) == [*h, 1]


def test_control_tokens_are_special_and_the_users_own_are_not(tmp_path: Path) -> None:
    tokenizer = loaded(byte_level("qwen2"), tmp_path)
    assert {i: t.special for i, t in tokenizer.added_tokens_decoder.items()} == {0: True, 1: True, 2: False}
    ids = tokenizer("<think>h</s>", add_special_tokens=False)["input_ids"]
    assert ids[0] == 2
    assert ids[-1] == tokenizer.eos_token_id == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>h"


def test_bytes_and_merges_are_those_of_the_original(tmp_path: Path) -> None:
    original = tiny_tokenizer()
    data = json.loads(original.backend_tokenizer.to_str())
    tokens = sorted(original.get_vocab(), key=original.get_vocab().__getitem__)
    kinds = [TokenType.CONTROL if text in original.all_special_tokens else TokenType.NORMAL for text in tokens]
    fields = {"tokens": tokens, "token_type": np.array(kinds, np.int32), "eos_token_id": original.eos_token_id,
              "merges": [" ".join(pair) for pair in data["model"]["merges"]]}  # fmt: skip
    ours = loaded(byte_level("gpt-2", **fields), tmp_path)
    for text in random_texts(200):
        assert ours(text)["input_ids"] == original(text)["input_ids"], text


def test_a_tokenizer_whose_scores_are_missing_is_refused() -> None:
    metadata = sentencepiece(make_tokenizer("sentencepiece"))
    del metadata["tokenizer.ggml.scores"]
    with pytest.raises(ModelError, match="no score for each token"):
        tokenizer_json(metadata)
