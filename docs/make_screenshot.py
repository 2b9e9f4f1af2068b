"""Remake docs/images: the real app over the real engine, under the starter's adapters.

    python docs/make_screenshot.py [chat | diff]

chat.svg is one conversation, diff.svg an answer taken apart. It uses the data folder that the chat uses
(`MP13_DATA_DIR`) and installs the starter where it is missing; nothing of the conversations is kept.
"""

import asyncio
import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from mp13.chat.conversation.session import ChatSession
from mp13.chat.settings.load import load_settings
from mp13.chat.tui.app import ChatApp
from mp13.chat.tui.screens.conversation import ConversationScreen

IMAGES = Path(__file__).resolve().parent / "images"


@dataclass(frozen=True)
class Picture:
    """What is entered, which keys are pressed then, and how many turns there are if all went well."""

    size: tuple[int, int]
    lines: tuple[str, ...]
    turns: int
    keys: tuple[str, ...] = ()
    max_tokens: int = 64


PICTURES = {
    "chat": Picture(
        (118, 43),
        (
            "Tell me about the moon in one sentence.",
            "/adapter pirate",
            "What should I cook tonight?",
            "/adapter json",
            "Give me name and city as JSON: Greta has moved to Prague.",
            "/adapter pirate:0.6+json:0.4",
            "Tell me about the sea.",
            "/adapter pirate",
            "What do I need on a long voyage?",
        ),
        turns=10,
    ),
    "diff": Picture(
        (92, 24),
        ("/adapter pirate", "What do I need on a long voyage?", "/diff"),
        turns=2,
        keys=("down",) * 5,
        max_tokens=96,
    ),
}


async def photograph(picture: Picture) -> str:
    """The conversation's screen as SVG. Raises the error that keeps the engine from answering."""
    flags = {"model": "starter", "adapter": "base", "log": "false", "temperature": "0"}
    session = ChatSession.open(load_settings({**flags, "max_tokens": str(picture.max_tokens)}))

    async def open_session() -> ChatSession:
        return session

    app = ChatApp(open_session)
    async with app.run_test(size=picture.size) as pilot:
        screen = app.screen
        assert isinstance(screen, ConversationScreen)
        for line in picture.lines:
            screen.write(line)
            await pilot.press("enter")
            while not screen.is_idle:
                await asyncio.sleep(0.1)
        await pilot.pause(1.0)
        await pilot.press(*picture.keys)
        await pilot.pause(0.2)
        if len(session.turns) < picture.turns:
            raise SystemExit(app.export_screenshot())
        drawn = re.sub(r"@font-face \{.*?\}", "", app.export_screenshot(), flags=re.DOTALL)  # fonts from the web
        return re.sub(r"terminal-\d+", "terminal", drawn)


def main() -> None:
    for name in sys.argv[1:] or PICTURES:
        out = IMAGES / f"{name}.svg"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(asyncio.run(photograph(PICTURES[name])), encoding="utf-8")
        print(out)


if __name__ == "__main__":
    main()
