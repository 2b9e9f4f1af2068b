"""An adapter's own chat template, tokens and system prompt: used where it speaks, named in the answer, and the base's
own are left as they were."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mp13 import LLM, AsyncEngine, SamplingParams
from mp13.engine.adapters.adapter_text import AdapterText, mix_text, read_adapter_text
from mp13.engine.text.chat_template import ChatMessage, chat_token_ids, template_digest
from mp13.errors import AdapterError
from tests.engine.tiny_models import CHATML, tiny_adapter, tiny_model, tiny_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
HELLO = [{"role": "user", "content": "hello world"}]
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
WITH_TOOL = PLAIN.replace("assistant:", "<tool>assistant:")
TOOL, VOCAB_SIZE = 320, 328  # the first id after the tiny tokenizer's; the model has rows for a few more


class World:
    def __init__(self, folder: Path) -> None:
        self.model = tiny_model(folder / "model", vocab_size=VOCAB_SIZE)
        self.bare = tiny_adapter(folder / "bare", self.model)
        self.llm = LLM(self.model, dtype="float32", kv_cache_memory="1MiB")
        self.llm.load_adapter(self.bare)
        self.tokenizer = self.llm._core.tokenizer

    def read(self, folder: Path) -> AdapterText | None:
        return read_adapter_text(folder, self.tokenizer, VOCAB_SIZE, "x")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("text"))


@pytest.fixture
def adapter(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.bare, tmp_path / "x"))


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def tokenizer_with(*tokens: str) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    return tokenizer


WAYS_TO_SAVE_A_TEMPLATE: dict[str, Callable[[Path], None]] = {
    "its own file": lambda f: write(f, "chat_template.jinja", PLAIN),
    "the tokenizer's configuration": lambda f: write(f, "tokenizer_config.json", {"chat_template": PLAIN}),
    "several, by name": lambda f: write(
        f,
        "tokenizer_config.json",
        {"chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": PLAIN}]},
    ),
    "the file before the configuration": lambda f: (
        write(f, "tokenizer_config.json", {"chat_template": "x"}),
        write(f, "chat_template.jinja", PLAIN),
    )[0],
}


@pytest.mark.parametrize("way", WAYS_TO_SAVE_A_TEMPLATE)
def test_an_adapters_own_chat_template_is_used_and_named(way: str, world: World, adapter: Path) -> None:
    WAYS_TO_SAVE_A_TEMPLATE[way](adapter)
    assert world.llm.load_adapter(adapter).brings == ("template",)
    out = world.llm.chat([HELLO], GREEDY, "x")[0]
    ids = world.tokenizer("user: hello world\nassistant:")["input_ids"]
    assert out.metrics.prompt_tokens == len(ids)
    assert out.token_ids == world.llm.generate([ids], GREEDY, "x")[0].token_ids
    assert out.prompting is not None and out.prompting.template_from == "x"
    assert out.prompting.template_digest != template_digest(world.tokenizer)
    world.llm.unload_adapter("x")


def test_the_base_goes_on_with_its_own_template(world: World, adapter: Path) -> None:
    before = world.llm.chat([HELLO], GREEDY)[0]
    write(adapter, "chat_template.jinja", WITH_TOOL)
    tokenizer_with("<tool>").save_pretrained(adapter)
    write(adapter, "chat_template.jinja", WITH_TOOL)
    world.llm.load_adapter(adapter)
    world.llm.chat([HELLO], GREEDY, "x")
    after = world.llm.chat([HELLO], GREEDY)[0]
    assert (after.token_ids, after.prompting) == (before.token_ids, before.prompting)
    assert after.prompting is not None and after.prompting.template_from is None
    assert after.prompting.template_digest == template_digest(world.tokenizer) == world.llm.info.template_digest
    assert len(world.tokenizer) == TOOL
    world.llm.unload_adapter("x")


def test_what_equals_the_bases_own_is_nothing_of_its_own(world: World, adapter: Path) -> None:
    tiny_tokenizer().save_pretrained(adapter)
    write(adapter, "chat_template.jinja", CHATML + "\n")
    write(adapter, "mp13.json", {"source": "someone/x", "tags": ["fun"]})
    assert world.read(adapter) is None
    assert world.llm.load_adapter(adapter).brings == ()
    world.llm.unload_adapter("x")


WAYS_TO_SAVE_TOKENS: dict[str, Callable[[Path], None]] = {
    "tokenizer.json": lambda f: (tokenizer_with("<tool>").save_pretrained(f), (f / "tokenizer_config.json").unlink())[
        0
    ],
    "the configuration": lambda f: write(
        f, "tokenizer_config.json", {"added_tokens_decoder": {"320": {"content": "<tool>", "special": True}}}
    ),
    "a file of their own": lambda f: write(f, "added_tokens.json", {"<tool>": TOOL}),
}


@pytest.mark.parametrize("way", WAYS_TO_SAVE_TOKENS)
def test_an_adapters_own_tokens_are_read_and_written(way: str, world: World, adapter: Path) -> None:
    WAYS_TO_SAVE_TOKENS[way](adapter)
    write(adapter, "chat_template.jinja", WITH_TOOL)
    text = world.read(adapter)
    assert text is not None and text.brings == ("template", "tokens")
    ids = chat_token_ids(text.tokenizer, [ChatMessage("user", "hello")])
    assert ids.count(TOOL) == 1
    assert text.tokenizer.decode([TOOL]) == "<tool>"
    spelled = chat_token_ids(text.tokenizer, [ChatMessage("user", "hello <tool>")])
    assert spelled.count(TOOL) == 1  # the template's own
    assert world.tokenizer.convert_ids_to_tokens(TOOL) is None


def test_a_plain_prompt_has_the_adapters_tokens_too(world: World, adapter: Path) -> None:
    write(adapter, "added_tokens.json", {"<tool>": TOOL})
    assert world.llm.load_adapter(adapter).brings == ("tokens",)
    out = world.llm.generate(["hello<tool>"], GREEDY, "x")[0]
    ids = [*world.tokenizer("hello")["input_ids"], TOOL]
    assert out.token_ids == world.llm.generate([ids], GREEDY, "x")[0].token_ids
    assert out.metrics.prompt_tokens == len(ids) and out.prompting is None
    world.llm.unload_adapter("x")


def test_an_answer_ends_with_the_adapters_own_end_token(world: World, adapter: Path) -> None:
    first = world.llm.chat([HELLO], SamplingParams(temperature=0, max_tokens=1), "bare")[0].token_ids[0]
    write(adapter, "added_tokens.json", {"<tool>": TOOL})
    write(adapter, "tokenizer_config.json", {"eos_token": world.tokenizer.convert_ids_to_tokens(first)})
    world.llm.load_adapter(adapter)
    out = world.llm.chat([HELLO], SamplingParams(temperature=0, max_tokens=5), "x")[0]
    assert (out.token_ids, out.finish_reason, out.text) == ([first], "stop", "")
    assert world.llm.chat([HELLO], SamplingParams(temperature=0, max_tokens=5), "bare")[0].finish_reason == "length"
    later = world.llm.chat([HELLO], SamplingParams(temperature=0, max_tokens=5, min_tokens=3), "x")[0]
    assert len(later.token_ids) >= 3 and first not in later.token_ids[:2]
    world.llm.unload_adapter("x")


async def test_an_answer_in_the_adapters_tokens_is_shown_when_it_is_judged(world: World, adapter: Path) -> None:
    write(adapter, "tokenizer_config.json", {"added_tokens_decoder": {str(TOOL): {"content": "<tool>"}}})
    engine = AsyncEngine(world.model, dtype="float32", kv_cache_memory="1MiB")
    await engine.load_adapter(adapter)
    assert (await engine.score_details("hello", [TOOL], ["x", "base"])).texts == ("<tool>",)
    await engine.close()


def test_many_tokens_are_added_together_and_keep_their_places(world: World, adapter: Path) -> None:
    tokens = {str(TOOL + i): {"content": f"<t{i}>", "special": i < 3 or i == 6} for i in range(8)}
    write(adapter, "tokenizer_config.json", {"added_tokens_decoder": tokens})
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        add_tokens = type(world.tokenizer).add_tokens
        patch.setattr(type(world.tokenizer), "add_tokens", lambda *a, **k: (calls.append(1), add_tokens(*a, **k))[1])
        text = world.read(adapter)
    assert len(calls) == 4 and text is not None
    added = text.tokenizer.added_tokens_decoder
    assert {
        str(i): {"content": added[i].content, "special": added[i].special} for i in range(TOOL, VOCAB_SIZE)
    } == tokens


def test_a_padding_token_beyond_the_model_is_nothing(world: World, adapter: Path) -> None:
    tokens = {"328": {"content": "[PAD]", "special": True}}
    write(adapter, "tokenizer_config.json", {"added_tokens_decoder": tokens, "pad_token": "[PAD]"})
    assert world.read(adapter) is None
    write(adapter, "chat_template.jinja", PLAIN + "[PAD]")
    with pytest.raises(
        AdapterError, match="'\\[PAD\\]' has number 328, but the model ends at 328; `mp13 adapters merge"
    ):
        world.read(adapter)


def test_a_system_prompt_stands_where_the_conversation_has_none(world: World, adapter: Path) -> None:
    write(adapter, "mp13.json", {"system_prompt": "the lazy dog", "tags": ["fun"], "added_at": 5})
    assert world.llm.load_adapter(adapter).brings == ("system prompt",)
    out = world.llm.chat([HELLO], GREEDY, "x")[0]
    spoken = world.llm.chat([[{"role": "system", "content": "the lazy dog"}, *HELLO]], GREEDY, "x")[0]
    assert out.token_ids == spoken.token_ids and out.metrics.prompt_tokens == spoken.metrics.prompt_tokens
    assert out.prompting is not None and (out.prompting.system_from, out.prompting.template_from) == ("x", None)
    assert spoken.prompting is not None and spoken.prompting.system_from is None
    other = world.llm.chat([[{"role": "system", "content": "the fox"}, *HELLO]], GREEDY, "x")[0]
    assert other.metrics.prompt_tokens < out.metrics.prompt_tokens
    world.llm.unload_adapter("x")


def test_of_a_mix_the_heaviest_member_that_brings_something_speaks() -> None:
    a, b = AdapterText("of a", has_template=True), AdapterText("of b", has_template=True, eos_token_id=7)
    tokens, prompt = AdapterText("tokens", has_tokens=True, system_prompt="T"), AdapterText(system_prompt="P")

    def spoken(*members: tuple[str, float, AdapterText | None]) -> tuple[str, str | None, str | None]:
        mix = mix_text("base", members)
        return mix.tokenizer, mix.template_from, mix.system_from

    assert spoken() == spoken(("n", 1, None)) == spoken(("a", 0.0, a)) == ("base", None, None)
    assert spoken(("a", 0.4, a), ("b", -0.5, b)) == ("of b", "b", None)
    assert spoken(("b", 0.5, b), ("a", 0.5, a)) == ("of a", "a", None)
    assert spoken(("a", 0.1, a), ("t", 0.9, tokens)) == ("of a", "a", "t")
    assert spoken(("n", 1, None), ("t", 0.2, tokens)) == ("tokens", None, "t")
    assert spoken(("p", 0.3, prompt), ("t", 0.2, tokens)) == ("tokens", None, "p")
    assert mix_text("base", [("b", 1, b)]).eos_token_ids == {7}


def test_a_template_that_knows_no_system_role_does_not_go_with_a_system_prompt(world: World, adapter: Path) -> None:
    write(adapter, "mp13.json", {"system_prompt": "the lazy dog"})
    write(
        adapter, "chat_template.jinja", "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}x"
    )
    with pytest.raises(AdapterError, match="its chat template cannot be used"):
        world.llm.load_adapter(adapter)


def test_a_template_that_is_no_text_is_refused(world: World, adapter: Path) -> None:
    (adapter / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(AdapterError, match="is not UTF-8 text"):
        world.llm.load_adapter(adapter)
