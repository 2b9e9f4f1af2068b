"""The tokenizer in the metadata of a GGUF file, in the format of Hugging Face's tokenizer.json. No torch.

Two kinds exist: byte-level BPE, where the file names the rule that cuts a text into words ("pre"), and SentencePiece's
BPE, where each token's score says how early it is joined.
"""

from collections.abc import Sequence
from typing import Any

from gguf import TokenType

from mp13.errors import ModelError

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
# Each pattern cuts what the one before it left. The names and what they mean are llama.cpp's (src/llama-vocab.cpp).
_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (_QWEN2,)),
    "tekken": (_TEKKEN,),
    "default": _DEFAULT,
}
_LIKE_GPT2, _LIKE_SMOLLM = ("gpt-2", "olmo"), ("smollm", "starcoder", "refact")
_WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken")  # and these put BOS first

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPACE_MARK = "▁"
_SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unknown": 0}  # where the file does not say


def special_id(metadata: dict[str, Any], name: str) -> int | None:
    """The id of the token that GGUF calls `name` ("bos", "eos", "eot", ...); None if there is none.

    Raises:
        ModelError: it is not an id of the vocabulary.
    """
    default = _SENTENCEPIECE_IDS.get(name) if metadata.get("tokenizer.ggml.model") == "llama" else None
    token_id = metadata.get(f"tokenizer.ggml.{name}_token_id", default)
    if token_id is not None and token_id not in range(len(_tokens(metadata))):
        raise ModelError(f"its {name}_token_id is {str(token_id)[:20]}, which is no token of its vocabulary")
    return token_id


def tokenizer_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json.

    Raises:
        ModelError: the tokenizer is of a kind that this does not know, or its lists do not fit together.
    """
    tokens, kinds = _tokens(metadata), _kinds(metadata)
    model = metadata.get("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise ModelError(f"its tokenizer {str(model)[:40]!r} is not one of gpt2, llama")
    parts = _byte_level(metadata) if model == "gpt2" else _sentencepiece(metadata)
    whole = (int(TokenType.CONTROL), int(TokenType.USER_DEFINED))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, tokens[i], kind == whole[0]) for i, kind in enumerate(kinds) if kind in whole],
        "normalizer": None,
        "pre_tokenizer": parts["pre_tokenizer"],
        "post_processor": _post_processor(metadata),
        "decoder": parts["decoder"],
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            **parts["model"],
        },
    }


def tokenizer_config(metadata: dict[str, Any], max_length: int) -> dict[str, Any]:
    """tokenizer_config.json of a model for texts of at most `max_length` tokens."""
    tokens = _tokens(metadata)
    ids = {name: special_id(metadata, in_gguf) for name, in_gguf in _SPECIAL_TOKENS.items()}
    template = metadata.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: tokens[token_id] for name, token_id in ids.items() if token_id is not None},
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": template} if template else {}),
    }


def _byte_level(metadata: dict[str, Any]) -> dict[str, Any]:
    kind, merges = metadata.get("tokenizer.ggml.pre"), metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise ModelError("its tokenizer has no merges")
    known = (*_LIKE_GPT2, *_LIKE_SMOLLM, *_WORDS)
    if kind not in known:
        raise ModelError(f"its tokenizer cuts words in the way {str(kind)[:40]!r}, not one of {', '.join(known)}")
    if kind in _LIKE_GPT2:
        cuts: list[dict[str, Any]] = [_BYTE_LEVEL]
    elif kind in _LIKE_SMOLLM:
        cuts = [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL]
    else:
        split = {"type": "Split", "behavior": "Isolated", "invert": False}
        cuts = [{**split, "pattern": {"Regex": pattern}} for pattern in _WORDS[kind]]
        cuts.append({**_BYTE_LEVEL, "use_regex": False})
    model: dict[str, Any] = {"merges": merges}
    if kind in _WHOLE_WORDS_FIRST:
        model["ignore_merges"] = True
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts}, "decoder": _BYTE_LEVEL, "model": model}


def _sentencepiece(metadata: dict[str, Any]) -> dict[str, Any]:
    """BPE over characters in which ▁ stands for a space; a character without a token is written as its bytes."""
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    unknown = special_id(metadata, "unknown")
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE_MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": _SPACE_MARK,
            "prepend_scheme": "first" if prefix else "never",
            "split": False,
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "unk_token": None if unknown is None else _tokens(metadata)[unknown],
            "fuse_unk": True,
            "byte_fallback": True,
            "merges": _merges_of_scores(metadata),
        },
    }


def _merges_of_scores(metadata: dict[str, Any]) -> list[list[str]]:
    """SentencePiece joins the two neighbours whose whole has the best score: the same as merges in order of score."""
    tokens, scores = _tokens(metadata), metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise ModelError("its tokenizer has no score for each token")
    normal = {
        token: (-float(score), i)
        for i, (token, score, kind) in enumerate(zip(tokens, scores, _kinds(metadata), strict=True))
        if kind == TokenType.NORMAL
    }
    merges = []
    for token, rank in normal.items():
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        merges += [(rank, normal[a][1], [a, b]) for a, b in cuts if a in normal and b in normal]
    return [pair for _, _, pair in sorted(merges)]


def _post_processor(metadata: dict[str, Any]) -> dict[str, Any] | None:
    """What stands before and behind a prompt of plain text."""
    begins = metadata["tokenizer.ggml.model"] == "llama" or metadata.get("tokenizer.ggml.pre") in _WHOLE_WORDS_FIRST
    first = special_id(metadata, "bos") if metadata.get("tokenizer.ggml.add_bos_token", begins) else None
    last = special_id(metadata, "eos") if metadata.get("tokenizer.ggml.add_eos_token", False) else None
    if first is None and last is None:
        return None
    named = {_tokens(metadata)[i]: i for i in (first, last) if i is not None}

    def around(text: str) -> list[dict[str, Any]]:
        ids = ([] if first is None else [first], [] if last is None else [last])
        before, after = ([{"SpecialToken": {"id": _tokens(metadata)[i], "type_id": 0}} for i in side] for side in ids)
        return [*before, {"Sequence": {"id": text, "type_id": 0}}, *after]

    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": around("A") + around("B"),
        "special_tokens": {text: {"id": text, "ids": [i], "tokens": [text]} for text, i in named.items()},
    }


def _added(token_id: int, text: str, special: bool) -> dict[str, Any]:
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token_id, "content": text, **shape}


def _tokens(metadata: dict[str, Any]) -> list[str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ModelError("it has no tokenizer")
    return tokens


def _kinds(metadata: dict[str, Any]) -> Sequence[int]:
    tokens = _tokens(metadata)
    kinds = metadata.get("tokenizer.ggml.token_type")
    if kinds is None:
        return [int(TokenType.NORMAL)] * len(tokens)
    if len(kinds) != len(tokens):
        raise ModelError(f"its tokenizer has {len(tokens)} tokens and {len(kinds)} token types")
    types: list[int] = kinds.tolist()
    return types
