"""Errors as `application/problem+json` (RFC 9457): what is wrong, what was expected, the next move."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.exceptions import HTTPException

from tasks.errors import Misconfigured, Permanent

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"


class Problem(HTTPException):
    """An answer that is an error; `detail` is one sentence for whoever called."""


def answer(status: int, detail: str, **more: Any) -> JSONResponse:
    """One problem. `more` are members of its own, such as `errors`."""
    headers = more.pop("headers", None)
    content = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of the app a problem; none tells more of us than its caller needs."""

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [
            {"at": ".".join(map(str, each["loc"])), "reason": each["msg"]}
            for each in error.errors()[:20]
        ]
        said = "the request is not of the shape that /openapi.json describes; `errors` says where"
        return answer(422, said, errors=faults)

    @app.exception_handler(Permanent)
    def permanent(request: Request, error: Permanent) -> JSONResponse:
        return answer(422, str(error))

    @app.exception_handler(DataError)
    def unfit(request: Request, error: DataError) -> JSONResponse:
        return answer(422, "a value is none that Postgres can hold; correct it")

    @app.exception_handler(SQLAlchemyError)
    def database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("database_fault", kind=type(getattr(error, "orig", error)).__name__)
        said = "the database does not answer; nothing was lost, send it again"
        return answer(503, said, headers={"Retry-After": "5"})

    @app.exception_handler(Misconfigured)
    def misconfigured(request: Request, error: Misconfigured) -> JSONResponse:
        log.error("misconfigured", why=str(error))
        return answer(503, "this service is not set up; its operator finds why in its log")

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "a fault of ours; it is in our log")
