"""Remake docs/images/chat.svg: the real app over the real engine, one conversation under the starter's adapters.

    python docs/make_screenshot.py [OUT.svg]

It uses the data folder that the chat uses (`MP13_DATA_DIR`) and installs the starter where it is missing; nothing of
the conversation is kept.
"""

import asyncio
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from mp13.chat.conversation.session import ChatSession
from mp13.chat.settings.load import load_settings
from mp13.chat.tui.app import ChatApp
from mp13.chat.tui.screens.conversation import ConversationScreen

OUT = Path(__file__).resolve().parent / "images" / "chat.svg"
SIZE = (92, 43)
LINES = (
    "Tell me about the moon in one sentence.",
    "/adapter pirate",
    "What should I cook tonight?",
    "/adapter json",
    "Give me name and city as JSON: Greta has moved to Prague.",
    "/adapter pirate:0.6+json:0.4",
    "Tell me about the sea.",
    "/adapter pirate",
    "What do I need on a long voyage?",
)


async def photograph() -> str:
    """The conversation's screen as SVG. Raises the error that keeps the engine from answering."""
    flags = {"model": "starter", "adapter": "base", "log": "false", "temperature": "0", "max_tokens": "64"}
    session = ChatSession.open(load_settings(flags))

    async def open_session() -> ChatSession:
        return session

    app = ChatApp(open_session)
    async with app.run_test(size=SIZE) as pilot:
        screen = app.screen
        assert isinstance(screen, ConversationScreen)
        for line in LINES:
            screen.write(line)
            await pilot.press("enter")
            while not screen.is_idle:
                await asyncio.sleep(0.1)
        await pilot.pause(1.0)
        if len(session.turns) < 10:
            raise SystemExit(app.export_screenshot())
        picture = re.sub(r"@font-face \{.*?\}", "", app.export_screenshot(), flags=re.DOTALL)  # fonts from the web
        return re.sub(r"terminal-\d+", "terminal", picture)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(asyncio.run(photograph()), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
