"""Hostile adapter folders: what to do to a good one, and the reason that it must be refused with."""

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.engine.adapter_world import Q0, Change, change_config, change_header, change_tensors, put


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
    "head that is not the base's": (
        put("base_model.model.lm_head.base_layer.weight", torch.ones(320, 64)),
        "tensors for 'lm_head', which target_modules does not name",
    ),
    "embeddings as a whole": (
        put("base_model.model.model.embed_tokens.weight", torch.ones(320, 64)),
        "`mp13 adapters merge good --model OUT` makes a model of it",
    ),
    "a LoRA of the embeddings": (
        put("base_model.model.model.embed_tokens.lora_embedding_A", torch.ones(4, 320)),
        "`mp13 adapters merge good --model OUT` makes a model of it",
    ),
    "another base layer as a whole": (put(f"{Q0}.base_layer.weight", torch.ones(64, 64)), "the model has no module"),
    "a tensor under two names": (
        put(f"{Q0.removeprefix('base_model.model.')}.lora_A.weight", torch.ones(4, 64)), "are one tensor twice",
    ),
    "rank over the maximum": (lambda f: change_config(f, r=9), "rank 9 is over max_lora_rank = 8"),
    "a long strange key": (put("k" * 9000, torch.ones(1)), "is not part of a LoRA of linear layers"),
}  # fmt: skip


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
    "type unknown": (entry(dtype="F7"), "is not where a tensor 'F7' [4, 64] fits"),
    "shape is a number": (entry(shape=5), "header cannot be read"),
    "shape is infinite": (entry(shape=[4, math.inf]), "header cannot be read"),
    "shape is long": (entry(shape=[4] * 9000), "is not where a tensor 'F32' [4, 4"),
    "no offsets": (entry(data_offsets=None), "header cannot be read"),
    "three offsets": (entry(data_offsets=[0, 1, 2]), "header cannot be read"),
    "offsets backwards": (entry(data_offsets=[1024, 0]), "header cannot be read"),
    "offsets of text": (entry(data_offsets=["0", "9"]), "header cannot be read"),
    "offsets that overlap": (entry(data_offsets=[512, 1536]), "overlap or leave gaps at byte 0"),
    "offset far away": (entry(data_offsets=[0, 2**70]), "is not where a tensor 'F32' [4, 64] fits"),
    "a tensor that ends elsewhere": (entry(data_offsets=[2**40, 2**40 + 1024]), "overlap or leave gaps at byte 0"),
}


