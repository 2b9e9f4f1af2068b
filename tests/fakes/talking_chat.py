"""The chat on the terminal over a process of the fake engine. Argument: the model, which scripts the load."""

import asyncio
import sys
from functools import partial

from mp13.chat.conversation.session import ChatSession
from mp13.chat.settings.load import load_settings
from mp13.chat.tui.app import ChatApp
from mp13.service import launcher


async def open_session() -> ChatSession:
    settings = load_settings({"model": f"org/{sys.argv[1]}", "max_tokens": "5000"})
    await asyncio.sleep(0)
    return ChatSession.open(settings, connect=partial(launcher.connect, engine="tests.fakes.fake_engine:FakeEngine"))


if __name__ == "__main__":
    app = ChatApp(open_session)
    app.run()
    sys.exit(app.return_code)
