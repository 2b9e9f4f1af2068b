"""The chat's side of the socket: events, answers and adapters of one engine process as typed calls.

Finding or starting that process is the launcher's. No torch; httpx loads with the first client, not with this module.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from mp13.errors import Mp13Error, error_from_wire
from mp13.mix import check_name
from mp13.service.endpoint import Address
from mp13.service.late_reads import pass_over
from mp13.service.schema import (
    CHAT_HEADER,
    AdapterInfo,
    CheckRequest,
    CompareRequest,
    CountReport,
    CountRequest,
    EndedEvent,
    EngineConfig,
    EngineEvent,
    FailedEvent,
    FinishEvent,
    GenerateRequest,
    Health,
    LoadAdapterRequest,
    PrefillRequest,
    ScoreReport,
    ScoreRequest,
    StartedEvent,
    StopRequest,
    TokenEvent,
    adapter_infos,
    adapter_lists,
    answer_events,
    count_reports,
    engine_events,
)
from mp13.service.training_client import TrainingClient

if TYPE_CHECKING:
    import httpx

    from mp13.service.hold import Hold

_ROOT = "/v1/mp13"
_CONNECT_S = 5.0
_UP_S = 0.5  # for an engine to say that it is
_EXIT_S, _EXIT_TRIES = 0.3, 15  # for the system to say how a process ended, after its socket has closed
_SIGKILL = 9
AGAIN = "send the prompt again to start a new one"
_Event = TypeVar("_Event")
AnswerEvent = StartedEvent | TokenEvent | FinishEvent


class EngineEnded(Mp13Error):
    """There is no engine process any more. The sentence ends with what to do about a prompt."""

    @property
    def what(self) -> str:
        """What has happened, for those who had no prompt under way."""
        return str(self).removesuffix(f"; {AGAIN}")


class EngineGone(EngineEnded):
    """The engine process has ended or cannot be reached; `launcher.connect` starts another."""


class EngineStopped(EngineEnded):
    """The engine process was ended on purpose, by `mp13 stop` or by the system's own means. Unlike one that is gone, it
    is not to be started again unasked."""


class EngineClient:
    """One chat's connection to an engine process. Calls wait while the model loads and raise what the engine raised.

    Raises:
        EngineGone: from any call, when the process ends before it has answered.
        EngineStopped: likewise, when somebody ends it.
    """

    def __init__(self, address: Address, log: Path | None = None, hold: "Hold | None" = None) -> None:
        import httpx

        pass_over()
        self.log = log  # where the process writes its diagnostics
        self.exit_code: Callable[[], int | None] | None = None  # of a process that this chat has started
        self._hold = hold
        self._lease: httpx.Response | None = None
        # A connection a call: an idle one that the engine just closed would look like a dead engine.
        limits = httpx.Limits(max_keepalive_connections=0)
        uds = str(address.socket) if address.socket else None
        self._http = httpx.AsyncClient(
            # `verify` spares reading certificates: there is no TLS here
            transport=httpx.AsyncHTTPTransport(uds=uds, limits=limits, verify=False, trust_env=False),
            base_url=f"http://127.0.0.1:{address.port}" if address.port else "http://engine",
            headers={CHAT_HEADER: secrets.token_hex(8)}
            | ({"Authorization": f"Bearer {address.token}"} if address.token else {}),
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            trust_env=False,  # no proxy stands between a chat and its own engine
        )
        self.training = TrainingClient(self)

    async def hold(self) -> None:
        """Take a lease that lasts until `close`, so that the engine stays while no events are read."""
        self._lease = await self._open("GET", "/events")

    async def events(self) -> AsyncGenerator[EngineEvent]:
        """The engine's life, from its present state on. Reading it is a lease too.

        Raises:
            EngineStopped: after an `EndedEvent`.
        """
        async with aclosing(self.stream("GET", "/events", engine_events.validate_json)) as events:
            async for event in events:
                yield event
                if isinstance(event, EndedEvent):
                    raise _stopped(event.reason)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[AnswerEvent]:
        """The answer, token by token, closed by a `FinishEvent`. Closing the iterator early aborts it."""
        return self.stream("POST", "/generate", _answer_event, request)

    def compare(self, request: CompareRequest) -> AsyncGenerator[AnswerEvent]:
        """The answers of all mixes as they come, a `FinishEvent` each. Closing the iterator early aborts them."""
        return self.stream("POST", "/compare", _answer_event, request, ends=len(request.mixes))

    async def prefill(self, request: PrefillRequest) -> None:
        """Return when the messages are computed; everything else goes first. Cancelling this ends it."""
        await self.call("POST", "/prefill", request)

    async def score(self, request: ScoreRequest) -> ScoreReport:
        """Cancelling this ends it."""
        return ScoreReport.model_validate_json(await self.call("POST", "/score", request))

    async def count(self, request: CountRequest) -> CountReport:
        """How long a prompt is, and what the context holds. No running answer waits for it, nor it for one."""
        return count_reports.validate_json(await self.call("POST", "/count", request))

    async def adapters(self) -> list[AdapterInfo]:
        """The adapters that are loaded now."""
        return adapter_lists.validate_json(await self.call("GET", "/adapters"))

    async def load_adapter(self, path: str, name: str | None = None) -> AdapterInfo:
        """Load the PEFT folder `path` as `name` (default: the folder's name); a used name is replaced."""
        request = LoadAdapterRequest(path=str(Path(path).expanduser().resolve()), name=name)
        return adapter_infos.validate_json(await self.call("POST", "/adapters", request))

    async def unload_adapter(self, name: str) -> None:
        await self.call("DELETE", f"/adapters/{check_name(name)}")

    async def check(self, config: EngineConfig) -> None:
        """Raises what an engine with `config` would, as far as this one can tell before weights are read."""
        await self.call("POST", "/check", CheckRequest(config=config))

    async def health(self) -> Health:
        """Whether the engine is loading, ready or failed. Answers at once, also while it loads."""
        return Health.model_validate_json(await self.call("GET", "/health"))

    async def stop(self, reason: str) -> None:
        """End the process, whoever uses it. All its chats hear the reason."""
        await self.call("POST", "/stop", StopRequest(reason=reason))

    async def is_shared(self) -> bool:
        """Whether another chat uses the process, too. One that does not say is judged by who holds its record."""
        try:
            async with asyncio.timeout(_UP_S):
                return (await self.health()).chats > 1
        except TimeoutError:
            return self._hold is not None and not self._hold.take_alone()

    async def end(self, reason: str) -> None:
        """As `close`, but the process has ended when this returns: by itself, or killed where it does not listen."""
        from mp13.service.processes import EngineProcess, stop

        if (hold := self._hold) is not None and hold.record.process is not None:
            await stop(EngineProcess(hold.place, hold.record, None), reason)
        await self.close()

    async def close(self) -> None:
        """Give the lease back and end every call. The engine ends soon after its last client closed; one that is not up
        yet, at once, whatever it is in the middle of."""
        hold, self._hold = self._hold, None
        try:
            if hold and hold.take_alone() and not await self._is_up():
                from mp13.service.leftovers import remove

                hold.record.kill()
                await asyncio.to_thread(remove, hold.place, hold.record.pid)
            if self._lease:
                await self._lease.aclose()
        finally:
            if hold:
                hold.close()
            await self._http.aclose()

    @property
    def is_closed(self) -> bool:
        """Whether this chat has let the engine go."""
        return self._http.is_closed

    async def _is_up(self) -> bool:
        """False while it loads, and when it does not answer at all. One that is gone or has failed ends by itself."""
        try:
            async with asyncio.timeout(_UP_S):
                return (await self.health()).status != "loading"
        except TimeoutError:
            return False
        except Mp13Error:
            return True

    async def call(self, method: str, path: str, body: BaseModel | None = None) -> bytes:
        """The body of the answer to a verb under /v1/mp13."""
        async with aclosing(await self._open(method, path, body)) as response, self._loss():
            return await response.aread()

    async def stream(
        self, method: str, path: str, read: Callable[[bytes], _Event], body: BaseModel | None = None, ends: int = 1
    ) -> AsyncGenerator[_Event]:
        """Each line, read, until `ends` answers have finished.

        Split at newlines alone: httpx's `aiter_lines` also splits at U+2028, which JSON has raw.
        """
        async with aclosing(await self._open(method, path, body)) as response:
            rest = b""
            async with self._loss():
                async for chunk in response.aiter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for event in map(read, filter(None, lines)):
                        yield event
                        ends -= isinstance(event, FinishEvent)
                        if not ends:
                            return
        raise await self._gone()

    async def _open(self, method: str, path: str, body: BaseModel | None = None) -> "httpx.Response":
        content = None if body is None else body.model_dump_json()
        async with self._loss():
            request = self._http.build_request(method, _ROOT + path, content=content)
            response = await self._http.send(request, stream=True)
            if response.is_error:
                raise self._refusal(await response.aread())
        return response

    @asynccontextmanager
    async def _loss(self) -> AsyncIterator[None]:
        """Turns a broken connection into `EngineGone`."""
        import httpx

        try:
            yield
        except httpx.TransportError as error:
            raise await self._gone() from error

    def _refusal(self, body: bytes) -> Mp13Error:
        try:
            return _error(FailedEvent.model_validate_json(body))
        except ValidationError:
            return EngineGone("what answers at the engine's address is not an mp13 engine; start the chat again")

    async def _gone(self) -> EngineGone:
        """Says whether it was killed, where that can be known: by the chat that started it."""
        for _ in range(_EXIT_TRIES):
            if self.exit_code is None or self.exit_code() is not None:
                break
            await asyncio.sleep(_EXIT_S / _EXIT_TRIES)
        killed = self.exit_code is not None and self.exit_code() == -_SIGKILL
        what = "was killed, as the system does when memory runs out" if killed else "has ended"
        where = f"; its log is {self.log}" if self.log else ""
        return EngineGone(f"the engine process {what}{where}; {AGAIN}")


def _answer_event(line: bytes) -> AnswerEvent:
    event = answer_events.validate_json(line)
    if isinstance(event, FailedEvent):
        raise _error(event)
    return event


def _error(event: FailedEvent) -> Mp13Error:
    if event.code == EngineStopped.__name__:
        return _stopped(event.message)
    if event.code == EngineGone.__name__:
        return EngineGone(event.message)
    return error_from_wire(event.code, event.message)


def _stopped(reason: str) -> EngineStopped:
    return EngineStopped(f"the engine has ended: {reason}; {AGAIN}")
