"""Whether sequence files and their templates can be published: read, looked up, and tried on people.

Templates are rendered in a confined child, so that one that explodes takes nothing with it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from schedules.findings import DefinitionError, Finding
from schedules.loader import Loaded, read, reads
from schedules.prompt import Prompt
from tasks.errors import Permanent
from tasks.send import locales
from tasks.send.confine import Exploded, render_confined
from tasks.send.content import Facts, Sender, compose, unsubscribe_url
from tasks.send.edge import unsubscribe
from tasks.send.render import Bundle, Rendered, bundle_from_folder, files_of
from tasks.send.settings import SendSettings
from tasks.sequence.asked_segments import segment_findings
from tasks.sequence.publish import MADE_UP, Sample, template_names
from tasks.sequence.unseen import Seen, unseen
from tasks.sequence.validate import validate
from workers.cli import personal

_FACTS = Facts(
    "<sample@example.com>",
    "sample@example.com",
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    b"sample",
    "k1.sample",
)
_LANG = re.compile(r"""<html\b[^>]*\blang=["']?([A-Za-z-]+)""", re.IGNORECASE)
_UNDEFINED = re.compile(r": '(\w+)' is not defined;")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file that may be published."""

    path: str
    source: str
    loaded: Loaded
    bundles: dict[str, Bundle]
    prompts: dict[str, Prompt] = field(default_factory=dict)


@dataclass(slots=True)
class Proof:
    """What was found: nothing may be published while `findings` has one; `warnings` are sentences.

    `rendered` is each mail as the first sample gets it: NAME or NAME/LOCALE → its template and words.
    """

    prepared: list[Prepared] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rendered: dict[str, tuple[str, Rendered]] = field(default_factory=dict)

    def require(self) -> list[Prepared]:
        """The files, all of them sound.

        Raises:
            DefinitionError: with every finding in every file.
        """
        if self.findings:
            raise DefinitionError(self.findings)
        return self.prepared


def installed_templates() -> Path:
    """The `templates` folder that this installation ships."""
    import templates

    return Path(str(templates.__file__)).parent


def prove(
    paths: Sequence[str],
    root: Path,
    *,
    topics: set[str] | None = None,
    segments: set[str] | None = None,
    samples: Sequence[Sample] = (),
    known: Seen | None = None,
) -> Proof:
    """Read every file, look up what it names, and render its templates.

    Args:
        paths: sequence files.
        root: the folder of templates.
        topics: those that exist; None takes every topic for one that does.
        segments: those that exist; None takes every segment for one that does.
        samples: whom to render for; empty: made-up subscribers.
        known: the scores, labels and events that there are; a name near one of them is warned of.

    Raises:
        Transient: no child could be started to render in.
    """
    proof = Proof()
    kitchen = _Kitchen(root, list(samples) or list(MADE_UP))
    by_key: dict[str, str] = {}
    for path in paths:
        try:
            read(path)
            source = Path(path).read_text("utf-8-sig")
            loaded = reads(source, path)
        except DefinitionError as error:
            proof.findings += error.findings
            continue
        sequence = loaded.sequence
        if sequence.key in by_key:
            other = by_key[sequence.key]
            message = f"key {sequence.key!r} is that of {other} too; give one of them another"
            proof.findings.append(loaded.located.finding(("key",), message))
            continue
        by_key[sequence.key] = path
        found = validate(
            sequence,
            loaded.located,
            template_exists=kitchen.exists,
            topic_exists=lambda key: topics is None or key in topics,
            templates=kitchen.names(),
            topics=topics or (),
        )
        found += segment_findings(
            sequence,
            loaded.located,
            lambda key: segments is None or key in segments,
            segments or (),
        )
        if known is not None:
            proof.warnings += map(str, unseen(sequence, loaded.located, known))
        for name in template_names(sequence):
            if kitchen.exists(name) and (fault := kitchen.fault(name)) is not None:
                found.append(_finding(loaded, name, fault))
        prompts, wrong = personal.prompts_of(loaded, root, kitchen.bundles)
        found += wrong
        proof.findings += found
        if not found:
            bundles = {name: kitchen.bundles[name] for name in template_names(sequence)}
            proof.prepared.append(Prepared(path, source, loaded, bundles, prompts))
    proof.warnings += kitchen.warnings
    proof.rendered = kitchen.rendered
    return proof


def _finding(loaded: Loaded, name: str, fault: str) -> Finding:
    for index, step in enumerate(loaded.sequence.steps):
        if getattr(step, "template", None) == name:
            message = f"template {name!r} of step {step.id!r} cannot be sent: {fault}"
            return loaded.located.finding(("steps", index, "send", "template"), message)
    raise ValueError(f"{name!r} is no template of {loaded.sequence.key!r}")


class _Kitchen:
    """Renders each template once, for every sample, however many files send it."""

    def __init__(self, root: Path, samples: list[Sample]) -> None:
        self.root = root
        self.bundles: dict[str, Bundle] = {}
        self.warnings: list[str] = []
        self.rendered: dict[str, tuple[str, Rendered]] = {}
        self._samples = samples
        self._sender = sample_sender()
        self._faults: dict[str, str | None] = {}

    def exists(self, name: str) -> bool:
        return ".." not in name.split("/") and (self.root / name).is_dir()

    def names(self) -> list[str]:
        """The mails that there are."""
        folders = [body.parent for body in self.root.rglob("body.txt")]
        return [str(each.relative_to(self.root)) for each in folders if not locales.is_one(each)]

    def fault(self, name: str) -> str | None:
        """Why nobody could be sent this mail; None: at least somebody can."""
        if name not in self._faults:
            try:
                bundle = self.bundles[name] = bundle_from_folder(self.root, name)
                found = (self._try(bundle, locale) for locale in (None, *bundle.locales))
                self._faults[name] = next((fault for fault in found if fault), None)
            except Permanent as error:
                self._faults[name] = str(error)
        return self._faults[name]

    def _try(self, bundle: Bundle, locale: str | None) -> str | None:
        """Why nobody of a locale could be sent this mail; None: of all who get the mail's own."""
        leaving = sample_unsubscribe(self._sender, _FACTS.unsubscribe_token)
        sender = {"name": self._sender.name, "postal_address": self._sender.postal_address}
        rows = [
            {
                "subscriber": _speaking(sample.variables, locale, bundle),
                "sender": sender,
                "unsubscribe": leaving,
            }
            for sample in self._samples
        ]
        strict: list[tuple[Sample, str]] = []
        results = render_confined(bundle, rows)
        for sample, row, result in zip(self._samples, rows, results, strict=True):
            if isinstance(result, Rendered):
                try:
                    files = files_of(bundle, row)
                    compose(result, message=_FACTS, sender=self._sender, files=files)
                    self._read_aloud(bundle, locale, result)
                    mail = f"{bundle.name}/{locale}" if locale else bundle.name
                    self.rendered.setdefault(mail, (bundle.name, result))
                    continue
                except Permanent as error:
                    reason = f"{bundle.name}: {error}"
            else:
                reason = result.reason
            if isinstance(result, Exploded):
                # A limit has no line; the mail it happened in is known.
                reason = f"{bundle.name}: {reason}" if bundle.name not in reason else reason
            elif _is_strict(bundle, reason):
                strict.append((sample, reason))
                continue
            return f"{reason} (rendered for {sample.case})"
        # An attribute that no real subscriber has is misspelled; a made-up one proves nothing.
        if len(strict) == len(self._samples) and strict[0][0].real:
            return f"{strict[0][1]} (none of {len(strict)} sample subscribers has it)"
        if strict:
            cases = ", ".join(sample.case for sample, _ in strict)
            self.warnings.append(f"{strict[0][1]}: it would not reach {cases}")
        return None

    def _read_aloud(self, bundle: Bundle, locale: str | None, mail: Rendered) -> None:
        """Warn of a page in one language that says another: it is read aloud by that."""
        said = _LANG.search(mail.html or "")
        if locale and said and said[1].split("-")[0].lower() != locales.language_of(locale):
            warning = (
                f"{bundle.name}/{locale}/body.html says that it is in {said[1]}: correct its lang"
            )
            if warning not in self.warnings:
                self.warnings.append(warning)


