"""Keeps one engine process within reach of a session: installs the starter, connects, follows the engine's life,
and puts adapters from disk into it. What is said over it is session.py's.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mp13.chat.conversation.turn import EngineFailed, EngineReady, LoadNote, LoadProgress
from mp13.chat.settings.model import STARTER_NAMES
from mp13.chat.settings.schema import Settings
from mp13.engine.adapters.folder_stamp import FolderStamp, folder_stamp
from mp13.errors import AdapterError, Mp13Error, error_from_wire
from mp13.library.adapters import find_adapters
from mp13.library.starter import install_starter, starter_ready
from mp13.library.starter_updates import update_adapters
from mp13.mix import version_of
from mp13.service.schema import (
    AdapterInfo,
    AdaptersEvent,
    BusyEvent,
    EngineConfig,
    EngineEvent,
    EngineInfo,
    FailedEvent,
    LoadEvent,
    ReadyEvent,
    TrainingNews,
)

if TYPE_CHECKING:
    from mp13.service.client import EngineClient

Connect = Callable[[EngineConfig], Awaitable["EngineClient"]]


async def launch(config: EngineConfig) -> "EngineClient":
    """`service.launcher.connect`, imported with the first use: it brings httpx."""
    from mp13.service.launcher import connect

    return await connect(config)


@dataclass(frozen=True)
class EngineState:
    """The engine as a screen may show it. One that "failed" did not come up, one that "ended" was up; `error` says why,
    an `EngineStopped` that it was wanted. `running` and `waiting` count the requests of all its chats.
    """

    phase: Literal["none", "loading", "ready", "failed", "ended"] = "none"
    stage: str = ""
    fraction: float | None = None
    running: int = 0
    waiting: int = 0
    error: Mp13Error | None = None


class EngineConnection:
    """`engine` is None while no engine runs; `adapters` is what it has loaded. `on_state` is called with every `state`
    that differs from the one before it, `on_training` when the engine's training run, of any chat, begins or ends."""

    def __init__(self, connect: Connect) -> None:
        self.state = EngineState()
        self.on_state: Callable[[EngineState], None] = lambda state: None
        self.on_training: Callable[[TrainingNews], None] = lambda news: None
        self._connect = connect
        self._starting = asyncio.Lock()
        self._config: EngineConfig | None = None
        self._proven: Settings | None = None  # those of the last engine that came up
        self._client: EngineClient | None = None
        self._follower: asyncio.Task[None] | None = None
        self._placed: dict[str, tuple[Path, FolderStamp, str]] = {}  # name: what was loaded, and the digest it got
        self.engine: EngineInfo | None = None
        self.adapters: list[AdapterInfo] = []

    @property
    def client(self) -> "EngineClient":
        """Raises EngineGone when no engine runs."""
        if self._client is None or self.engine is None:
            from mp13.service.client import AGAIN, EngineGone

            raise EngineGone(f"the engine has ended; {AGAIN}")
        return self._client

    def runs(self, settings: Settings) -> bool:
        """Whether an engine runs, and with these settings. Raises ModelError when there is no such model."""
        return self.engine is not None and self._config == settings.engine_config()

    async def check(self, settings: Settings) -> None:
        """Raises what an engine with `settings` would before it reads weights, as far as the one that runs can tell."""
        from mp13.service.client import EngineGone

        if self.engine is not None and not self.runs(settings):
            with suppress(EngineGone):
                await self.client.check(settings.engine_config())

    def fallback(self, settings: Settings) -> Settings | None:
        """`settings` with the engine that worked last; None where that is theirs, or none ever did."""
        if self._proven is None or self._proven.engine_values == settings.engine_values:
            return None
        return settings.with_engine_of(self._proven)

    async def start(self, settings: Settings) -> AsyncGenerator[LoadProgress | LoadNote | EngineReady | EngineFailed]:
        """Bring up an engine with `settings`; ends with EngineReady or EngineFailed. A second caller waits for it."""
        async with self._starting:
            try:
                if not self.runs(settings):
                    await self._let_go()
                    self._enter(EngineState("loading", "starting"))
                    self._config = settings.engine_config()
                    if settings.model in STARTER_NAMES:
                        async for progress in _install():
                            if isinstance(progress, LoadProgress):
                                self._enter(EngineState("loading", progress.stage, progress.fraction))
                            yield progress
                    self._client = await self._connect(self._config)
                    async for progress in self._until_ready(self._client):
                        yield progress
                if self.engine is None:
                    raise Mp13Error("the engine ended as soon as it was loaded; send the prompt again to start one")
                self._proven = settings
                yield EngineReady(self.engine)
            except Mp13Error as error:
                self._enter(EngineState("failed", error=error))
                yield EngineFailed(error, falls_back=self.fallback(settings) is not None)
            finally:
                if self.engine is None:
                    await self._let_go()
                if self.state.phase == "loading":  # nobody waits for it any more
                    self._enter(EngineState())

    async def close(self, lost: Mp13Error | None = None) -> None:
        """Let the engine go; it ends with its last chat, at once if it is still loading. `lost` says why it is gone
        already, where a call has found out."""
        await self._let_go()
        self._enter(EngineState("ended", error=lost) if lost else EngineState())

    async def end(self) -> None:
        """End the engine, which letting it go does not: who comes back at once would find it as it was.

        Raises:
            Mp13Error: another chat uses it; nothing has changed.
        """
        from mp13.service.client import EngineGone

        with suppress(EngineGone):
            if self._client is not None and await self._client.is_shared():
                raise Mp13Error("another chat uses this engine, so it goes on; `mp13 stop` ends it for all of them")
        await self._let_go(ending="one of its chats starts it anew")
        self._enter(EngineState())

    async def _let_go(self, ending: str = "") -> None:
        client, follower = self._client, self._follower
        self._client = self._follower = None
        self._forget()
        if follower is not None:
            follower.cancel()
            await asyncio.wait({follower})
        if client is not None and ending:
            await client.end(ending)
        elif client is not None:
            await client.close()

    async def load(self, names: Sequence[str], folders: Sequence[Path], fresh: bool) -> None:
        """See that the engine has every one of `names`; with `fresh`, as it is on disk now. A version of what is
        being trained is in the engine alone.

        Raises:
            AdapterError: there is no such adapter, or it does not fit.
            EngineGone: there is no engine.
        """
        on_disk = [name for name in names if not self._is_version(name)]
        wanted = [name for name in on_disk if fresh or not self._holds(name)]
        for adapter in find_adapters(wanted, folders) if wanted else ():
            name, stamp = adapter.name, folder_stamp(adapter.path)
            if self._holds(name) and self._placed[name][:2] == (adapter.path, stamp):
                continue
            info = await self.client.load_adapter(str(adapter.path), name)
            self._placed[name] = (adapter.path, stamp, info.digest)
            self.adapters = sorted([a for a in self.adapters if a.name != name] + [info], key=lambda a: a.name)

    def changed(self) -> list[str]:
        """The adapters that this chat has loaded and whose folders are not as they were then."""
        placed = [(name, *known) for name, known in self._placed.items() if self._holds(name)]
        return [name for name, path, stamp, _ in placed if folder_stamp(path) != stamp]

    def _is_version(self, name: str) -> bool:
        """Raises AdapterError where it is one that the engine has not, or no more."""
        if (wanted := version_of(name)) is None:
            return False
        versions = [v for v in (version_of(a.name) for a in self.adapters) if v is not None and v[0] == wanted[0]]
        if wanted not in versions and not (versions and wanted[1] is None):
            there = ", ".join(f"{version[0]}@{version[1]}" for version in versions)
            fix = f"give {there}" if there else f"it has no version of {wanted[0]} now: give an adapter that is on disk"
            raise AdapterError(f"there is no {name!r} in the engine; {fix}")
        return True

    def _holds(self, name: str) -> bool:
        """Whether `name` in the engine is still what we loaded: another chat of this engine may have replaced it."""
        placed = self._placed.get(name)
        return placed is not None and any(a.name == name and a.digest == placed[2] for a in self.adapters)

    async def _until_ready(self, client: "EngineClient") -> AsyncGenerator[LoadProgress]:
        news: asyncio.Queue[EngineEvent | Mp13Error] = asyncio.Queue()
        self._follower = asyncio.create_task(self._follow(client, news))
        while not isinstance(event := await news.get(), Mp13Error):
            if isinstance(event, LoadEvent):
                yield LoadProgress(event.stage, event.fraction)
            elif isinstance(event, FailedEvent):
                raise error_from_wire(event.code, event.message)
            elif isinstance(event, ReadyEvent):
                return
        raise event

    async def _follow(self, client: "EngineClient", news: asyncio.Queue[EngineEvent | Mp13Error]) -> None:
        """Keep `engine` and `adapters` true until the engine is gone; the last news is why."""
        end = Mp13Error("the engine was let go while it was loading; send the prompt again to start a new one")
        try:
            async with aclosing(client.events()) as events:
                async for event in events:
                    match event:
                        case ReadyEvent():
                            self.engine = event.engine
                            self._enter(EngineState("ready"))
                        case AdaptersEvent():
                            self.adapters = event.adapters
                        case LoadEvent() if self.engine is None:
                            self._enter(EngineState("loading", event.stage, event.fraction))
                        case TrainingNews():
                            self.on_training(event)
                        case BusyEvent():
                            self._enter(replace(self.state, running=event.running, waiting=event.waiting))
                    news.put_nowait(event)
        except Mp13Error as error:
            end = error
        finally:
            if self._client is client:
                if self.engine is not None:
                    self._enter(EngineState("ended", error=end))
                self._forget()
            news.put_nowait(end)

    def _enter(self, state: EngineState) -> None:
        if state != self.state:
            self.state = state
            self.on_state(state)

    def _forget(self) -> None:
        self.engine = None
        self.adapters = []
        self._placed = {}


