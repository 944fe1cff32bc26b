"""What is held against a rendered mail before a sequence with it is published, and when it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedules.definition import SendStep
from schedules.loader import load
from schedules.ready import SEQUENCES
from tasks.personalize.inbox import Around, inbox
from tasks.send.render import bundle_from_folder, compile
from tasks.sequence.publish import MADE_UP
from workers.cli import inbox as told
from workers.cli import main
from workers.cli.proof import installed_templates, prove, sample_sender, sample_unsubscribe
from workers.cli.render import ExitCode

AROUND = Around(
    "Shop",
    "news@shop.example",
    True,
    ("mailto:stop@shop.example?subject=x", "https://go.shop.example/u/1"),
    ("Shop", "2 Real Street"),
)
FOOT = "To leave: https://go.shop.example/u/1\nShop\n2 Real Street\n"
TEXT = f"Hello Ada, the new records are here, and we would be glad to play some of them.\n{FOOT}"
PAGE = f"""<html lang="en"><head><meta name="color-scheme" content="light dark"></head>
<body style="background-color:#ffffff;color:#1f2328"><p>{TEXT}</p>
<a href="https://shop.example/new">See the new records</a></body></html>"""


def found(subject: str = "New records", plain: str = TEXT, html: str | None = PAGE) -> set[str]:
    notes = inbox(subject, plain, html, AROUND)
    assert all(note.next for note in notes)
    return {f"{note.severity} {note.check}" for note in notes}


def test_a_mail_with_nothing_against_it_has_no_notes() -> None:
    assert found() == set()
    assert found(html=None) == set()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (">See the new records<", ">www.shop.example<", None),
        (">See the new records<", ">https://bank.example/login<", "error links"),
        (">See the new records<", ">bank.example<", "error links"),
        ("https://shop.example/new", "https://bit.ly/x", "warning links"),
        ("https://shop.example/new", "https://192.0.2.7/new", "error links"),
        ("https://shop.example/new", "http://shop.example/new", "warning links"),
        (f"<p>{TEXT}</p>", f'<img src="a.png" alt="">{FOOT}', "error images"),
        ("<p>", '<p><img src="a.png">', "error images"),
        ("<p>", "<p>" + "<b></b>" * 3000, "warning ratio"),
        ("<p>", "<p>" + "word " * 21_000, "warning size"),
        ("<p>", "<form></form><p>", "error markup"),
        ("https://go.shop.example/u/1", "", "error way out"),
        ("2 Real Street", "", "error postal address"),
    ],
)
def test_each_fault_of_a_page_is_named(old: str, new: str, said: str | None) -> None:
    assert (
        said in found(html=PAGE.replace(old, new))
        if said
        else not found(html=PAGE.replace(old, new))
    )


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("NEW RECORDS ARE HERE", "warning subject"),
        ("New records!!", "warning subject"),
        ("Re: your order", "error subject"),
        ("AW: Ihre Bestellung", "error subject"),
        ("Regarding your order", None),
        ("ABC", None),
    ],
)
def test_a_subject_that_shouts_or_deceives_is_named(subject: str, said: str | None) -> None:
    assert found(subject) - {"warning spam"} == ({said} if said else set())


def test_from_is_looked_at_as_receivers_do() -> None:
    def says(name: str, address: str) -> list[str]:
        notes = inbox("New records", TEXT, PAGE, Around(name, address))
        return [note.check for note in notes]

    assert says("Shop", "shop@gmail.com") == ["headers"]
    assert says("help@bank.example", "news@shop.example") == ["headers"]
    assert says("bank.example", "news@shop.example") == ["headers"]
    assert says("shop.example", "news@mail.shop.example") == []


def test_each_part_of_advertising_has_a_way_out_and_an_address_and_other_mail_need_not() -> None:
    bare = "Your order is on its way, and arrives on Monday."
    checks = [note.check for note in inbox("Your order", bare, None, AROUND)]
    assert checks == ["way out", "postal address"]
    assert inbox("Your order", bare, None, Around("Shop", "news@shop.example")) == []


BARE = """
key: bare
title: Bare
class: {class_}
topic: news
entry: {{manual: true}}
steps:
  - {{id: mail, send: {{template: bare/mail}}}}
"""


def test_what_is_published_is_judged_as_it_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = tmp_path / "templates" / "bare" / "mail"
    mail.mkdir(parents=True)
    (mail / "subject.txt").write_text("Hello {{ subscriber.first_name | default('you', true) }}\n")
    (mail / "body.txt").write_text("Good day.\n")
    file = tmp_path / "bare.yaml"
    file.write_text(BARE.format(class_="marketing"))
    seen = told.look(prove([str(file)], tmp_path / "templates"))
    assert [(each.mail, [n.check for n in each.notes]) for each in seen] == [
        ("bare/mail", ["way out", "postal address"])
    ]
    assert not told.refuses(seen), "an example is told, and not refused"
    monkeypatch.setenv("DRIPFLEET_SENDER_ADDRESS", "news@shop.example")
    assert told.refuses(seen)
    monkeypatch.setenv("DRIPFLEET_COMPLIANCE", "warn")
    assert not told.refuses(seen)
    file.write_text(BARE.format(class_="transactional").replace("topic: news\n", ""))
    assert told.look(prove([str(file)], tmp_path / "templates")) == []


def test_the_mails_that_ship_have_nothing_against_them() -> None:
    root, sender = installed_templates(), sample_sender()
    classes = {
        step.template: loaded.class_
        for loaded in map(load, SEQUENCES.glob("*.yaml"))
        for step in loaded.steps
        if isinstance(step, SendStep)
    }
    assert len(classes) >= 31
    for name, class_ in classes.items():
        mail = compile(bundle_from_folder(root, name)).render(
            {
                "subscriber": MADE_UP[0].variables,
                "sender": {"name": sender.name, "postal_address": sender.postal_address},
                "unsubscribe": sample_unsubscribe(sender, "k1.sample"),
            }
        )
        around = told.around(sender, class_ == "marketing")
        assert inbox(mail.subject, mail.text, mail.html, around) == [], name


def test_what_is_told_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    notes = inbox("RE: NEW RECORDS!!", "Hello.", None, AROUND)
    told.tell([told.Looked(f"mail/{n}", notes) for n in range(9)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == told.MOST_LINES + 1
    assert (
        lines[0].startswith("error: mail/0: subject:") and "more: `dripfleet content" in lines[-1]
    )


def test_apply_says_so_and_publishes_nothing_of_a_real_sender(
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mail = tmp_path / "bare" / "mail"
    mail.mkdir(parents=True)
    (mail / "subject.txt").write_text("Hello\n")
    (mail / "body.txt").write_text("Good day.\n")
    file = tmp_path / "bare.yaml"
    file.write_text(BARE.format(class_="marketing"))
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.setenv("DRIPFLEET_SENDER_ADDRESS", "news@shop.example")
    assert main(["sequence", "validate", str(file), "--templates", str(tmp_path), "--offline"]) == 0
    assert "error: bare/mail: way out" in capsys.readouterr().err
    line = ["sequence", "apply", str(file), "--templates", str(tmp_path), "--create-topics"]
    assert main(line) == ExitCode.FINDINGS
    said = capsys.readouterr().err
    assert "error: bare/mail: way out" in said and "nothing was published" in said
    assert main([*line, "--no-review"]) == ExitCode.OK
    assert "version 1 is new" in capsys.readouterr().err
