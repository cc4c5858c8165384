"""What --help prints."""

import pytest
import typer

from zoo.cli.app import app
from zoo.cli.help import PANELS, paragraphs


def commands():
    return typer.main.get_command(app).commands


def test_every_verb_has_a_place(zoo):
    placed = {name for names in PANELS.values() for name in names}
    assert set(commands()) - placed == {"completion"}
    said = zoo("--help").out
    assert all(f"{title}:" in said for title in PANELS)
    assert [said.index(f"\n  {name} ") for names in PANELS.values() for name in names if name in commands()] == sorted(
        said.index(f"\n  {name} ") for name in placed if name in commands()
    )


def test_examples_are_one_line_each_and_are_not_wrapped(zoo):
    text, examples = paragraphs(commands()["train"].help)
    said = zoo("train", "--help").out
    assert examples and all(f"\n  {line}\n" in said for line in examples)
    assert "zoo train" not in text


def test_options_stand_under_what_they_are_about(zoo):
    said = zoo("train", "--help").out
    starts = ("\nArguments:", "\nOptions:", "\n  --data", "\nHow it learns:", "\n  --epochs", "\nA teacher:", "\n  --teacher")
    places = [said.index(start) for start in starts]
    assert places == sorted(places)


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_verb_says_in_a_sentence_what_it_does(name):
    sentence = paragraphs(commands()[name].help)[0].partition(". ")[0]
    assert 10 < len(sentence.partition("\n\n")[0]) < 90
