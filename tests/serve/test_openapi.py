"""Whatever the OpenAPI page says may be sent, and much that it says may not: no answer is a server's error, and each is as described."""

import pytest

from zoo.serve import Limits
from zoo.serve.app import create_app

schemathesis = pytest.importorskip("schemathesis")
EXAMPLES = 15  # of requests for each operation; four times as many where they carry a body


@pytest.fixture(scope="module")
def pictures(encoded):
    """Among random bytes some that are pictures: random ones never would be."""
    from hypothesis import strategies as st

    some = st.sampled_from([encoded("PNG"), encoded("JPEG"), encoded("GIF", (3, 2)), encoded("PNG")[:60]]) | st.binary(max_size=200)
    for kind in ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, some)


def requests(served, examples=EXAMPLES):
    """Send them, and check every answer; operation -> the statuses of its answers."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis.checks import (
        allow_header_conformance,
        content_type_conformance,
        not_a_server_error,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
        unsupported_method,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    checks += [response_headers_conformance, allow_header_conformance, unsupported_method]
    app = create_app(served, Limits(batch=4, wait=0, timeout=60), hosts=None)
    operations = [each.ok() for each in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    answered: dict[str, set[int]] = {each.label: set() for each in operations}
    for operation in operations:
        right, wrong = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

        @seed(0)
        @settings(
            max_examples=4 * examples if operation.method.upper() == "POST" else examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(right | wrong)
        def send(case):
            answer = case.call()
            answered[case.operation.label].add(answer.status_code)
            case.validate_response(answer, checks=checks)

        send()
    return answered


@pytest.mark.parametrize("kind", ["joint", "classifier"])
def test_no_request_is_a_server_error(kind, request, pictures):
    answered = requests(request.getfixturevalue(kind))
    carrying = {label: statuses for label, statuses in answered.items() if label.startswith("POST")}
    assert carrying and all(answered.values())
    for statuses in carrying.values():
        assert 200 in statuses and statuses & {400, 415, 422}, answered  # both were tried


def test_a_server_error_would_be_found(joint, pictures, monkeypatch):
    def fail(rows):
        raise RuntimeError("a defect")

    monkeypatch.setattr(joint, "compute", fail)
    with pytest.raises(schemathesis.core.failures.FailureGroup, match="Server error"):
        requests(joint)
