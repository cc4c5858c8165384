"""Which class is taken for which."""

from zoo.report.confusion import MOST, PAIRS, confusion


def test_a_matrix_and_its_pairs():
    found = confusion([[8, 2, 0], [0, 5, 0], [3, 1, 0]], ["a", "b", "c"])
    assert [(pair.true, pair.predicted, pair.count, pair.rows) for pair in found.pairs] == [
        ("c", "a", 3, 4),
        ("a", "b", 2, 10),
        ("c", "b", 1, 4),
    ]
    assert found.wrong == 6 and found.rows == 19
    assert [cell.count for cell in found.matrix[0]] == [8, 2, 0] and found.matrix[0][1].share == 0.2


def test_nothing_wrong_and_a_class_without_rows():
    found = confusion([[4, 0], [0, 0]], ["a", "b"])
    assert found.pairs == () and found.wrong == 0 and found.matrix[1][1].share == 0


def test_a_thousand_classes_have_pairs_alone():
    counts = [[0] * 1000 for _ in range(1000)]
    for number in range(1000):
        counts[number][number] = 5
    counts[3][7] = 9
    found = confusion(counts, [f"class {number}" for number in range(1000)])
    assert found.matrix == () and [(pair.true, pair.predicted) for pair in found.pairs] == [("class 3", "class 7")]
    assert confusion([[1] * MOST] * MOST, list(map(str, range(MOST)))).matrix and len(confusion([[1] * 30] * 30, ["x"] * 30).pairs) == PAIRS
