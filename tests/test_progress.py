"""Bars on a terminal, silence in a log."""

import io

import pytest
from rich.console import Console

from zoo import progress


@pytest.fixture
def screen(monkeypatch):
    """screen(terminal): a console in the place of stderr's, and what is written on it."""

    def open_console(terminal: bool) -> io.StringIO:
        written = io.StringIO()
        monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=terminal, width=100))
        return written

    return open_console


def test_a_bar_with_the_time_left_on_a_terminal(screen):
    written = screen(True)
    assert list(progress.tracked(iter("abc"), 3, "read letters")) == ["a", "b", "c"]
    text = written.getvalue()
    assert "read letters" in text and "3/3" in text and "0:00:00" in text and "━" in text


def test_the_note_stands_behind_the_bar(screen):
    written = screen(True)
    with progress.progress(4, "epoch 1/2") as advance:
        advance("loss 0.125")
        advance("loss [/0.1]")  # text, not rich's markup
    assert "2/4" in written.getvalue() and "loss [/0.1]" in written.getvalue()


def test_nothing_where_the_output_is_no_terminal(screen):
    written = screen(False)
    assert list(progress.tracked(range(3), 3, "read letters")) == [0, 1, 2]
    assert written.getvalue() == ""


def test_the_bar_is_on_stderr_and_never_on_stdout(capsys):
    assert list(progress.tracked(range(2), 2, "rows")) == [0, 1]
    progress.console.print("epoch 1/1")
    said = capsys.readouterr()
    assert said.out == "" and said.err == "epoch 1/1\n"


def test_the_bar_ends_with_an_error(screen):
    written = screen(True)
    with pytest.raises(KeyError), progress.progress(2, "rows"):
        raise KeyError
    assert written.getvalue().endswith("\x1b[2K")  # the line is wiped: transient
    with progress.progress(2, "again") as advance:  # and another bar can start
        advance("")
