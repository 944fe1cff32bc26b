"""What a look at a mail finds, and that its sentiment is the published one."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from tasks.personalize.review import contrast, reading_grade, review
from tasks.personalize.sentiment import scorer
from workers.cli import main
from workers.cli.render import ExitCode

DATA = Path(__file__).parents[1] / "data"
FINE = """<html lang="en"><head><meta name="color-scheme" content="light dark"></head>
<body style="background-color:#ffffff;color:#1f2328"><p>Hello Ada, we would be glad to see you.</p>
<a href="https://shop.example.com/records">See the new records</a></body></html>"""
TEXT = "Hello Ada, we would be glad to see you. See the new records."


def checks(html: str, plain: str = TEXT, subject: str = "Hello") -> set[tuple[str, str]]:
    return {(note.check, note.severity) for note in review(subject, plain, html).notes}


def test_a_mail_with_nothing_wrong_has_no_notes() -> None:
    assert review("Hello", TEXT, FINE).notes == ()


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (' lang="en"', "", ("language", "error")),
        ("color-scheme", "viewport", ("dark mode", "warning")),
        ("<p>", '<p><img src="cid:a">', ("images", "error")),
        ("See the new records", "", ("links", "error")),
        ("https://shop", "http://shop", ("links", "warning")),
        ("shop.example.com", "bit.ly", ("links", "warning")),
        ("shop.example.com", "192.0.2.1", ("links", "error")),
        ("#1f2328", "#c0c0c0", ("contrast", "warning")),
        ("<p>", "<script>1</script><p>", ("markup", "error")),
        ('lang="en"', 'lang="de"', ("language", "warning")),
        ("<p>", "<table><tr><td>x</td></tr></table><p>", ("tables", "warning")),
        ("background-color:#ffffff;", "", ("dark mode", "warning")),
        ("#1f2328", "rgb(192, 192, 192)", ("contrast", "warning")),
        ("<p>", "<style>p{color:silver}</style><p>", ("contrast", "warning")),
        ("<p>", "<p>" + "x " * 60_000, ("size", "warning")),
    ],
)
def test_each_thing_that_a_reader_stumbles_over_is_named(
    old: str, new: str, found: tuple[str, str]
) -> None:
    assert found in checks(FINE.replace(old, new, 1))


def test_dark_mode_is_looked_at_in_its_own_colors() -> None:
    rules = "<style>@media (prefers-color-scheme: dark) {{ body {{ background-color: #111111{} }} }}</style>"
    faint = FINE.replace("</head>", rules.format("") + "</head>")
    assert ("dark mode", "warning") in checks(faint), "dark ink on a dark ground"
    assert checks(FINE.replace("</head>", rules.format("; color: #eeeeee") + "</head>")) == set()
    hidden = faint.replace("<p>", '<p style="display: none">').replace(
        "<a ", '<a style="color:#fff" '
    )
    assert checks(hidden, plain=TEXT) == {("contrast", "warning")}, "what is hidden has no contrast"


def test_the_text_part_says_what_the_page_says() -> None:
    assert ("text part", "error") in checks(FINE, plain="")
    assert ("text part", "warning") in checks(FINE, plain="Open this in a browser.")
    assert ("subject", "warning") in checks(FINE, subject="x" * 61)
    assert ("spam", "warning") in checks(FINE, subject="Act now")


def test_contrast_is_that_of_the_published_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


def test_short_words_and_sentences_read_easily() -> None:
    easy = "The cat sat on the mat. It was a warm day."
    hard = (
        "Notwithstanding considerable administrative complications, organizational"
        " representatives systematically reconsidered contractual responsibilities."
    )
    assert reading_grade(easy) < 3 < 12 < reading_grade(hard)


def test_sentiment_agrees_with_people_as_far_as_was_published() -> None:
    """Hutto and Gilbert (2014), table 4: correlation to the mean of twenty raters, tweets: 0.881."""
    score = scorer()
    pairs = []
    with gzip.open(DATA / "vader_tweets.txt.gz", "rt", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, mean, tweet = line.rstrip("\n").split("\t", 2)
            pairs.append((float(mean), score(tweet)))
    assert len(pairs) == 4200
    assert _correlation(pairs) == pytest.approx(0.881, abs=0.01)


def _correlation(pairs: list[tuple[float, float]]) -> float:
    n = len(pairs)
    left, right = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    both = sum((a - left) * (b - right) for a, b in pairs)
    size = math.sqrt(
        sum((a - left) ** 2 for a, _ in pairs) * sum((b - right) ** 2 for _, b in pairs)
    )
    return both / size


def test_the_templates_that_ship_pass_their_own_review(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("win-back/hello", "win-back/nudge", "thank-you/first", "thank-you/second"):
        assert main(["content", "review", name]) == ExitCode.OK, capsys.readouterr().out


def test_a_preview_shows_a_prompts_words_in_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "hello.html"
    words = [
        "content",
        "preview",
        "win-back/hello",
        "--prompt",
        "win-back/hello",
        "--html",
        str(page),
    ]
    assert main(words) == ExitCode.OK
    said = capsys.readouterr().out
    assert said.startswith("Subject: It has been a while\n") and "we have missed you" in said
    assert "we have missed you" in page.read_text()
    assert main(["content", "preview", "win-back/hello", "--case", "minimal"]) == ExitCode.OK
    assert "we have missed you" not in capsys.readouterr().out


def test_a_mail_in_a_file_is_looked_over_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "theirs.eml"
    file.write_text(f"Subject: Hello\nContent-Type: text/html; charset=utf-8\n\n{FINE}")
    assert main(["content", "review", str(file)]) == ExitCode.FINDINGS, "it has no text part"
    assert "the text part is empty" in capsys.readouterr().out
    assert main(["content", "review", str(tmp_path / "none.eml")]) != ExitCode.OK


def test_their_mails_stand_beside_ours_in_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in (1, 4, 9):
        (tmp_path / f"{day}.eml").write_text(
            f"Subject: 50% off\nDate: Sun, {day:02} Nov 2026 10:00:00 +0000\n\n"
            "Take 50% off now. This offer ends soon.\n"
        )
    files = [str(tmp_path / f"{day}.eml") for day in (1, 4, 9)]
    assert main(["content", "compare", *files, "--ours", "win-back/hello", "--json"]) == ExitCode.OK
    rows = {row["figure"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["days_between_mails"]["theirs"] == 4 and rows["days_between_mails"]["ours"] is None
    assert rows["words_of_offers"]["theirs"] > 2 and rows["words_of_offers"]["ours"] == 0
    assert rows["shares_in_per_cent"]["theirs"] == 2
    assert rows["without_list_unsubscribe"]["theirs"] == 3
