"""Slash commands, keys and palette on the screen. What a command does is tested with the table itself."""

from mp13.chat.tui.screens.help import HelpScreen
from mp13.chat.tui.screens.picker import AdapterPicker
from mp13.chat.tui.widgets.adapters import AdapterList
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import chatting


class TestCommands:
    async def test_adapter_changes_who_answers_next_in_status_and_badge(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/adapter pirate:0.5+json:0.5")
            assert chat.status.startswith("●● json:0.5+pirate:0.5")
            await chat.say("go")
            await chat.sees("●● json:0.5+pirate:0.5 · 38 tok/s")

    async def test_a_typo_gets_a_suggestion_and_nothing_runs(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/adaptr pirate")
            await chat.sees("unknown command /adaptr; did you mean /adapter?")
            assert chat.session.mix == "base"

    async def test_a_refused_adapter_leaves_the_one_before_it(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/adapter pirate")
            await chat.say("/adapter wide")
            await chat.sees("adapter 'wide' cannot be used: its rank 128 is above max_lora_rank 64")
            assert "● pirate" in chat.status

    async def test_new_empties_the_screen(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("an earlier question")
            await chat.say("/new")
            await chat.sees("a new conversation")
            assert "an earlier question" not in chat.shown()

    async def test_a_prompt_that_begins_with_two_slashes_is_a_prompt_with_one(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("//etc is a folder")
            assert chat.session.asked == [("base", "/etc is a folder")]

    async def test_adapter_alone_opens_the_picker_and_help_the_help(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.send("/adapter")
            await chat.until(lambda: isinstance(chat.app.screen, AdapterPicker))
            await chat.press("escape")
            await chat.send("/help")
            await chat.until(lambda: isinstance(chat.app.screen, HelpScreen))
            await chat.sees("Shift+Enter, Ctrl+J")

    async def test_quit_ends_the_chat_and_lets_the_session_go(self) -> None:
        session = FakeSession()
        async with chatting(session) as chat:
            await chat.send("/quit")
            await chat.until(lambda: not chat.app.is_running)
        assert session.closed


class TestKeys:
    async def test_help_lists_keys_commands_and_the_engine(self) -> None:
        async with chatting(FakeSession(), size=(80, 260)) as chat:
            await chat.press("f1")
            await chat.sees("Ctrl+O", "/system", "llama, native, bfloat16 on cpu", "attention sdpa: no GPU")
            await chat.press("f1")
            await chat.until(lambda: not isinstance(chat.app.screen, HelpScreen))

    async def test_the_first_ctrl_c_asks_and_the_second_quits(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("ctrl+c")
            await chat.sees("Press Ctrl+C again to quit.")
            assert chat.app.is_running
            await chat.press("ctrl+c")
            await chat.until(lambda: not chat.app.is_running)

    async def test_ctrl_c_copies_what_is_selected_in_the_prompt(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("a", "b", "shift+left", "ctrl+c")
            assert chat.app.clipboard == "b"
            assert "again to quit" not in chat.shown()

    async def test_ctrl_q_quits(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("ctrl+q")
            await chat.until(lambda: not chat.app.is_running)

    async def test_ctrl_n_starts_a_new_conversation(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("an earlier question")
            await chat.press("ctrl+n")
            await chat.sees("a new conversation")

    async def test_page_keys_scroll_the_conversation_from_the_prompt(self) -> None:
        async with chatting(FakeSession([f"line {number}\n\n" for number in range(40)])) as chat:
            await chat.say("go")
            await chat.sees("line 39")
            await chat.press("pageup", "pageup", "pageup", "pageup", "pageup", "pageup")
            await chat.sees("line 0", "go")
            await chat.press("pagedown", "pagedown", "pagedown", "pagedown", "pagedown", "pagedown")
            await chat.sees("line 39")

    async def test_page_keys_where_nothing_scrolls_do_not_unfasten_the_end(self) -> None:
        async with chatting(FakeSession(["short"], ["line\n\n" * 40, "the last word"])) as chat:
            await chat.say("go")
            await chat.press("pageup", "pagedown")
            await chat.say("go on")
            await chat.sees("the last word")


class TestPalette:
    async def test_a_command_with_an_argument_is_written_for_the_reader_to_go_on(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("ctrl+p", *"/system")
            await chat.sees("/system [TEXT|-]")
            await chat.press("down", "enter")
            await chat.until(lambda: chat.prompt.text == "/system ")

    async def test_a_command_without_one_is_run(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("an earlier question")
            await chat.press("ctrl+p", *"/new")
            await chat.sees("Start a new conversation.")
            await chat.press("down", "enter")
            await chat.sees("a new conversation")

    async def test_what_keys_do_is_found_with_the_key_and_done(self) -> None:
        async with chatting(FakeSession(), size=(120, 36)) as chat:
            await chat.press("ctrl+p", *"fold adapters")
            await chat.sees("Go to the adapters, or fold them away", "F4")
            await chat.press("down", "enter")
            await chat.until(lambda: isinstance(chat.app.focused, AdapterList))

    async def test_letters_far_apart_find_nothing(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("ctrl+p", *"kybrd")
            await chat.sees("No matches found")
