"""What models write stays legible at any width: wide characters, both directions, code, tables, endless words."""

import pytest
from rich.cells import cell_len
from syrupy.assertion import SnapshotAssertion

from tests.fakes.fake_session import FakeSession, answer
from tests.tui.conftest import Chat, chatting

TEXTS = {
    "cjk": """# 月と潮

**潮汐**は月の引力によって起こります。海水は一日に二回満ち引きします。日本語の文章は空白がないので、長い行も正しく折り返されます。

- 中文：月亮绕着地球转，大约二十七天一圈。
- 한국어: 달은 지구를 돈다.

| 名前 | 値 |
|---|---|
| 高さ | 二メートル |
""",
    "right_to_left": """العربية: القمر يدور حول الأرض ويسحب مياه البحر مرتين في اليوم.

עברית: הירח מושך את הים. **שלום** עולם

mixed: the word שלום in English, and 123 عربى here
""",
    "emoji": """Family 👨‍👩‍👧‍👦 flag 🏳️‍🌈 🇩🇪 thumbs 👍🏽 heart ❤️ keycap 1️⃣ end.

| emoji | word |
|---|---|
| 👨‍👩‍👧‍👦 | family |
| 👍🏽 | yes |
""",
    "code": """A long line of code:

```python
def a_function_with_a_long_name(first_argument: int, second_argument: str, third_argument: list[str]) -> dict[str, int]:
    return None
```
""",
    "wide_table": """
| name | what it does | when it was made | who made it | how large it is | what it is good for | remarks |
|---|---|---|---|---|---|---|
| pirate | speaks as a pirate would, in pirates' words | 2025-11-01 | somebody | 3.7 MB | stories about the sea | none |
| json | answers in JSON only | 2025-11-02 | somebody else | 1.9 MB | programs | strict |
""",
    "long_words": f"""Averylongword{"x" * 300}end and https://example.org/{"a/very/long/path/" * 8}?query=1

{"word " * 60}
""",
}
SIZES = [(80, 30), (120, 36), (200, 40)]


def words(chat: Chat) -> str:
    """The answer's characters without spaces, lines and frames."""
    text = chat.shown(chat.transcript)
    return "".join(character for character in text if character not in " \n▎▏│┌┐└┘├┤┬┴┼─▕█▄▃▅")


@pytest.mark.parametrize("size", SIZES, ids=[f"{width}x{height}" for width, height in SIZES])
@pytest.mark.parametrize("name", TEXTS)
async def test_a_picture_of_it(name: str, size: tuple[int, int], picture: SnapshotAssertion) -> None:
    async with chatting(FakeSession(turns=[answer(TEXTS[name], "pirate")]), size=size) as chat:
        await chat.sees("38 tok/s")
        assert await chat.still() == picture


@pytest.mark.parametrize("width", [40, 62, 80, 120, 200])
@pytest.mark.parametrize("name", TEXTS)
async def test_nothing_of_it_is_cut_off_and_no_line_is_too_long(name: str, width: int) -> None:
    async with chatting(FakeSession(turns=[answer(TEXTS[name], "pirate")]), size=(width, 120)) as chat:
        await chat.sees("38 tok/s")
        await chat.still()
        assert all(cell_len(line) <= width for line in chat.shown().splitlines())
        assert "…" not in chat.shown(chat.transcript)
        shown = words(chat)
        for part in TEXTS[name].replace("*", "").replace("#", "").replace("```python", "").replace("`", "").split():
            for word in part.split("|"):
                if not set(word) <= {"-"}:
                    assert word in shown, word


class TestTables:
    async def test_columns_that_fold_share_the_width_evenly(self) -> None:
        """Only the two long ones fold, and neither is squeezed for the other's sake."""
        lines = ["| a | first | second |", "|---|---|---|", f"| x | {'word ' * 12}| {'word ' * 60}|"]
        async with chatting(FakeSession(turns=[answer("\n".join(lines))]), size=(80, 30)) as chat:
            await chat.sees("│ x │ word")
            row = next(line for line in chat.shown(chat.transcript).split("\n") if "│ x │" in line)
            first, second = row.split("│")[2:4]
            assert first.count("word") >= 6
            assert abs(cell_len(first) - cell_len(second)) <= 1

    async def test_a_table_folds_where_its_words_have_no_room_and_unfolds_again(self) -> None:
        async with chatting(FakeSession(turns=[answer(TEXTS["wide_table"], "pirate")]), size=(60, 40)) as chat:
            await chat.sees("what it is good for: stories about the sea")
            await chat.pilot.resize_terminal(99, 40)
            await chat.until(lambda: "┌" in chat.shown() and "good for:" not in chat.shown())
            await chat.pilot.resize_terminal(60, 40)
            await chat.sees("who made it: somebody else")

    async def test_it_folds_while_it_is_still_written(self) -> None:
        lines = [line + "\n" for line in TEXTS["wide_table"].splitlines()]
        async with chatting(FakeSession([*lines, "\nafter"]), size=(60, 50)) as chat:
            await chat.say("go")
            await chat.sees("name: pirate", "name: json", "remarks: strict", "after")
            assert chat.shown().count("name: json") == 1

    async def test_markup_in_a_folded_cell_is_only_text(self) -> None:
        table = "| a | b |\n|---|---|\n| [/]\x1b[31m | [bold]x[/bold]" + "y" * 80 + " |\n"
        async with chatting(FakeSession(turns=[answer(table)]), size=(60, 20)) as chat:
            await chat.sees("a: [/]", "[bold]x[/bold]")