def lying(dtype: str, shape: list[int], num_bytes: int) -> Change:
    """A file as large as it says, of one tensor as large as it says; it takes no room on the disk."""

    def change(folder: Path) -> None:
        text = json.dumps({f"{Q0}.lora_A.weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, num_bytes]}})
        path = folder / "adapter_model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode())
        os.truncate(path, 8 + len(text) + num_bytes)

    return change


def giant_header(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 30) + b"{")
    os.truncate(path, 2 << 30)


def linked(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def made_a(name: str, make: Callable[[Path], Any]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def configured(content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / "adapter_config.json").write_bytes(data) and None


WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
STRANGE_FILES: dict[str, tuple[Change, str]] = {
    "a terabyte that is there": (lying("F32", [1 << 19, 1 << 19], 1 << 40), "the adapter is incomplete"),
    "a rank of a million": (
        lambda f: (lying("F32", [10**6, 64], 256 * 10**6)(f), change_config(f, r=10**6))[0],
        "rank 1000000 is over max_lora_rank = 8",
    ),
    "no rows": (lying("F32", [0, 64], 0), "the adapter is incomplete"),
    "a shape whose product overflows": (lying("F32", [2**32, 2**32], 0), "is not where a tensor"),
    "a negative shape": (lying("F32", [-4, -64], 1024), "is not where a tensor"),
    "a shape of truth values": (entry(shape=[True, 64]), "header cannot be read"),
    "a header of a gigabyte": (giant_header, f"header claims {1 << 30} bytes"),
    "a header that is no text": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 4) + b"\xff\xfe\x00\x00") and None,
        "header cannot be read",
    ),
    "escapes in a tensor's name": (put("\x1b[2J\x1b]0;owned\x07.lora_A.weight", torch.ones(4, 64)), r"'\x1b[2J"),
    "NUL in a tensor's name": (put("a\0b.lora_A.weight", torch.ones(4, 64)), r"'a\x00b'"),
    "a tensor's name that climbs": (put("base_model.model.../../etc.lora_A.weight", torch.ones(4, 64)), "no module"),
    "the system's passwords": (linked(WEIGHTS, "/etc/passwd"), "is damaged"),
    "a link to itself": (linked(WEIGHTS, WEIGHTS), "is missing"),
    "a link to nothing": (linked(WEIGHTS, "../nowhere"), "is missing"),
    "a device": (linked(WEIGHTS, "/dev/zero"), "is missing"),
    "a folder for weights": (made_a(WEIGHTS, os.mkdir), "is missing"),
    "a pipe": (made_a(WEIGHTS, os.mkfifo), "is missing"),
    "settings from a pipe": (made_a(SETTINGS, os.mkfifo), "is not a file"),
    "settings from a device": (linked(SETTINGS, "/dev/zero"), "is not a file"),
    "settings from the system's passwords": (linked(SETTINGS, "/etc/passwd"), "is not valid JSON"),
    "settings that link to themselves": (linked(SETTINGS, SETTINGS), "cannot be read"),
    "settings that are a folder": (made_a(SETTINGS, os.mkdir), "is not a file"),
    "no settings": (lambda f: (f / SETTINGS).unlink(), "cannot be read"),
    "a template from a pipe": (made_a("chat_template.jinja", os.mkfifo), "is not a file"),
    "a tokenizer from a device": (made_a("tokenizer.json", lambda p: p.symlink_to("/dev/zero")), "is not a file"),
    "a sidecar from a pipe": (made_a("mp13.json", os.mkfifo), "is not a file"),
    "empty settings": (configured(""), "is not valid JSON"),
    "settings of NUL": (configured(b"\0" * 64), "is not valid JSON"),
    "settings that are no text": (configured(b"\xff\xfe\xfd"), "is not valid JSON"),
    "deep settings": (configured("[" * 100_000 + "]" * 100_000), "is not valid JSON"),
    "deep objects": (configured('{"a":' * 100_000 + "1" + "}" * 100_000), "is not valid JSON"),
    "large settings": (configured("[" + "1," * (1 << 20) + "1]"), "is larger than 1,024 KiB"),
    "a number without end": (configured('{"peft_type": "LORA", "r": ' + "9" * 10_000 + "}"), "is not valid JSON"),
    "settings that are a list": (configured("[]"), "holds list, not an object"),
    "settings that are null": (configured("null"), "holds NoneType, not an object"),
    "a pickle beside no weights": (
        lambda f: (pickled(f), (f / "training_args.bin").write_bytes(b"\x80\x04."))[0],
        "is a pickle, which is never loaded",
    ),
    "another base": (put(f"{Q0}.lora_A.weight", torch.ones(4, 128)), "was it made for it"),
}  # fmt: skip

NAMING_CODE: dict[str, tuple[dict[str, Any], str]] = {
    "a type that is a class": ({"peft_type": "evil.Adapter"}, "adapters of type 'evil.Adapter' cannot run here"),
    "classes for modules": ({"custom_modules": {"torch.nn.Linear": "evil.Linear"}}, "is a setting unknown here"),
    "a map of classes": ({"auto_map": {"AutoModel": "evil.Model"}}, "is a setting unknown here"),
    "a start that is a class": ({"init_lora_weights": "evil.init"}, "init_lora_weights = 'evil.init'"),
    "a core for Megatron": ({"megatron_core": "evil", "megatron_config": {"a": 1}}, "megatron_config = {'a': 1}"),
    "escapes in a setting": ({"\x1b[2J": True}, r"'\x1b[2J' = True"),
    "escapes in a pattern": ({"rank_pattern": {"\x1b[2J": 0}}, r"gives '\x1b[2J'"),
    "escapes in targets": ({"target_modules": "(\x1b[2J"}, "is not a regular expression"),
}


