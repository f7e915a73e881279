"""Responses that close the connection without or within an answer, which no web framework offers."""

import asyncio
import contextlib
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_NOTICE_SECONDS = 0.5  # the server notices a closed connection one turn of the event loop later

_transports: dict[tuple[Any, Any], asyncio.Transport] = {}


class RememberingProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # a variable: h11 or httptools
    """uvicorn's HTTP protocol, which also registers its transport by (server port, client port)."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Register the transport."""
        super().connection_made(transport)
        self._place = (transport.get_extra_info("sockname")[1], transport.get_extra_info("peername")[1])
        _transports[self._place] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport."""
        _transports.pop(self._place, None)
        super().connection_lost(exc)


async def _abort(scope: Scope, receive: Receive) -> None:
    server, client = scope.get("server"), scope.get("client")
    transport = _transports.get((server and server[1], client and client[1]))
    if transport is None:  # an in-process test client: nothing to cut
        return
    transport.abort()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_NOTICE_SECONDS):
            while (await receive())["type"] != "http.disconnect":
                pass


class Dropped(Response):
    """A response that closes the connection instead. Its status in the ledgers is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.status_code = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close the connection."""
        await _abort(scope, receive)


class CutInHalf(Response):
    """A response cut off after the headers and half of the body (of a file: half of its first block); or one that
    stands still there for `stands_still` seconds before."""

    def __init__(self, whole: Response, stands_still: float = 0.05) -> None:
        super().__init__()
        self.status_code = whole.status_code
        self._whole, self._stands_still = whole, stands_still

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the first half, then close the connection."""
        cut = False

        async def send_half(message: Message) -> None:
            nonlocal cut
            body = message.get("body", b"")
            if cut:
                return
            if body:  # an empty reply has no half
                cut = True
                await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
                await asyncio.sleep(self._stands_still)  # at least until the half has left
                await _abort(scope, receive)
            else:
                await send(message)

        await self._whole(scope, receive, send_half)
