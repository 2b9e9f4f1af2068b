"""The chat, or the wizard, on the terminal of this process, whose every text is hostile. The argument is a part of it.

A word stands before each payload, `q` and its number, so that who reads the terminal can tell that it was drawn.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from mp13.chat.conversation.diff import Diff, DiffToken
from mp13.chat.conversation.remarks import Remark
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.store import ConversationStore
from mp13.chat.conversation.turn import EngineReady, LoadProgress, Turn
from mp13.chat.text import utf8
from mp13.chat.tui.app import ChatApp
from mp13.chat.tui.widgets.prompt import Prompt
from mp13.errors import Mp13Error
from mp13.library.adapters import AdapterOnDisk
from tests.fakes import fake_session
from tests.fakes.fake_session import ENGINE, FakeSession, answer
from tests.fakes.payloads import PAYLOADS

SIZE = (150, 120)
PATIENCE_S = 20.0
MARKED = [f"q{number} {payload}".replace("\n", " ") for number, payload in enumerate(PAYLOADS)]
SOME = MARKED[17::20]  # of each kind one


def pages(length: int) -> list[list[int]]:
    """The payloads' numbers, as many at once as the screen has room for."""
    return [list(range(len(PAYLOADS)))[start : start + length] for start in range(0, len(PAYLOADS), length)]