ENDLESS = "(a|[a-z]|[_.0-9a-z])*(?<=!)"  # tries every way to cut a path into these
WRONG_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no rank": ({"r": 0}, "r = 0 is not a rank"),
    "half a rank": ({"r": 4.5}, "r = 4.5 is not a rank"),
    "an endless alpha": ({"lora_alpha": math.inf}, "lora_alpha = inf is not a finite number"),
    "no targets": ({"target_modules": []}, "target_modules = [] names no module"),
    "targets that are none": ({"target_modules": {"q_proj": 1}}, "names no module"),
    "exclusions that are none": ({"exclude_modules": 7}, "exclude_modules = 7 is neither a list of names"),
    "layers that are none": ({"layers_to_transform": ["x"]}, "are no layer numbers"),
    "layers of a pattern": ({"layers_to_transform": [0], "target_modules": ".*q_proj"}, "needs a list of"),
    "a pattern of layers that is none": ({"layers_pattern": 3}, "layers_pattern = 3 is not a list of names"),
    "rank pattern that is none": ({"rank_pattern": ["q_proj"]}, "rank_pattern = ['q_proj'] is not a table"),
    "a rank that is none": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern gives 'q_proj' the value 0"),
    "a rank too large": ({"rank_pattern": {"q_proj": 999}}, "rank 999 is over max_lora_rank = 8"),
    "an alpha that is none": ({"alpha_pattern": {"q_proj": "1"}}, "alpha_pattern gives 'q_proj' the value '1'"),
    "a flag that is none": ({"use_dora": "maybe"}, "use_dora = 'maybe' is neither true nor false"),
    "no invocation": ({"alora_invocation_tokens": "ab"}, "alora_invocation_tokens = 'ab' are no token ids"),
    "a negative token": ({"alora_invocation_tokens": [-1]}, "are no token ids"),
    "a token too large": ({"alora_invocation_tokens": [328]}, "invocation token 328 is not in the vocabulary"),
    "activated and DoRA": ({"alora_invocation_tokens": [5], "use_dora": True}, "together with use_dora"),
    "activated and PiSSA": ({"alora_invocation_tokens": [5], "init_lora_weights": "pissa"}, "together with init_lora"),
    "DoRA without magnitudes": ({"use_dora": True}, "q_proj lacks lora_magnitude_vector"),
    "no pattern": ({"target_modules": "(q_proj"}, "'(q_proj' is not a regular expression"),
    "a pattern too deep": ({"target_modules": "(" * 2000 + ")" * 2000}, "is not a regular expression"),
    "a pattern too long": ({"target_modules": "a" * 20_000}, "has 20000 characters"),
    "a pattern that multiplies": ({"target_modules": "((((a{500}){500}){500}){500})"}, "repeats itself too often"),
    "a pattern of many": ({"rank_pattern": {"a{,1000000000000}": 4}}, "repeats itself too often"),
    "a pattern that calls itself": ({"target_modules": "(?R)"}, "is not a regular expression"),
    "a pattern without end": ({"target_modules": ENDLESS}, "takes too long"),
    "a rank pattern without end": ({"rank_pattern": {ENDLESS: 1}}, "takes too long"),
    "patterns without end": ({"rank_pattern": {f"x{i}": 1 for i in range(2000)}}, "together take too long"),
    "layers that are not in the file": ({"layers_to_transform": [0]}, "which target_modules does not name"),
    "all but what is in the file": ({"exclude_modules": ["q_proj"]}, "which target_modules does not name"),
    "more than what is in the file": ({"target_modules": "all-linear"}, "lacks lora_A and lora_B"),
}  # fmt: skip