async def _install() -> AsyncGenerator[LoadProgress | LoadNote]:
    """Install the starter, or its adapters, where they are missing; told only when the model has to be fetched. Then
    replace those adapters that an earlier mp13 brought.

    In a thread of its own, which an impatient Ctrl-C does not wait for.
    """
    loop, quiet = asyncio.get_running_loop(), starter_ready()
    news: asyncio.Queue[LoadProgress | LoadNote | Exception | None] = asyncio.Queue()

    def post(item: LoadProgress | LoadNote | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(news.put_nowait, item)

    def work() -> None:
        try:
            install_starter(lambda stage, fraction: post(LoadProgress(f"starter: {stage}", fraction)))
            if note := _update():
                post(LoadNote(note))
            post(None)
        except Exception as error:
            post(error)

    threading.Thread(target=work, daemon=True).start()
    while (item := await news.get()) is not None:
        if isinstance(item, Exception):
            raise item
        if isinstance(item, LoadNote) or not quiet:
            yield item


def _update() -> str | None:
    """What is to be said of the starter's adapters. A chat starts with the old ones, too."""
    try:
        names = update_adapters()
    except Mp13Error as error:
        return f"the starter's adapters are still those of an earlier mp13: {error}"
    return (
        f"{', '.join(names)}: this mp13 brought new ones, which took the place of the starter's old" if names else None
    )
