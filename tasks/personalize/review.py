"""A mail looked over before anybody gets it, without a model: pure.

Findings are what a reader, a screen reader or a filter stumbles over, each with its next move; figures
are what there is to know beside them. Nothing here is a law: a mail with warnings can be sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from tasks import stylesheet
from tasks.personalize import spam

LONGEST_SUBJECT: Final = 60
LEAST_CONTRAST: Final = 4.5
"""Of text against its ground, WCAG 2.2, 1.4.3."""
HARDEST: Final = 9.0
"""Flesch–Kincaid grade beyond which most readers have to work."""

_SHORTENERS: Final = frozenset(
    "bit.ly goo.gl is.gd ow.ly t.co tiny.cc tinyurl.com buff.ly rebrand.ly cutt.ly".split()
)
_SENTENCE: Final = re.compile(r"[.!?…]+(?:\s|$)|\n{2,}")
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_VOWELS: Final = re.compile(r"[aeiouyäöüáéíóúàèìòùâêîôû]+", re.IGNORECASE)
_COLOR: Final = re.compile(r"(?:^|;)\s*(background-color|background|color)\s*:\s*([^;]+)", re.I)
_DEEPEST: Final = (
    500  # elements whose colors are remembered; a page of a stranger may have any number
)
_HIDDEN: Final = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_INK: Final = re.compile(
    r"#(?:[0-9a-f]{6}|[0-9a-f]{3})\b|rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)|\b[a-z]+\b",
    re.I,
)
_NAMED: Final = {
    "black": "#000000", "white": "#ffffff", "gray": "#808080", "grey": "#808080", "silver": "#c0c0c0",
    "red": "#ff0000", "green": "#008000", "blue": "#0000ff", "navy": "#000080", "maroon": "#800000",
    "purple": "#800080", "teal": "#008080", "yellow": "#ffff00", "orange": "#ffa500",
}  # fmt: skip
_VOID: Final = frozenset("area base br col embed hr img input link meta source track wbr".split())


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to look at: which check, what is, and the next move."""

    check: str
    severity: Literal["warning", "error"]
    says: str
    next: str


@dataclass(frozen=True, slots=True)
class Review:
    """What was found, and the figures of a mail."""

    notes: tuple[Note, ...]
    figures: dict[str, Any]


def review(
    subject: str,
    plain: str,
    html: str | None,
    *,
    language: str = "en",
    sentiment: Callable[[str], float] | None = None,
) -> Review:
    """Look a mail over.

    Args:
        subject: as it is shown.
        plain: the text part.
        html: the other part, if there is one.
        language: of the mail; reading grade and sentiment are for English alone.
        sentiment: of a text, from -1 to 1.
    """
    notes: list[Note] = []

    def note(check: str, severity: Literal["warning", "error"], says: str, next: str) -> None:
        notes.append(Note(check, severity, says, next))

    if len(subject) > LONGEST_SUBJECT:
        says = f"the subject has {len(subject)} characters; many screens show {LONGEST_SUBJECT}"
        note("subject", "warning", says, "put what matters first, or make it shorter")
    page = _Page()
    if html is not None:
        page.feed(stylesheet.as_read(html))
        page.close()
        for check, severity, says, next in _of_page(page, html, language):
            note(check, severity, says, next)
        dark = stylesheet.in_the_dark(html)
        for check, severity, says, next in _in_the_dark(page, dark):
            note(check, severity, says, next)
    words = _WORD.findall(plain)
    if not words:
        note("text part", "error", "the text part is empty", "write it: some read nothing else")
    elif html is not None and (missing := _missing(page.text, plain)) > 0.5:
        says = f"{missing:.0%} of the words of the HTML part are not in the text part"
        note("text part", "warning", says, "say the same in both")
    points = 0.0
    for hit in spam.hits(f"{subject}\n{plain}"):
        points += hit.points
        says = f"{hit.rule} ({hit.points:g} points): {hit.found!r}"
        note("spam", "warning", says, "say it plainer")
    links = page.links or re.findall(r"https?://[^\s<>()]+", plain)
    figures: dict[str, Any] = {
        "subject_characters": len(subject),
        "words": len(words),
        "links": len(links),
        "images": page.images,
        "spam_points": points,
    }
    if language == "en" and words:
        grade = reading_grade(plain)
        figures["reading_grade"] = round(grade, 1)
        if grade > HARDEST:
            says = f"the text reads like grade {grade:.1f} of a school"
            note("reading", "warning", says, "make sentences and words shorter")
        if sentiment is not None:
            figures["sentiment"] = round(sentiment(f"{subject}. {' '.join(plain.split())}"), 3)
    return Review(tuple(notes), figures)


