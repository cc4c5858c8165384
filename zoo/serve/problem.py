"""What a request is refused with: one shape, whatever is wrong.

{"error": {"code": "too_large", "message": "...", "got": "...", "expected": "...", "nearest": null}}
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field


class What(BaseModel):
    """What was wrong."""

    code: str = Field(description="For programs: stays the same.")
    message: str = Field(description="For people: one sentence.")
    got: str | None = Field(None, description="What was sent.")
    expected: str | None = Field(None, description="What would have been right.")
    nearest: str | None = Field(None, description="The nearest right thing, where what was sent looks like one.")


class Refusal(BaseModel):
    """The answer to a request that is refused, and to one that failed."""

    error: What


class Problem(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        code: one word, for programs.
        message: one sentence.
        got, expected, nearest: as in `What`.
        headers: that the answer carries besides.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        got: Any = None,
        expected: str | None = None,
        nearest: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        told = What(code=code, message=message, got=None if got is None else shortened(got), expected=expected, nearest=nearest)
        self.refusal = Refusal(error=told)


def shortened(value: Any, most: int = 80) -> str:
    """A value as text that fits a message and that JSON can carry."""
    text = (value if isinstance(value, str) else repr(value)).encode("utf-8", "replace").decode()
    return text if len(text) <= most else text[: most - 3] + "..."


def like(given: str, known: Iterable[str]) -> str | None:
    """The known name most like the given one, if any is."""
    return next(iter(difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)), None)
