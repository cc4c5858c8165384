"""The routes: what can be asked of a served run, as JSON, and the page that asks it.

    GET  /                          the page
    GET  /docs  /openapi.json       what can be asked, for people and for programs
    POST /v1/predict                of a classifier: a picture to classes
    POST /v1/embed                  of a joint embedding: a picture or a text to numbers
    POST /v1/search                 of a joint embedding: a picture or a text to the nearest rows
    GET  /v1/pictures/{split}/{row} the picture of a row
    GET  /v1/about                  what is served
    GET  /health  /health/ready  /metrics

FastAPI is imported here, at the top; so this file is imported by whoever serves, and by nobody else.
"""

import asyncio
import importlib.resources
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from PIL import Image
from starlette.exceptions import HTTPException
from torch import Tensor

from .answers import ANSWERED, About, Embedding, Health, Likely, Map, Prediction, Result, Results, body, refusals
from .batcher import Batcher
from .body import read
from .door import Door
from .guard import LOOPBACK, Guard, respond
from .limits import Limits
from .metrics import Metrics
from .pictures import as_url, decode, encode
from .problem import Problem, like, shortened
from .served import Classifier, Searcher, Served

T = TypeVar("T")
_KINDS = {Classifier.kind: "classifier", Searcher.kind: "joint embedding"}
_OF_SOME = ("/v1/predict", "/v1/embed", "/v1/search")  # paths that runs of one kind answer
_SIDE = 256  # pixels of a row's picture on the page
_DECODERS = 2  # pictures that are decoded at once, each of at most limits.pixels


def _page() -> dict[str, bytes]:
    folder = importlib.resources.files(__package__) / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith((".html", ".css", ".js", ".svg"))}


_PAGE_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def _numbers(output: Tensor) -> Tensor:
    if not output.isfinite().all():
        raise Problem(500, "no_numbers", "The network answers this with what is no number (NaN or infinity).")
    return output


async def _answer_problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return respond(problem)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(each) for each in first["loc"] if each not in ("query", "path"))
    bounds = {"ge": "at least", "le": "at most", "expected": "one of"}
    expected = ", ".join(f"{bounds[key]} {value}" for key, value in first.get("ctx", {}).items() if key in bounds)
    message = f"{where}: {shortened(first['msg'], 200)}."
    return respond(Problem(422, "wrong_value", message, got=first.get("input"), expected=expected or None))


async def _answer_defect(request: Request, error: Exception) -> Response:
    if isinstance(error, MemoryError):
        return respond(Problem(503, "no_memory", "There is not enough memory for this request now.", headers={"Retry-After": "5"}))
    return respond(Problem(500, "defect", f"This should not have happened: {type(error).__name__}."))


