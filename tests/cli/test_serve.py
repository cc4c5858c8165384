"""zoo serve, the real process: it begins, answers, and ends when it is asked to."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from zoo.cli.serve import _token


@contextmanager
def serving(run, *arguments):
    """(process, address, token) of a `zoo serve`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo", "serve", str(run), "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"(http://[^/]+)/(?:\?token=(\S+))?", line)
        assert found, (line, process.communicate()[1])
        yield process, *found.groups()
    finally:
        process.kill()
        process.communicate()


def test_asked_to_stop_it_answers_who_is_inside(joint):
    rest = threading.Event()

    def slowly():
        yield b'{"text": '
        assert rest.wait(20)
        yield b'"dark"}'

    with serving(joint) as (process, url, token), httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(4) as pool:
        assert token is None and client.get("/health/ready").status_code == 200
        as_json = {"Content-Type": "application/json"}
        inside = [pool.submit(client.post, "/v1/search", content=slowly(), headers=as_json) for _ in range(4)]
        until = time.monotonic() + 10
        while "zoo_requests_inside 4" not in client.get("/metrics").text and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.HTTPError):  # nobody else is taken in
            while time.monotonic() < until:
                client.get("/health")
        rest.set()
        assert [each.result().status_code for each in inside] == [200] * 4
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out.endswith("stopped\n") and "Traceback" not in err


def test_elsewhere_demands_a_token(classifier):
    with serving(classifier, "--host", "0.0.0.0") as (process, url, token):
        assert len(token) >= 16
        here = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{here}/v1/about").status_code == 401
        assert httpx.get(f"{here}/v1/about", headers={"Authorization": f"Bearer {token}"}).json()["kind"] == "classifier"
        process.send_signal(signal.SIGINT)  # Ctrl-C
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in err and token not in out + err  # it was printed once


def test_which_token():
    assert _token(None, loopback=True) is None
    made = _token(None, loopback=False)
    assert len(made) >= 32 and made != _token(None, loopback=False)
    assert _token("sixteen-letters-or-more", loopback=True) == "sixteen-letters-or-more"
    for wrong in ("short", "", "x" * 15, "sixteen letters or more", "ümlaute-und-so-weiter", "line\nbreak-line\nbreak"):
        with pytest.raises(ValueError, match="--token: expected at least 16"):
            _token(wrong, loopback=True)


def test_what_is_asked_wrongly(mistake, joint, classifier, tmp_path, monkeypatch):
    assert "nowhere: no such directory" in mistake("serve", tmp_path / "nowhere", "--port", "0")
    assert "--split trian: expected which rows (eval, train, all); did you mean 'train'?" in mistake("serve", joint, "--split", "trian")
    assert "is a classifier, and searches nothing" in mistake("serve", classifier, "--data", "digits", "--port", "0")
    assert "--token: expected at least 16" in mistake("serve", classifier, "--token", "short", "--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "give another --port" in mistake("serve", classifier, "--port", other.getsockname()[1])
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'effnet-zoo[serve]'" in mistake("serve", classifier)


@pytest.mark.parametrize("kind", ["joint", "classifier"])
def test_an_exported_folder(kind, request, zoo, disk, tmp_path):
    pytest.importorskip("onnxruntime")
    from zoo.cli.serve import open_served
    from zoo.serve.app import create_app
    from zoo.train.engine import Engine

    run, out = request.getfixturevalue(kind), tmp_path / "exported"
    assert zoo("export", run, "--to", "onnx", "--out", out).code == 0
    content = (disk.folder / "dark" / "26.png").read_bytes()
    answers = []
    for path in (run, out):
        app = create_app(open_served(path, Engine("cpu")), hosts=None)
        client = Client(app)
        if kind == "joint":
            answers.append(client.post("/v1/embed", json={"text": "dark picture"})["embedding"])
            found = client.post("/v1/search?k=1", content=content, headers={"Content-Type": "image/png"})["results"]
            assert found[0]["text"] == "dark picture 26"
        else:
            said = client.post("/v1/predict?attention=true", content=content, headers={"Content-Type": "image/png"})
            answers.append([each["probability"] for each in said["classes"]])
            assert bool(said["attention"]) == (path == run)
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)


class Client:
    """An application, asked in this process."""

    def __init__(self, app):
        self.app = app

    def post(self, path, **sent):
        import asyncio

        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
                return await client.post(path, **sent)

        answer = asyncio.run(ask())
        assert answer.status_code == 200, answer.text
        return answer.json()
