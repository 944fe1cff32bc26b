"""`dripfleet content draft`: a whole sequence with its templates, from a brief."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.content_draft_options import brief_of, checked, with_ways
from workers.cli.content_work import QUEUE, WAIT, Done, have_done, of_job, tell_who_wrote
from workers.cli.render import emit, say

if TYPE_CHECKING:
    from tasks.personalize.draft import Draft

FRAMES = ("_base/layout.html", "_base/footer.txt")
_BODY = re.compile(r"\{%-?\s*block\s+body\b")


def register(content: typer.Typer) -> None:
    """Add `dripfleet content draft`."""
    content.command(
        epilog="Examples:\n\n"
        'dripfleet content draft spring --brief "New records for the spring are here. Have a look."\n\n'
        "dripfleet content draft autumn --brief brief.txt --mails 4 --goal purchase --dry-run\n\n"
        'dripfleet content draft winter --brief "New records for the winter are here. Have a look."'
        ' --goal purchase --subjects 2 --branch "sub.orders > 3" --field "orders: {from: sub.orders,'
        ' bands: [2, 5]}"',
    )(draft)


def draft(
    sequence: str = typer.Argument(help="Key of the new sequence, such as spring."),
    brief: str | None = typer.Option(
        None, metavar="TEXT|FILE", help="What it is to say: a text, or a file; - reads stdin."
    ),
    mails: int = typer.Option(3, min=1, max=10, help="How many mails."),
    language: str = typer.Option("en", help="Of the mails: de, en, es, fr, it, nl or pt."),
    topic: str = typer.Option("product-news", help="That subscribers have opted in to."),
    link: str | None = typer.Option(None, help="Where the call to action leads: an https address."),
    goal: str | None = typer.Option(None, help="An event that it is for; who had it leaves."),
    zone: str = typer.Option("UTC", help="Time zone of those whose own is not known."),
    subjects: int = typer.Option(
        1, min=1, max=4, help="Subjects of the first mail, as arms of an experiment."
    ),
    branch: str | None = typer.Option(
        None, metavar="CONDITION", help="Of whom it holds get another mail than the last one."
    ),
    reader: str | None = typer.Option(None, help="Who these are, in words for the model."),
    field: list[str] = typer.Option(
        [],
        metavar="NAME: {from: …}",
        help="What a prompt may tell; with it mails are personalized.",
    ),
    out: Path = typer.Option(Path("."), help="Folder that the sequence's file goes into."),
    templates: Path = typer.Option(
        Path("templates"), envvar="DRIPFLEET_TEMPLATES", help="Folder that its templates go into."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the sequence, write nothing."),
    queue: bool = QUEUE,
    wait: bool = WAIT,
    job: int | None = typer.Option(None, help="Write what this job drafted, and ask for nothing."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Draft a sequence and its mails from a brief, by the model, within its budgets.

    Links, addresses, figures and offers are those of the brief and of the options, never the model's.
    What it writes must pass the checks of every text, and `sequence validate`; an answer that does not
    is asked for once more with the reasons. Nothing is written before, and nothing is overwritten.
    """
    from tasks import names
    from tasks.errors import Permanent

    if (brief is None) == (job is None):
        raise typer.BadParameter("expected either --brief or --job")
    if job is not None:
        done: Done | None = of_job(job, names.CONTENT_DRAFT)
        assert done is not None
        asked = _asked(done)
        if asked.key != sequence:
            raise Permanent(f"job {job} drafted {asked.key!r}, not {sequence!r}; name that one")
    else:
        asked = checked(sequence, brief_of(brief or ""), language, mails, topic, link, goal, zone)
        asked = with_ways(asked, subjects, branch, reader, field)
        done = None
    targets = Targets(out / f"{asked.key}.yaml", templates)
    if not dry_run:
        targets.require_free(asked.key, bool(asked.fields))
    for last in (False, True):
        if done is None:
            done = have_done(
                names.CONTENT_DRAFT,
                asked.key,
                asked.to_json(),
                by_model=True,
                queue=queue,
                wait=wait,
            )
            if done is None:
                say(f"write it with `dripfleet content draft {asked.key} --job ID`")
                return
        files = _files(asked, done.found, targets)
        found = _proved(asked.key, files, templates)
        if not found:
            break
        told = "; ".join(found)
        if last or job is not None:
            raise Permanent(
                f"the draft does not pass `sequence validate`, nothing was written: {told}"
            )
        say(f"the draft does not pass `sequence validate`, asked for once more: {told}")
        asked, done = dataclasses.replace(asked, fault=told), None
    assert done is not None
    source = files[f"{asked.key}.yaml"]
    told_of: dict[str, Any] = {"job": done.job, "model": done.model, "cost": done.cost}
    if dry_run:
        if as_json or not sys.stdout.isatty():
            emit({**told_of, "files": files}, as_json=True)
        else:
            typer.echo(source, nl=False)
    else:
        written = targets.write(asked.key, files)
        emit({**told_of, "written": [str(path) for path in written]}, as_json=as_json)
        say(
            f"read every mail: `dripfleet content review {asked.key}/mail-1 --templates {templates}`"
        )
        say(
            f"then `dripfleet sequence apply {targets.file} --templates {templates} --create-topics`"
        )
    tell_who_wrote(done.model)


