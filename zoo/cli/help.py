"""What --help prints: the verbs in the order in which a person meets them, options by what they are about, examples as they are typed."""

import inspect
from typing import Any

from typer.core import TyperCommand, TyperGroup

PANELS = {
    "Look around": ("list", "show", "data", "demo"),
    "Train": ("train", "eval", "swap", "distill"),
    "See what it learned": ("report", "explain", "search", "predict", "serve"),
    "Smaller, faster, elsewhere": ("prune", "quantize", "export", "bench"),
}
EXAMPLES = "Examples"
ARGUMENTS, OPTIONS, OTHERS = "Arguments", "Options", "More"


def paragraphs(help: str | None) -> tuple[str, list[str]]:
    """The text, and the lines that are commands: a paragraph of lines that begin with "zoo "."""
    text, examples = [], []
    for paragraph in inspect.cleandoc(help or "").split("\n\n"):
        lines = paragraph.splitlines()
        if all(line.startswith("zoo ") for line in lines):
            examples += lines
        else:
            text.append(paragraph)
    return "\n\n".join(text), examples


class _Text:
    """Of a command or a group: its help, and the examples below it, which are not wrapped."""

    def format_help_text(self: Any, ctx: Any, formatter: Any) -> None:
        text, examples = paragraphs(self.help)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)
        if examples:
            with formatter.section(EXAMPLES):
                for line in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Verb(_Text, TyperCommand):
    """A command, whose options stand under the panel that they name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                default = ARGUMENTS if param.param_type_name == "argument" else OPTIONS
                panels.setdefault(getattr(param, "rich_help_panel", None) or default, []).append(record)
        for title in sorted(panels, key=lambda title: title not in (ARGUMENTS, OPTIONS)):  # stable: the general ones come first
            with formatter.section(title):
                formatter.write_dl(panels[title])


class Verbs(_Text, TyperGroup):
    """The verbs, under PANELS; one that is in none stands last."""

    def list_commands(self, ctx: Any) -> list[str]:
        known = [name for names in PANELS.values() for name in names]
        return sorted(self.commands, key=lambda name: known.index(name) if name in known else len(known))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        titles = {name: title for title, names in PANELS.items() for name in names}
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            sentence = paragraphs(self.commands[name].help)[0].partition("\n\n")[0].partition(". ")[0].rstrip(".")
            panels.setdefault(titles.get(name, OTHERS), []).append((name.ljust(max(map(len, self.commands))), sentence))
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)
