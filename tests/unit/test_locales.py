"""Which language of a mail somebody gets, and that each is a whole mail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schedules.loader import reads
from schedules.prompt_file import load_prompt, loads_prompt
from tasks.errors import Permanent
from tasks.send import locales
from tasks.send.render import Bundle, Rendered, bundle_from_folder, compile
from workers.cli import main
from workers.cli.personal import prompts_of
from workers.cli.proof import prove
from workers.cli.render import ExitCode
from workers.doctor.template_files import template_files

PAGE = '<html lang="{}"><body>{}</body></html>'
SEQUENCE = """
key: one
title: One
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: mail, send: {template: shop/hello}}
"""


def part(folder: Path, subject: str, lang: str, **more: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "subject.txt").write_text(subject)
    (folder / "body.txt").write_text(f"{subject}, in words")
    (folder / "body.html").write_text(PAGE.format(lang, subject))
    for name, said in more.items():
        (folder / name.replace("_", ".")).write_text(said)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mail = tmp_path / "templates/shop/hello"
    part(mail, "Hello", "en")
    part(mail / "de", "Hallo", "de")
    part(mail / "de-AT", "Servus", "de")
    part(mail / "zh-Hant", "你好", "zh-Hant")
    part(mail / "other", "A template below another one", "en")
    return tmp_path / "templates"


def subject(bundle: Bundle, locale: Any) -> str:
    made: Rendered = compile(bundle).render({"subscriber": {"locale": locale}})
    return made.subject


@pytest.mark.parametrize(
    ("locale", "said"),
    [
        ("de-AT", "Servus"), ("de_AT.UTF-8", "Servus"), ("de-at", "Servus"), ("de", "Hallo"),
        ("de-CH", "Hallo"), ("de-Latn-AT", "Hallo"), ("DE", "Hallo"), ("zh-Hant-TW", "你好"),
        ("zh-TW", "Hello"), ("en-GB", "Hello"), ("fr", "Hello"), ("", "Hello"), (None, "Hello"),
        (7, "Hello"), ("../de", "Hello"), ("d", "Hello"),
    ],
)  # fmt: skip
def test_region_goes_before_language_and_that_before_the_mail_itself(
    root: Path, locale: Any, said: str
) -> None:
    assert subject(bundle_from_folder(root, "shop/hello"), locale) == said


def test_a_template_holds_all_its_languages_under_one_hash(root: Path) -> None:
    read = bundle_from_folder(root, "shop/hello")
    assert read.locales == ("de", "de-AT", "zh-Hant")
    stored = Bundle.from_json(read.to_json())
    assert stored.sha256 == read.sha256 and subject(stored, "de") == "Hallo"
    (root / "shop/hello/de/subject.txt").write_text("Guten Tag")
    assert bundle_from_folder(root, "shop/hello").sha256 != read.sha256
    assert "other/body.txt" not in read.parts


def test_a_language_is_a_whole_mail_or_none(root: Path) -> None:
    (root / "shop/hello/de-AT/subject.txt").unlink()
    with pytest.raises(Permanent, match=r"shop/hello has no de-AT/subject\.txt, and a mail is in"):
        bundle_from_folder(root, "shop/hello")
    (found,) = template_files_of(root)
    assert "de-AT/subject.txt" in found
    (root / "one.yaml").write_text(SEQUENCE)
    (finding,) = prove([str(root / "one.yaml")], root).findings
    assert "no de-AT/subject.txt" in finding.message and finding.line == 8


def template_files_of(root: Path) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIPFLEET_TEMPLATES", str(root))
        return [found.says for found in template_files() if found.severity == "error"]


def test_a_part_for_one_language_alone_is_named(root: Path) -> None:
    (root / "shop/hello/body.html").unlink()
    with pytest.raises(Permanent, match=r"has de/body\.html and no body\.html: add it for"):
        bundle_from_folder(root, "shop/hello")


@pytest.mark.parametrize("name", ["de_AT", "DE", "de-at", "de-Austria"])
def test_a_folder_that_is_meant_for_a_locale_is_no_riddle(root: Path, name: str) -> None:
    part(root / "shop/hello" / name, "x", "de")
    with pytest.raises(Permanent, match=f"{name} is no folder of a locale: expected a language"):
        bundle_from_folder(root, "shop/hello")


def test_words_that_only_look_like_locales_stay_templates(root: Path) -> None:
    for name in ("go-to", "new", "up-2"):
        part(root / "shop/hello" / name, "x", "en")
    assert bundle_from_folder(root, "shop/hello").locales == ("de", "de-AT", "zh-Hant")
    assert not locales.is_one(root / "shop")


def test_every_language_is_tried_before_it_is_published(root: Path) -> None:
    (root / "one.yaml").write_text(SEQUENCE)
    assert prove([str(root / "one.yaml")], root).findings == []
    (root / "shop/hello/de/body.html").write_text(PAGE.format("en", "Hallo"))
    warnings = prove([str(root / "one.yaml")], root).warnings
    assert warnings == ["shop/hello/de/body.html says that it is in en: correct its lang"]
    (root / "shop/hello/de-AT/body.txt").write_text("{{ sender.nobody }}")
    (finding,) = prove([str(root / "one.yaml")], root).findings
    assert "shop/hello/de-AT/body.txt line 1: 'nobody' is not defined" in finding.message


def test_words_in_one_language_stand_in_no_mail_of_another(root: Path) -> None:
    (root / "_prompts").mkdir()
    (root / "_prompts/shop").mkdir()
    (root / "_prompts/shop/hello.yaml").write_text(
        "task: Say hello to them.\nlanguage: en\nslots: {opening: {max: 80}}\n"
        "variants: [{opening: Hello to all of you}]\n"
    )
    source = SEQUENCE.replace(
        "template: shop/hello", "template: shop/hello, personalize: {prompt: shop/hello}"
    )
    for folder, wrong in (("", False), ("de/", True)):
        (root / f"shop/hello/{folder}body.txt").write_text("{{ words.opening | default('x') }}")
        bundles = {"shop/hello": bundle_from_folder(root, "shop/hello")}
        _, found = prompts_of(reads(source, "one.yaml"), root, bundles)
        assert bool(found) == wrong
    assert "hello/de/body.txt asks for words, and prompt 'shop/hello' is in en" in found[0].message


GERMAN = (
    "task: Sag ihnen guten Tag.\nlanguage: de\nslots: {opening: {max: 80}}\n"
    "variants: [{opening: Guten Tag euch allen}]\n"
)


def test_a_prompt_is_another_one_for_who_reads_another_language(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "_prompts/shop/hello"
    folder.mkdir(parents=True)
    (root / "_prompts/shop/hello.yaml").write_text(
        "task: Say hello to them.\nlanguage: en\nslots: {opening: {max: 80}}\nkeep: 9d\n"
        "variants: [{opening: Hello to all of you}]\n"
    )
    (folder / "de.yaml").write_text(GERMAN)
    prompt = load_prompt(root, "shop/hello")
    german = prompt.of("de_CH")
    assert (german.name, german.language, german.keep_days) == ("shop/hello/de", "de", 9)
    assert prompt.of("fr") is prompt and prompt.of(None) is prompt
    assert prompt.needs.subscriber, "a locale has to be known"
    bare = loads_prompt((root / "_prompts/shop/hello.yaml").read_text(), "shop/hello", "x")
    assert prompt.sha256 == bare.sha256, "another language makes no text of this one anew"
    source = SEQUENCE.replace(
        "template: shop/hello", "template: shop/hello, personalize: {prompt: shop/hello}"
    )

    def wrong() -> list[str]:
        bundles = {"shop/hello": bundle_from_folder(root, "shop/hello")}
        _, found = prompts_of(reads(source, "one.yaml"), root, bundles)
        return [finding.message for finding in found]

    for place in ("", "de/", "de-AT/"):
        (root / f"shop/hello/{place}body.txt").write_text("{{ words.opening | default('x') }}")
    assert wrong() == []
    shown = ("content", "preview", "shop/hello", "--templates", str(root), "--prompt", "shop/hello")
    assert main([*shown, "--locale", "de-AT"]) == ExitCode.OK
    assert "Guten Tag euch allen" in capsys.readouterr().out
    (folder / "fr.yaml").write_text(GERMAN.replace("language: de", "language: fr"))
    (said,) = wrong()
    assert "'shop/hello/fr' is in fr" in said and "expected a folder fr of that mail" in said
    for name, text, why in (
        ("fr", GERMAN, "fr.yaml is in de"),
        ("de_AT", GERMAN, "de_AT.yaml is no prompt of a locale"),
        ("de-AT", GERMAN.replace("opening", "subject"), "expected the slots of shop/hello.yaml"),
    ):
        (folder / f"{name}.yaml").write_text(text)
        assert why in " ".join(wrong())
        (folder / f"{name}.yaml").unlink()


def test_a_preview_shows_what_an_event_would_say(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "shop/hello/body.txt").write_text("Order {{ event.order | default('of yours') }}.")
    shown = ["content", "preview", "shop/hello", "--templates", str(root)]
    assert main([*shown, "--event", '{"order": "A-7"}']) == ExitCode.OK
    assert "Order A-7." in capsys.readouterr().out
    assert main(shown) == ExitCode.OK
    assert "Order of yours." in capsys.readouterr().out
    assert main([*shown, "--event", "[1]"]) == ExitCode.USAGE
    assert "expected an object of JSON" in capsys.readouterr().err


def test_a_preview_is_that_of_a_locale_and_can_be_held_to_a_file(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["content", "preview", "shop/hello", "--templates", str(root), "--locale", "de-CH"]
    assert main(words) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out.startswith("Subject: Hallo\n") and "locale de-CH: the folder de" in err
    golden = ["--golden", str(tmp_path / "golden/hello.txt")]
    assert main([*words, *golden]) == ExitCode.USAGE, "there is none yet"
    assert main([*words, *golden, "--update"]) == ExitCode.OK
    assert main([*words, *golden]) == ExitCode.OK
    (root / "shop/hello/de/body.html").write_text(PAGE.format("de", "Moin"))
    capsys.readouterr()
    assert main([*words, *golden]) == ExitCode.FINDINGS
    diff = capsys.readouterr().out
    assert '-<html lang="de"><body>Hallo' in diff and '+<html lang="de"><body>Moin' in diff
