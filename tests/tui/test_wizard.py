"""The wizard: each step, each key, back and forth, and that nothing is written before its end."""

import asyncio
import threading
import tomllib
from pathlib import Path

import pytest
from textual.widgets import Button, DataTable, Input

from mp13.chat.settings.load import config_file, load_settings
from mp13.chat.wizard.app import STEPS, Mark
from mp13.chat.wizard.leaving import QuestionDialog
from mp13.chat.wizard.step import Choices
from mp13.errors import ModelError
from mp13.library.machine import Survey
from mp13.library.paths import models_dir
from tests.fakes.fake_adapter import make_adapter
from tests.fakes.fake_client import FakeHost
from tests.fakes.fake_machine import MODELS, ON_CARD
from tests.tui.wizard_world import FakeWorld, sitting

NAMES = [step.NAME for step in STEPS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: None) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    (models_dir() / "mine").mkdir(parents=True)
    return tmp_path


def write_config(text: str) -> Path:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text(text)
    return config_file()


class TestTheWay:
    async def test_enter_alone_leads_from_the_first_step_to_a_written_file(self) -> None:
        async with sitting() as reader:
            for name in NAMES[1:]:
                await reader.rests()
                await reader.press("enter")
                await reader.at(name)
                assert not config_file().exists()
            await reader.press("enter")
            await reader.sees("Written to", "mp13chat", "mp13config set KEY VALUE")
            await reader.press("enter")
        assert reader.app.return_value is not None and reader.app.return_value.path == config_file()
        assert tomllib.loads(config_file().read_text()) == {}
        assert "#temperature = 0.7" in config_file().read_text()

    async def test_every_step_can_be_gone_back_from_with_keys_and_mouse(self) -> None:
        async with sitting(at="Write") as reader:
            for name in reversed(NAMES[2:-1]):
                await reader.press("ctrl+p")
                await reader.at(name)
            await reader.pilot.click("#back")
            await reader.at("Model")
            assert not reader.app.query_one("#back", Button).disabled
            await reader.press("ctrl+p")
            await reader.at("Machine")
            assert reader.app.query_one("#back", Button).disabled
            await reader.press("ctrl+p")
            await reader.at("Machine")

    async def test_the_mouse_alone_suffices(self) -> None:
        async with sitting(at="Test") as reader:
            await reader.pilot.click("#next")
            await reader.at("Write")
            await reader.pilot.click(reader.app.query(Mark)[3])
            await reader.at("Attention")
            await reader.pilot.click(reader.app.query(Mark)[6])  # forward only through the steps between
            await reader.pilot.pause()
            assert reader.app.step.NAME == "Attention"

    async def test_what_was_chosen_is_there_when_the_reader_comes_back(self) -> None:
        async with sitting(at="Attention") as reader:
            await reader.press("down", "enter")
            await reader.at("Adapters")
            await reader.press("ctrl+p")
            await reader.at("Attention")
            await reader.press("enter")
            await reader.at("Adapters")
            assert reader.draft == {"attn_implementation": "sdpa"}

    async def test_after_writing_there_is_no_way_back(self) -> None:
        async with sitting(at="Write") as reader:
            await reader.press("enter")
            await reader.sees("Written to")
            await reader.press("ctrl+p")
            await reader.pilot.click(reader.app.query(Mark)[1])
            await reader.pilot.pause()
            assert reader.app.step.NAME == "Write"
            await reader.press("escape")
        assert reader.app.return_value is not None


