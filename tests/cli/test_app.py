"""Exit codes, and what becomes of an error."""

from importlib.metadata import entry_points

import pytest
import typer

import zoo.cli
from zoo.cli import app as cli_app
from zoo.train import Stopped

VERBS = ("list", "show", "train", "eval", "search", "demo")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_alone_it_prints_help(zoo, arguments):
    said = zoo(*arguments)
    assert said.code == 0 and not said.err
    assert all(verb in said.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(zoo, verb):
    said = zoo(verb, "--help")
    assert said.code == 0 and "--debug" in said.out and f"zoo {verb}" in said.out


def test_the_console_script_is_this_program():
    (script,) = entry_points(group="console_scripts", name="zoo")
    assert script.load() is zoo.cli.main


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("train", "effnet_eca_test", "--data", "digits"), "Missing option '--out'"),
        (("show",), "Missing argument"),
        (("list", "--nothing"), "No such option"),
        (("search", "run", "words", "-k", "many"), "Invalid value"),
        (("show", "effnet_eca_test", "--img-size", "-5"), "Invalid value"),
        (("show", "effnet_eca_test", "--depth", "0"), "Invalid value"),
        (("eval", "run", "--batch-size", "0"), "Invalid value"),
        (("eval", "run", "--workers", "-1"), "Invalid value"),
    ],
)
def test_a_usage_error_exits_2(zoo, arguments, told):
    said = zoo(*arguments)
    assert said.code == 2 and told in said.err and not said.out


@pytest.fixture
def failing(monkeypatch):
    """A verb that raises what the test gives it."""
    app = typer.Typer()
    raised: list[BaseException] = []

    @app.command("fail")
    def fail(debug: cli_app.Debug = False) -> None:
        raise raised[0]

    @app.command("other")
    def other() -> None: ...

    monkeypatch.setattr(cli_app, "app", app)
    return raised.append


@pytest.mark.parametrize(
    "error, code, told",
    [
        (ValueError("lr: no\n  number"), 2, "zoo: lr: no number\n"),
        (FileNotFoundError("run x: no such directory"), 2, "zoo: run x: no such directory\n"),
        (ImportError("digits needs scikit-learn"), 2, "zoo: digits needs scikit-learn\n"),
        (ValueError(), 2, "zoo: ValueError\n"),
        (ZeroDivisionError("division by zero"), 1, "zoo: this should not have happened: ZeroDivisionError: division by zero"),
        (Stopped("stopped by SIGINT", 2), 130, "zoo: stopped by SIGINT\n"),
        (Stopped("stopped by SIGTERM", 15), 143, "zoo: stopped by SIGTERM\n"),
    ],
)
def test_an_error_is_one_line(zoo, failing, error, code, told):
    failing(error)
    said = zoo("fail")
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith(told) and said.err.count("\n") == 1


def test_ctrl_c_outside_of_training_is_130_without_a_traceback(zoo, failing):
    failing(KeyboardInterrupt())
    said = zoo("fail")
    assert said.code == 130 and "Traceback" not in said.err


def test_debug_shows_the_traceback(zoo, failing):
    failing(ValueError("why"))
    with pytest.raises(ValueError, match="why"):
        zoo("fail", "--debug")


def test_debug_leaves_a_real_mistake_to_python(zoo):
    with pytest.raises(ValueError, match="unknown model"):
        zoo("show", "effnet_cbam_tset", "--debug")


def test_a_table_sets_numbers_to_the_right(capsys):
    cli_app.print_table("sizes", ["name", "many"], [["one", 1], ["million", 1_000_000]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "sizes" and lines[-2].rstrip(" │").endswith("1,000,000")
    assert lines[-3].index("1 │") == lines[-2].index("0 │")


def test_a_table_holds_what_rich_would_take_for_markup(capsys):
    cli_app.print_table("[bold]", ["name"], [["[red]"], ["a [/b] c"]])
    out = capsys.readouterr().out
    assert "[red]" in out and "a [/b] c" in out and "[bold]" in out