class Reader:
    """Who sits at the terminal."""

    def __init__(self, app: ChatApp, pilot: Pilot[Any], session: FakeSession) -> None:
        self.app, self.pilot, self.session = app, pilot, session
        self.press = pilot.press

    @property
    def screen(self) -> Any:
        return self.app.screen

    @property
    def prompt(self) -> Prompt:
        return self.screen.query_one(Prompt)

    async def sees(self, word: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while f"{word} " not in self.shown():
            if time.monotonic() > deadline or not self.app.is_running:
                raise TimeoutError(f"{word} never came; the screen shows {self.shown()!r}")
            await asyncio.sleep(0.02)
        await self.pilot.pause(0.1)

    def shown(self) -> str:
        return "\n".join(strip.text for strip in self.screen._compositor.render_strips())

    async def say(self, text: str) -> None:
        self.prompt.focus()
        self.prompt.show(text)
        await self.press("enter")
        while not self.screen.is_idle:
            await asyncio.sleep(0.02)
        await self.pilot.pause(0.2)

    async def hears(self, *chunks: str | Exception) -> None:
        """Ask in an empty conversation, and be answered so."""
        self.session.script(list(chunks))
        await self.say("/new")
        await self.say("go")


async def answers(reader: Reader) -> None:
    for page in pages(100):
        await reader.hears(*"\n".join(MARKED[number] for number in page))  # every place is a cut
        await reader.hears("```py\n" + "\n".join(MARKED[number] for number in page) + "\n```")


async def links(reader: Reader) -> None:
    for page in pages(50):
        await reader.hears("\n".join(f'[{MARKED[n]}](http://x/{PAYLOADS[n]} "{PAYLOADS[n]}")' for n in page))


async def tables(reader: Reader) -> None:
    for page in pages(50):
        await reader.hears("| a | b |\n|--|--|\n" + "".join(f"| {MARKED[number]} | x |\n" for number in page))
    for cell in reader.screen.query("MarkdownTableCellContents"):  # the last page has the markup
        reader.screen._handle_tooltip_timer(cell)
        await reader.pilot.pause()


async def fences(reader: Reader) -> None:
    """The language of a code block."""
    for page in pages(25):
        await reader.hears("".join(f"```{PAYLOADS[n].replace('`', '')}\nq{n}\n```\n" for n in page))


async def sayings(reader: Reader) -> None:
    for page in pages(100):
        text = "\n".join(MARKED[number] for number in page)
        await reader.hears("a", Mp13Error(text))
        await reader.say("/new")
        await reader.say(utf8(text))
        reader.prompt.show(text)
        await reader.pilot.pause(0.1)
        reader.prompt.clear()
        reader.prompt.post_message(events.Paste(utf8(text)))
        await reader.pilot.pause(0.1)
        reader.prompt.clear()
        tokens = (DiffToken(f"{MARKED[n]}\n", 1, -0.1, -3.0, MARKED[n], PAYLOADS[n], True, 2.0) for n in page)
        reader.session.next_diff = Diff("pirate", "base", tuple(tokens), note=text)
        await reader.hears("fine")
        await reader.say("/diff json")
    await reader.say(f"/{' '.join(SOME)}".replace("\x1b", "\x1b\x1b"))  # is no command


async def mixes(reader: Reader) -> None:
    """An imported answer may name any mix."""
    await reader.sees("q17")


async def names(reader: Reader) -> None:
    for page in pages(50):
        fake_session.ADAPTERS = tuple(_adapter(number) for number in page)
        await reader.press("ctrl+o")
        await reader.sees(f"q{page[-1]}")
        await reader.press("escape")
        await reader.press("f4")
        reader.screen._look()
        await reader.sees(f"q{page[3]}")
        await reader.press("down", "down", "down", "enter")  # says in a toast why that one cannot be used
        await reader.press("escape")
    await reader.press("f1")
    await reader.pilot.pause(0.2)
    await reader.press("escape")
    reader.prompt.show("/adapter ")
    await reader.pilot.pause(0.2)


async def titles(reader: Reader) -> None:
    store = reader.session.store
    assert store is not None
    await reader.press("f3")
    for page in pages(50):
        for number in page:
            store.add_all(f"{number:032}", [Turn("user", utf8(MARKED[number]).replace("\0", ""), "base")])
        reader.screen._regions.conversations.draw()
        await reader.sees(f"q{page[-1]}")
        await reader.press("down", "f2")
        await reader.pilot.pause(0.1)
        await reader.press("escape", "delete")  # a toast says so
        await reader.pilot.pause(0.1)
        for number in page:
            store.delete(f"{number:032}")


PARTS: dict[str, Callable[[Reader], Awaitable[None]]] = {
    part.__name__: part for part in (answers, links, tables, fences, sayings, mixes, names, titles)
}


def _adapter(number: int) -> AdapterOnDisk:
    name = MARKED[number].replace("/", "|").replace("\0", "")
    return AdapterOnDisk(name, Path("/x") / name, 8, "lora", 1, MARKED[number] if number % 5 == 2 else None)


def session_of(part: str) -> FakeSession:
    turns = [answer(text, text.replace(" ", "+", 1)) for text in SOME] if part == "mixes" else []
    store = ConversationStore(Path(os.environ["MP13_DATA_DIR"]) / "c.db") if part == "titles" else None
    facts = {"model": f"/data/{SOME[0]}", "notes": tuple(MARKED[:99]), "attn_reason": "\n".join(SOME)}
    load = [*(LoadProgress(text, 0.5) for text in MARKED), EngineReady(ENGINE.model_copy(update=facts))]
    session = FakeSession(["fine"], load=load, turns=turns, store=store)
    session.remarks = [Remark(text, text, text) for text in SOME]
    return session


def chat(part: str) -> None:
    session = session_of(part)

    async def open_session() -> ChatSession:
        return session

    async def drive(pilot: Pilot[Any]) -> None:
        reader = Reader(app, pilot, session)
        while not reader.screen.is_idle:
            await asyncio.sleep(0.02)
        await PARTS[part](reader)
        app.exit()

    app = ChatApp(open_session)
    app.run(auto_pilot=drive)
    sys.exit(app.return_code)


def wizard() -> None:
    from mp13.chat.wizard.app import Wizard
    from mp13.chat.wizard.state import State
    from mp13.library.models import ModelOnDisk
    from tests.tui.wizard_world import FakeWorld

    models = [ModelOnDisk(text, Path("/models/x"), "data folder", text, 1, unfit=text) for text in MARKED[:99]]

    async def drive(pilot: Pilot[Any]) -> None:
        await pilot.pause(0.3)
        for _ in range(2):
            await pilot.press("ctrl+n")
            await pilot.pause(0.3)
            for field in app.screen.query(Input):
                field.value = " ".join(SOME)
                await pilot.press("ctrl+n")
                await pilot.pause(0.3)
                field.value = ""
        app.exit()

    app = Wizard(State(FakeWorld(models=models, unmeasured=Mp13Error("\n".join(MARKED[:99]))).world()))
    app.run(auto_pilot=drive)
    sys.exit(app.return_code)


if __name__ == "__main__":
    wizard() if sys.argv[1] == "wizard" else chat(sys.argv[1])
