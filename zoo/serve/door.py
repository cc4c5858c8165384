"""Who comes in: a bounded number of requests at once, each for a bounded time, each for as long as somebody waits for the answer."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from .batcher import QueueFull
from .limits import Limits
from .problem import Problem

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Door:
    """Counts who is inside.

    Args:
        limits: its `queue` and `timeout` are used.
    """

    def __init__(self, limits: Limits):
        self._limits, self.inside = limits, 0

    async def answer(self, request: Request, asked: Awaitable[Asked], work: Callable[[Asked], Awaitable[Answer]]) -> Answer:
        """Read what is asked and work on it.

        Args:
            asked: reads the request; not awaited where nobody else is let in.
            work: what was asked to the answer; cancelled when time is up or the client has gone.

        Raises:
            Problem: 503 where too many are inside, 408 where the request does not come, 504 where the answer does not.
        """
        if self.inside >= self._limits.queue:
            if asyncio.iscoroutine(asked):
                asked.close()
            raise self._busy(f"{self.inside} requests at once")
        self.inside += 1
        try:
            return await self._while_there(request, work(await self._in_time(asked)))
        except QueueFull as error:
            raise self._busy(str(error)) from error
        except ClientDisconnect as error:
            raise Problem(499, "gone", "The client has gone.") from error
        finally:
            self.inside -= 1

    def _busy(self, got: str) -> Problem:
        headers = {"Retry-After": "1", "Connection": "close"}
        expected = f"at most {self._limits.queue} at once"
        return Problem(503, "busy", "Too many requests at once; try again in a moment.", got=got, expected=expected, headers=headers)

    async def _in_time(self, asked: Awaitable[Asked]) -> Asked:
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await asked
        except TimeoutError as error:
            expected = f"all of it within {self._limits.timeout:g} s"
            raise Problem(
                408, "slow_request", "The request did not come in time.", expected=expected, headers={"Connection": "close"}
            ) from error

    async def _while_there(self, request: Request, work: Awaitable[Answer]) -> Answer:
        working: asyncio.Future[Answer] = asyncio.ensure_future(work)
        leaving: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
        try:
            done, _ = await asyncio.wait({working, leaving}, timeout=self._limits.timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (working, leaving):
                each.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)
        if working in done:
            return working.result()
        if leaving in done:
            raise Problem(499, "gone", "The client has gone.")
        headers = {"Retry-After": str(math.ceil(self._limits.timeout))}
        expected = f"within {self._limits.timeout:g} s"
        raise Problem(504, "slow_answer", "The answer was not ready in time.", expected=expected, headers=headers)
