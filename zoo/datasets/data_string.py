"""A data string taken apart: `hf:DIR,image=img,eval=test` is DIR and two options.

A comma parts them only before `word=`, so that `{a,b}` and most paths may hold commas. What stands in front names the reader, and each
reader says which options it has.
"""

import re
from collections.abc import Mapping

from registry import nearest

_COMMA = re.compile(r",(?=\s*\w+=)")


def take_apart(data: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """What stands before the options, and the options.

    Args:
        data: the whole string, "hf:DIR,image=img".
        known: an example value of every option that there is.

    Raises:
        ValueError: nothing before the options, or an option that is unknown, empty or given twice.
    """
    kind, _, rest = data.partition(":")
    what, *words = _COMMA.split(rest)
    given: dict[str, str] = {}
    for word in words:
        key, _, value = (part.strip() for part in word.partition("="))
        if key not in known:
            raise ValueError(f"data {data!r}: {kind}: has no option {key!r}; {nearest(key, list(known))}")
        if key in given or not value:
            raise ValueError(f"data {data!r}: {key} is {'given twice' if value else 'empty'}; expected such as {key}={known[key]}")
        given[key] = value
    if not what.strip():
        example = ",".join(f"{key}={value}" for key, value in list(known.items())[:2])
        raise ValueError(f"data {data!r}: expected a name or a path behind {kind}: and before the options, such as {kind}:NAME,{example}")
    return what.strip(), given


def whole(data: str, given: Mapping[str, str], key: str) -> int | None:
    """An option that is a whole number of at least 1, None where it is not given.

    Raises:
        ValueError: it is none.
    """
    value = given.get(key)
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"data {data!r}: {key}: expected a whole number of at least 1, got {value!r}")
    return int(value)


def yes(data: str, given: Mapping[str, str], key: str) -> bool:
    """An option that is true or false, False where it is not given.

    Raises:
        ValueError: it is neither.
    """
    value = given.get(key, "false").lower()
    if value not in ("true", "false"):
        raise ValueError(f"data {data!r}: {key}: expected true or false, got {given[key]!r}")
    return value == "true"
