"""The engine process: HTTP over one engine, for chats of the same user on the same machine, until the last one is gone.

Run by the launcher alone. It listens only where no other user reaches it: on an inherited Unix socket, or on a
loopback port with a token; there is no option for anything else.
"""

import argparse
import asyncio
import faulthandler
import hmac
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mp13.errors import ConfigError, Mp13Error
from mp13.service.endpoint import HAS_UNIX_SOCKETS, Launch, listen_loopback, publish
from mp13.service.engine_protocol import TrainingVerb
from mp13.service.host import EngineHost
from mp13.service.leftovers import remove
from mp13.service.parent import die_with_parent
from mp13.service.schema import (
    CHAT_HEADER,
    CheckRequest,
    CompareRequest,
    CountRequest,
    FailedEvent,
    GenerateRequest,
    LoadAdapterRequest,
    PrefillRequest,
    ScoreRequest,
    StopRequest,
    adapter_infos,
    adapter_lists,
    count_reports,
)
from mp13.service.streaming import LineStream, failure
from mp13.service.training_schema import PreviewRequest, TrainingRequest, render_reports

_END_S = 2  # for a graceful end; a step of the model that runs longer is cut off
_PARK_S = 30  # for a training run's checkpoint before that
_VERBS: dict[str, TrainingVerb] = {"pause": "pause", "resume": "go_on", "stop": "stop", "cancel": "cancel"}
_Body = TypeVar("_Body", bound=BaseModel)


class Service:
    """The verbs under /v1/mp13."""

    def __init__(self, host: EngineHost) -> None:
        self.host = host

    async def events(self, request: Request) -> Response:
        if self.host.news.ended.done():  # too late to hold it
            return _json(FailedEvent(code="EngineGone", message="this engine process is ending").model_dump_json(), 503)
        return LineStream(self.host.events(request.headers.get(CHAT_HEADER, "")))

    async def generate(self, request: Request) -> Response:
        return self._until_ended(self.host.answer(await _body(request, GenerateRequest)))

    async def compare(self, request: Request) -> Response:
        return self._until_ended(self.host.compare(await _body(request, CompareRequest)))

    async def prefill(self, request: Request) -> Response:
        return self._until_ended(self.host.prefill(await _body(request, PrefillRequest)))

    async def score(self, request: Request) -> Response:
        return self._until_ended(self.host.score(await _body(request, ScoreRequest)))

    async def count(self, request: Request) -> Response:
        return _json(count_reports.dump_json(await self.host.count(await _body(request, CountRequest))))

    async def adapters(self, request: Request) -> Response:
        return _json(adapter_lists.dump_json(await self.host.adapters()))

    async def load_adapter(self, request: Request) -> Response:
        info = await self.host.load_adapter(await _body(request, LoadAdapterRequest))
        return _json(adapter_infos.dump_json(info))

    async def unload_adapter(self, request: Request) -> Response:
        await self.host.unload_adapter(request.path_params["name"])
        return Response(status_code=204)

    async def preview_training(self, request: Request) -> Response:
        report = await self.host.preview_training(await _body(request, PreviewRequest))
        return _json(render_reports.dump_json(report))

    async def start_training(self, request: Request) -> Response:
        return _json((await self.host.start_training(await _body(request, TrainingRequest))).model_dump_json())

    async def training(self, request: Request) -> Response:
        status = self.host.training.status
        return Response(status_code=204) if status is None else _json(status.model_dump_json())

    async def training_events(self, request: Request) -> Response:
        return self._until_ended(self.host.training.events())

    async def steer_training(self, request: Request) -> Response:
        if (verb := _VERBS.get(request.path_params["verb"])) is None:
            raise ConfigError(f"a run cannot {request.path_params['verb']!r}; it can {', '.join(_VERBS)}")
        await self.host.steer_training(verb)
        return Response(status_code=204)

    async def check(self, request: Request) -> Response:
        await self.host.check(await _body(request, CheckRequest))
        return Response(status_code=204)

    async def health(self, request: Request) -> Response:
        return _json(self.host.health.model_dump_json())

    async def stop(self, request: Request) -> Response:
        self.host.news.end((await _body(request, StopRequest)).reason)
        return Response(status_code=204)

    def _until_ended(self, events: AsyncGenerator[BaseModel]) -> Response:
        """What an answer has said so far is the chat's, also when the process ends."""
        return LineStream(events, self.host.news.ended)


