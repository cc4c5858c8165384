"""What a served network takes on: sizes, times, and how many at once. Whatever is beyond is refused before it costs anything."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; together they bound its memory and how long anybody waits.

    Args:
        batch: requests that are computed together, at most; 1: one at a time.
        wait: seconds that the oldest request waits for others to be computed with.
        queue: requests at once, at most: those being sent, those that wait, and those being computed.
        timeout: seconds to send a request, and as many to answer it.
        upload: bytes of a request that carries a picture.
        pixels: of a picture, by its header, before it is decoded.
        text: characters of a text.
        k: the most that can be asked for.

    Raises:
        ValueError: one of them is out of range.
    """

    batch: int = 16
    wait: float = 0.005
    queue: int = 64
    timeout: float = 10.0
    upload: int = 10_000_000
    pixels: int = 40_000_000
    text: int = 2_000
    k: int = 100

    def __post_init__(self) -> None:
        for each in fields(self):
            value, least = getattr(self, each.name), 0 if each.name == "wait" else 0.1 if each.name == "timeout" else 1
            if not least <= value < 1e12:  # NaN is no such number either
                raise ValueError(f"{each.name}: expected at least {least}, got {value}")

    @property
    def json(self) -> int:
        """Bytes of a request that carries a text, in JSON: a character may be written as the twelve of a surrogate pair."""
        return 12 * self.text + 1_000
