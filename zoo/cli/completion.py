"""zoo completion: what the shell offers after Tab, written down once, so that nobody waits for Python at every key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import timm
import typer

from registry import ATTENTION, DATASETS, HEADS, LOSSES, nearest

from ..compress.quantize import TARGETS
from ..deploy.ways import WAYS
from ..train.config import BROKEN, DEVICES, PRECISIONS, TRACKERS
from ..train.preprocess import AUGMENTS
from .app import Debug, app, verb
from .export import TO

SHELLS = ("bash", "zsh", "fish")


def _words() -> dict[tuple[str, str], list[str]]:
    """What may be said, by (verb, name of the parameter); "" for any verb. Files and folders may be said everywhere."""
    networks = timm.list_models("effnet_*", exclude_filters=["*_attn_swap*"])
    return {
        **{("", name): networks for name in ("model", "name", "names", "pattern", "student")},
        ("", "attention"): sorted(ATTENTION),
        ("bench attention", "gates"): sorted(ATTENTION),
        ("bench loss", "losses"): sorted(LOSSES),
        ("", "data"): sorted(DATASETS),
        ("", "head"): sorted(HEADS),
        ("", "loss"): sorted(LOSSES),
        ("export", "to"): list(TO),
        ("quantize", "to"): list(TARGETS),
        ("bench networks", "runtime"): list(WAYS),
        ("", "augment"): list(AUGMENTS),
        ("", "broken"): list(BROKEN),
        ("", "device"): list(DEVICES),
        ("", "precision"): list(PRECISIONS),
        ("", "log"): list(TRACKERS),
        ("", "shell"): list(SHELLS),
    }


@dataclass(frozen=True)
class _Verb:
    """A command or a group, for a shell.

    Args:
        path: the words that lead to it.
        command: of click.
        flags: flag -> its parameter, None for --help.
        after: flag -> the words for it, where there are some.
        about: the words for its arguments, or a group's commands.
    """

    path: tuple[str, ...]
    command: Any
    flags: dict[str, Any]
    after: dict[str, list[str]]
    about: list[str]


def _verbs(command: Any, words: dict[tuple[str, str], list[str]], path: tuple[str, ...] = ()) -> Iterator[_Verb]:
    """The group, and all that is in it."""
    options = [param for param in command.params if param.param_type_name == "option"]
    flags = {flag: param for param in options for flag in (*param.opts, *param.secondary_opts)}

    def said(param: Any) -> list[str]:
        return words.get((" ".join(path), param.name), words.get(("", param.name), []))

    after = {flag: found for flag, param in flags.items() if not param.is_flag and (found := said(param))}
    inside = getattr(command, "commands", {})
    about = sorted({word for param in command.params if param not in options for word in said(param)})
    yield _Verb(path, command, {**flags, "--help": None}, after, [*inside, *about])
    for name, each in inside.items():
        yield from _verbs(each, words, (*path, name))


def bash(verbs: Sequence[_Verb]) -> str:
    """A completion for bash; zsh reads it through bashcompinit."""
    groups = " ".join(" ".join(each.path) for each in verbs if each.path and hasattr(each.command, "commands"))
    lines = [
        "_zoo() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" verb="" said=""',
        '  (( COMP_CWORD > 1 )) && verb="${COMP_WORDS[1]}"',
        f'  case " {groups} " in *" $verb "*) (( COMP_CWORD > 2 )) && verb="$verb ${{COMP_WORDS[2]}}";; esac',
        '  case "$verb" in',
    ]
    for each in verbs:
        lines += [f'    "{" ".join(each.path)}")', '      case "$before" in']
        lines += [f'        {flag}) said="{" ".join(said)}";;' for flag, said in each.after.items()]
        flags, about = " ".join(each.flags), " ".join(each.about)
        lines += [f'        *) if [[ $word == -* ]]; then said="{flags}"; else said="{about}"; fi;;', "      esac;;"]
    lines += ["  esac", '  COMPREPLY=($(compgen -W "$said" -- "$word"))', "}", "complete -o default -F _zoo zoo"]
    return "\n".join(lines)


def zsh(verbs: Sequence[_Verb]) -> str:
    """The same for zsh."""
    return "autoload -U +X bashcompinit && bashcompinit\n" + bash(verbs)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish(verbs: Sequence[_Verb]) -> str:
    """A completion for fish, with what each verb and flag is for."""
    lines = []
    for each in verbs:
        there = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in each.path) or "__fish_use_subcommand"
        base, inside = f"complete -c zoo -n {_quoted(there)}", getattr(each.command, "commands", {})
        lines += [f"{base} -f -a {name} -d {_quoted((verb.help or '').partition('.')[0].strip())}" for name, verb in inside.items()]
        if each.about and not inside:
            lines.append(f"{base} -a {_quoted(' '.join(each.about))}")
        for flag, param in each.flags.items():
            kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            takes = (
                f" -x -a {_quoted(' '.join(each.after[flag]))}" if flag in each.after else "" if param is None or param.is_flag else " -r"
            )
            lines.append(f"{base} {kind}{takes} -d {_quoted(getattr(param, 'help', None) or 'Show this message and exit.')}")
    return "\n".join(lines)


WRITE = {"bash": bash, "zsh": zsh, "fish": fish}


@verb("completion")
def completion(
    shell: Annotated[str, typer.Argument(help=", ".join(SHELLS))],
    debug: Debug = False,
) -> None:
    """What Tab offers in bash, zsh or fish. Once: verbs, flags and names of all networks and gates; again after an update.

    zoo completion bash > ~/.local/share/bash-completion/completions/zoo
    zoo completion zsh >> ~/.zshrc
    zoo completion fish > ~/.config/fish/completions/zoo.fish
    """
    if shell not in SHELLS:
        raise ValueError(f"shell: expected {', '.join(SHELLS)}, got {shell!r}; {nearest(shell, list(SHELLS))}")
    print(WRITE[shell](list(_verbs(typer.main.get_command(app), _words()))))
