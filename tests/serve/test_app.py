"""The API by a real uvicorn: right answers, and refusals after which it lives."""

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from zoo.deploy import named
from zoo.serve import Limits

from .conftest import running
from .test_pictures import png_of

PNG = {"Content-Type": "image/png"}


def refused(answer: httpx.Response, status: int, code: str) -> dict:
    """What a refusal says; its shape is always the same."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "got", "expected", "nearest"} and error["code"] == code and error["message"]
    return error


def test_a_classifier_says_what_the_network_says(classifying, classifier, manifest):
    content = (manifest.parent / "25.png").read_bytes()
    answer = classifying.client.post("/v1/predict?k=2", content=content, headers=PNG).json()
    pixels = classifier.task.of_pictures().transform(False)(Image.open(io.BytesIO(content)))
    with torch.no_grad():
        expected = named(classifier.task.trainable_module(pixels[None])[0].numpy(), classifier.task.classes, False)
    assert {each["name"]: each["probability"] for each in answer["classes"]} == pytest.approx(expected, abs=1e-5)
    assert answer["classes"][0]["probability"] >= answer["classes"][1]["probability"] and answer["attention"] == []


def test_one_picture_in_three_wrappings(classifying, encoded):
    content = encoded()
    answers = [
        classifying.client.post("/v1/predict", content=content, headers=PNG),
        classifying.client.post("/v1/predict", content=content, headers={"Content-Type": "application/octet-stream"}),
        classifying.client.post("/v1/predict", files={"image": ("../../etc/passwd", content, "text/plain")}),  # a name is no path
    ]
    assert [each.status_code for each in answers] == [200] * 3 and len({each.text for each in answers}) == 1


def test_maps_of_attention(classifying, encoded):
    answer = classifying.client.post("/v1/predict?attention=true", content=encoded(size=(50, 40)), headers=PNG).json()
    maps = answer["attention"]
    assert maps and all(each["stage"] is None or each["name"] == "cbam" for each in maps)
    kind, _, data = maps[-1]["picture"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (320, 320)


def test_a_search_finds_itself(searching, manifest):
    content = (manifest.parent / "26.png").read_bytes()
    for to in ("image", "text"):
        answer = searching.client.post(f"/v1/search?to={to}&k=3", content=content, headers=PNG).json()
        assert answer["asked"] == "image" and answer["to"] == to and len(answer["results"]) == 3
        scores = [each["score"] for each in answer["results"]]
        assert scores == sorted(scores, reverse=True)
    best = searching.client.post("/v1/search?k=1", content=content, headers=PNG).json()["results"][0]
    assert best["text"] == "dark picture 26" and best["score"] == pytest.approx(1, abs=1e-4)
    shown = searching.client.get(best["picture"])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.content))), np.asarray(Image.open(io.BytesIO(content))))


def test_an_embedding_is_that_of_the_search(searching):
    text = {"text": "bright picture 25"}
    embedding = searching.client.post("/v1/embed", json=text).json()
    assert embedding["modality"] == "text" and np.linalg.norm(embedding["embedding"]) == pytest.approx(1, abs=1e-5)
    (best,) = searching.client.post("/v1/search?to=text&k=1", json=text).json()["results"]
    assert best["text"] == text["text"] and best["score"] == pytest.approx(1, abs=1e-5)


def test_nothing_tells_where_files_are(searching, manifest):
    for to in ("image", "text"):
        answer = searching.client.post(f"/v1/search?to={to}", json={"text": "dark"})
        assert answer.json()["results"] and str(manifest.parent) not in answer.text


BAD_PICTURES = {
    "text": (b"this is no picture", 422, "no_picture"),
    "empty": (b"", 422, "no_picture"),
    "a bomb": (png_of(50_000, 50_000), 413, "too_many_pixels"),
    "a pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", 422, "no_picture"),
    "null bytes": (bytes(1000), 422, "no_picture"),
    "a PNG's first bytes": (b"\x89PNG\r\n\x1a\n", 422, "broken_picture"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', 422, "no_picture"),
    "a postscript program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", 422, "no_picture"),
    "an address": (b"http://127.0.0.1:1/picture.png", 422, "no_picture"),
    "huge": (bytes(400_000), 413, "too_large"),
}


@pytest.mark.parametrize("what", BAD_PICTURES)
@pytest.mark.parametrize("form", [False, True])
def test_bad_uploads(classifying, what, form):
    content, status, code = BAD_PICTURES[what]
    sent = {"files": {"image": ("a.png", content, "image/png")}} if form else {"content": content, "headers": PNG}
    answer = classifying.client.post("/v1/predict", **sent)
    if what == "a PNG's first bytes":
        assert answer.status_code == 422
    else:
        refused(answer, status, code)
    assert classifying.alive()


@pytest.mark.parametrize("size", [20, 60, 200])
def test_a_picture_that_is_cut_off(classifying, encoded, size):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    answer = classifying.client.post("/v1/predict", content=buffer.getvalue()[:size], headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 422 and answer.json()["error"]["message"] and classifying.alive()


def test_too_much_is_refused_while_it_comes(classifying):
    """Nobody says how long it is, and it never ends: the server stops reading."""
    sent = 0

    def endless():
        nonlocal sent
        while True:
            sent += 50_000
            yield bytes(50_000)

    try:
        refused(classifying.client.post("/v1/predict", content=endless(), headers=PNG), 413, "too_large")
    except httpx.HTTPError:  # it was cut off before the answer was read
        pass
    assert sent < 20_000_000 and classifying.alive()


@pytest.mark.parametrize(
    "headers, nearest",
    [
        ({"Content-Type": "image/jpg"}, "image/jpeg"),
        ({"Content-Type": "text/plain"}, None),
        ({"Content-Type": "application/x-pickle"}, None),
        ({}, None),
        ({"Content-Type": "application/json"}, None),  # a classifier reads no text
    ],
)
def test_wrong_content_types(classifying, encoded, headers, nearest):
    error = refused(classifying.client.post("/v1/predict", content=encoded(), headers=headers), 415, "wrong_type")
    assert nearest is None or error["nearest"] == nearest
    assert classifying.alive()


def test_a_compressed_request_is_not_unpacked(classifying):
    headers = {**PNG, "Content-Encoding": "gzip"}
    refused(classifying.client.post("/v1/predict", content=b"\x1f\x8b", headers=headers), 415, "wrong_encoding")


def test_forms(classifying, encoded):
    post = classifying.client.post
    assert refused(post("/v1/predict", files={"imgae": ("a.png", encoded())}), 422, "no_picture")["nearest"] == "imgae"
    refused(post("/v1/predict", data={"image": "text"}, files={"other": b""}), 422, "no_picture")
    refused(post("/v1/predict", files={"image": ("a", encoded()), "second": ("b", encoded())}), 400, "broken_form")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary=" + "x" * 500):
        assert post("/v1/predict", content=b"--x\r\nno form", headers={"Content-Type": kind}).status_code in (400, 422)
    assert classifying.alive()


BAD_JSON = {
    "nothing": (b"", 400),
    "no JSON": (b"{text: dark}", 400),
    "not UTF-8": (b'{"text": "\xff\xfe"}', 400),
    "deep": (b"[" * 20_000, 400),
    "deep and closed": (b'{"text": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", 400),
    "NaN": (b'{"text": NaN}', 400),
    "infinity": (b'{"text": -Infinity}', 400),
    "a long number": (b'{"text": ' + b"9" * 10_000 + b"}", 400),
    "a number": (b'{"text": 7}', 422),
    "a list": (b'["dark"]', 422),
    "null": (b"null", 422),
    "no text": (b"{}", 422),
    "an empty text": (b'{"text": ""}', 422),
    "white space": (b'{"text": " \\n\\t"}', 422),
    "a null character": (b'{"text": "dark\\u0000"}', 422),
    "half a surrogate pair": (b'{"text": "\\ud83d"}', 422),
    "a long text": (b'{"text": "' + b"x" * 2_001 + b'"}', 422),
    "more than a text": (b'{"text": "dark", "path": "/etc/passwd"}', 422),
    "huge": (b'{"text": "' + b"x" * 100_000 + b'"}', 413),
}


@pytest.mark.parametrize("what", BAD_JSON)
@pytest.mark.parametrize("path", ["/v1/search", "/v1/embed"])
def test_bad_json(searching, what, path):
    content, status = BAD_JSON[what]
    answer = searching.client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"] and searching.alive()


@pytest.mark.parametrize(
    "text", ["ünïcödé", "文字", "🙂" * 500, "\u202edark", "<script>alert(1)</script>", "'; DROP TABLE rows; --", "x" * 2000]
)
def test_any_text_is_searched_for(searching, text):
    answer = searching.client.post("/v1/search?k=1", json={"text": text})
    assert answer.status_code == 200 and len(answer.json()["results"]) == 1


@pytest.mark.parametrize("k", ["0", "-1", "101", "NaN", "1e9", "two", "", "9" * 5000, "1.5"])
def test_a_wrong_k(searching, k):
    error = refused(searching.client.post("/v1/search", params={"k": k}, json={"text": "dark"}), 422, "wrong_value")
    assert error["message"].startswith("k: ") and searching.alive()


def test_the_nearest_right_thing(searching, classifying):
    error = refused(searching.client.post("/v1/search?to=imge", json={"text": "dark"}), 422, "wrong_value")
    assert error["got"] == "imge" and error["nearest"] == "image" and error["expected"] == "image or text"
    assert refused(searching.client.post("/v1/serch"), 404, "no_such_path")["nearest"] == "/v1/search"
    assert refused(searching.client.post("/v1/predict"), 404, "not_of_this_run")["expected"] == "/v1/embed or /v1/search"
    assert refused(classifying.client.post("/v1/search"), 404, "not_of_this_run")["expected"] == "/v1/predict"
    assert refused(searching.client.post("/v1/search", json={"text": "a", "k": 3}), 422, "wrong_body")["nearest"] == "the query: ?k=3"
    answer = searching.client.get("/v1/search")
    assert refused(answer, 405, "wrong_method")["expected"] == "POST" and answer.headers["allow"] == "POST"


@pytest.mark.parametrize("row", ["8", "-1", "99999999999", "1e3", "../../config.json", "%2e%2e%2fconfig.json", "0/../../x", "%00"])
def test_only_rows_that_are_searched_have_pictures(searching, row):
    assert searching.client.get(f"/v1/pictures/eval/{row}").status_code in (404, 422)
    assert searching.client.get("/v1/pictures/train/0").status_code == 404  # not searched here
    assert searching.client.get("/v1/pictures/__class__/0").status_code == 404
    assert searching.client.get("/v1/pictures/eval/7").status_code == 200


def test_only_the_files_of_the_page_are_sent(searching):
    assert searching.client.get("/page/style.css").headers["content-type"].startswith("text/css")
    for name in ("app.py", "../app.py", "%2e%2e%2fapp.py", "..%2f..%2f..%2fpyproject.toml", "index.html%00.css", ""):
        assert searching.client.get(f"/page/{name}").status_code == 404


def test_an_outside_sends_nothing_else(searching):
    """The page and its parts name no other server."""
    for path in ("/", "/docs", "/page/style.css", "/page/page.js", "/page/docs.js", "/page/icon.svg"):
        text = searching.client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text


def test_together_is_as_one_at_a_time(joint, manifest):
    """Pictures and texts from many clients at once, in batches, and each in one of its own: the same embeddings."""
    pictures = [(manifest.parent / f"{index}.png").read_bytes() for index in range(16)]
    asked = [{"content": each, "headers": PNG} for each in pictures] + [{"json": {"text": f"picture {n} " * (1 + n)}} for n in range(16)]
    found = []
    for limits in (Limits(batch=8, wait=0.2), Limits(batch=1, wait=0)):
        with running(joint, limits) as server, ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda each, server=server: server.client.post("/v1/embed", **each), asked))
            assert [each.status_code for each in answers] == [200] * 32
            found.append(np.array([each.json()["embedding"] for each in answers]))
            counted = server.client.get("/metrics").text
        batches = int(counted.partition("zoo_batch_size_count ")[2].split()[0])
        assert batches == 32 if limits.batch == 1 else batches < 32
    assert np.abs(found[0] - found[1]).max() < 1e-5
    assert np.abs(found[0][0] - found[0][1]).max() > 1e-3  # they are not all the same


class Slow:
    """A served run that takes its time: until `go`."""

    def __init__(self, served):
        self._served, self.go, self.began, self.rows = served, threading.Event(), threading.Event(), 0

    def __getattr__(self, name):
        return getattr(self._served, name)

    def compute(self, rows):
        self.rows += len(rows)
        self.began.set()
        assert self.go.wait(20)
        return self._served.compute(rows)


@pytest.fixture
def slow(joint, monkeypatch):
    slow = Slow(joint)
    monkeypatch.setattr(joint, "compute", slow.compute)
    slow._served = type("Was", (), {"compute": staticmethod(type(joint).compute.__get__(joint))})
    yield slow
    slow.go.set()


def ask(server, **more):
    return server.client.post("/v1/embed", json={"text": "dark"}, **more)


def test_too_many_are_told_to_come_again(joint, slow):
    with running(joint, Limits(batch=1, queue=3)) as server, ThreadPoolExecutor(8) as pool:
        inside = [pool.submit(ask, server) for _ in range(3)]
        assert slow.began.wait(10)
        until = time.monotonic() + 10
        while "zoo_requests_inside 3" not in server.client.get("/metrics").text and time.monotonic() < until:
            time.sleep(0.01)
        answer = ask(server)
        assert refused(answer, 503, "busy")["expected"] == "at most 3 at once" and answer.headers["retry-after"] == "1"
        assert server.alive()  # who looks after it is answered all the same
        slow.go.set()
        assert [each.result().status_code for each in inside] == [200] * 3
        assert ask(server).status_code == 200


def test_an_answer_that_takes_too_long(joint, slow):
    with running(joint, Limits(batch=1, wait=0, timeout=0.4)) as server:
        began = time.monotonic()
        answer = ask(server)
        assert refused(answer, 504, "slow_answer")["expected"] == "within 0.4 s" and answer.headers["retry-after"] == "1"
        assert 0.4 <= time.monotonic() - began < 5
        until = time.monotonic() + 10
        while server.client.get("/health/ready").status_code == 200 and time.monotonic() < until:
            time.sleep(0.05)
        said = server.client.get("/health/ready")
        assert said.status_code == 503 and "has been computed for" in said.json()["why"]
        slow.go.set()
        assert ask(server).status_code == 200 and server.alive()


def test_a_request_that_does_not_come(joint):
    import socket

    with running(joint, Limits(timeout=0.3)) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as line:
            line.sendall(b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
            said = line.recv(65536)
        assert said.startswith(b"HTTP/1.1 408") and server.alive()


def test_a_client_who_leaves_is_dropped(joint, slow):
    with running(joint, Limits(batch=1, wait=0)) as server, ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, server)
        assert slow.began.wait(10)
        with pytest.raises(httpx.ReadTimeout):
            ask(server, timeout=0.2)
        until = time.monotonic() + 10
        while "zoo_requests_inside 1\n" not in server.client.get("/metrics").text and time.monotonic() < until:
            time.sleep(0.01)
        slow.go.set()
        assert first.result().status_code == 200 and ask(server).status_code == 200
        assert slow.rows == 2  # nothing was computed for the one who left
        assert 'path="/v1/embed",status="499"} 1' in server.client.get("/metrics").text


def test_a_defect_is_told_in_the_same_shape(joint, monkeypatch):
    def fail(rows):
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr(joint, "compute", fail)
    with running(joint) as server:
        answer = ask(server)
        refused(answer, 500, "defect")
        assert "secret" not in answer.text and answer.headers["x-content-type-options"] == "nosniff" and server.alive()
        monkeypatch.setattr(joint, "compute", lambda rows: [torch.full((4,), torch.nan) for _ in rows])
    with running(joint) as server:
        refused(ask(server), 500, "no_numbers")


def test_what_is_measured(searching):
    searching.client.post("/v1/search", json={"text": "dark"})
    searching.client.get("/made/up/by/a/client")
    said = searching.client.get("/metrics")
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'zoo_requests_total{path="/v1/search",status="200"}' in said.text and "made" not in said.text
    for line in said.text.splitlines():
        if not line.startswith("#"):
            float(line.rpartition(" ")[2])


def test_what_is_served(searching, classifying, joint_run):
    said = searching.client.get("/v1/about").json()
    assert said["run"] == joint_run.name and said["kind"] == "joint" and said["reads"] == ["text", "image"] and said["rows"] == 8
    assert said["examples"] and all("picture" in each for each in said["examples"])
    said = classifying.client.get("/v1/about").json()
    assert said["kind"] == "classifier" and said["reads"] == ["image"] and said["classes"] == ["bright", "dark"]
