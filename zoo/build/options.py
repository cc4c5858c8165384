"""Names that carry options: "triplet:margin=0.3", "hf:FOLDER,max_length=32"; and one for each key: "image=attnpool,text=mlp"."""

import inspect
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args

from registry import nearest

_KINDS: dict[type, str] = {int: "a whole number of at least 1", float: "a number", bool: "true or false", str: "a word", type(None): "null"}


def named(choice: str) -> tuple[str, list[Any], dict[str, Any]]:
    """A name with its options: "triplet:margin=0.3" -> ("triplet", [], {"margin": 0.3}), "hf:DIR" -> ("hf", ["DIR"], {})."""
    name, _, rest = choice.partition(":")
    given: list[Any] = []
    options: dict[str, Any] = {}
    for word in filter(None, rest.split(",")):
        key, equals, value = word.partition("=")
        if not equals:
            given.append(word)
            continue
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value
    return name, given, options


def each_of(choice: str, keys: Collection[str]) -> str | dict[str, str]:
    """A choice for each key, "image=attnpool,text=mlp" -> {"image": "attnpool", "text": "mlp"}; or one for all, as it is."""
    found: dict[str, str] = {}
    last = ""
    for word in choice.split(","):
        key, equals, value = word.partition("=")
        if equals and key in keys:
            found[key], last = value, key
        elif equals and ":" not in (found[last] if last else key):  # it cannot be an option either
            raise ValueError(f"{word!r}: there is no {key}; {nearest(key, list(keys))}")
        elif last:
            found[last] += f",{word}"  # an option of the last one
        else:
            return choice
    return found


def is_of(kind: type, value: Any) -> bool:
    if isinstance(value, bool) or kind not in (int, float):
        return type(value) is kind
    if kind is int:
        return isinstance(value, int) and value >= 1
    return isinstance(value, int | float) and math.isfinite(value)


def check_options(
    what: str, choice: str, given: Sequence[Any], own: Mapping[str, Any], *makers: Callable[..., Any], skip: Collection[str] = ()
) -> None:
    """Whether the makers, the last of which is called, take what stands behind a name.

    Raises:
        ValueError: something is missing or too much, there is no such option, or its value is of another kind.
    """
    name = choice.partition(":")[0]
    signatures = [inspect.signature(make).parameters for make in makers]
    free = any(each.kind is each.VAR_KEYWORD for each in signatures[0].values())
    known = {
        key: each for signature in signatures for key, each in signature.items() if key not in skip and each.kind is not each.VAR_KEYWORD
    }
    places = [key for key, each in signatures[-1].items() if key not in skip and each.kind is each.POSITIONAL_OR_KEYWORD]
    for place in places[len(given) :]:
        if place not in own and known[place].default is inspect.Parameter.empty:
            raise ValueError(f"{what} {choice!r}: expected {name}:{place.upper()}")
    for word in [*given[len(places) :], *(key for key in own if key not in known and not free)]:
        raise ValueError(f"{what} {choice!r}: {name} has no option {word!r}; {nearest(word, list(known)) if known else 'it has none'}")
    for key, value in own.items():
        kinds = get_args(known[key].annotation) or (known[key].annotation,) if key in known else ()
        if kinds and all(kind in _KINDS for kind in kinds) and not any(is_of(kind, value) for kind in kinds):
            expected = " or ".join(_KINDS[kind] for kind in kinds)
            raise ValueError(f"{what} {choice!r}: {key}: expected {expected}, got {value!r}")


def made(what: str, choice: str, make: Callable[..., Any], *given: Any, **options: Any) -> Any:
    try:
        return make(*given, **options)
    except (TypeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{what} {choice!r}: {error}; options are given as {choice.partition(':')[0]}:name=value,name=value") from error