class TestLeaving:
    @pytest.mark.parametrize("key", ["escape", "ctrl+q", "ctrl+c"])
    async def test_leaving_asks_first(self, key: str) -> None:
        async with sitting(at="Memory") as reader:
            await reader.press(key)
            await reader.sees("Leave the wizard?", "Nothing has been written")
            await reader.press("escape")
            await reader.until(lambda: not isinstance(reader.app.screen, QuestionDialog))
            assert reader.app.step.NAME == "Memory"
            await reader.press(key)
            await reader.sees("Leave the wizard?")
            await reader.press("y")
        assert (reader.app.return_value, config_file().exists()) == (None, False)

    async def test_enter_stays_and_the_other_button_leaves(self) -> None:
        async with sitting() as reader:
            await reader.pilot.click("#leave")
            await reader.sees("Leave the wizard?")
            await reader.press("enter")
            await reader.until(lambda: not isinstance(reader.app.screen, QuestionDialog))
            await reader.press("escape")
            await reader.sees("Leave the wizard?")
            await reader.press("tab", "enter")
        assert reader.app.return_value is None

    async def test_interrupting_twice_leaves_at_once(self) -> None:
        async with sitting() as reader:
            await reader.press("ctrl+c", "ctrl+c")
        assert reader.app.return_value is None

    async def test_leaving_ends_what_was_asked_of_torch(self) -> None:
        fake = FakeWorld(survey_waits=asyncio.Event())
        async with sitting(fake) as reader:
            await reader.press("escape", "y")
        assert fake.surveys_ended == 1

    async def test_the_survey_may_come_while_a_question_is_open(self) -> None:
        fake = FakeWorld(survey_waits=asyncio.Event())
        async with sitting(fake) as reader:
            await reader.press("escape")
            await reader.sees("Leave the wizard?")
            assert fake.survey_waits is not None
            fake.survey_waits.set()
            await reader.until(lambda: reader.app.state.survey)
            await reader.press("escape")
            await reader.sees("torch 2.13.0")


class TestMachine:
    async def test_it_shows_what_is_here_and_why_what_is_not(self) -> None:
        async with sitting(FakeWorld(survey=ON_CARD), size=(120, 36)) as reader:
            await reader.sees(
                "AMD Ryzen 7, 8 cores, 16 threads", "AVX2, AVX-512, AVX-512 BF16", "9.0 GB free of 16.0 GB",
                "NVIDIA GeForce RTX 4070, 11.0 GB free of 12.0 GB, compute capability 8.9", "570.124",
                "✓ triton, sdpa, reference", "– xformers: xformers is not installed",
                "– hqq-8bit, hqq-4bit, hqq-3bit, hqq-2bit: quantization needs the package hqq",
            )  # fmt: skip

    async def test_processor_and_memory_are_there_before_torch_answers(self) -> None:
        fake = FakeWorld(survey_waits=asyncio.Event())
        async with sitting(fake) as reader:
            await reader.sees("AMD Ryzen 7", "9.0 GB free", "asking torch")
            await reader.press("enter")
            await reader.at("Model")
            await reader.press("ctrl+p")
            await reader.at("Machine")
            assert fake.survey_waits is not None
            fake.survey_waits.set()
            await reader.sees("torch 2.13.0", "none that torch can use")
            assert "asking torch" not in reader.shown()

    async def test_a_broken_torch_is_told(self) -> None:
        async with sitting(FakeWorld(survey=Survey(error="ImportError: no libgomp"))) as reader:
            await reader.sees("✗ ImportError: no libgomp", "mp13config doctor")


