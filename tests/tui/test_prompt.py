"""The prompt: what Enter, Shift+Enter, paste, Up and Tab do to what the reader writes."""

from textual import events

from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import chatting


class TestWriting:
    async def test_focus_starts_in_the_prompt(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("h", "i")
            assert chat.prompt.text == "hi"

    async def test_enter_sends_and_clears(self) -> None:
        async with chatting(FakeSession(["Hello."])) as chat:
            await chat.press("h", "i", "enter")
            await chat.sees("Hello.")
            assert chat.session.asked == [("base", "hi")]
            assert chat.prompt.text == ""

    async def test_shift_enter_and_ctrl_j_break_the_line_where_the_cursor_is(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("a", "ctrl+j", "b", "shift+enter", "c")
            assert chat.prompt.text == "a\nb\nc"
            assert chat.session.asked == []

    async def test_keys_typed_in_a_burst_keep_their_order(self) -> None:
        async with chatting(FakeSession()) as chat:
            for key in ("a", "ctrl+j", "b", "enter", "up", "enter"):
                chat.app.post_message(events.Key(key, key if len(key) == 1 else None))
            await chat.until(lambda: len(chat.session.asked) == 2)
            assert chat.session.asked == [("base", "a\nb"), ("base", "a\nb")]

    async def test_a_paste_of_many_lines_stays_in_the_prompt(self) -> None:
        async with chatting(FakeSession()) as chat:
            chat.app.post_message(events.Paste("one\ntwo\nthree"))
            await chat.until(lambda: chat.prompt.text)
            assert chat.prompt.text == "one\ntwo\nthree"
            assert chat.session.asked == []
            assert "two" in chat.shown(chat.prompt)

    async def test_blank_text_is_not_sent(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("space", "ctrl+j", "enter")
            assert chat.session.asked == []

    async def test_the_prompt_grows_with_its_text_up_to_a_limit(self) -> None:
        async with chatting(FakeSession()) as chat:
            heights = []
            for lines in (1, 3, 40):
                chat.prompt.show("\n".join("x" * lines))
                await chat.pilot.pause()
                heights.append(chat.prompt.size.height)
            assert heights == [1, 3, 8]


class TestRecall:
    async def test_up_in_an_empty_prompt_brings_back_earlier_prompts_and_down_later_ones(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("first")
            await chat.say("second")
            seen = []
            for key in ("up", "up", "up", "down", "down"):
                await chat.press(key)
                seen.append(chat.prompt.text)
            assert seen == ["second", "first", "first", "second", ""]

    async def test_up_in_a_text_being_written_moves_the_cursor(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("first")
            await chat.press("a", "ctrl+j", "b", "up")
            assert chat.prompt.text == "a\nb"
            assert chat.prompt.cursor_location[0] == 0

    async def test_an_edited_recall_is_left_alone(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("first")
            await chat.press("up", "x", "up")
            assert chat.prompt.text == "firstx"


class TestCompletion:
    async def test_a_slash_lists_the_commands_with_their_help(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("/")
            await chat.sees("/adapter [MIX]", "Choose who answers", "/diff [MIX]", "/reload [NAME]")
            await chat.press("n", "e")
            await chat.sees("/new", "Start a new conversation.")

    async def test_a_long_list_of_arguments_leaves_room_for_the_help(self) -> None:
        async with chatting(FakeSession(), size=(80, 24)) as chat:
            await chat.press("/")
            await chat.sees("Train an adapter; pause, go on, stop, cancel.", "with their numbers.")

    async def test_tab_takes_the_first_and_goes_on_to_adapter_names(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("/", "a", "tab")
            assert chat.prompt.text == "/adapter "
            await chat.sees("/adapter json", "/adapter pirate")
            await chat.press("p", "tab")
            assert chat.prompt.text == "/adapter pirate"
            assert "/adapter json" not in chat.shown()

    async def test_a_mix_is_completed_at_its_last_member(self) -> None:
        async with chatting(FakeSession()) as chat:
            chat.prompt.show("/adapter json:0.5+p")
            await chat.press("tab")
            assert chat.prompt.text == "/adapter json:0.5+pirate"

    async def test_enter_takes_what_the_arrow_keys_have_marked(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("/")
            await chat.sees("/compare")
            await chat.press("down", "down", "down", "enter")
            assert chat.prompt.text == "/compare "

    async def test_enter_without_a_mark_sends_what_was_typed(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("/", "n", "e")
            await chat.say("/ne")
            await chat.sees("unknown command /ne; did you mean /new?")

    async def test_esc_closes_the_list_and_keeps_the_text(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.press("/", "n")
            await chat.sees("Start a new conversation.")
            await chat.press("escape")
            await chat.until(lambda: "Start a new conversation." not in chat.shown())
            assert chat.prompt.text == "/n"
