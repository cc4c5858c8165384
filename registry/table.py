"""A registry: names to things, as a read-only mapping that a decorator fills.

Three sources, one table: `@KIND.register("name")` in this project, the same line in a user's notebook, and entry points of installed
packages, which are known by name but imported only when asked for, so that a broken plugin breaks nothing but its own name.
"""

import difflib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def nearest(name: str, known: list[str], most: int = 3) -> str:
    """The known names most like `name`, as the end of an error message; all of them when there are few, else the closest."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(each) for each in close) + "?"
    if len(known) <= 40:
        return "known: " + ", ".join(known) if known else "none is registered"
    return f"{len(known)} are known"


def _definition(thing: Any) -> tuple[str, str]:
    return getattr(thing, "__module__", ""), getattr(thing, "__qualname__", repr(thing))


def _package(path: str) -> str:
    return re.split(r"[.:]", path.strip(), maxsplit=1)[0]


class Registry(Mapping[str, Any]):
    """Names to things of one kind: `in`, `sorted()`, `len()`, `[name]`, and a decorator that adds.

    Args:
        kind: what the things are, for messages ("attention").
        group: entry point group of other packages' things, such as "effnet_zoo.attention"; none by default.
    """

    def __init__(self, kind: str, *, group: str | None = None):
        self.kind = kind
        self.group = group
        self._things: dict[str, Any] = {}
        self._watchers: list[Callable[[str], None]] = []
        self._points: dict[str, EntryPoint] | None = None  # found at the first look, loaded one by one

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: put the class or function into the table under `name`.

        The same definition run again (a notebook cell, a reload) quietly replaces itself. Code that runs comes before an entry point that
        is not loaded: that one is set aside with a warning, unless the code is the entry point's own package, imported directly.

        Raises:
            ValueError: the name is held by a different definition, or is not lower-case letters, digits and underscores.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{self.kind} name {name!r}: expected lower-case letters, digits and underscores, a letter first")

        def add(thing: T) -> T:
            point = (self._points or {}).get(name)
            if name in self._things and _definition(self._things[name]) != _definition(thing):
                holder = ".".join(_definition(self._things[name]))
                raise ValueError(f"{self.kind} {name!r} is already {holder}; choose another name for {'.'.join(_definition(thing))}")
            if name not in self._things and point is None:
                for watcher in self._watchers:  # first, so that a name that a watcher refuses is not left half known
                    watcher(name)
            self._things[name] = thing
            if self._points and point:
                del self._points[name]
                self._set_aside(point)
            return thing

        return add

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Call `watcher(name)` for every name, now and whenever one is added. Nothing is loaded for it.

        A ValueError from the watcher refuses the name; an entry point that is refused is ignored with a warning.
        """
        for name in self._things:
            watcher(name)
        points = self._entry_points()
        for name, point in list(points.items()):
            try:
                watcher(name)
            except ValueError as refusal:
                del points[name]
                self._ignore(point, str(refusal))
        self._watchers.append(watcher)

    def loaded(self) -> dict[str, Any]:
        """The names whose things are there already, without importing anybody's plugin."""
        return dict(self._things)

    def __getitem__(self, name: str) -> Any:
        """The thing of that name.

        Raises:
            KeyError: unknown; the message offers the nearest known names.
            ImportError: the name is another package's entry point, and that package does not load.
        """
        if name in self._things:
            return self._things[name]
        point = self._entry_points().get(name)
        if point is None:
            raise UnknownName(f"unknown {self.kind} {name!r}; {nearest(str(name), sorted(self))}")
        try:
            thing = point.load()
        except Exception as error:
            owner = f" of {point.dist.name}" if point.dist else ""
            raise ImportError(f"{self.kind} {name!r}: entry point {point.value!r}{owner} does not load: {error!r}") from error
        return self._things.setdefault(name, thing)

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._entry_points()

    def __iter__(self) -> Iterator[str]:
        return iter([*self._things, *(name for name in self._entry_points() if name not in self._things)])

    def __len__(self) -> int:
        return len(self._things.keys() | self._entry_points().keys())

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(sorted(self))})"

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._points is None:
            self._points = {}
            for point in entry_points(group=self.group) if self.group else ():
                if not _NAME.fullmatch(point.name):
                    self._ignore(point, "expected lower-case letters, digits and underscores, a letter first")
                elif point.name in self._things:
                    self._set_aside(point)
                elif self._points.setdefault(point.name, point).value != point.value:
                    self._ignore(point, f"the name is {self._points[point.name].value}")
        return self._points

    def _set_aside(self, point: EntryPoint) -> None:
        holder = _definition(self._things[point.name])
        if _package(point.value) != _package(holder[0]):
            self._ignore(point, f"the name is {'.'.join(holder)}")

    def _ignore(self, point: EntryPoint, why: str) -> None:
        warnings.warn(f"{self.kind} entry point {point.name!r} = {point.value!r} is ignored: {why}", stacklevel=2)


class UnknownName(KeyError):
    """A KeyError whose text is a sentence: KeyError itself would show the message in quotes."""

    def __str__(self) -> str:
        return str(self.args[0])