class TestModel:
    async def test_what_is_cached_comes_first_then_the_data_folder_then_the_starter(self) -> None:
        async with sitting(FakeWorld(models=MODELS), at="Model") as reader:
            names = ["meta-llama/Llama-3.1-8B-Instruct", "org/half", "mine", "starter"]
            lines = [line.split()[0] for line in reader.shown().splitlines() if line.strip()]
            assert [name for name in lines if name in names] == names
            assert "smollm2-135m-instruct" not in lines
            await reader.sees("it lacks model.safetensors", "16.0 GB, bfloat16, Hugging Face cache")

    async def test_the_one_in_the_settings_is_marked(self) -> None:
        write_config("model = 'mine'\n")
        async with sitting(FakeWorld(models=MODELS), at="Model") as reader:
            await reader.press("enter")
            await reader.at("Memory")
            assert reader.draft == {}
            await reader.press("ctrl+p")
            await reader.at("Model")
            await reader.rests()
            await reader.press("home", "enter")
            await reader.at("Memory")
            assert reader.draft == {"model": "meta-llama/Llama-3.1-8B-Instruct"}

    async def test_one_that_cannot_be_used_cannot_be_chosen(self) -> None:
        async with sitting(FakeWorld(models=MODELS), at="Model") as reader:
            marked: list[int | None] = []
            choices = reader.app.step.query_one(Choices)
            await reader.press("home")
            for _ in range(4):
                marked.append(choices.highlighted)
                await reader.press("down")
            assert marked == [0, 2, 3, 0]

    async def test_a_click_marks_and_a_second_one_chooses(self) -> None:
        async with sitting(FakeWorld(models=MODELS), at="Model") as reader:
            choices = reader.app.step.query_one(Choices)
            for line in (1, 3):  # the model in the first cannot be used, and says so in two lines
                await reader.pilot.click(choices, offset=(2, line))
            assert (choices.highlighted, reader.app.step.NAME) == (2, "Model")
            await reader.pilot.click(choices, offset=(2, 3))
            await reader.at("Memory")
            assert reader.draft == {"model": "mine"}

    async def test_a_folder_is_typed(self, here: Path) -> None:
        (here / "weights").mkdir()
        async with sitting(at="Model") as reader:
            await reader.press("tab", *"weights", "enter")
            await reader.at("Memory")
            assert reader.draft == {"model": str(here / "weights")}

    async def test_what_is_nowhere_is_a_sentence_and_the_reader_stays(self) -> None:
        async with sitting(at="Model") as reader:
            await reader.press("tab", *"./nowhere", "enter")
            await reader.sees("There is no model './nowhere'; give a folder, a GGUF file, a Hub id")
            assert (reader.app.step.NAME, reader.draft) == ("Model", {})

    async def test_a_hub_id_is_asked_for_before_the_reader_goes_on(self) -> None:
        fake = FakeWorld()
        async with sitting(fake, at="Model") as reader:
            reader.app.step.query_one(Input).value = "org/llama"
            await reader.press("tab", "enter")
            await reader.at("Memory")
            await reader.rests()
            assert (reader.draft, fake.measured) == ({"model": "org/llama"}, ["org/llama"])

    async def test_a_hub_that_does_not_answer_keeps_nobody_from_going_back(self) -> None:
        answers = threading.Event()
        fake = FakeWorld(measuring_waits=answers)
        async with sitting(fake, at="Model") as reader:
            reader.app.step.query_one(Input).value = "org/llama"
            await reader.press("tab", "enter")
            await reader.sees("asking the Hub about org/llama")
            await reader.press("ctrl+p")
            await reader.at("Machine")
            answers.set()
            await reader.press("enter")
            await reader.at("Model")
            assert reader.draft == {}

    async def test_a_hub_that_refuses_keeps_the_reader_and_the_old_model(self) -> None:
        fake = FakeWorld(unmeasured=ModelError("org/llama is not to be had: it is gated; run `hf auth login`"))
        async with sitting(fake, at="Model") as reader:
            reader.app.step.query_one(Input).value = "org/llama"
            await reader.press("tab", "enter")
            await reader.sees("it is gated; run `hf auth login`")
            assert (reader.app.step.NAME, reader.draft) == ("Model", {})

    async def test_markup_and_escapes_in_a_name_are_text(self) -> None:
        odd = MODELS[0].__class__("a/[red]\x1b[31mb[/]", Path("/x"), "data folder", "[/]", 5)
        async with sitting(FakeWorld(models=[odd]), at="Model") as reader:
            await reader.sees("a/[red]b[/]", "[/]")


