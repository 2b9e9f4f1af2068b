"""The chat over a process of the fake engine. Arguments: the model, which scripts the load; then nothing for the
screen, "plain", or a prompt for it without a terminal."""

import asyncio
import sys
from functools import partial

from mp13.chat.cli.headless import Line, run_headless
from mp13.chat.cli.plain import chat_plainly
from mp13.chat.conversation.session import ChatSession
from mp13.chat.ending import unless_told_to_end
from mp13.chat.settings.load import load_settings
from mp13.chat.tui.app import ChatApp
from mp13.service import launcher


def session() -> ChatSession:
    settings = load_settings({"model": f"org/{sys.argv[1]}", "max_tokens": "5000"})
    return ChatSession.open(settings, connect=partial(launcher.connect, engine="tests.fakes.fake_engine:FakeEngine"))


async def open_session() -> ChatSession:
    await asyncio.sleep(0)
    return session()


if __name__ == "__main__":
    match sys.argv[2:]:
        case []:
            app = ChatApp(open_session)
            app.run()
            sys.exit(app.return_code)
        case ["plain"]:
            chat_plainly(session)
        case [prompt]:
            sys.exit(asyncio.run(unless_told_to_end(run_headless(session(), [Line(prompt)], as_json=False))))