class Targets:
    """Where a draft is written: all of it, or nothing."""

    def __init__(self, file: Path, templates: Path) -> None:
        self.file = file
        self.templates = templates

    def require_free(self, key: str, prompts: bool = False) -> None:
        """Refuse to write over anything.

        Raises:
            Permanent: something is there.
        """
        from tasks.errors import Permanent

        taken = [self.file, self.templates / key]
        for path in [*taken, self.templates / "_prompts" / key] if prompts else taken:
            if path.exists():
                raise Permanent(
                    f"{path} is there already, and a draft writes over nothing: name another"
                    " sequence, or take it away"
                )

    def frames(self, language: str) -> dict[str, str]:
        """The frames that ship, which are in English, for a folder without any: path → source."""
        from workers.cli.proof import installed_templates

        if (self.templates / "_base").exists() or language != "en":
            return {}
        ours = installed_templates()
        return {path: (ours / path).read_text("utf-8") for path in FRAMES}

    def bases(self, language: str) -> frozenset[str]:
        """Which of our two frames there are, or will be, and can be filled."""
        base = self.templates / "_base"
        if not base.exists():
            return frozenset(("layout.html", "footer.txt") if language == "en" else ())
        found = {name for name in ("layout.html", "footer.txt") if (base / name).is_file()}
        if "layout.html" in found and not _BODY.search((base / "layout.html").read_text("utf-8")):
            found.discard("layout.html")
        return frozenset(found)

    def write(self, key: str, files: dict[str, str]) -> list[Path]:
        """Write a draft; whatever fails on the way leaves nothing behind."""
        self.templates.mkdir(parents=True, exist_ok=True)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self.templates))
        try:
            part.chmod(0o755)
            sequence, shared = part / self.file.name, part / "_base"
            prompts, asked = part / "_prompts" / key, self.templates / "_prompts" / key
            for name, source in files.items():
                path = sequence if name == self.file.name else part / name.removeprefix(f"{key}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(source, "utf-8")
            waiting = self.file.with_name(f".{self.file.name}.part")
            shutil.move(sequence, waiting)
            try:
                self.require_free(key, prompts.exists())
                if shared.exists():
                    os.rename(shared, self.templates / "_base")
                if prompts.exists():
                    asked.parent.mkdir(exist_ok=True)
                    os.rename(prompts, asked)
                    prompts.parent.rmdir()
                try:
                    os.rename(part, self.templates / key)
                    os.rename(waiting, self.file)
                except OSError:
                    shutil.rmtree(self.templates / key, ignore_errors=True)
                    shutil.rmtree(asked, ignore_errors=True)
                    raise
            finally:
                waiting.unlink(missing_ok=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return [
            self.file if name == self.file.name else self.templates / name for name in sorted(files)
        ]


def _asked(done: Done) -> Draft:
    from tasks.personalize.draft import Draft

    return Draft.from_json(done.asked)


def _files(asked: Draft, outline: Any, targets: Targets) -> dict[str, str]:
    from tasks.personalize.drafted import sequence_file, template_files
    from tasks.personalize.drafted_prompts import prompt_files

    made = {f"{asked.key}.yaml": sequence_file(asked, outline)}
    made |= prompt_files(asked, outline)
    made |= template_files(asked, outline, targets.bases(asked.language))
    return made | targets.frames(asked.language)


def _proved(key: str, files: dict[str, str], templates: Path) -> list[str]:
    """What `sequence validate` finds wrong with a draft, in a folder of its own."""
    from workers.cli.proof import prove

    with tempfile.TemporaryDirectory(prefix="dripfleet-draft-") as folder:
        root = Path(folder)
        for name, source in files.items():
            path = root / name if name == f"{key}.yaml" else root / "templates" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, "utf-8")
        if (templates / "_base").is_dir():
            (root / "templates" / "_base").symlink_to((templates / "_base").resolve())
        found = prove([str(root / f"{key}.yaml")], root / "templates").findings
        return [finding.message for finding in sorted(found)]
