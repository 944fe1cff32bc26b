"""Whether every template of this machine's folder can be published, locales and all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import Permanent
from tasks.send import locales
from tasks.send.render import bundle_from_folder
from workers.cli.proof import installed_templates
from workers.doctor.finding import Finding, error, fine, warning

NAME = "template files"
MOST = 20


def template_files() -> Iterator[Finding]:
    """Read each mail below DRIPFLEET_TEMPLATES, else those that ship; nothing is rendered."""
    given = os.environ.get("DRIPFLEET_TEMPLATES", "").strip()
    root = Path(given) if given else installed_templates()
    if not root.is_dir():
        yield warning(NAME, f"{root} is no folder", "correct DRIPFLEET_TEMPLATES, or unset it")
        return
    faults, read, spoken = [], 0, set()
    for folder in sorted({path.parent for own in locales.OWN for path in root.rglob(own)}):
        if locales.is_one(folder):
            continue
        try:
            spoken |= set(bundle_from_folder(root, str(folder.relative_to(root))).locales)
            read += 1
        except Permanent as fault:
            faults.append(str(fault))
    for said in faults[:MOST]:
        yield error(NAME, said, "correct it before the next `dripfleet sequence apply`")
    if not faults:
        more = f", with folders for {', '.join(sorted(spoken))}" if spoken else ""
        yield fine(NAME, f"{read} mails in {root} can be read{more}")
