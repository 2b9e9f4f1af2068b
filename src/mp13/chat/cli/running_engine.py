"""The engine of the settings, for as long as a command needs it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mp13.chat.cli.outcome import complain
from mp13.chat.cli.progress import Progress
from mp13.chat.settings.schema import Settings

if TYPE_CHECKING:
    from mp13.chat.conversation.connection import EngineConnection


@asynccontextmanager
async def running_engine(settings: Settings, progress: Progress) -> AsyncIterator["EngineConnection"]:
    """A connection to an engine that is up, which is let go afterwards.

    Raises:
        Mp13Error: it does not come up.
    """
    from mp13.chat.conversation.connection import EngineConnection, launch
    from mp13.chat.conversation.turn import EngineFailed, LoadNote, LoadProgress

    connection = EngineConnection(launch)
    try:
        async for event in connection.start(settings):
            if isinstance(event, EngineFailed):
                raise event.error
            if isinstance(event, LoadProgress):
                progress(event.stage, event.fraction)
            if isinstance(event, LoadNote):
                progress.clear()
                complain(event.text)
        yield connection
    finally:
        await connection.close()