def make_app(service: Service, token: str | None) -> ASGIApp:
    """The ASGI application; with a `token`, it answers only those who bring it."""
    app = Starlette(
        routes=[
            Route("/v1/mp13/events", service.events, methods=["GET"]),
            Route("/v1/mp13/generate", service.generate, methods=["POST"]),
            Route("/v1/mp13/compare", service.compare, methods=["POST"]),
            Route("/v1/mp13/prefill", service.prefill, methods=["POST"]),
            Route("/v1/mp13/score", service.score, methods=["POST"]),
            Route("/v1/mp13/count", service.count, methods=["POST"]),
            Route("/v1/mp13/adapters", service.adapters, methods=["GET"]),
            Route("/v1/mp13/adapters", service.load_adapter, methods=["POST"]),
            Route("/v1/mp13/adapters/{name}", service.unload_adapter, methods=["DELETE"]),
            Route("/v1/mp13/training", service.training, methods=["GET"]),
            Route("/v1/mp13/training", service.start_training, methods=["POST"]),
            Route("/v1/mp13/training/events", service.training_events, methods=["GET"]),
            Route("/v1/mp13/training/preview", service.preview_training, methods=["POST"]),
            Route("/v1/mp13/training/{verb}", service.steer_training, methods=["POST"]),
            Route("/v1/mp13/check", service.check, methods=["POST"]),
            Route("/v1/mp13/health", service.health, methods=["GET"]),
            Route("/v1/mp13/stop", service.stop, methods=["POST"]),
        ],
        exception_handlers={Mp13Error: _failure, Exception: _failure},
    )
    return app if token is None else _TokenGate(app, token)


class _TokenGate:
    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
        else:
            error = ConfigError("this engine process answers only to the chats of the user who started it")
            await failure(error, 401)(scope, receive, send)


async def _failure(request: Request, error: Exception) -> Response:
    return failure(error)


async def _body(request: Request, model: type[_Body]) -> _Body:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the body"
        raise ConfigError(f"the request cannot be read: {where}: {error.errors()[0]['msg']}") from error


def _json(content: str | bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")


async def serve(launch: Launch, listener: socket.socket, token: str | None) -> None:
    """Serve until no chat is left, or until it is stopped."""
    host = EngineHost(launch)
    server = _Server(
        uvicorn.Config(
            make_app(Service(host), token), http="h11", ws="none", lifespan="off", access_log=False, log_config=None,
            server_header=False, timeout_graceful_shutdown=1,
        ),
        on_signal=lambda: host.news.end("it was terminated"),
    )  # fmt: skip
    watching = asyncio.create_task(_end_in_time(host, server))
    await server.serve(sockets=[listener])
    await watching
    await host.close()


class _Server(uvicorn.Server):
    """Calls `on_signal` on its event loop when the system asks it to end."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], None]) -> None:
        super().__init__(config)
        self._loop = asyncio.get_running_loop()
        self._on_signal = on_signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._on_signal)
        super().handle_exit(sig, frame)


async def _end_in_time(host: EngineHost, server: uvicorn.Server) -> None:
    abandoned = asyncio.create_task(host.leases.abandoned())
    ends: list[asyncio.Future[Any]] = [abandoned, host.news.ended]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    abandoned.cancel()
    host.news.end("no chat was left")
    try:
        async with asyncio.timeout(_PARK_S):
            await host.park_training()
    except TimeoutError:
        logging.getLogger(__name__).error("the training run could not be parked in time; its last checkpoint is whole")
    server.should_exit = True
    # A C thread with the system's own exit: works while the interpreter is held by a load.
    faulthandler.dump_traceback_later(_END_S, exit=True)


class LogFormatter(logging.Formatter):
    """Names and errors come from files, and a log is read on a terminal: what is no plain text is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def main() -> None:
    """Read a `Launch` from standard input and serve it."""
    parser = argparse.ArgumentParser("mp13.service.app", description="The engine process of mp13chat, which starts it.")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--fd", type=int, help="an inherited Unix socket that listens")
    place.add_argument("--loopback", type=Path, help="the file to write a loopback port and its token to")
    arguments = parser.parse_args()
    token = None
    if arguments.loopback is not None:
        listener, address = listen_loopback()
        token = address.token
        publish(address, arguments.loopback)
    elif (inherited := _unix_socket(arguments.fd)) is not None:
        listener = inherited
    else:
        parser.error(f"--fd {arguments.fd} is not a Unix socket")
    at: Path = arguments.loopback or Path(listener.getsockname())
    die_with_parent()  # until the model is loaded; a parent that died before this sends no settings
    launch = Launch.model_validate_json(sys.stdin.buffer.read())
    to_log = logging.StreamHandler()
    to_log.setFormatter(LogFormatter("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[to_log])
    logging.getLogger("mp13").setLevel(logging.INFO)
    asyncio.run(serve(launch, listener, token))
    remove(at, os.getpid())
    os._exit(0)  # a load may still run in its thread, and putting torch away takes seconds; neither matters now


def _unix_socket(fd: int) -> socket.socket | None:
    try:
        inherited = socket.socket(fileno=fd)
    except OSError:
        return None
    return inherited if HAS_UNIX_SOCKETS and inherited.family == socket.AF_UNIX else None


if __name__ == "__main__":
    main()
