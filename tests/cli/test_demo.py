"""zoo demo, with as little training as it can have."""

import json


def test_it_ends_with_a_report(zoo, tmp_path):
    said = zoo("demo", "--out", tmp_path, "--epochs", 1, "--glyph-epochs", 1, "--characters", 12, "--json")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told["report"] == str(tmp_path / "report.html") and (tmp_path / "report.html").stat().st_size > 100_000
    assert set(told["digits"]) == {"cbam", "se"} and all(0 < each["top1"] <= 100 for each in told["digits"].values())
    assert all(len(found) == 6 for found in told["searches"].values()) and (tmp_path / "search.png").exists()
    assert all(name in (tmp_path / "report.html").read_text() for name in ("effnet_cbam_b0", "effnet_se_b0", "text=transformer"))