def _speaking(variables: Mapping[str, Any], locale: str | None, bundle: Bundle) -> dict[str, Any]:
    """A sample who gets the mail of that locale; None: the mail's own."""
    own = locale is None and locales.choose(bundle.locales, variables["locale"]) is None
    return dict(variables) if own else {**variables, "locale": locale}


def _is_strict(bundle: Bundle, reason: str) -> bool:
    """Whether a value was missing that other subscribers may have."""
    if ": a value is null;" in reason:
        return True
    found = _UNDEFINED.search(reason)
    if found is None:
        return False
    # The one thing that is not the same for all: whatever else is undefined is so for everybody.
    written = re.compile(rf"attributes\s*(\.\s*{found[1]}\b|\[\s*(['\"]){found[1]}\2\s*\])")
    return any(written.search(source) for source in bundle.parts.values())


def sample_unsubscribe(sender: Sender, token: str) -> dict[str, str]:
    """How a reader leaves, as templates see it; with a page where DRIPFLEET_EDGE_URL names one."""
    unused = SecretStr("smtp://unused")
    base = SendSettings(smtp_url=unused, secret_token=unused).edge_url
    return unsubscribe(base, unsubscribe_url(sender, token), token)


def sample_sender() -> Sender:
    """Who mails come from, as the settings say; relay and token are not needed to try a template."""
    unused = SecretStr("smtp://unused")
    return SendSettings(smtp_url=unused, secret_token=unused).sender
