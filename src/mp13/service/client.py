"""The chat's side of the socket: events, answers and adapters of one engine process as typed calls.

Finding or starting that process is the launcher's. No torch; httpx loads with the first client, not with this module.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from mp13.errors import Mp13Error, error_from_wire
from mp13.mix import check_name
from mp13.service.endpoint import Address
from mp13.service.schema import (
    AdapterInfo,
    CheckRequest,
    CompareRequest,
    CountReport,
    CountRequest,
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
    TokenEvent,
    adapter_infos,
    adapter_lists,
    answer_events,
    count_reports,
    engine_events,
)

if TYPE_CHECKING:
    import httpx

_ROOT = "/v1/mp13"
_CONNECT_S = 5.0
_Event = TypeVar("_Event")
AnswerEvent = StartedEvent | TokenEvent | FinishEvent


class EngineGone(Mp13Error):
    """The engine process has ended or cannot be reached; `launcher.connect` starts another."""


class EngineClient:
    """One chat's connection to an engine process. Calls wait while the model loads and raise what the engine raised.

    Raises:
        EngineGone: from any call, when the process ends before it has answered.
    """

    def __init__(self, address: Address, log: Path | None = None) -> None:
        import httpx

        self.log = log  # where the process writes its diagnostics
        self._lease: httpx.Response | None = None
        # A connection a call: an idle one that the engine just closed would look like a dead engine.
        limits = httpx.Limits(max_keepalive_connections=0)
        uds = str(address.socket) if address.socket else None
        self._http = httpx.AsyncClient(
            # `verify` spares reading certificates: there is no TLS here
            transport=httpx.AsyncHTTPTransport(uds=uds, limits=limits, verify=False, trust_env=False),
            base_url=f"http://127.0.0.1:{address.port}" if address.port else "http://engine",
            headers={"Authorization": f"Bearer {address.token}"} if address.token else None,
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            trust_env=False,  # no proxy stands between a chat and its own engine
        )

    async def hold(self) -> None:
        """Take a lease that lasts until `close`, so that the engine stays while no events are read."""
        self._lease = await self._open("GET", "/events")

    def events(self) -> AsyncGenerator[EngineEvent]:
        """The engine's life, from its present state on. Reading it is a lease too."""
        return self._stream("GET", "/events", engine_events.validate_json)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[AnswerEvent]:
        """The answer, token by token, closed by a `FinishEvent`. Closing the iterator early aborts it."""
        return self._stream("POST", "/generate", _answer_event, request)

    def compare(self, request: CompareRequest) -> AsyncGenerator[AnswerEvent]:
        """The answers of all mixes as they come, a `FinishEvent` each. Closing the iterator early aborts them."""
        return self._stream("POST", "/compare", _answer_event, request, ends=len(request.mixes))

    async def prefill(self, request: PrefillRequest) -> None:
        """Return when the messages are computed; everything else goes first. Cancelling this ends it."""
        await self._call("POST", "/prefill", request)

    async def score(self, request: ScoreRequest) -> ScoreReport:
        """Cancelling this ends it."""
        return ScoreReport.model_validate_json(await self._call("POST", "/score", request))

    async def count(self, request: CountRequest) -> CountReport:
        """How long a prompt is, and what the context holds. No running answer waits for it, nor it for one."""
        return count_reports.validate_json(await self._call("POST", "/count", request))

    async def adapters(self) -> list[AdapterInfo]:
        """The adapters that are loaded now."""
        return adapter_lists.validate_json(await self._call("GET", "/adapters"))

    async def load_adapter(self, path: str, name: str | None = None) -> AdapterInfo:
        """Load the PEFT folder `path` as `name` (default: the folder's name); a used name is replaced."""
        request = LoadAdapterRequest(path=str(Path(path).expanduser().resolve()), name=name)
        return adapter_infos.validate_json(await self._call("POST", "/adapters", request))

    async def unload_adapter(self, name: str) -> None:
        await self._call("DELETE", f"/adapters/{check_name(name)}")

    async def check(self, config: EngineConfig) -> None:
        """Raises what an engine with `config` would, as far as this one can tell before weights are read."""
        await self._call("POST", "/check", CheckRequest(config=config))

    async def health(self) -> Health:
        """Whether the engine is loading, ready or failed. Answers at once, also while it loads."""
        return Health.model_validate_json(await self._call("GET", "/health"))

    async def close(self) -> None:
        """Give the lease back and end every call. The engine ends soon after its last client closed."""
        if self._lease:
            await self._lease.aclose()
        await self._http.aclose()

    async def _call(self, method: str, path: str, body: BaseModel | None = None) -> bytes:
        async with aclosing(await self._open(method, path, body)) as response:
            with self._loss():
                return await response.aread()

    async def _stream(
        self, method: str, path: str, read: Callable[[bytes], _Event], body: BaseModel | None = None, ends: int = 1
    ) -> AsyncGenerator[_Event]:
        """Each line, read, until `ends` answers have finished.

        Split at newlines alone: httpx's `aiter_lines` also splits at U+2028, which JSON has raw.
        """
        async with aclosing(await self._open(method, path, body)) as response:
            rest = b""
            with self._loss():
                async for chunk in response.aiter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for event in map(read, filter(None, lines)):
                        yield event
                        ends -= isinstance(event, FinishEvent)
                        if not ends:
                            return
        raise self._gone()

    async def _open(self, method: str, path: str, body: BaseModel | None = None) -> "httpx.Response":
        content = None if body is None else body.model_dump_json()
        with self._loss():
            request = self._http.build_request(method, _ROOT + path, content=content)
            response = await self._http.send(request, stream=True)
            if response.is_error:
                raise self._refusal(await response.aread())
        return response

    @contextmanager
    def _loss(self) -> Iterator[None]:
        """Turns a broken connection into `EngineGone`."""
        import httpx

        try:
            yield
        except httpx.TransportError as error:
            raise self._gone() from error

    def _refusal(self, body: bytes) -> Mp13Error:
        try:
            return _error(FailedEvent.model_validate_json(body))
        except ValidationError:
            return EngineGone("what answers at the engine's address is not an mp13 engine; start the chat again")

    def _gone(self) -> EngineGone:
        where = f"; its log is {self.log}" if self.log else ""
        return EngineGone(f"the engine process has ended{where}; send the prompt again to start a new one")


def _answer_event(line: bytes) -> AnswerEvent:
    event = answer_events.validate_json(line)
    if isinstance(event, FailedEvent):
        raise _error(event)
    return event


def _error(event: FailedEvent) -> Mp13Error:
    if event.code == EngineGone.__name__:
        return EngineGone(event.message)
    return error_from_wire(event.code, event.message)