class TestMemory:
    def card(self) -> FakeWorld:
        return FakeWorld(survey=ON_CARD, models=MODELS)

    async def test_the_cell_of_the_settings_is_marked_and_explained(self) -> None:
        write_config("quantization = 'hqq-4bit'\nmax_model_len = 2048\n")
        async with sitting(at="Memory") as reader:
            table = reader.app.step.query_one(DataTable)
            assert tuple(table.cursor_coordinate) == (2, 2)
            await reader.sees("8.5 GB of main memory are left for it", "Fits: weights", "2,048 tokens")

    async def test_arrows_move_and_enter_takes_quantization_and_context(self) -> None:
        async with sitting(at="Memory") as reader:
            await reader.press("down", "left")
            await reader.sees("hqq-8bit: int4 product.")
            await reader.press("enter")
            await reader.at("Attention")
            assert reader.draft == {"quantization": "hqq-8bit", "max_model_len": 8192}

    async def test_what_does_not_fit_says_why_and_is_not_taken(self) -> None:
        write_config("model = 'meta-llama/Llama-3.1-8B-Instruct'\n")
        async with sitting(self.card(), at="Memory") as reader:
            await reader.sees(
                "Does not fit: the weights alone take 16.1 GB, and there are 9.8 GB free within 90% of the GPU"
            )
            await reader.press("enter")
            await reader.sees("This does not fit: the weights alone take 16.1 GB")
            assert (reader.app.step.NAME, reader.draft) == ("Memory", {})
            await reader.press("down")
            await reader.sees("needs the package hqq", "pip install 'mp13[hqq]'")

    async def test_a_length_may_be_too_long_where_the_weights_fit(self) -> None:
        write_config("model = 'meta-llama/Llama-3.1-8B-Instruct'\nquantization = 'hqq-3bit'\nmax_model_len = 131072\n")
        fake = FakeWorld(models=MODELS)
        async with sitting(fake, at="Memory", size=(120, 36)) as reader:
            await reader.sees("Does not fit: it takes 25.0 GB at least", "and there are 8.5 GB free")
            await reader.press("right")
            await reader.sees("as long as fits:")

    async def test_it_waits_for_torch_but_the_reader_need_not(self) -> None:
        fake = FakeWorld(survey_waits=asyncio.Event())
        async with sitting(fake) as reader:
            await reader.press("enter")
            await reader.at("Model")
            await reader.rests()
            await reader.press("enter")
            await reader.sees("waiting for torch")
            assert fake.survey_waits is not None
            fake.survey_waits.set()
            await reader.sees("longest", "Fits:")
            await reader.press("ctrl+p")
            await reader.at("Model")

    async def test_a_model_whose_size_is_not_known_is_no_end(self) -> None:
        fake = FakeWorld(unmeasured=ModelError("config.json does not say its hidden_size"))
        async with sitting(fake, at="Memory") as reader:
            await reader.sees("This cannot be reckoned: config.json does not say its hidden_size")
            await reader.press("enter")
            await reader.at("Attention")
            assert reader.draft == {}


class TestAttention:
    async def test_each_backend_says_whether_it_runs_and_why_not(self) -> None:
        async with sitting(FakeWorld(survey=ON_CARD), at="Attention", size=(120, 36)) as reader:
            await reader.sees(
                "auto triton, the fastest at decoding that runs here", "sdpa runs here",
                "flash_attention_2 flash_attn is not installed; pip install", "compute capability 9.0",
            )  # fmt: skip

    async def test_only_those_that_run_can_be_chosen(self) -> None:
        async with sitting(at="Attention") as reader:
            await reader.press("end", "enter")
            await reader.at("Adapters")
            assert reader.draft == {"attn_implementation": "reference"}

    async def test_before_torch_has_answered_auto_is_marked(self) -> None:
        fake = FakeWorld(survey_waits=asyncio.Event())
        async with sitting(fake) as reader:
            for name in ("Model", "Memory", "Attention"):
                await reader.until(
                    lambda: reader.app.step.NAME != "Model" or not reader.app.step.query(".busy")[0].display
                )
                await reader.press("ctrl+n")
                await reader.at(name)
            await reader.sees("asking torch which of them run here")
            await reader.press("enter")
            await reader.at("Adapters")
            assert reader.draft == {}

    async def test_one_in_the_settings_that_does_not_run_here_is_not_kept(self) -> None:
        write_config("attn_implementation = 'triton'\n")
        async with sitting(at="Attention") as reader:
            await reader.press("enter")
            await reader.at("Adapters")
            assert reader.draft == {"attn_implementation": "auto"}


class TestAdapters:
    async def test_a_folder_is_looked_into_as_it_is_typed(self, here: Path) -> None:
        make_adapter("pirate", folder=here / "mine")
        async with sitting(at="Adapters") as reader:
            await reader.sees("No adapters in")
            reader.app.step.query_one(Input).value = "mine"
            await reader.sees("1 adapter:", "pirate")
            await reader.press("enter")
            await reader.at("Theme")
            assert reader.draft == {"adapters_folder": str(here / "mine")}

    async def test_a_folder_that_is_not_there_is_said_and_not_taken(self) -> None:
        async with sitting(at="Adapters") as reader:
            await reader.press(*"absent")
            await reader.sees("There is no folder absent yet.")
            await reader.press("enter")
            await reader.sees("There is no folder 'absent'; make it first, or give none")
            assert reader.app.step.NAME == "Adapters"

    async def test_emptying_the_field_takes_the_folder_out(self, here: Path) -> None:
        (here / "mine").mkdir()
        write_config(f"# mine\nadapters_folder = '{here / 'mine'}'\n")
        async with sitting(at="Adapters") as reader:
            assert reader.app.step.query_one(Input).value == str(here / "mine")
            reader.app.step.query_one(Input).value = ""
            await reader.press("enter")
            await reader.at("Theme")
            assert reader.draft == {"adapters_folder": None}
            assert reader.app.state.draft.text == "# mine\n"


