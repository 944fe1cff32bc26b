"""Files that go with a mail: attachments, and pictures that its page shows."""

from __future__ import annotations

import email
import email.policy
import json
import re
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from email.message import EmailMessage
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from tasks.errors import Permanent
from tasks.send import attachable, attached
from tasks.send.content import Content, Facts, Sender, compose
from tasks.send.links import tracked
from tasks.send.relay import Relay
from tasks.send.render import Bundle, bundle_from_folder, compile, files_of
from tasks.send.seed import Seeder
from tasks.send.settings import SendSettings
from tasks.send.skeleton import Skeleton
from workers.cli import main
from workers.cli.content import files_for
from workers.cli.proof import prove
from workers.cli.render import ExitCode

GOLDEN = Path(__file__).parents[1] / "golden/attached.eml"
KEY = sha256(b"effect").digest()
SENDER = Sender("Records & Co", "shop@example.com", "1 Example Street", "off@example.com")
FACTS = Facts(
    "<x@example.com>", "ada@example.com", datetime(2026, 3, 1, 12, tzinfo=UTC), KEY, "k1.sample"
)
PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 3
PAGE = '<html lang="en"><body><p>Hello {{ subscriber.first_name }}</p>%s</body></html>\n'


def variables(locale: str = "en") -> dict[str, Any]:
    return {
        "subscriber": {"first_name": "Zoë", "locale": locale, "attributes": {}},
        "sender": {"name": SENDER.name, "postal_address": SENDER.postal_address},
        "unsubscribe": {"mailto": "mailto:off@example.com"},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mail with terms in two languages, a picture of its own, and one of its layout."""
    files: dict[str, str | bytes] = {
        "_base/layout.html": '<img src="cid:logo.png" alt="us">{% block body %}{% endblock %}',
        "_base/attachments/logo.png": PNG + b"logo",
        "_base/attachments/unused.png": PNG + b"unused",
        "shop/order/subject.txt": "Your order",
        "shop/order/body.txt": "Hello {{ subscriber.first_name }}",
        "shop/order/body.html": '{% extends "_base/layout.html" %}{% block body %}'
        "<p style=\"background: url('cid:caf%C3%A9%20au%20lait.png')\">Hello</p>{% endblock %}\n",
        "shop/order/attachments/terms.pdf": PDF,
        "shop/order/attachments/café au lait.png": PNG,
        "shop/order/attachments/.DS_Store": b"?",
        "shop/order/de/subject.txt": "Ihre Bestellung",
        "shop/order/de/body.txt": "Hallo",
        "shop/order/de/body.html": "<p>Hallo</p>\n",
        "shop/order/de/attachments/Geschäftsbedingungen.pdf": PDF + b"de",
    }
    for path, content in files.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path


def both(bundle: Bundle, given_variables: dict[str, Any]) -> Content:
    """The mail, laid out and rendered whole, which must be one."""
    laid = Skeleton(bundle, given_variables["sender"]).compose(
        given_variables, message=FACTS, sender=SENDER
    )
    rendered = compile(bundle).render(given_variables)
    files = files_of(bundle, given_variables)
    assert laid == compose(rendered, message=FACTS, sender=SENDER, files=files)
    return laid


def parsed(octets: bytes) -> EmailMessage:
    read = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    assert not any(part.defects for part in read.walk())
    return read


def shape(part: Any) -> Any:
    """Types, as a tree."""
    kind = part.get_content_type()
    return {kind: [shape(each) for each in part.iter_parts()]} if part.is_multipart() else kind


def octets_of(part: Any) -> bytes:
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return octets


def test_files_go_with_the_mail_and_pictures_within_its_page(folder: Path) -> None:
    bundle = bundle_from_folder(folder, "shop/order")
    read = parsed(both(bundle, variables()).octets)
    page = {"multipart/related": ["text/html", "image/png", "image/png"]}
    assert shape(read) == {
        "multipart/mixed": [{"multipart/alternative": ["text/plain", page]}, "application/pdf"]
    }
    (terms,) = read.iter_attachments()
    assert (terms.get_filename(), octets_of(terms)) == ("terms.pdf", PDF)
    html = read.get_body(("html",))
    assert html is not None
    asked = set(re.findall(r"cid:([^\"')]+)", html.get_content()))
    shown = {
        str(part["Content-ID"]).strip("<>"): part
        for part in read.walk()
        if part.get_content_type() == "image/png"
    }
    assert asked == shown.keys() and len(asked) == 2
    assert {p.get_filename(): octets_of(p) for p in shown.values()} == {
        "café au lait.png": PNG, "logo.png": PNG + b"logo",
    }  # fmt: skip
    assert all(part.get_content_disposition() == "inline" for part in shown.values())


def test_a_language_has_files_of_its_own(folder: Path) -> None:
    bundle = bundle_from_folder(folder, "shop/order")
    read = parsed(both(bundle, variables("de-AT")).octets)
    (terms,) = read.iter_attachments()
    assert (terms.get_filename(), octets_of(terms)) == ("Geschäftsbedingungen.pdf", PDF + b"de")
    # The layout's picture goes with every page: which of them takes it in is not looked into.
    assert [part.get_filename() for part in read.walk()].count("café au lait.png") == 0


def test_the_mail_is_the_one_that_was_looked_at(folder: Path) -> None:
    octets = both(bundle_from_folder(folder, "shop/order"), variables()).octets
    assert octets.replace(b"\r\n", b"\n") == GOLDEN.read_bytes()


def test_a_bundle_is_what_was_stored_and_its_hash_tells_of_its_files(folder: Path) -> None:
    bundle = bundle_from_folder(folder, "shop/order")
    assert Bundle.of_stored(bundle.name, json.loads(json.dumps(bundle.stored))) == bundle
    assert Bundle.from_json(bundle.to_json()) == bundle
    assert bundle.locales == ("de",) and "_base/attachments/unused.png" not in bundle.files
    assert tracked(bundle, "all").bundle.files == bundle.files
    file = folder / "shop/order/attachments/terms.pdf"
    file.write_bytes(PDF + b"new terms")
    assert bundle_from_folder(folder, "shop/order").sha256 != bundle.sha256
    without = Bundle(bundle.name, bundle.parts)
    assert without.sha256 == Bundle(bundle.name, dict(bundle.parts), {}).sha256 != bundle.sha256


# What no mail carries


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("attachments/run.exe", b"MZ", "type that no mail should carry, or that is not known here"),
        ("attachments/terms", b"x", "type that no mail"),
        ("attachments/a:b.pdf", PDF, "no name that every system can save"),
        ("attachments/body.txt", b"x", "not that of a template; rename it"),
        (f"attachments/{'a' * 120}.pdf", PDF, "at most 120 printable"),
        ("attachments/empty.pdf", b"", "is empty; save it again"),
        ("attachments/shot.png", b"\xff\xd8\xffjpeg", "is no png by its first octets"),
        ("attachments/notes.txt", b"\xff", "is no UTF-8 text"),
        ("attachments/large.pdf", PDF + b"x" * attachable.LARGEST, "over 5,000,000 octets"),
        ("attachments/half.pdf", PDF + b"x" * (attachable.LARGEST - 800), "octets together"),
        ("attachments/more/deep.pdf", PDF, "expected files alone"),
        ("body.html", b'<img src="cid:logo.pgn">', "shows cid:logo.pgn, and there is no file"),
        ("body.html", b'<img src="cid:{{ x }}.png">', "shows a file by an expression"),
        ("body.html", b'<a href="cid:terms.pdf">', "no picture: expected one of gif, jpeg, jpg"),
        ("body.html", b'<img src="cid:../subject.txt">', "there is no file of that name"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_go_with_a_mail_is_one_clear_sentence(
    folder: Path, path: str, content: bytes, said: str
) -> None:
    file = folder / "shop/order" / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(Permanent, match=re.escape(said)):
        bundle_from_folder(folder, "shop/order")


def test_a_sequence_with_a_picture_that_is_not_there_is_no_sequence(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "shop/order/attachments/café au lait.png").unlink()
    file = tmp_path / "order.yaml"
    file.write_text(
        "key: order\ntitle: Order\nclass: marketing\ntopic: news\nentry: {manual: true}\n"
        "steps:\n  - {id: mail, send: {template: shop/order}}\n"
    )
    (finding,) = prove([str(file)], folder).findings
    assert "shows cid:café au lait.png" in str(finding)


def test_what_was_stored_without_its_file_is_told_and_not_sent() -> None:
    page = '<img src="cid:0123456789abcdef0123456789abcdef@attachments">'
    bundle = Bundle("a/mail", {"subject.txt": "s", "body.txt": "t", "body.html": page})
    with pytest.raises(Permanent, match="shows a file that is not in its bundle"):
        Skeleton(bundle, variables()["sender"])


def test_review_and_preview_look_at_the_files_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "shop/order/attachments/café au lait.png").write_bytes(PNG + b"x" * 1_100_000)
    (folder / "shop/order/attachments/all.zip").write_bytes(b"PK")
    options = ["--templates", str(folder)]
    main(["content", "review", "shop/order", "--json", *options])
    notes = json.loads(capsys.readouterr().out)["notes"]
    said = " ".join(note["says"] for note in notes if note["check"] == "attachments")
    assert "the page waits for it" in said and "octets together" in said and "archive" in said
    page = folder / "page.html"
    assert main(["content", "preview", "shop/order", "--html", str(page), *options]) == ExitCode.OK
    assert "with attachments/terms.pdf, " in capsys.readouterr().err
    assert b64encode(PNG + b"logo").decode() in page.read_text()


def test_a_test_mail_carries_what_the_real_one_does(folder: Path) -> None:
    unused = SecretStr("smtp://127.0.0.1")
    settings = SendSettings(smtp_url=unused, secret_token=unused, dkim_keys="relay")
    seeder = Seeder(settings, Relay.parse("smtp://127.0.0.1"), SENDER, marketing=True)
    files = files_for("shop/order", folder, "full", "de-AT")
    rendered = compile(bundle_from_folder(folder, "shop/order")).render(variables("de-AT"))
    _, body = seeder.mail(rendered, "seed@example.net", files)
    (terms,) = parsed(body).iter_attachments()
    assert terms.get_filename() == "Geschäftsbedingungen.pdf"


# What goes in comes out

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cf", "Cn", "Zl", "Zp", "Zs"]),
    min_size=1,
    max_size=60,
).filter(
    lambda name: not re.search(r'["\\<>|:*?/]', name) and name.isprintable() and name[0] != "."
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}#%\r"), max_size=200)


@given(
    names=st.lists(NAMES, max_size=3, unique=True),
    octets=st.binary(max_size=300),
    text=TEXTS,
    html=st.none() | TEXTS,
    shows=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_any_files_come_back_from_a_parser_and_mean_what_the_standard_library_means(
    names: list[str], octets: bytes, text: str, html: str | None, shows: bool
) -> None:
    files = {f"attachments/{name}.pdf": b"%PDF-" + name.encode() + octets for name in names}
    parts = {"subject.txt": "s", "body.txt": text}
    picture = PNG + octets
    if html is not None:
        parts["body.html"] = html.replace("cid:", "")
        if shows:
            files["_base/attachments/p.png"] = picture
            parts["body.html"] += f'<img src="cid:{attached.id_of(picture)}">'
    bundle = Bundle("a/mail", parts, {path: b64encode(o).decode() for path, o in files.items()})
    read = parsed(both(bundle, variables()).octets)

    meant = EmailMessage(policy=email.policy.SMTP)
    meant.set_content(text.replace("\r", ""))
    if html is not None:
        meant.add_alternative(parts["body.html"], subtype="html")
        if shows:
            page = [*meant.iter_parts()][1]
            assert isinstance(page, EmailMessage)
            page.add_related(
                picture, "image", "png", cid="<p>", filename="p.png", disposition="inline"
            )
    for name in sorted(names):
        content = files[f"attachments/{name}.pdf"]
        meant.add_attachment(content, "application", "pdf", filename=f"{name}.pdf")
    assert shape(read) == shape(meant)
    for ours, theirs in zip(read.walk(), meant.walk(), strict=True):
        assert ours.get_content_disposition() == theirs.get_content_disposition()
        assert ours.get_filename() == theirs.get_filename()
        if ours.get_content_maintype() in ("application", "image"):
            assert octets_of(ours) == octets_of(theirs)
    plain = read.get_body(("plain",))
    assert plain is not None
    assert octets_of(plain).decode().replace("\r\n", "\n").rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(
    "name", ["a.pdf", "a" * 110 + ".pdf", "é.pdf", "日本語" * 30 + ".pdf", "a'b (1).pdf"]
)
def test_a_name_is_folded_and_comes_back(name: str) -> None:
    header = f"Content-Disposition: attachment;\r\n {attached.named(name)}\r\n\r\n"
    assert max(map(len, header.split("\r\n"))) <= 78
    assert parsed(header.encode()).get_filename() == name
