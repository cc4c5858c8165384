"""Counts and times as Prometheus reads them."""

import pytest

from zoo.serve.metrics import Metrics


def test_a_page_of_them():
    metrics = Metrics(lambda: 3)
    metrics.answered("/a", 200, 0.02)
    metrics.answered("/a", 200, 0.5)
    metrics.answered("/a", 503, 99)
    metrics.batch(1)
    metrics.batch(5)
    lines = metrics.text().splitlines()
    said = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert said['zoo_requests_total{path="/a",status="200"}'] == "2" and said['zoo_requests_total{path="/a",status="503"}'] == "1"
    buckets = {key: int(value) for key, value in said.items() if key.startswith("zoo_request_seconds_bucket")}
    assert list(buckets.values()) == sorted(buckets.values())  # each holds all below it
    assert buckets['zoo_request_seconds_bucket{path="/a",le="0.025"}'] == 1
    assert buckets['zoo_request_seconds_bucket{path="/a",le="0.5"}'] == 2  # a bound is within
    assert buckets['zoo_request_seconds_bucket{path="/a",le="+Inf"}'] == 3 == int(said['zoo_request_seconds_count{path="/a"}'])
    assert float(said['zoo_request_seconds_sum{path="/a"}']) == pytest.approx(99.52)
    assert said['zoo_batch_size_bucket{le="4"}'] == "1" and said["zoo_batch_size_count"] == "2" and said["zoo_requests_inside"] == "3"
    assert all(line.split()[2] in metrics.text() for line in lines if line.startswith("# TYPE"))
