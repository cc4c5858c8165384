"""Every timm network with a place for a gate can be given another: the check of docs/results/census.py, on one network a timm module."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from timm.models._registry import _model_to_module

from zoo.backbones import graft, swapped

_SCRIPT = Path(__file__).parents[2] / "docs/results/census.py"
_spec = importlib.util.spec_from_file_location("census", _SCRIPT)
census = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(census)

FAMILIES = {  # timm module -> its smallest network, and the number of gates in it
    "byoanet": ("eca_botnext26ts_256", 5),
    "byobnet": ("test_byobnet", 4),
    "cspnet": ("sedarknet21", 7),
    "cspnext": ("cspnext_tiny", 4),
    "efficientnet": ("test_efficientnet", 2),
    "efficientvim": ("efficientvim_m1", 2),
    "efficientvit_msra": ("efficientvit_m0", 2),
    "fastvit": ("fastvit_t8", 1),
    "gcvit": ("gcvit_xxtiny", 11),
    "ghostnet": ("ghostnet_050", 7),
    "hardcorenas": ("hardcorenas_a", 8),
    "hgnet": ("hgnet_tiny", 5),
    "lcnetv2": ("lcnetv2_small", 4),
    "maxxvit": ("test_coatnet", 2),
    "mobilenetv3": ("mobilenetv3_small_050", 9),
    "nfnet": ("test_nfnet", 4),
    "rdnet": ("rdnet_tiny", 15),
    "regnet": ("regnety_002", 13),
    "repghost": ("repghostnet_050", 7),
    "repvit": ("repvit_m0_9", 10),
    "resnet": ("seresnet18", 8),
    "rexnet": ("rexnet_100", 13),
    "senet": ("legacy_seresnet18", 8),
    "shvit": ("shvit_s1", 2),
    "tresnet": ("tresnet_m", 18),
    "vovnet": ("ese_vovnet19b_slim_dw", 4),
}


@pytest.mark.parametrize("module", FAMILIES)
def test_family(module):
    name, gates = FAMILIES[module]
    assert _model_to_module[name] == module
    result = census.check(name)
    assert census.good(result), result
    assert result["swapped"] == gates and result["difference"] == 0.0


def test_a_network_too_large_to_build():
    """MobileNetV5: no gate, but three of EfficientNet's blocks."""
    result = census.swap_on_meta("mobilenetv5_300m")
    assert census.good(result) and (result["gates"], result["swapped"]) == ({"none": 3}, 3)


def test_the_check_sees_a_graft_that_changes_the_network(monkeypatch):
    monkeypatch.setattr(graft.HandOver, "forward", lambda self, x: self.new(x))
    result = census.check("test_byobnet")
    assert not census.good(result) and result["difference"] > 1e-5


def test_the_check_sees_a_file_that_lacks_the_gates(monkeypatch):
    monkeypatch.setattr(swapped, "_install", lambda model, path, description: None)
    with pytest.raises(RuntimeError, match="it lacks"):
        census.check("test_byobnet")


def test_the_check_sees_a_swap_that_nobody_calls(monkeypatch):
    """Behind the zeros of an initialisation it would not: that is why they are filled."""

    class Deaf(graft.HandOver):
        def forward(self, x):
            return self.old(x)

    monkeypatch.setattr("zoo.backbones.swap.HandOver", Deaf)
    monkeypatch.setattr("zoo.backbones.swapped.HandOver", Deaf)
    assert not census.check("test_byobnet")["changed"]
    monkeypatch.undo()
    assert census.check("test_byobnet")["changed"]
    monkeypatch.setattr(census, "wake", lambda model: None)
    assert not census.good(census.check("test_nfnet")), "the gain of every block is zero: no gate is heard"


def test_what_has_no_slot_is_an_answer_too():
    assert census.examine("resnet10t") == {}
    assert not census.good({"error": "RuntimeError: no"}) and not census.good({"swapped": 0, "complete": True, "meta": True})


@pytest.mark.long
def test_every_timm_network(tmp_path):
    """In processes of their own, each for some networks only."""
    done = subprocess.run([sys.executable, str(_SCRIPT), "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "census.json").read_text())
    assert set(found) == set(census.candidates())
    assert {name: result for name, result in found.items() if result and not census.good(result)} == {}
    known = {*FAMILIES, "mobilenetv5"}
    assert {_model_to_module[name] for name, result in found.items() if result} <= known, "a timm module that FAMILIES does not know"
