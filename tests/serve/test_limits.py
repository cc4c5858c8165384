"""Limits out of range are refused when they are made."""

import math

import pytest

from zoo.serve import Limits


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"wait": -1}, {"wait": math.nan}, {"queue": 0}, {"timeout": 0}, {"upload": 0}, {"k": math.inf}]
)
def test_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}: expected at least"):
        Limits(**wrong)


def test_any_text_that_is_allowed_fits_into_the_json():
    import json

    limits = Limits(text=50)
    assert len(json.dumps({"text": "\U0001f600" * limits.text})) <= limits.json