class TestTheme:
    async def test_each_is_tried_as_it_is_marked(self) -> None:
        async with sitting(at="Theme") as reader:
            await reader.press("down")
            await reader.until(lambda: reader.app.theme == "mp13-light")
            await reader.press("enter")
            await reader.at("Test")
            assert (reader.draft, reader.app.theme) == ({"theme": "mp13-light"}, "mp13-light")

    async def test_going_back_without_choosing_goes_back_to_the_old_one(self) -> None:
        async with sitting(at="Theme") as reader:
            await reader.press("down", "down")
            await reader.press("ctrl+p")
            await reader.at("Adapters")
            assert (reader.draft, reader.app.theme) == ({}, "mp13-dark")

    async def test_the_wizard_begins_in_the_colours_of_the_settings(self) -> None:
        write_config("theme = 'nord'\n")
        async with sitting() as reader:
            assert reader.app.theme == "nord"


class TestTrial:
    async def test_the_engine_answers_with_what_was_chosen(self) -> None:
        host = FakeHost(["Hello", ", I can", " talk."])
        async with sitting(FakeWorld(host=host), at="Attention") as reader:
            await reader.press("down", "enter")
            await reader.go("Test")
            await reader.sees("Hello, I can talk.", "It answers at 38 tokens/s. Enter goes on.")
            assert host.clients[0].config.attn_implementation == "sdpa"
            assert host.requests[0].messages[0].content.startswith("Say hello")
            await reader.until(lambda: host.clients[0].closed)
            await reader.press("enter")
            await reader.at("Write")

    async def test_text_shows_as_it_comes(self) -> None:
        gate = asyncio.Event()
        async with sitting(FakeWorld(host=FakeHost(["Hello ", gate, "there."])), at="Theme") as reader:
            await reader.press("enter")
            await reader.sees("Hello", "answering: cpu, float32, attention auto")
            assert "It answers" not in reader.shown()
            gate.set()
            await reader.sees("Hello there.", "It answers")

    async def test_an_engine_that_fails_says_why_and_the_reader_can_go_back_and_try_again(self) -> None:
        host = FakeHost(["Fine."])
        host.breaks = "sdpa"
        async with sitting(FakeWorld(host=host), at="Attention") as reader:
            await reader.press("down")
            await reader.go("Test")
            await reader.sees("It does not answer: it ran out of memory; choose a smaller model")
            for name in ("Theme", "Adapters", "Attention"):
                await reader.press("ctrl+p")
                await reader.at(name)
            await reader.press("home")
            await reader.go("Test")
            await reader.sees("Fine.", "It answers")

    async def test_without_an_answer_the_reader_is_asked_before_going_on(self) -> None:
        host = FakeHost()
        host.refuses = True
        async with sitting(FakeWorld(host=host), at="Test") as reader:
            await reader.sees("It does not answer: the engine cannot start; try again")
            await reader.press("enter")
            await reader.sees("Go on without an answer?")
            await reader.press("enter")
            await reader.until(lambda: not isinstance(reader.app.screen, QuestionDialog))
            assert reader.app.step.NAME == "Test"
            await reader.press("enter")
            await reader.sees("Go on without an answer?")
            await reader.press("y")
            await reader.at("Write")

    async def test_an_answer_that_comes_meanwhile_spares_the_question(self) -> None:
        gate = asyncio.Event()
        async with sitting(FakeWorld(host=FakeHost(["Hello ", gate, "there."])), at="Theme") as reader:
            await reader.press("enter")
            await reader.sees("Hello")
            await reader.press("enter")
            await reader.sees("Go on without an answer?")
            gate.set()
            await reader.sees("It answers")
            assert not isinstance(reader.app.screen, QuestionDialog)
            assert reader.app.step.NAME == "Test"

    async def test_another_prompt_can_be_asked(self) -> None:
        host = FakeHost(["One."], ["Two."])
        async with sitting(FakeWorld(host=host), at="Test") as reader:
            await reader.sees("One.", "It answers")
            reader.app.step.query_one(Input).value = "And now?"
            reader.app.step.query_one(Input).focus()
            await reader.press("enter")
            await reader.sees("Two.")
            assert [request.messages[-1].content for request in host.requests][1] == "And now?"

    async def test_going_back_ends_the_engine(self) -> None:
        host = FakeHost(["Hello ", asyncio.Event()])
        async with sitting(FakeWorld(host=host), at="Theme") as reader:
            await reader.press("enter")
            await reader.sees("Hello")
            await reader.press("ctrl+p")
            await reader.at("Theme")
            assert host.clients[0].closed

    async def test_leaving_ends_the_engine(self) -> None:
        host = FakeHost(waits=asyncio.Event())
        async with sitting(FakeWorld(host=host), at="Theme") as reader:
            await reader.press("enter")
            await reader.sees("reading weights: 50%")
            await reader.press("escape", "y")
        assert host.clients[0].closed

    async def test_what_a_terminal_would_obey_is_not_drawn(self) -> None:
        async with sitting(FakeWorld(host=FakeHost(["\x1b]0;owned\x07[red]a\x1b[31mb[/]"])), at="Test") as reader:
            await reader.sees("[red]ab[/]", "It answers")
            assert "owned" not in reader.shown()


