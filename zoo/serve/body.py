"""What a request carries: a picture or a text, read no further than the limits go, and never through a file."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from .limits import Limits
from .pictures import KNOWN, TYPES
from .problem import Problem, like

_DRAIN = 2.0  # seconds in which a client whose request is too large may finish sending, so that it reads why
_PICTURES = (*TYPES, "application/octet-stream", "multipart/form-data")
_TEXTS = ("application/json",)


async def read(request: Request, reads: tuple[str, ...], limits: Limits) -> tuple[str, bytes | str]:
    """("image", the bytes of a picture) or ("text", a text), by the request's content type.

    Args:
        reads: what the run reads: "image", "text" or both.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    known = (*(_PICTURES if "image" in reads else ()), *(_TEXTS if "text" in reads else ()))
    if kind not in known:
        expected = " or ".join(filter(None, [KNOWN if "image" in reads else "", 'JSON: {"text": "..."}' if "text" in reads else ""]))
        what = f"The content type is {'not one of ' + ', '.join(known) if kind else 'missing'}."
        raise Problem(415, "wrong_type", what, got=kind or "none", expected=expected, nearest=like(kind, known))
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise Problem(415, "wrong_encoding", "The request is compressed, and is not unpacked here.", got=encoding, expected="identity")
    if kind in _TEXTS:
        return "text", as_text(await _content(request, limits.json), limits)
    content = await _content(request, limits.upload)
    return "image", await _part(request, content) if kind == "multipart/form-data" else content


async def _content(request: Request, most: int) -> bytes:
    """The request's bytes; refused by its length before it is read, or as soon as too many have come."""
    announced = request.headers.get("content-length", "")
    size, parts, stream = 0, [], request.stream()
    if not (announced.isdecimal() and int(announced[:20]) > most):
        async for part in stream:
            size += len(part)
            if size > most:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    parts.clear()
    await _drain(stream, 4 * most)
    got = f"{int(announced[:20]):,} bytes" if announced.isdecimal() else f"more than {most:,} bytes"
    expected = f"at most {most:,} bytes"
    raise Problem(413, "too_large", "The request is too large.", got=got, expected=expected, headers={"Connection": "close"})


async def _drain(stream: AsyncGenerator[bytes, None], most: int) -> None:
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DRAIN):
            async for part in stream:
                most -= len(part)
                if most < 0:
                    return


async def _part(request: Request, content: bytes) -> bytes:
    """The file called `image` of a form."""

    class InMemory(MultiPartParser):
        spool_max_size = len(content) + 1  # nothing is written to a temporary file

    async def whole() -> AsyncGenerator[bytes, None]:
        yield content

    expected = "a form with one file called image"
    try:
        form = await InMemory(request.headers, whole(), max_files=1, max_fields=8).parse()
    except (MultiPartException, UnicodeError, LookupError, ValueError) as error:
        told = getattr(error, "message", "") or "it cannot be read"
        raise Problem(400, "broken_form", f"The form is broken: {told.rstrip('.')}.", expected=expected) from error
    try:
        file = form.get("image")
        if isinstance(file, UploadFile):
            return await file.read()
    finally:
        await form.close()
    names = [str(name) for name in form]
    got = ("a field called image, not a file" if "image" in names else ", ".join(names)) if names else "an empty form"
    raise Problem(422, "no_picture", "The form has no file called image.", got=got, expected=expected, nearest=like("image", names))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def as_text(content: bytes, limits: Limits) -> str:
    """The text in `{"text": "..."}`.

    Raises:
        Problem: 400 where it is no JSON, 422 where it is another.
    """
    expected = '{"text": "..."}'
    try:
        value: Any = json.loads(content.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(" in position")[0]
        raise Problem(
            400, "no_json", f"The request is no JSON: {why[:200]}.", got=content[:60].decode("utf-8", "replace"), expected=expected
        ) from error
    if not isinstance(value, dict) or "text" not in value or len(value) > 1:
        keys = [key for key in value if key != "text"] if isinstance(value, dict) else []
        nearest = f"the query: ?{keys[0]}={value[keys[0]]}" if keys and keys[0] in ("k", "to") else "text" if like("text", keys) else None
        got = f"keys {', '.join(value) or '(none)'}" if isinstance(value, dict) else type(value).__name__
        raise Problem(422, "wrong_body", "The request's JSON is another than expected.", got=got, expected=expected, nearest=nearest)
    text = value["text"]
    what = f"a text of 1 to {limits.text:,} characters"
    if not isinstance(text, str):
        raise Problem(422, "wrong_text", "The text is no text.", got=text, expected=what)
    if not text.strip() or len(text) > limits.text:
        raise Problem(422, "wrong_text", "The text is too long or empty.", got=f"{len(text):,} characters", expected=what)
    if "\0" in text or not _is_unicode(text):
        raise Problem(422, "wrong_text", "The text holds what is no character.", got=ascii(text), expected=what)
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
