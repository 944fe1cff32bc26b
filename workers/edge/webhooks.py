"""`/hooks/…`: what providers tell of our mails; verified first, committed before the answer.

A provider that no setting names is not there (404). What is not the provider's is refused with the same
words whatever was wrong with it (403); why stands in the log. What is theirs and of no mail of ours is
answered as any other, and does nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import structlog
from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from tasks.tokens import Keys
from workers.edge.problem import Problem
from workers.edge.provider_settings import ProviderSettings
from workers.edge.providers import Forged, mailgun, postmark, sendgrid, ses
from workers.edge.reports import Reports, Used

log = structlog.get_logger()


class Hooks:
    """Takes webhooks for one process.

    Args:
        settings: whose are taken.
        keys: of our tokens.
        reports: acts upon what they say.
        fetch: reads an address of SNS; None: by https.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        keys: Keys,
        reports: Reports,
        fetch: ses.Fetch | None = None,
    ) -> None:
        self.settings = settings
        self.keys = keys
        self.reports = reports
        self.sns = ses.Sns(settings.topics, fetch or ses.fetch)
        key = settings.hook_sendgrid_key
        self.sendgrid = sendgrid.public_key(key) if key else None


def _hooks(request: Request) -> Hooks:
    hooks: Hooks = request.app.state.hooks
    return hooks


TheHooks = Annotated[Hooks, Depends(_hooks)]
TAKEN: dict[int | str, dict[str, Any]] = {
    status: {"description": said, "content": {"application/problem+json": {}}}
    for status, said in (
        (403, "It is not the provider's, or too old."),
        (404, "No setting names this provider."),
        (406, "It came before."),
        (413, "Larger than DRIPFLEET_EDGE_BODY."),
        (422, "It is the provider's, and not of a shape that is known."),
        (503, "The database does not answer; send it again."),
    )
}
router = APIRouter(prefix="/hooks", tags=["providers"], responses=TAKEN)


@router.post("/ses", summary="Amazon SES, through SNS")
async def of_ses(request: Request, hooks: TheHooks) -> dict[str, int]:
    """Take a notification, or say yes to a subscription of a topic that is ours."""
    _named(bool(hooks.settings.topics))
    body = await request.body()
    try:
        told = await run_in_threadpool(hooks.sns.verify, body)
        if told["Type"] == "SubscriptionConfirmation":
            await run_in_threadpool(hooks.sns.confirm, told)
            log.info("topic_subscribed", topic=told["TopicArn"])
    except Forged as fault:
        _refuse("ses", fault)
    except OSError as fault:
        log.warning("sns_not_reached", why=str(fault))
        raise Problem(503, "SNS could not be asked; send it again") from None
    if told["Type"] != "Notification":
        return _answer(0)
    found = ses.reports(told, hooks.keys)
    await hooks.reports.take(found)
    return _answer(len(found))


@router.post("/sendgrid", summary="Twilio SendGrid")
async def of_sendgrid(request: Request, hooks: TheHooks) -> dict[str, int]:
    """Take a list of events."""
    _named(hooks.sendgrid is not None)
    assert hooks.sendgrid is not None
    body = await request.body()
    try:
        sendgrid.verify(hooks.sendgrid, body, request.headers)
    except Forged as fault:
        _refuse("sendgrid", fault)
    try:
        found = sendgrid.reports(body, hooks.keys)
    except ValueError as fault:
        raise Problem(422, str(fault)) from None
    await hooks.reports.take(found)
    return _answer(len(found))


@router.post("/mailgun", summary="Mailgun")
async def of_mailgun(request: Request, hooks: TheHooks) -> dict[str, int]:
    """Take an event, by each token once."""
    key = hooks.settings.hook_mailgun_key.get_secret_value()
    _named(bool(key))
    try:
        told, token = mailgun.verify(key, await request.body())
    except Forged as fault:
        _refuse("mailgun", fault)
    found = mailgun.reports(told, hooks.keys)
    try:
        await hooks.reports.take(found, once=("mailgun", token))
    except Used:
        # 406 is what keeps Mailgun from trying again.
        raise Problem(406, "this token was used before") from None
    return _answer(len(found))


@router.post("/postmark/{path}", summary="Postmark")
async def of_postmark(request: Request, path: str, hooks: TheHooks) -> dict[str, int]:
    """Take a bounce, a complaint, a delivery or a change of a subscription."""
    settings = hooks.settings
    _named(bool(settings.hook_postmark_user))
    try:
        postmark.verify(
            settings.hook_postmark_user,
            settings.hook_postmark_password.get_secret_value(),
            settings.hook_postmark_path.get_secret_value(),
            request.headers.get("authorization", ""),
            path,
        )
    except Forged as fault:
        _refuse("postmark", fault)
    try:
        found = postmark.reports(await request.body(), hooks.keys)
    except ValueError as fault:
        raise Problem(422, str(fault)) from None
    await hooks.reports.take(found)
    return _answer(len(found))


def _answer(reports: int) -> dict[str, int]:
    return {"reports": reports}


def _named(there: bool) -> None:
    if not there:
        raise Problem(404, "no webhook of this provider is taken here")


def _refuse(provider: str, fault: Forged) -> NoReturn:
    log.warning("webhook_refused", provider=provider, why=str(fault))
    raise Problem(403, "this is not the provider's, or too old") from None
