"""Chats that are there to be killed: each number on standard input forks one, which talks to an engine process of its
own around the fake engine and stores what is said. It tells on standard output what it has acknowledged, a line each:

    pid N           it has begun          asked ID        a prompt is stored
    draft ID N      N characters of an answer are stored  said PROMPT     an answer to the prompt has begun on screen
    done ID         an answer is stored    end             the answer to `end`: nothing more is to come
"""

import asyncio
import os
import random
import signal
import sys
from functools import partial
from typing import Any

from mp13.chat.commands import table  # noqa: F401  # imported once, for all of them
from mp13.chat.conversation import asking
from mp13.chat.conversation.ask import Ask
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import AnswerDone, Asked, TextDelta
from mp13.chat.settings.load import load_settings
from mp13.service import client, launcher  # noqa: F401

FAKE = "tests.fakes.fake_engine:FakeEngine"


def tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def chat(choose: random.Random) -> None:
    """Until it is killed."""
    settings = load_settings({"model": "org/fake", "max_tokens": "500"})
    session = ChatSession.open(settings, connect=partial(launcher.connect, engine=FAKE))
    assert session.store is not None
    store_draft = session.store.draft

    def draft(conversation_id: str, turn: Any, kept: bool) -> None:
        store_draft(conversation_id, turn, kept)
        tell("draft", turn.id, len(turn.text))

    session.store.draft = draft  # type: ignore[method-assign]
    asking._DRAFT_EVERY_S = 0.05
    while True:
        await answered(session, _next(session, choose))


def _next(session: ChatSession, choose: random.Random) -> Ask:
    text = f"count {choose.randint(1, 60)}"
    match choose.randrange(5):
        case 0 if session.turns:
            return Ask()
        case 1:
            return Ask(text, mixes=("base", "pirate"))
        case 2:
            session.new()
    return Ask(text)


async def answered(session: ChatSession, ask: Ask) -> None:
    prompt = ""
    async for event in session.answer(ask):
        match event:
            case Asked():
                prompt = event.prompt.id
                tell("asked", prompt)
            case TextDelta():
                tell("said", prompt)
            case AnswerDone():
                tell("done", event.turn.id)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not waited for
    for line in sys.stdin:
        if line == "end\n":
            tell("end")
        elif os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            tell("pid", os.getpid())
            asyncio.run(chat(random.Random(line)))
