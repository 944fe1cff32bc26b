"""The journal: what a dead worker's file proves, and what it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.errors import Transient
from tasks.send.journal import Journal, JournalFull, Owner, abandoned, owner

HOLDER = """
import os, sys, time
from pathlib import Path
from tasks.send.journal import Journal, owner
journal = Journal.create(Path(sys.argv[1]), owner())
journal.append_dots([(1, 1), (2, 3)])
journal.append_replies([(1, 1, 250, "2.0.0", "ok")])
print(journal.owner, flush=True)
if len(sys.argv) > 2 and os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(120)
"""

FULL = """
import resource, sys
from pathlib import Path
from tasks.send.journal import Journal, JournalFull, abandoned, owner
journal = Journal.create(Path(sys.argv[1]), owner())
journal.append_dots([(1, 1)])
before = journal.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (before + 30, resource.RLIM_INFINITY))
try:
    journal.append_dots((n, 1) for n in range(100))
except JournalFull as error:
    assert "Free space" in str(error), error
else:
    raise SystemExit("a full disk was not noticed")
assert journal.path.stat().st_size == before, "half a group stayed in the file"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append_dots([(2, 1)])
journal.close(remove=False)
(found,) = abandoned(Path(sys.argv[1]))
assert found.dots == {(1, 1), (2, 1)} and not found.corrupt
"""


@contextmanager
def holder(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], Owner]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *more], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        yield child, Owner.parse(child.stdout.readline().strip())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def settled(pid: int, state: str) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline, f"process never reached {state}"
        time.sleep(0.005)


def left_behind(folder: Path, *lines: str, torn: str = "") -> Path:
    journal = Journal.create(folder, owner())
    journal.close(remove=False)
    with journal.path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines) + torn)
    return journal.path


def test_an_owner_reads_back_and_every_incarnation_is_another() -> None:
    one, two = owner(), owner()
    assert Owner.parse(str(one)) == one != two
    assert one.boot_id == two.boot_id


@pytest.mark.parametrize("text", ["", "/", "abc/def", "0" * 12 + "/" + "G" * 16, "0" * 29])
def test_what_is_no_owner_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="12 hex digits"):
        Owner.parse(text)


def test_a_journal_is_private_and_names_its_owner(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journals", owner())
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert journal.path.name == f"{journal.owner.instance}.journal"
    assert str(journal.owner) in journal.path.read_text()
    assert not os.get_inheritable(journal._fd)
    journal.close(remove=True)
    assert list((tmp_path / "journals").iterdir()) == []


def test_our_own_journal_is_never_abandoned(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, owner())
    assert list(abandoned(tmp_path)) == []
    journal.close(remove=True)


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, owner())
    journal.append_dots([(2**62, 1), (7, 2)])
    journal.append_replies([(7, 2, 550, None, "no\r\nd 9 9\u2028 such mailbox")])
    journal.append_replies([(8, 1, 250, "2.0.0", "")])
    journal.close(remove=False)
    (found,) = abandoned(tmp_path)
    assert (found.owner, found.same_boot, found.corrupt) == (journal.owner, True, False)
    assert found.dots == {(2**62, 1), (7, 2)}
    assert found.replies == {
        (7, 2): (550, None, "no  d 9 9  such mailbox"),
        (8, 1): (250, "2.0.0", ""),
    }
    assert found.silence_counts


def test_a_killed_owner_leaves_its_journal_to_others(tmp_path: Path) -> None:
    with holder(tmp_path) as (child, who):
        assert list(abandoned(tmp_path)) == []
        child.kill()
        child.wait()
        (found,) = abandoned(tmp_path)
        assert (found.owner, found.same_boot) == (who, True)
        assert found.dots == {(1, 1), (2, 3)}
        assert found.replies == {(1, 1): (250, "2.0.0", "ok")}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process state from /proc")
def test_a_stopped_owner_keeps_its_journal(tmp_path: Path) -> None:
    with holder(tmp_path) as (child, _):
        child.send_signal(signal.SIGSTOP)
        settled(child.pid, "T")
        assert list(abandoned(tmp_path)) == []
        child.kill()
        child.wait()
        assert len(list(abandoned(tmp_path))) == 1


def test_a_forked_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    with holder(tmp_path, "fork") as (child, _):
        assert child.stdout is not None
        forked = int(child.stdout.readline())
        try:
            assert list(abandoned(tmp_path)) == []
            child.kill()
            child.wait()
            assert len(list(abandoned(tmp_path))) == 1
        finally:
            os.kill(forked, signal.SIGKILL)


def test_one_replay_at_a_time_and_a_discarded_journal_is_gone(tmp_path: Path) -> None:
    left_behind(tmp_path, "d 1 1")
    replay = abandoned(tmp_path)
    found = next(replay)
    assert list(abandoned(tmp_path)) == []
    found.discard()
    assert list(replay) == []
    assert list(tmp_path.iterdir()) == []


def test_a_journal_discarded_while_we_opened_it_is_not_replayed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_behind(tmp_path, "d 1 1")
    real = os.open

    def slow(*args: object, **options: object) -> int:
        fd = real(*args, **options)  # type: ignore[arg-type]
        path.unlink()
        return fd

    monkeypatch.setattr(os, "open", slow)
    assert list(abandoned(tmp_path)) == []


def test_a_torn_last_line_is_no_dot_and_no_fault(tmp_path: Path) -> None:
    left_behind(tmp_path, "d 1 1", torn="d 22 1")
    (found,) = abandoned(tmp_path)
    assert found.dots == {(1, 1)}
    assert found.silence_counts


@pytest.mark.parametrize("line", ["", "d 1", "d -1 1", "x", "r 1 1 99 - no", "d 1 1\0", "d ١ 1"])
def test_a_corrupt_line_takes_the_proof_from_silence(tmp_path: Path, line: str) -> None:
    left_behind(tmp_path, "d 1 1", line, "r 1 1 250 - ok")
    (found,) = abandoned(tmp_path)
    assert found.corrupt
    assert not found.silence_counts
    assert found.dots == {(1, 1)}
    assert found.replies == {(1, 1): (250, None, "ok")}


@pytest.mark.parametrize(
    "head", ["", "{}\n", "[1]\n", "\0\0\0\0", '{"v":1,"owner":5}\n', "[" * 9999]
)
def test_a_journal_without_its_header_proves_nothing_by_silence(tmp_path: Path, head: str) -> None:
    path = left_behind(tmp_path)
    path.write_text(head)
    (found,) = abandoned(tmp_path)
    assert found.corrupt
    assert not found.same_boot
    assert found.owner.instance == path.stem


def test_a_journal_of_another_boot_says_so(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, Owner("f" * 12, "a" * 16))
    journal.close(remove=False)
    (found,) = abandoned(tmp_path)
    assert not found.same_boot
    assert not found.corrupt


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.journal").write_text("mine")
    (tmp_path / ("b" * 16 + ".journal")).symlink_to(tmp_path / "notes.journal")
    assert list(abandoned(tmp_path)) == []
    assert list(abandoned(tmp_path / "nowhere")) == []


def test_a_full_disk_takes_no_half_group_and_is_transient(tmp_path: Path) -> None:
    assert issubclass(JournalFull, Transient)
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=True)


def test_a_folder_that_takes_no_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalFull, match="cannot be written"):
        Journal.create(tmp_path / "file", owner())


def test_a_journal_that_is_closed_takes_no_dot(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, owner())
    journal.close(remove=True)
    with pytest.raises(JournalFull):
        journal.append_dots([(1, 1)])


def test_a_busy_journal_is_compacted_to_what_is_open_and_stays_locked(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, owner(), "here")
    journal.append_dots((n, 1) for n in range(1000))
    assert not journal.compact()
    journal.append_replies([(5, 1, 250, None, "ok"), (9, 1, 250, None, "ok")])
    for n in range(1000):
        if n not in (5, 6):
            journal.settled(n, 1)
    assert journal.compact(limit=10)
    assert list(abandoned(tmp_path)) == []
    journal.append_dots([(7, 2)])
    journal.close(remove=False)
    (found,) = abandoned(tmp_path)
    assert found.dots == {(5, 1), (6, 1), (7, 2)}
    assert found.replies == {(5, 1): (250, None, "ok")}
    assert (found.database, found.corrupt) == ("here", False)
    assert [path.name for path in tmp_path.iterdir()] == [journal.path.name]