CONFIG, SIDECAR = "tokenizer_config.json", "mp13.json"
WRONG_TEXT: dict[str, tuple[str, Any, str]] = {
    "configuration that is no JSON": (CONFIG, "{", "is not valid JSON"),
    "configuration that is a list": (CONFIG, "[1]", "holds list, not an object"),
    "deep configuration": (CONFIG, "[" * 100_000 + "]" * 100_000, "is not valid JSON"),
    "a template that is a number": (CONFIG, {"chat_template": 7}, "chat_template = 7 is not a template"),
    "a template that is no template": ("chat_template.jinja", "{% for %}", "its chat template cannot be used"),
    "a template that reaches into Python": (
        "chat_template.jinja",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "its chat template cannot be used",
    ),
    "a template that fails": ("chat_template.jinja", "{{ raise_exception('no') }}", "its chat template cannot be used"),
    "a large template": ("chat_template.jinja", "x" * (1 << 21), "is larger than 1,024 KiB"),
    "tokens that are a list": (CONFIG, {"added_tokens_decoder": [5]}, "is no added token"),
    "tokens that are a number": ("tokenizer.json", {"added_tokens": 5}, "is no added token"),
    "tokens that are texts": ("tokenizer.json", {"added_tokens": ["<t>"]}, "is no added token"),
    "two tokens in one place": (
        CONFIG,
        {"added_tokens_decoder": {"320": {"content": "<a>"}, "0320": {"content": "<b>"}}},
        "means something else",
    ),
    "names that are none": (
        CONFIG,
        {"chat_template": [{"name": ["x"]}, {"name": "default", "template": 5}]},
        "chat_template = 5 is not a template",
    ),
    "a token without number": ("added_tokens.json", {"<tool>": "x"}, "is no added token"),
    "a token without text": (CONFIG, {"added_tokens_decoder": {"320": {"content": ""}}}, "is no added token"),
    "a token that is a class": (CONFIG, {"added_tokens_decoder": {"320": {"content": {"a": 1}}}}, "is no added token"),
    "a token with a strange flag": (
        CONFIG,
        {"added_tokens_decoder": {"320": {"content": "<t>", "special": "yes"}}},
        "is no added token",
    ),
    "a negative token": ("added_tokens.json", {"<tool>": -1}, "is no added token"),
    "a token beyond the model": ("added_tokens.json", {"<tool>": 328}, "`mp13 adapters merge good --model OUT`"),
    "a token in another's place": (
        "added_tokens.json",
        {"<tool>": 5},
        "means something else in this model's vocabulary",
    ),
    "a token that is elsewhere": ("added_tokens.json", {"<|im_end|>": 321}, "means something else"),
    "a token behind a gap": ("added_tokens.json", {"<tool>": 322}, "means something else"),
    "sidecar that is no JSON": (SIDECAR, "hello", "is not valid JSON"),
    "sidecar that is a text": (SIDECAR, '"hello"', "holds str, not an object"),
    "a system prompt that is a number": (SIDECAR, {"system_prompt": 5}, "system_prompt = 5 is not plain text"),
    "a system prompt with escapes": (SIDECAR, {"system_prompt": "\x1b[2J"}, "is not plain text"),
    "a system prompt with half a character": (SIDECAR, {"system_prompt": "\ud800"}, "is not plain text"),
    "a large sidecar": (SIDECAR, {"system_prompt": "x" * (1 << 21)}, "is larger than 1,024 KiB"),
}


def set_to(fields: dict[str, Any]) -> Change:
    return lambda folder: change_config(folder, **fields)


def written(file: str, content: Any) -> Change:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda folder: (folder / file).write_text(text) and None


HOSTILE: dict[str, tuple[Change, str]] = {
    **WRONG_TENSORS,
    **DAMAGED,
    **STRANGE_FILES,
    **{case: (set_to(fields), reason) for case, (fields, reason) in (WRONG_SETTINGS | NAMING_CODE).items()},
    **{case: (written(file, content), reason) for case, (file, content, reason) in WRONG_TEXT.items()},
}
WRONG_VALUES = {"NaN", "infinity", "beyond float32", "infinite once scaled"}  # only who reads the tensors can tell
