"""Lets an engine with settings that are not written yet answer one prompt. Keeps nothing. Knows no screen."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mp13.chat.conversation.connection import Connect
from mp13.chat.conversation.session import ChatSession
from mp13.chat.conversation.turn import EngineFailed, SessionEvent
from mp13.chat.settings.load import change_settings
from mp13.chat.settings.schema import Settings

PROMPT = "Say hello, and tell me in one sentence what you can do."
_MOST_TOKENS = 80  # enough to see that it works


async def trial(settings: Settings, prompt: str, connect: Connect) -> AsyncGenerator[SessionEvent]:
    """What happens until the answer is there, or the engine has failed. The engine is let go afterwards.

    Raises:
        Mp13Error: the prompt cannot be answered.
    """
    short = {"max_tokens": min(settings.max_tokens, _MOST_TOKENS), "min_tokens": 0}
    session = ChatSession(change_settings(settings, short, "the test"), None, connect)
    try:
        async with aclosing(session.start()) as events:
            async for event in events:
                yield event
                if isinstance(event, EngineFailed):
                    return
        async with aclosing(session.ask(prompt)) as events:
            async for event in events:
                yield event
    finally:
        await session.close()
