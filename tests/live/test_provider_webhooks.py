"""Providers' webhooks: genuine ones change what is sent, forged ones open nothing, twice is as once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from hashlib import sha256

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import Connection

from tasks import return_path
from tasks.moves.settings import DeliverySettings
from tasks.track import feedback
from tasks.track.report import Report
from tasks.upkeep.verify import VerifySettings, verify
from tests.live import edge
from tests.live.fleet import Fleet, Make, eventually
from tests.live.providers import CERTIFICATE, PATH, TOPIC, Providers, Request, Sent
from tests.live.test_inbound import KEYS, TWO, rows
from workers.cli import main
from workers.edge.provider_settings import ProviderSettings
from workers.edge.providers import Forged, ses
from workers.edge.reports import Reports
from workers.embedded.ledger import read_mail

ALL = ("ses", "sendgrid", "mailgun", "postmark")
SENT = """
SELECT m.id, m.epoch, s.address, m.rfc_message_id FROM message m
JOIN subscriber s ON s.id = m.subscriber_id WHERE m.state IN ('sent', 'in_doubt') ORDER BY s.id
"""


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Providers:
    made = Providers(KEYS)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ses, "fetch", made.fetch)
    return made


@pytest.fixture
def hooks(providers: Providers, fleet: Fleet) -> Iterator[TestClient]:
    with edge.client(fleet.database) as client:
        yield client


def post(client: TestClient, request: Request) -> int:
    return client.post(request.path, content=request.body, headers=request.headers).status_code


def queued(fleet: Fleet, n: int) -> list[Sent]:
    """People whose first mail went, and whose second stands in the queue."""
    fleet.enrolled(n, TWO)
    fleet.send()

    def stand() -> bool:
        fleet.scan()
        return fleet.states() == {"sent": n, "scheduled": n}

    eventually(stand)
    return [Sent(*row) for row in rows(fleet, SENT)]


def test_a_bounce_and_a_complaint_by_each_provider_change_what_is_sent(
    fleet: Fleet, hooks: TestClient, providers: Providers
) -> None:
    people = queued(fleet, 2 * len(ALL) + 1)
    asked = [(name, kind) for name in ALL for kind in ("bounce", "complaint")]
    for sent, (name, kind) in zip(people, asked, strict=False):
        request = providers.request(name, kind, sent)
        assert post(hooks, request) == 200, (name, kind)
        # Sent again it is the same: by its id, and Mailgun's by its token.
        assert post(hooks, request) == (406 if name == "mailgun" else 200)
        assert post(hooks, providers.request(name, "delivery", sent)) == 200
    n = len(ALL)
    assert rows(fleet, "SELECT source, kind, class FROM feedback ORDER BY 1, 2") == [
        (name, kind, class_)
        for name in sorted(ALL)
        for kind, class_ in (("bounced", "hard"), ("complained", None))
    ]
    assert fleet.states() == {"sent": 2 * n + 1, "suppressed": 2 * n, "scheduled": 1}
    assert fleet.send() == {"claimed": 1, "sent": 1}
    assert rows(fleet, "SELECT scope, reason, count(*) FROM suppression GROUP BY 1, 2") == [
        ("all", "hard_bounce", n), ("marketing", "complaint", n),
    ]  # fmt: skip
    assert verify(fleet.database, DeliverySettings(), VerifySettings()).clean


def test_a_delivery_settles_a_doubt(fleet_with: Make, providers: Providers) -> None:
    fleet = fleet_with("dot:accept_then_drop")
    rows(fleet, "UPDATE stream SET doubt_policy = 'hold' RETURNING 1")
    fleet.enrolled(len(ALL))
    fleet.send()
    assert fleet.states() == {"in_doubt": len(ALL)}
    with edge.client(fleet.database) as hooks:
        for sent, name in zip([Sent(*row) for row in rows(fleet, SENT)], ALL, strict=True):
            assert post(hooks, providers.request(name, "delivery", sent)) == 200
    assert fleet.states() == {"sent": len(ALL)}
    told = rows(fleet, "SELECT DISTINCT split_part(evidence, ';', 1) FROM attempt")
    assert told == [("provider: arrived",)]
    assert verify(fleet.database, DeliverySettings(), VerifySettings()).clean


def test_forged_webhooks_open_nothing_and_are_all_answered_alike(
    fleet: Fleet, hooks: TestClient, providers: Providers
) -> None:
    (sent,) = queued(fleet, 1)
    before = fleet.states()
    stranger = Providers(KEYS)
    forged = [stranger.request(name, "bounce", sent) for name in ("ses", "sendgrid")]
    good = {name: providers.request(name, "bounce", sent) for name in ALL}
    for name in ("ses", "sendgrid", "mailgun"):
        forged.append(Request(good[name].path, good[name].body[:-20] + b" " + good[name].body[-20:], good[name].headers))  # fmt: skip
    forged[-1] = Request("/hooks/mailgun", good["mailgun"].body.replace(b'"signature": "', b'"signature": "0'))  # fmt: skip
    forged[2] = Request("/hooks/ses", good["ses"].body.replace(b"User", b"Usor"))
    forged += [
        Request(good["postmark"].path, good["postmark"].body, {"authorization": "Basic eDp5"}),
        Request(good["postmark"].path, good["postmark"].body),
        Request("/hooks/postmark/another", good["postmark"].body, good["postmark"].headers),
        providers.signed_sendgrid(good["sendgrid"].body, 1_700_000_000),
        Request("/hooks/sendgrid", b"[]"),
        Request("/hooks/ses", b"\xff"),
        Request("/hooks/mailgun", b"[" * 10_000),
        Request("/hooks/ses", providers.signed_sns({"Message": "{}", "TopicArn": TOPIC + "2"})),
        Request("/hooks/ses", providers.signed_sns({"Message": "{}"}, version="1")),
        *(
            Request("/hooks/ses", providers.signed_sns({"Message": "{}", "SigningCertURL": url}))
            for url in (
                CERTIFICATE.replace("https", "http") + "?x",
                "https://sns.eu-west-1.amazonaws.com.example.org/SimpleNotificationService-1.pem",
                "https://u@sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
                "https://sns.eu-west-1.amazonaws.com/other.pem",
            )
        ),
    ]
    answers = {
        (answer.status_code, answer.json()["detail"])
        for answer in (
            hooks.post(each.path, content=each.body, headers=each.headers) for each in forged
        )
    }
    assert answers == {(403, "this is not the provider's, or too old")}
    assert fleet.states() == before and rows(fleet, "SELECT count(*) FROM feedback") == [(0,)]
    assert set(providers.fetched) <= {CERTIFICATE}
    # Genuine, and of mails that are none of ours: answered, and nothing comes of it.
    other = Sent(10**12, 1, "x@example.com", "<other@example.com>")
    for name in ALL:
        assert post(hooks, providers.request(name, "bounce", other)) == 200
    assert fleet.states() == before and rows(fleet, "SELECT count(*) FROM feedback") == [(0,)]
    large = hooks.post(good["sendgrid"].path, content=b"x" * 2_000_001)
    assert large.status_code == 413


def test_a_subscription_of_our_topic_is_confirmed_and_nothing_else_is_visited(
    hooks: TestClient, providers: Providers
) -> None:
    here = (
        f"https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=t"
    )
    told = {"Type": "SubscriptionConfirmation", "Message": "You have chosen", "Token": "t"}
    good = providers.signed_sns({**told, "SubscribeURL": here})
    assert post(hooks, Request("/hooks/ses", good)) == 200 and here in providers.fetched
    for url in (
        here.replace("ConfirmSubscription", "Unsubscribe"),
        here.replace("bounces", "other"),
        here.replace("/?", "/x?"),
    ):
        odd = providers.signed_sns({**told, "SubscribeURL": url})
        assert post(hooks, Request("/hooks/ses", odd)) == 403
        assert url not in providers.fetched


def test_an_address_that_is_not_of_sns_is_not_asked() -> None:
    for url in (
        "https://169.254.169.254/x",
        "http://sns.eu-west-1.amazonaws.com/",
        "file:///etc/x",
    ):
        with pytest.raises(Forged):
            ses.fetch(url)


def test_a_stream_gives_its_provider_what_it_brings_back_and_changes_no_octet_of_a_mail(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", fleet.database.url)
    for odd in (
        ["--return-path", "bounces"],
        ["--provider", "x"],
        ["--provider", "ses", "--no-region"],
    ):
        assert main(["stream", "set", "marketing", *odd]) == 2
    assert main(["stream", "set", "marketing", "--provider", "postmark"]) == 0
    assert main(["stream", "set", "marketing", "--return-path", "Bounces.Example.com"]) == 0
    fleet.enrolled(1)
    fleet.send()
    (line,) = fleet.sink.lines()
    octets = read_mail(fleet.sink.ledger.parent, line)
    ((message, epoch, address, frozen),) = rows(
        fleet,
        "SELECT m.id, m.epoch, s.address, m.content_sha256 FROM message m"
        " JOIN subscriber s ON s.id = m.subscriber_id",
    )
    tried = return_path.Try(message, epoch, return_path.tag(address))
    assert return_path.find(KEYS, line.sender) == tried
    assert line.sender.endswith("@bounces.example.com")
    keep, metadata, mail = octets.split(b"\r\n", 2)
    assert keep == b"X-PM-KeepID: true" and metadata.startswith(b"X-PM-Metadata-dripfleet: ")
    assert return_path.find(KEYS, metadata.decode()) == tried
    assert sha256(mail).digest() == bytes(frozen)
    # Taken back, the envelope is as it was.
    assert main(["stream", "set", "marketing", "--return-path", "none"]) == 0
    assert main(["stream", "set", "marketing", "--provider", "none"]) == 0
    assert rows(fleet, "SELECT return_path, provider FROM stream WHERE key = 'marketing'") == [
        (None, None)
    ]


def test_what_no_setting_names_is_not_there_and_half_of_a_setting_is_told(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edge.client(fleet.database) as hooks:
        for path in ("ses", "sendgrid", "mailgun", f"postmark/{PATH}"):
            assert hooks.post(f"/hooks/{path}", content=b"{}").status_code == 404
        assert "/hooks/ses" in hooks.get("/openapi.json").json()["paths"]
    for name, value in (
        ("SES_TOPICS", "bounces"), ("SENDGRID_KEY", "AAAA"), ("POSTMARK_USER", "x"),
    ):  # fmt: skip
        with (
            monkeypatch.context() as patch,
            pytest.raises(ValidationError, match=r"expected|set all"),
        ):
            patch.setenv(f"DRIPFLEET_HOOK_{name}", value)
            ProviderSettings()


def test_many_at_once_are_written_in_groups_and_one_that_cannot_be_holds_no_other(
    fleet: Fleet, hooks: TestClient, providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = queued(fleet, 40)
    events = [
        json.loads(providers.request("sendgrid", "complaint", sent).body)[0] for sent in people[:20]
    ]
    assert post(hooks, providers.signed_sendgrid(json.dumps(events).encode())) == 200
    assert fleet.states() == {"sent": 40, "suppressed": 20, "scheduled": 20}
    groups: list[int] = []
    take = feedback.take

    def counted(connection: Connection, reports: Sequence[Report]) -> feedback.Taken:
        groups.append(len(reports))
        return take(connection, reports)

    monkeypatch.setattr(feedback, "take", counted)
    many = [Report("x", f"{sent.message}", "complained", sent.message) for sent in people[20:]]

    async def at_once(*reports: Report) -> list[feedback.Taken | BaseException]:
        writer = Reports(fleet.database)
        writer.start()
        told = await asyncio.gather(
            *(writer.take([each]) for each in reports), return_exceptions=True
        )
        await writer.stop()
        return told

    asyncio.run(at_once(*many[:10]))
    assert groups == [10]
    # A number that Postgres has not: a fault of one request, not of those beside it.
    told = asyncio.run(at_once(*many[10:], Report("x", "bad", "complained", 2**70)))
    assert [isinstance(each, feedback.Taken) for each in told] == [True] * 10 + [False]
    assert fleet.states() == {"sent": 40, "suppressed": 40}
