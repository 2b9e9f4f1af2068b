"""The adapter picker: what it lists, how it filters, and what it makes of a mix."""

from textual.widgets import Input

from mp13.chat.tui.screens.picker import AdapterPicker
from tests.fakes.fake_session import FakeSession
from tests.tui.conftest import Chat, chatting


async def opened(chat: Chat, key: str = "ctrl+o") -> None:
    await chat.press(key)
    await chat.sees("Who answers next?")


class TestPicker:
    async def test_it_lists_the_base_and_what_is_on_disk_with_rank_size_and_why_one_cannot_be_used(self) -> None:
        async with chatting(FakeSession()) as chat:
            await chat.say("/adapter pirate")
            await opened(chat)
            await chat.sees("base", "lora · rank 8 · 1.9 MB", "rank 16 · 3.7 MB · loaded", "its rank 128 is above")

    async def test_typing_filters_and_enter_chooses_what_is_marked(self) -> None:
        async with chatting(FakeSession()) as chat:
            await opened(chat)
            await chat.press("p", "i")
            await chat.until(lambda: "rank 8" not in chat.shown())
            await chat.press("enter")
            await chat.sees("pirate answers from here on")
            assert chat.session.mix == "pirate"

    async def test_arrow_keys_choose_from_what_answers_now(self) -> None:
        async with chatting(FakeSession()) as chat:
            await opened(chat)
            await chat.press("down", "enter")
            await chat.sees("json answers from here on")

    async def test_an_adapter_that_cannot_be_used_cannot_be_chosen(self) -> None:
        async with chatting(FakeSession()) as chat:
            await opened(chat)
            await chat.press(*"wide", "enter")
            await chat.until(lambda: "'wide' cannot be used" in " ".join(chat.shown().split()))
            assert isinstance(chat.app.screen, AdapterPicker)
            assert chat.session.mix == "base"

    async def test_a_mix_with_weights_is_taken_as_typed(self) -> None:
        async with chatting(FakeSession()) as chat:
            await opened(chat)
            chat.app.screen.query_one(Input).insert_text_at_cursor("pirate:0.5+json:-0.25")
            await chat.press("enter")
            await chat.sees("json:-0.25+pirate:0.5 answers from here on")

    async def test_tab_completes_the_last_member_of_a_mix(self) -> None:
        async with chatting(FakeSession()) as chat:
            await opened(chat)
            for part in ("pi", "+js"):
                chat.app.screen.query_one(Input).insert_text_at_cursor(part)
                await chat.press("tab")
            await chat.press("enter")
            await chat.sees("json+pirate answers from here on")

    async def test_what_cannot_be_is_explained_and_the_picker_stays(self) -> None:
        async with chatting(FakeSession()) as chat:
            await opened(chat)
            for mix, sentence in (
                ("pirate:x", "is not a mix"),
                ("pirate+nobody", "There is no adapter 'nobody'"),
                ("pirate+wide", "'wide' cannot be used: its rank"),
                ("nobody", "There is no adapter 'nobody'"),
            ):
                chat.app.screen.query_one(Input).value = mix
                await chat.press("enter")
                await chat.until(lambda sentence=sentence: sentence in " ".join(chat.shown().replace("│", "").split()))
                assert isinstance(chat.app.screen, AdapterPicker)

    async def test_esc_leaves_everything_as_it_was(self) -> None:
        async with chatting(FakeSession()) as chat:
            await opened(chat)
            await chat.press("escape")
            await chat.until(lambda: not isinstance(chat.app.screen, AdapterPicker))
            assert chat.session.mix == "base"
            await chat.press("x")
            assert chat.prompt.text == "x"
