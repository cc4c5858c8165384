"""The table's MLP: its feature by hand, what it finds by looking, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from zoo.towers import MLP

ROWS = [
    {"age": "61", "bmi": 22.5, "city": "Bonn", "name": "Ada", "kind": "x"},
    {"age": "48", "city": "Kiel", "name": "Bo", "kind": "x"},
    {"bmi": 30.0, "city": "Bonn", "name": "Cy", "kind": "x"},
    {"age": "nan", "bmi": 25.5, "city": "Kiel", "name": "Di", "kind": "x"},
    {"age": "20", "city": "Ulm", "name": "Ed", "kind": "x"},
]


def test_the_equation():
    tower = MLP(numeric={"age": [40, 10], "bmi": [25, 5]}, categorical={"city": ["Bonn", "Kiel"]}, width=8, depth=1).double().eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter)
    x = tower.prepare([{"age": 55, "city": "Kiel"}, {"bmi": "20", "city": "Rome"}])
    assert torch.equal(x.nan_to_num(99), torch.tensor([[1.5, 99, 2], [99, -1, 0]]))

    def norm(v, layer):
        v = (v - v.mean()) / np.sqrt(v.var() + 1e-6)
        return v * layer["weight"] + layer["bias"]

    state = {name: each.numpy() for name, each in tower.state_dict().items()}
    part = {
        name: {key: state[f"{name}.{key}"] for key in ("weight", "bias")}
        for name in ("blocks.0.norm", "blocks.0.fc1", "blocks.0.fc2", "norm")
    }
    table = state["values.weight"]
    starts = [1.5 * state["weight"][0] + state["missing"][1] + table[2], -state["weight"][1] + state["missing"][0] + table[0]]
    for start, feature in zip(starts, tower(x.double()), strict=True):
        v = state["bias"] + start
        hidden = np.maximum(0, part["blocks.0.fc1"]["weight"] @ norm(v, part["blocks.0.norm"]) + part["blocks.0.fc1"]["bias"])
        v = v + part["blocks.0.fc2"]["weight"] @ hidden + part["blocks.0.fc2"]["bias"]
        np.testing.assert_allclose(feature.detach().numpy(), norm(v, part["norm"]))


def test_it_finds_the_columns_by_looking():
    tower = MLP.fit(ROWS, width=16)
    mean, std = tower.config["numeric"]["age"]
    assert (mean, std) == pytest.approx((43, np.std([61, 48, 20])))
    assert list(tower.config["numeric"]) == ["age", "bmi"] and tower.config["numeric"]["bmi"] == pytest.approx(
        [26, np.std([22.5, 30, 25.5])]
    )
    assert tower.config["categorical"] == {"city": ["Bonn", "Kiel"]}  # names do not repeat, and kind is always x
    assert tower.columns == ("age", "bmi", "city")
    x = tower.prepare(ROWS)
    assert x[:, 2].tolist() == [1, 2, 1, 2, 0] and x[:, 0].isnan().tolist() == [False, False, True, True, False]
    assert x[:, :2].nanmean(0).abs().max() < 1e-6


def test_the_user_decides():
    tower = MLP.fit(ROWS, columns="age+name", categorical=["age"], least=1)
    assert tower.config["numeric"] == {} and tower.config["categorical"] == {
        "age": ["20", "48", "61", "nan"],
        "name": ["Ada", "Bo", "Cy", "Di", "Ed"],
    }
    named = MLP.fit(ROWS, columns=["age"], categorical="kind")  # one value: kept when named, and harmless
    assert named.config["categorical"] == {"kind": ["x"]} and named(named.prepare(ROWS)).isfinite().all()
    same = MLP.fit([{"a": 0.1}] * 3, numeric="a")
    assert same.config["numeric"] == {"a": [pytest.approx(0.1), 1.0]} and same.prepare([{"a": 0.1}]).abs().item() < 1e-6


@pytest.mark.parametrize(
    "rows, options, told",
    [
        (ROWS, {"columns": "agee"}, "columns: no training row has a column 'agee'; did you mean 'age'?"),
        (ROWS, {"numeric": "city"}, "column 'city' is numeric, and row 0 has 'Bonn'; expected a number, or an empty cell"),
        (ROWS, {"numeric": "age", "categorical": "age"}, "column 'age' is given as numeric and as categorical"),
        ([*ROWS, {"age": "unknown"}], {}, "column 'age': 4 of 5 cells are numbers, and row 5 has 'unknown'; .* say categorical=age"),
        ([{"a": [1, 2]}], {"columns": "a"}, "column 'a' holds lists; .* the tower `vector`"),
        ([{"a": "x"}, {"a": "y"}], {}, "no column to learn from: 2 rows with a"),
        ([], {}, "no column to learn from: 0 rows with nothing"),
    ],
)
def test_what_it_refuses(rows, options, told):
    with pytest.raises(ValueError, match=told):
        MLP.fit(rows, **options)


def test_a_cell_of_evaluation_that_is_no_number():
    tower = MLP.fit(ROWS)
    for cell in ("12 kg", "inf", None):
        with pytest.raises(ValueError, match=f"column 'age' is numeric, and row 1 has {cell!r}"):
            tower.prepare([{"age": 1}, {"age": cell}])


def test_a_time_stamp_keeps_its_seconds():
    """In float32 neighbours of 1.7e9 are 128 apart: the numbers are standardised before they become float32."""
    rows = [{"when": 1.7e9 + second} for second in range(10)]
    x = MLP.fit(rows).prepare(rows)[:, 0]
    assert (x.diff() - x.diff().mean()).abs().max() < 1e-5 and x.std(unbiased=False).item() == pytest.approx(1)


def test_an_outlier_is_ten_deviations_away():
    tower = MLP.fit(ROWS)
    assert tower.prepare([{"age": 1e300}, {"age": -1e300}])[:, 0].tolist() == [10, -10]


def test_only_numbers_and_only_categories():
    numbers, words = MLP.fit(ROWS, columns="age+bmi"), MLP.fit(ROWS, columns="city")
    for tower in (numbers, words):
        tower(tower.prepare(ROWS)).pow(3).sum().backward()
    assert numbers.config["categorical"] == words.config["numeric"] == {}
    with pytest.raises(ValueError, match="no columns"):
        MLP(numeric={}, categorical={})


def test_the_order_of_the_columns_does_not_matter():
    one = MLP.fit(ROWS, width=8)
    other = MLP(**json.loads(json.dumps(one.config), object_pairs_hook=lambda pairs: dict(reversed(pairs))))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(one.prepare(ROWS)), other(other.prepare([dict(reversed(row.items())) for row in ROWS])))


def test_it_starts_calm():
    torch.manual_seed(0)
    x = MLP.fit(ROWS).prepare(ROWS)
    for depth in (1, 8):
        tower = MLP.fit(ROWS, depth=depth)
        start = torch.nn.Sequential()
        tower.norm = start
        stream = tower(x)
        tower.blocks = start
        assert (tower(x) - stream).norm() < 0.1 * stream.norm()
        assert 0.3 < stream.std() < 1.5


def test_it_learns_what_a_table_says():
    """The sum of two columns, one of them a category, where it is even."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    rows = [{"a": float(a), "b": "uvw"[b]} for a, b in zip(rng.normal(50, 9, 600), rng.integers(0, 3, 600), strict=True)]
    y = torch.tensor([(row["a"] - 50) / 9 + "uvw".index(row["b"]) for row in rows])
    net = torch.nn.Sequential(MLP.fit(rows[:400], width=32), torch.nn.Linear(32, 1))
    x = net[0].prepare(rows)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        (net(x[:400])[:, 0] - y[:400]).square().mean().backward()
        optimizer.step()
    assert (net(x[400:])[:, 0] - y[400:]).square().mean() < 0.05 * y.var()