def create_app(
    served: Served,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = LOOPBACK,
) -> Guard:
    """The ASGI application of a run.

    Args:
        served: the run.
        limits: its bounds.
        token: that requests must know; None: none is needed.
        hosts: names it answers to; None: to any.
    """
    limits = limits or Limits()
    door = Door(limits)
    metrics = Metrics(lambda: door.inside)
    batcher: Batcher[Any, Tensor] = Batcher(
        served.compute, size=limits.batch, wait=limits.wait, queue=limits.queue, told=metrics.batch, coming=lambda: door.inside
    )
    decoders = ThreadPoolExecutor(_DECODERS, "decode")
    readers = ThreadPoolExecutor(1, "rows")  # datasets need not be safe to read from several threads
    searches = ThreadPoolExecutor(1, "search")  # and the maps of attention

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close(timeout=limits.timeout)
        for pool in (decoders, readers, searches):
            pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title=f"zoo serve: {served.name}",
        description=f"What can be asked of the {_KINDS[served.kind]} {served.name}.",
        version="1",
        docs_url=None,  # FastAPI's own load from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # /metrics tells, to whoever asks here
        responses=refusals(421, *((401,) if token else ())),
        dependencies=[Depends(HTTPBearer(auto_error=False, description="The guard asks for it."))] if token else [],
    )
    page = _page()

    def run_in(pool: ThreadPoolExecutor, function: Callable[..., T], *given: Any) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(pool, function, *given)

    def prepared(content: bytes) -> tuple[Any, Image.Image]:
        picture = decode(content, limits)
        row = served.prepare("image", picture)
        picture.thumbnail((1024, 1024))  # what the maps are drawn on; the rest of a large one need not be kept
        return row, picture

    async def output(row: Any) -> Tensor:
        return _numbers(await asyncio.wrap_future(batcher.submit(row)))

    async def embedded(asked: tuple[str, bytes | str]) -> Tensor:
        modality, value = asked
        if isinstance(value, bytes):
            row, _ = await run_in(decoders, prepared, value)
        else:
            row = served.prepare(modality, value)
        return await output(row)

    if isinstance(served, Classifier):

        @app.post("/v1/predict", openapi_extra=body(served.reads, limits), responses=refusals(403, *ANSWERED))
        async def predict(
            request: Request,
            k: Annotated[int, Query(ge=1, le=limits.k, description="Classes, the likeliest first.")] = 5,
            attention: Annotated[bool, Query(description="Also where the network looks.")] = False,
        ) -> Prediction:
            """What a picture shows. Send its bytes, or a form with a file called image."""

            async def work(asked: tuple[str, bytes | str]) -> Prediction:
                row, picture = await run_in(decoders, prepared, asked[1])
                logits = await output(row)
                maps = await run_in(searches, served.look, row, picture, int(logits.argmax())) if attention else []
                return Prediction(
                    classes=[Likely(name=name, probability=value) for name, value in served.likely(logits, k)],
                    attention=[Map(name=each.name, stage=each.stage, picture=as_url(each.picture, 512)) for each in maps],
                )

            return await door.answer(request, read(request, served.reads, limits), work)

    else:
        default = "image" if "image" in served.finds else served.finds[0]

        @app.post("/v1/embed", openapi_extra=body(served.reads, limits), responses=refusals(403, *ANSWERED))
        async def embed(request: Request) -> Embedding:
            """A picture or a text as a point of the joint space. Send the picture's bytes, a form with a file called image, or JSON."""

            async def work(asked: tuple[str, bytes | str]) -> Embedding:
                return Embedding(modality=asked[0], embedding=(await embedded(asked)).tolist())

            return await door.answer(request, read(request, served.reads, limits), work)

        @app.post("/v1/search", openapi_extra=body(served.reads, limits), responses=refusals(403, *ANSWERED))
        async def search(
            request: Request,
            to: Annotated[str, Query(description="What to find.", json_schema_extra={"enum": list(served.finds)})] = default,
            k: Annotated[int, Query(ge=1, le=limits.k, description="How many.")] = 12,
        ) -> Results:
            """The rows nearest to a picture or a text. Send the picture's bytes, a form with a file called image, or JSON."""
            if to not in served.finds:
                expected = " or ".join(served.finds)
                problem = "to: there is no such thing to find."
                raise Problem(422, "wrong_value", problem, got=to, expected=expected, nearest=like(to, served.finds))

            async def work(asked: tuple[str, bytes | str]) -> Results:
                found = await run_in(searches, served.search, await embedded(asked), to, k)
                results = [
                    Result(
                        split=each.split,
                        row=each.row,
                        score=each.score,
                        text=each.words,
                        picture=f"/v1/pictures/{each.split}/{each.row}" if each.picture else None,
                    )
                    for each in found
                ]
                return Results(asked=asked[0], to=to, results=results)

            return await door.answer(request, read(request, served.reads, limits), work)

        @app.get(
            "/v1/pictures/{split}/{row}",
            response_class=Response,
            responses={200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The picture."}, **refusals(404, 422, 500)},
        )
        async def picture(
            split: Annotated[str, Path(json_schema_extra={"enum": list(served.indices)})],
            row: Annotated[int, Path(ge=0, lt=2**31)],
        ) -> Response:
            """The picture of a row that is searched, no larger than 256 pixels a side."""

            def made() -> tuple[bytes, str] | None:
                found = served.picture(split, row)
                return None if found is None else encode(found, _SIDE)

            try:
                sent = await run_in(readers, made)
            except (ValueError, OSError, LookupError) as error:  # it was there when the index was made
                raise Problem(404, "no_picture", "The picture of this row cannot be read any more.") from error
            if sent is None:
                raise Problem(404, "no_picture", "There is no picture in such a row.", got=f"{split}/{row}", expected=_rows(served))
            return Response(sent[0], media_type=sent[1])

    @app.get("/v1/about")
    async def about() -> About:
        """What is served, and what a request may carry."""
        return About(
            run=served.name,
            kind=served.kind,
            reads=list(served.reads),
            finds=list(served.finds),
            classes=list(served.classes),
            rows=served.size,
            examples=list(served.examples),
            upload=limits.upload,
            text=limits.text,
        )

    def state() -> Health:
        hangs = batcher.busy > 2 * limits.timeout
        why = "stopping" if guard.stopping else f"a batch has been computed for {batcher.busy:.0f} s" if hangs else None
        return Health(live=True, ready=why is None, why=why)

    @app.get("/health")
    async def health() -> Health:
        """Whether it lives; this needs no token."""
        return state()

    @app.get("/health/ready", responses={503: {"model": Health, "description": "Not now."}})
    async def ready() -> Any:
        """Whether it should be sent requests; this needs no token."""
        now = state()
        return now if now.ready else JSONResponse(now.model_dump(), 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Any:
        """Counts and times, for Prometheus."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> Any:
        return HTMLResponse(page["index.html"])

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> Any:
        return HTMLResponse(page["docs.html"])

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Any:
        kind = _PAGE_TYPES.get(name.rpartition(".")[2])
        if name not in page or kind is None:
            raise HTTPException(404)
        return Response(page[name], media_type=kind)

    paths = ["/", "/docs", "/openapi.json", *app.openapi()["paths"]]
    labels = [path.partition("{")[0] for path in paths] + ["/page/"]

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            return respond(Problem(405, "wrong_method", "Not by this method.", got=request.method, expected=allowed, headers=error.headers))
        if path in _OF_SOME and path not in paths:
            what = f"This run is a {_KINDS[served.kind]}: it does not answer {path}."
            return respond(
                Problem(404, "not_of_this_run", what, got=path, expected=" or ".join(each for each in _OF_SOME if each in paths))
            )
        return respond(Problem(error.status_code, "no_such_path", "There is nothing here.", got=path, nearest=like(path, paths)))

    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, _answer_defect)
    guard = Guard(app, metrics=metrics, paths=labels, hosts=hosts, token=token, login=page["login.html"])
    return guard


def _rows(served: Searcher) -> str:
    spans: Mapping[str, int] = {split: len(index.shown) for split, index in served.indices.items()}
    return " or ".join(f"{split}/0 to {split}/{size - 1}" for split, size in spans.items() if size)
