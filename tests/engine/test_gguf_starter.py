"""A real GGUF file, the one that the starter is made from: opened directly, it is the installed starter."""

from pathlib import Path

from transformers import AutoTokenizer

from mp13 import LLM, SamplingParams
from mp13.engine.models.gguf_file import GGUFFile
from mp13.engine.models.gguf_folder import write_settings
from mp13.library.convert_starter import convert
from tests.engine.test_gguf_tokenizer import random_texts

MESSAGES = [[{"role": "user", "content": "Name three colours."}], [{"role": "user", "content": "What is 12 * 34?"}]]


def test_it_answers_as_the_installed_starter_does(starter_gguf: Path, starter_model: Path) -> None:
    answers = []
    for model in (starter_gguf, starter_model):
        llm = LLM(str(model), device="cpu", kv_cache_memory="64MiB")
        answers.append([out.token_ids for out in llm.chat(MESSAGES, SamplingParams(temperature=0, max_tokens=12))])
    assert answers[0] == answers[1]


def test_it_tokenizes_as_the_installed_starter_does(starter_gguf: Path, starter_model: Path, tmp_path: Path) -> None:
    write_settings(GGUFFile(starter_gguf), tmp_path)
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(starter_model)
    for text in random_texts(200):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
    assert ours.chat_template == theirs.chat_template
    assert ours.eos_token_id == theirs.eos_token_id


def test_the_conversion_is_the_same_to_the_byte(starter_gguf: Path, starter_model: Path, tmp_path: Path) -> None:
    convert(starter_gguf, tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (starter_model / file.name).read_bytes(), file.name
