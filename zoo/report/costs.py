"""What a run costs: how many parameters, multiplications and bytes, and how long a picture takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..deploy.network_speed import Cell
from ..train import Align
from .examine import Subject

SCALES = {"parameters": (1e6, "M"), "macs": (1e6, "M"), "bytes": (1e6, "MB")}


def amount(key: str, value: float | None) -> tuple[str, str]:
    """A cost as a number and its unit; nothing where nobody knows."""
    if value is None:
        return "", ""
    scale, unit = SCALES[key]
    return f"{value / scale:,.2f}" if value / scale < 100 else f"{value / scale:,.0f}", unit


@dataclass(frozen=True)
class Costs:
    """None where nobody knows.

    Args:
        parameters: of all towers.
        macs: of one picture.
        bytes: of the files that hold the weights.
        cell: the measured speed.
        joint: there are other towers beside the one that was measured.
    """

    parameters: int | None
    macs: int | None
    bytes: int | None
    cell: Cell | None
    joint: bool

    def known(self) -> dict[str, int | None]:
        return {"parameters": self.parameters, "macs": self.macs, "bytes": self.bytes}

    def amounts(self) -> dict[str, tuple[str, str]]:
        """Name -> number and unit, of what is known."""
        return {key: amount(key, value) for key, value in self.known().items() if value}

    def rows(self) -> tuple[tuple[str, str], ...]:
        """For a list: (name, value)."""
        names = {
            "parameters": "Parameters, all towers" if self.joint else "Parameters",
            "macs": "Multiplications for one picture",
            "bytes": "Weights on disk",
        }
        found = [(names[key], " ".join(value)) for key, value in self.amounts().items()]
        if self.cell is not None:
            its, alone = self.cell.latency, ", the image tower alone" if self.joint else ""
            found += [
                ("Measured in", f"{self.cell.runtime}, one thread, one picture of {self.cell.pixels} px{alone}"),
                ("Latency", f"{its.median:.3g} ms, the median of the rounds (quartiles {its.low:.3g} to {its.high:.3g} ms)"),
                ("Slowest calls", f"95 % within {self.cell.p95:.3g} ms, 99 % within {self.cell.p99:.3g} ms, of {self.cell.calls:,}"),
                ("Pictures a second", f"{self.cell.images_per_second.median:,.0f}"),
            ]
        return tuple(found)


def costs(subject: Subject, cell: Cell | None) -> Costs:
    """From the network itself where it is there, or else from its card; the bytes are those of its files."""
    journal, candidate = subject.journal, subject.candidate
    counted = None
    if subject.task is not None and journal.runtime is None:
        counted = sum(parameter.numel() for parameter in subject.task.trainable_module.parameters())
    card: Mapping = journal.made_into
    exported = (journal.runtime or {}).get("files") or {}
    weights = [*journal.path.glob("*.safetensors"), *journal.path.glob("tower.*/*.safetensors")]
    size = sum(each["bytes"] for each in exported.values()) if exported else sum(file.stat().st_size for file in weights)
    return Costs(
        parameters=counted or (candidate.parameters if candidate else None) or card.get("parameters"),
        macs=(candidate.macs if candidate else None) or card.get("macs"),
        bytes=size or None,
        cell=cell,
        joint=journal.settings.get("task") == Align.kind,
    )