class TestWriting:
    async def test_the_summary_tells_what_is_new(self) -> None:
        async with sitting(at="Attention") as reader:
            await reader.press("down")
            await reader.go("Write")
            await reader.sees("attn_implementation sdpa changed", "model starter", str(config_file().name))

    async def test_a_file_with_comments_keeps_them_and_is_kept_as_it_was(self) -> None:
        write_config("# mine\ntop_p = 0.5 # as Greta said\nattn_implementation = 'auto' # why not\n")
        before = config_file().read_text()
        async with sitting(at="Attention") as reader:
            await reader.press("down")
            await reader.go("Write")
            await reader.press("enter")
            await reader.sees("Written to", "What was there before is now", "config.toml.old-1")
        assert config_file().read_text() == before.replace("= 'auto' #", '= "sdpa" #')
        assert (config_file().parent / "config.toml.old-1").read_text() == before

    async def test_a_bare_file_is_explained_and_its_values_stay(self) -> None:
        write_config("top_p = 0.5\n")
        async with sitting(at="Write") as reader:
            await reader.press("enter")
            await reader.sees("Written to")
        assert "#top_p = 0.9\ntop_p = 0.5\n" in config_file().read_text()
        assert tomllib.loads(config_file().read_text()) == {"top_p": 0.5}

    async def test_a_file_with_mistakes_is_told_and_not_lost(self) -> None:
        write_config("# mine\ntop_p = 7\ntop_k = 5\n")
        async with sitting() as reader:
            await reader.sees("Line 2 of", "is left out: top_p = 7.0 cannot be used")
            await reader.go("Write")
            await reader.press("enter")
            await reader.sees("Written to")
        assert config_file().read_text() == "# mine\ntop_k = 5\n"
        assert "top_p = 7" in (config_file().parent / "config.toml.old-1").read_text()
        load_settings()

    async def test_a_file_that_is_no_toml_is_told_and_not_lost(self) -> None:
        write_config("top_p = \n")
        async with sitting() as reader:
            await reader.sees("Line 1 of", "this is no TOML")
            await reader.go("Write")
            await reader.press("enter")
            await reader.sees("Written to")
        assert (config_file().parent / "config.toml.old-1").read_text() == "top_p = \n"

    async def test_what_wins_over_the_file_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MP13_ATTN_IMPLEMENTATION", "reference")
        async with sitting(at="Attention") as reader:
            await reader.press("down")
            await reader.go("Write")
            await reader.sees("MP13_ATTN_IMPLEMENTATION sets attn_implementation here, and wins over the file.")

    async def test_a_folder_that_cannot_be_written_is_a_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with sitting(at="Write") as reader:
            config_file().parent.parent.mkdir(parents=True, exist_ok=True)
            config_file().parent.write_text("a file in the folder's place")
            await reader.press("enter")
            await reader.sees("cannot be written", "MP13_CONFIG_DIR")
            await reader.press("ctrl+p")
            await reader.at("Test")