def reading_grade(text: str) -> float:
    """Flesch–Kincaid grade of an English text (Kincaid et al. 1975); syllables by runs of vowels."""
    words = _WORD.findall(text)
    sentences = [part for part in _SENTENCE.split(text) if _WORD.search(part)]
    if not words or not sentences:
        return 0.0
    syllables = sum(map(_syllables, words))
    return 0.39 * len(words) / len(sentences) + 11.8 * syllables / len(words) - 15.59


def contrast(ink: str, ground: str) -> float:
    """Contrast of two colors such as ``#1f2328``, 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((_luminance(ink), _luminance(ground)))
    return (light + 0.05) / (dark + 0.05)


def _syllables(word: str) -> int:
    found = len(_VOWELS.findall(word))
    silent = word.lower().endswith("e") and not word.lower().endswith(("le", "ee")) and found > 1
    return max(found - silent, 1)


def _luminance(color: str) -> float:
    digits = color.lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _missing(shown: str, plain: str) -> float:
    words = {word.lower() for word in _WORD.findall(shown)}
    return len(words - {word.lower() for word in _WORD.findall(plain)}) / max(len(words), 1)


class _Page(HTMLParser):
    """What of an HTML part is looked at: language, links, images, colors, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.lang: str | None = None
        self.schemes = False
        self.links: list[str] = []
        self.images = 0
        self.without_alt = 0
        self.empty_links = 0
        self.faint: list[tuple[str, str, float]] = []
        self.alone: set[str] = set()
        self.tables = 0
        self.heads = 0
        self.text = ""
        self._colors: list[tuple[str, str | None, str | None, bool]] = []
        self._link: list[str] | None = None
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        given = {name: value or "" for name, value in attrs}
        _, ink, ground, hidden = self._colors[-1] if self._colors else ("", None, None, False)
        hidden |= _HIDDEN.search(given.get("style", "")) is not None
        for name, said in _COLOR.findall(given.get("style", "")):
            color = _color(said)
            if color and name.lower() == "color":
                ink = color
            elif color:
                ground = color
        if tag not in _VOID and len(self._colors) < _DEEPEST:
            self._colors.append((tag, ink, ground, hidden))
        if tag == "html":
            self.lang = given.get("lang")
        elif tag == "meta" and given.get("name", "").lower() in (
            "color-scheme",
            "supported-color-schemes",
        ):
            self.schemes = True
        elif tag == "table":
            self.tables += given.get("role", "").lower() not in ("presentation", "none")
        elif tag == "th":
            self.heads += 1
        elif tag == "img":
            self.images += 1
            self.without_alt += "alt" not in given
            if self._link is not None:
                self._link.append(given.get("alt", ""))
        elif tag == "a":
            self.links.append(given.get("href", ""))
            self._link = []
        elif tag in ("style", "script", "title"):
            self._skip += 1

    def handle_endtag(self, tag: str) -> None:
        """Take note of its end; what was left open before it ends too."""
        if tag == "a" and self._link is not None:
            self.empty_links += not "".join(self._link).strip()
            self._link = None
        elif tag in ("style", "script", "title"):
            self._skip = max(self._skip - 1, 0)
        if any(opened == tag for opened, *_ in self._colors):
            while self._colors.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Take note of text, and of the colors it stands in."""
        if self._link is not None:
            self._link.append(data)
        if self._skip or not data.strip():
            return
        self.text += f" {data}"
        if self._colors:
            _, ink, ground, hidden = self._colors[-1]
            if hidden:
                return
            if (ink is None) != (ground is None):
                self.alone.add(f"color {ink}" if ink else f"background {ground}")
            found = contrast(ink or "#000000", ground or "#ffffff")
            if found < LEAST_CONTRAST:
                self.faint.append((ink or "#000000", ground or "#ffffff", found))


def _color(said: str) -> str | None:
    """The first color of a value, as six digits; None: none that is known."""
    for found in _INK.findall(said):
        if found.startswith("#"):
            return str(found)
        if found.lower().startswith("rgb("):
            parts = [min(int(part), 255) for part in re.findall(r"\d+", found)]
            return "#{:02x}{:02x}{:02x}".format(*parts)
        if found.lower() in _NAMED:
            return _NAMED[found.lower()]
    return None


_Found: TypeAlias = list[tuple[str, Literal["warning", "error"], str, str]]


def _in_the_dark(page: _Page, dark: str | None) -> _Found:
    """What a reader with dark colors stumbles over; `dark` is the page under its rules for that."""
    found: _Found = []
    if not page.schemes and dark is None:
        move = 'add <meta name="color-scheme" content="light dark">, and look at it in dark mode'
        found.append(("dark mode", "warning", "the page does not say that it fits dark mode", move))
    if dark is None:
        for alone in sorted(page.alone if page.schemes else ()):
            says = f"{alone} stands alone, and in dark mode the other one of the two changes"
            found.append(("dark mode", "warning", says, "set color and background-color together"))
        return found
    looked = _Page()
    looked.feed(dark)
    looked.close()
    for ink, ground, ratio in dict.fromkeys(looked.faint):
        says = f"{ink} on {ground} has a contrast of {ratio:.1f}, {LEAST_CONTRAST:g} is the least"
        move = "correct it in @media (prefers-color-scheme: dark)"
        found.append(("dark mode", "warning", f"in dark mode {says}", move))
    return found


def _of_page(page: _Page, html: str, language: str) -> _Found:
    found: _Found = []
    if not page.lang:
        found.append(("language", "error", "the page names no language", 'write <html lang="en">'))
    elif page.lang.split("-")[0].lower() != language.split("-")[0].lower():
        says = f"the page says that it is in {page.lang}, and is looked at as {language}"
        found.append(("language", "warning", says, "correct its lang: it is read aloud by that"))
    if page.tables and not page.heads:
        says = f"{page.tables} tables have no headings, and are read aloud cell by cell"
        move = 'add role="presentation" where a table is for the layout alone'
        found.append(("tables", "warning", says, move))
    if page.without_alt:
        says = f"{page.without_alt} of {page.images} images have no alt text"
        found.append(("images", "error", says, 'say what they show, or alt="" where nothing'))
    if page.empty_links:
        says = f"{page.empty_links} links have no text"
        found.append(("links", "error", says, "say where they lead"))
    for href in page.links:
        parts = urlsplit(href)
        if parts.scheme == "http":
            found.append(("links", "warning", f"{href[:60]} is not encrypted", "use https"))
        if (parts.hostname or "").removeprefix("www.") in _SHORTENERS:
            says = f"{href[:60]} hides where it leads"
            found.append(("links", "warning", says, "write the whole address: filters read it"))
        if re.fullmatch(r"[\d.]+", parts.hostname or ""):
            says = f"{href[:60]} leads to a number"
            found.append(("links", "error", says, "use the name of a host"))
    for ink, ground, ratio in dict.fromkeys(page.faint):
        says = f"{ink} on {ground} has a contrast of {ratio:.1f}, {LEAST_CONTRAST:g} is the least"
        found.append(("contrast", "warning", says, "make one of them darker or lighter"))
    if re.search(r"<(?:script|form|iframe|object|embed)\b", html, re.IGNORECASE):
        found.append(("markup", "error", "it holds what mail programs cut out", "take it out"))
    if stylesheet.depth(html) > stylesheet.DEEPEST:
        says = f"elements stand within over {stylesheet.DEEPEST} others, or are not closed"
        found.append(("markup", "error", says, "close them: its rules were not looked at"))
    if len(html.encode()) > 102_000:
        says = f"the page has {len(html.encode()) // 1000} kB; Gmail cuts off after 102"
        found.append(("size", "warning", says, "make it shorter"))
    return found
