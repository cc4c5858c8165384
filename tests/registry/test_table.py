"""The table: a mapping, a decorator, watchers, and other packages' entry points, which nobody imports before somebody asks."""

import ast
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

import registry
from registry import Registry, UnknownName, nearest


@pytest.fixture
def table():
    return Registry("fruit")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """install("dist", {"name": "module:attr"}, module="source"): another package with entry points of the group `fruit_plugins`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def install(dist: str, points: dict[str, str], **modules: str) -> None:
        info = tmp_path / f"{dist}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[fruit_plugins]\n{lines}")
        for name, source in modules.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)

    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]


def run_cell(table: Registry, source: str, module: str = "__main__") -> type:
    """A notebook cell that defines and registers."""
    scope = {"__name__": module, "TABLE": table}
    exec(source, scope)
    return scope["Apple"]


CELL = '@TABLE.register("apple")\nclass Apple: taste = "sweet"'


def test_is_a_mapping(table):
    apple = table.register("apple")(type("Apple", (), {}))
    table.register("pear")(print)
    assert isinstance(table, Mapping)
    assert "apple" in table and "plum" not in table
    assert table["apple"] is apple and table.get("plum") is None
    assert sorted(table) == ["apple", "pear"] and len(table) == 2
    assert dict(table.items()) == {"apple": apple, "pear": print} == table.loaded()
    assert repr(table) == "Registry('fruit': apple, pear)"
    with pytest.raises(TypeError):
        table["fig"] = print


def test_decorator_gives_the_thing_back(table):
    class Apple:
        pass

    assert table.register("apple")(Apple) is Apple


@pytest.mark.parametrize("name", ["", "Apple", "2d", "a-b", "a.b", "a b", "_a", "äpfel", "a\n", None, 3])
def test_names_are_words(table, name):
    with pytest.raises(ValueError, match="lower-case letters, digits and underscores"):
        table.register(name)


def test_unknown_name_is_answered_with_the_nearest(table):
    for name in ("apple", "apricot", "banana"):
        table.register(name)(object())
    with pytest.raises(KeyError) as caught:
        table["aple"]
    assert isinstance(caught.value, UnknownName)
    assert str(caught.value) == "unknown fruit 'aple'; did you mean 'apple'?"
    with pytest.raises(KeyError, match="known: apple, apricot, banana"):
        table["zzz"]
    with pytest.raises(KeyError, match="unknown fruit None"):
        table[None]


def test_nearest():
    assert nearest("x", []) == "none is registered"
    assert nearest("q", ["aa", "bb"]) == "known: aa, bb"
    assert nearest("q", [f"name{i}" for i in range(41)]) == "41 are known"
    assert nearest("cbm", ["cbam", "eca"]) == "did you mean 'cbam'?"


def test_another_class_under_a_held_name_is_refused(table):
    first = run_cell(table, CELL)
    with pytest.raises(ValueError, match="fruit 'apple' is already __main__.Apple; choose another name for orchard.Apple"):
        run_cell(table, CELL, module="orchard")
    assert table["apple"] is first


def test_the_same_definition_again_replaces_itself(table):
    seen = []
    table.watch(seen.append)
    first = run_cell(table, CELL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = run_cell(table, CELL.replace("sweet", "sour"))
    assert first is not second and table["apple"] is second and table["apple"].taste == "sour"
    assert seen == ["apple"], "a name is new once"


def test_watch_now_and_later(table):
    table.register("apple")(object())
    seen = []
    table.watch(seen.append)
    assert seen == ["apple"]
    table.register("pear")(object())
    assert seen == ["apple", "pear"]


def test_a_name_that_a_watcher_refuses_stays_unknown(table):
    def refuse(name):
        if name == "durian":
            raise ValueError("not in here")

    table.watch(refuse)
    with pytest.raises(ValueError, match="not in here"):
        table.register("durian")(object())
    assert "durian" not in table and len(table) == 0
    table.register("apple")(object())
    assert sorted(table) == ["apple"]


def test_entry_points_are_known_but_not_loaded(plugin):
    plugin("orchard", {"kiwi": "orchard:Kiwi"}, orchard="class Kiwi: pass")
    table = Registry("fruit", group="fruit_plugins")
    seen = []
    table.watch(seen.append)
    assert seen == ["kiwi"] and "kiwi" in table and list(table) == ["kiwi"] and len(table) == 1
    assert "orchard" not in sys.modules and table.loaded() == {}
    assert table["kiwi"].__name__ == "Kiwi"
    assert "orchard" in sys.modules and list(table.loaded()) == ["kiwi"]
    assert table["kiwi"] is table["kiwi"] and list(table) == ["kiwi"] and len(table) == 1


def test_entry_points_of_another_group_do_not_count(plugin):
    plugin("orchard", {"kiwi": "orchard:Kiwi"}, orchard="class Kiwi: pass")
    assert list(Registry("fruit", group="vegetable_plugins")) == list(Registry("fruit")) == []


@pytest.mark.parametrize(
    "value, source, why",
    [
        ("rotten:Kiwi", "raise RuntimeError('mould')", "mould"),
        ("rotten:Kiwi", "import no_such_package", "no_such_package"),
        ("rotten:Kiwi", "", "Kiwi"),
        ("no_such_module:Kiwi", "", "no_such_module"),
        ("not an entry point!", "", ""),
    ],
)
def test_a_broken_plugin_breaks_only_its_own_name(plugin, value, source, why):
    plugin("rotten-dist", {"kiwi": value}, rotten=source)
    plugin("orchard", {"fig": "orchard:Fig"}, orchard="class Fig: pass")
    table = Registry("fruit", group="fruit_plugins")
    table.watch(lambda name: None)
    table.register("apple")(object())
    assert sorted(table) == ["apple", "fig", "kiwi"] and table["apple"] and table["fig"]
    with pytest.raises(ImportError, match=f"fruit 'kiwi': entry point '{value}' of rotten-dist does not load.*{why}"):
        table["kiwi"]
    assert "kiwi" in table and table["fig"], "a second look is as good as the first"


@pytest.mark.parametrize("looked_before", [False, True])
def test_an_entry_point_that_shadows_a_held_name_is_ignored_with_a_warning(plugin, looked_before):
    plugin("evil", {"apple": "evil:Apple"}, evil="raise RuntimeError('never imported')")
    table = Registry("fruit", group="fruit_plugins")
    if looked_before:
        assert "apple" in table
    with pytest.warns(UserWarning, match="fruit entry point 'apple' = 'evil:Apple' is ignored: the name is __main__.Apple"):
        apple = run_cell(table, CELL)
        assert sorted(table) == ["apple"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apple = run_cell(table, CELL)  # said once is enough
    assert table["apple"] is apple and list(table) == ["apple"] and len(table) == 1 and "evil" not in sys.modules


def test_two_entry_points_of_one_name(plugin):
    plugin("one", {"kiwi": "one:Kiwi"}, one="class Kiwi: pass")
    plugin("two", {"kiwi": "two:Kiwi"}, two="class Kiwi: pass")
    table = Registry("fruit", group="fruit_plugins")
    with pytest.warns(UserWarning, match="is ignored: the name is (one|two):Kiwi"):
        assert list(table) == ["kiwi"]
    assert table["kiwi"].__name__ == "Kiwi"


def test_an_entry_point_with_a_bad_name_is_ignored_with_a_warning(plugin):
    plugin("orchard", {"Kiwi-Fruit": "orchard:Kiwi", "fig": "orchard:Fig"})
    with pytest.warns(UserWarning, match="'Kiwi-Fruit'.*ignored: expected lower-case"):
        assert list(Registry("fruit", group="fruit_plugins")) == ["fig"]


def test_an_entry_point_that_a_watcher_refuses_is_ignored_with_a_warning(plugin):
    plugin("orchard", {"durian": "orchard:Durian", "fig": "orchard:Fig"})
    table = Registry("fruit", group="fruit_plugins")

    def refuse(name):
        if name == "durian":
            raise ValueError("not in here")

    with pytest.warns(UserWarning, match="'durian'.*is ignored: not in here"):
        table.watch(refuse)
    assert list(table) == ["fig"]


SELF_REGISTERING = 'from registry_under_test import TABLE\n@TABLE.register("kiwi")\nclass Kiwi: pass\n'


@pytest.mark.parametrize("target", ["orchard.tree:Kiwi", "orchard:Kiwi"])
@pytest.mark.parametrize("imported_directly", [False, True])
def test_a_plugin_that_registers_itself_too(plugin, monkeypatch, target, imported_directly):
    plugin("orchard", {"kiwi": target}, **{"orchard/__init__": "from .tree import Kiwi", "orchard/tree": SELF_REGISTERING})
    table = Registry("fruit", group="fruit_plugins")
    monkeypatch.setitem(sys.modules, "registry_under_test", type("module", (), {"TABLE": table}))
    seen = []
    table.watch(seen.append)
    if imported_directly:
        __import__("orchard")
    assert table["kiwi"] is sys.modules["orchard.tree"].Kiwi
    assert seen == list(table) == ["kiwi"] and len(table) == 1


def test_plugins_that_load_each_other(plugin, monkeypatch):
    kiwi = "from registry_under_test import TABLE\nTABLE['fig']\n" + SELF_REGISTERING
    plugin("orchard", {"kiwi": "orchard:Kiwi"}, orchard=kiwi)
    plugin("grove", {"fig": "grove:Fig"}, grove=SELF_REGISTERING.replace("kiwi", "fig").replace("Kiwi", "Fig"))
    table = Registry("fruit", group="fruit_plugins")
    monkeypatch.setitem(sys.modules, "registry_under_test", type("module", (), {"TABLE": table}))
    assert table["kiwi"].__name__ == "Kiwi" and table["fig"].__name__ == "Fig"


def test_the_kinds():
    kinds = {name: kind for name, kind in vars(registry).items() if isinstance(kind, Registry)}
    assert set(kinds) == {"ATTENTION", "TOWERS", "HEADS", "LOSSES", "DATASETS"}
    assert len({kind.group for kind in kinds.values()}) == len({kind.kind for kind in kinds.values()}) == len(kinds)


def test_standard_library_only():
    for file in Path(registry.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                roots = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots = [node.module.split(".")[0]]
            else:
                continue
            assert set(roots) <= sys.stdlib_module_names, f"{file.name} imports {roots}"
