"""zoo report: a page about runs."""

import webbrowser


def test_a_report_of_several(zoo, classifier, joint, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    said = zoo("report", classifier, joint, "--out", tmp_path / "new" / "both.html", "--open")
    assert said.code == 0 and f"the report is in {tmp_path / 'new' / 'both.html'}" in said.out
    html = (tmp_path / "new" / "both.html").read_text()
    assert "2 runs side by side" in html and "What it finds" in html and "dark picture" in html
    assert opened == [(tmp_path / "new" / "both.html").as_uri()]


def test_mistakes(mistake, classifier, tmp_path):
    assert "nowhere: no such directory" in mistake("report", tmp_path / "nowhere")
    assert "ends in .html" in mistake("report", classifier, "--out", tmp_path)
    assert "device: expected one of auto, cpu, cuda, got 'toaster'" in mistake("report", classifier, "--device", "toaster")
