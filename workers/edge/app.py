"""The routes of the edge, and what is opened before the first request and closed after the last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from models.migrate import current, head
from models.session import Database
from tasks.moves.opt_in import Asker
from tasks.moves.settings import DeliverySettings, IdentitySettings
from workers.edge import answers, api, confirming, leaving, lists, mails, problem, webhooks
from workers.edge.callers import Callers
from workers.edge.hits import Hits, Pen
from workers.edge.provider_settings import ProviderSettings
from workers.edge.reports import Reports, forget
from workers.edge.settings import EdgeSettings
from workers.edge.shield import AccessLog, Shield
from workers.edge.tracking import PATHS, Tracking
from workers.metrics.edge import EdgeMeter

LOG_EVERY = 0.2
FORGET_EVERY = 3600.0
ABOUT = """What readers and other systems reach of a dripfleet.

`/v1` asks for an API key (`Authorization: Bearer df_…`, from `dripfleet key create`) and takes an
`Idempotency-Key`. Errors are `application/problem+json`."""


def build(
    settings: EdgeSettings,
    database: Database,
    *,
    identities: bytes,
    identity: IdentitySettings,
    redis_url: str | None = None,
    log: AccessLog | None = None,
    meter: EdgeMeter | None = None,
) -> ASGIApp:
    """The edge as an ASGI app.

    Args:
        settings: of this process.
        database: the caller's, and to be closed by it.
        identities: key of the subscribers' addresses.
        identity: what the Message-IDs of mails are made of.
        redis_url: where requests to `/v1` are counted; None: in this process.
        log: takes a line for each answer; by default stderr.
        meter: counts what is answered.
    """
    meter = meter or EdgeMeter()
    access = log or AccessLog(meter=meter)
    pen = Pen(database.url)
    hits = Hits(pen.write, meter)
    reports = Reports(database)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.counter = leaving.Counter(database, settings.keys, settings.sender_name)
        app.state.registrar = confirming.Registrar(database, settings.keys, settings.sender_name)
        app.state.callers = Callers(database, settings.edge_rate, redis_url, meter)
        asker = Asker.of(identity, DeliverySettings()) if settings.edge_url else None
        app.state.writer = api.Writer(database, identities, asker)
        app.state.reader = lists.Reader(database, identities)
        app.state.post = mails.Post(database, identities, identity, DeliverySettings())
        app.state.hooks = webhooks.Hooks(ProviderSettings(), settings.keys, reports)
        hits.start()
        reports.start()
        tasks = [asyncio.create_task(_write(access)), asyncio.create_task(_forget(database))]
        try:
            yield
        finally:
            await hits.stop()
            await reports.stop()
            await pen.close()
            await app.state.callers.close()
            for each in tasks:
                each.cancel()
            access.flush()

    app = FastAPI(
        title="dripfleet",
        version="1",
        description=ABOUT,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )
    problem.install(app)
    app.include_router(leaving.router)
    app.include_router(confirming.router)
    app.include_router(api.router)
    app.include_router(mails.router)
    app.include_router(lists.router)
    app.include_router(webhooks.router)

    @app.get("/healthz", tags=["health"], summary="This process answers")
    async def healthz() -> dict[str, str]:
        """Say that this process runs; nothing else is asked."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], summary="Send requests here")
    def readyz() -> JSONResponse:
        """Say whether requests can be served: Postgres answers, with this code's schema."""
        why = _unready(database)
        if why is not None:
            return problem.answer(503, why)
        return JSONResponse({"status": "ok"})

    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        schema["paths"].update(PATHS)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    https = settings.edge_url.startswith("https://")
    inner = Tracking(app, database, settings.keys, hits)
    return Shield(inner, access, body=settings.edge_body, https=https)


def _unready(database: Database) -> str | None:
    """Why this process cannot serve; None: it can."""
    try:
        with database.transaction() as connection:
            connection.execute(text("SET LOCAL statement_timeout = '2s'"))
            stands = current(connection)
    except SQLAlchemyError:
        return "Postgres does not answer"
    return None if stands == head() else "the schema is not this code's; run `dripfleet migrate`"


async def _forget(database: Database) -> None:
    while True:
        await asyncio.sleep(FORGET_EVERY)
        with contextlib.suppress(SQLAlchemyError):
            await run_in_threadpool(answers.forget, database)
            await run_in_threadpool(forget, database)


async def _write(log: AccessLog) -> None:
    while True:
        await asyncio.sleep(LOG_EVERY)
        log.flush()
