"""What is answered, and what may be sent, as OpenAPI says it."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, Field

from .limits import Limits
from .pictures import TYPES
from .problem import Refusal


class About(BaseModel):
    """What is served."""

    run: str = Field(description="Its name.")
    kind: str = Field(description='"classifier" or "joint".')
    reads: list[str] = Field(description='What a request may carry: "image", "text".')
    finds: list[str] = Field(description="What a search can find.")
    classes: list[str] = Field(description="Of a classifier.")
    rows: int = Field(description="That are searched.")
    examples: list[str] = Field(description="A few texts out of the rows.")
    upload: int = Field(description="Bytes of a picture, at most.")
    text: int = Field(description="Characters of a text, at most.")


class Likely(BaseModel):
    name: str
    probability: float


class Map(BaseModel):
    """Where the network looks, over the picture as it sees it."""

    name: str = Field(description='"Grad-CAM", or the gate\'s.')
    stage: int | None = Field(description="Of the network, from 0.")
    picture: str = Field(description="A data: URL.")


class Prediction(BaseModel):
    classes: list[Likely] = Field(description="The likeliest first.")
    attention: list[Map] = Field(description="Where `attention` asked for it; empty for an exported network, whose inside cannot be seen.")


class Embedding(BaseModel):
    modality: str
    embedding: list[float] = Field(description="Of unit length.")


class Result(BaseModel):
    split: str
    row: int
    score: float = Field(description="The cosine.")
    text: str | None
    picture: str | None = Field(description="Where it is.")


class Results(BaseModel):
    asked: str = Field(description="What the request carried.")
    to: str
    results: list[Result] = Field(description="The nearest first.")


class Health(BaseModel):
    live: bool
    ready: bool
    why: str | None = Field(description="What it is that is not ready.")


def body(reads: Collection[str], limits: Limits) -> dict[str, Any]:
    """OpenAPI's description of a body that is read by hand."""
    content: dict[str, Any] = {}
    if "text" in reads:
        text = {"type": "string", "minLength": 1, "maxLength": limits.text}
        content["application/json"] = {
            "schema": {"type": "object", "required": ["text"], "properties": {"text": text}, "additionalProperties": False},
            "example": {"text": "digit seven"},
        }
    if "image" in reads:
        file = {"type": "string", "format": "binary"}
        content |= {kind: {"schema": file} for kind in (*TYPES, "application/octet-stream")}
        content["multipart/form-data"] = {"schema": {"type": "object", "required": ["image"], "properties": {"image": file}}}
    return {"requestBody": {"required": True, "content": content}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    what = {
        400: "The body cannot be read.",
        401: "The token is missing or wrong.",
        403: "Asked by a page elsewhere.",
        404: "There is no such thing.",
        408: "The request did not come in time.",
        413: "Too many bytes, or pixels.",
        415: "Another content type.",
        421: "Asked under another name.",
        422: "What was asked makes no sense here.",
        500: "A defect.",
        503: "Too many requests at once.",
        504: "The answer was not ready in time.",
    }
    return {status: {"model": Refusal, "description": what[status]} for status in statuses}


ANSWERED = (400, 408, 413, 415, 422, 500, 503, 504)  # what may come of a body that is worked on
