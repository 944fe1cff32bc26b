"""What an exception means to the person at the command line: an exit code and one sentence."""

from __future__ import annotations

import sys

from tasks.errors import DripfleetError
from workers.cli.render import ExitCode

# Asked by name and only if loaded: nothing is imported to describe a fault that it did not cause.
_UNREACHABLE = (
    ("sqlalchemy.exc", "OperationalError", "Postgres", "DRIPFLEET_DATABASE_URL"),
    ("psycopg", "OperationalError", "Postgres", "DRIPFLEET_DATABASE_URL"),
    ("redis.exceptions", "ConnectionError", "Redis", "DRIPFLEET_REDIS_URL"),
    ("redis.exceptions", "TimeoutError", "Redis", "DRIPFLEET_REDIS_URL"),
    ("kombu.exceptions", "OperationalError", "Redis", "DRIPFLEET_REDIS_URL"),
)
_NO_SCHEMA = ("UndefinedTable", "UndefinedColumn", "UndefinedFunction", "UndefinedObject")


def verdict(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code and the sentence for an exception that ended a command."""
    # A file with findings ends `apply` as it ends `validate`.
    if _is(error, "schedules.findings", "DefinitionError"):
        return ExitCode.FINDINGS, str(error)
    if isinstance(error, DripfleetError) or _is(error, "models.session", "BadDatabaseUrl"):
        return ExitCode.FAULT, str(error)
    cause = getattr(error, "orig", None) or error
    if type(cause).__name__ in _NO_SCHEMA:
        return ExitCode.FAULT, (
            "the database lacks a table or column that this version needs; run `dripfleet migrate`"
        )
    for module, name, server, variable in _UNREACHABLE:
        if _is(error, module, name):
            if refused := _refusal(cause):
                return ExitCode.UNREACHABLE, f"{server} refused us ({refused}); correct {variable}"
            return ExitCode.UNREACHABLE, (
                f"{server} does not answer ({_first_line(cause)}); check {variable} and that the"
                " server runs"
            )
    if isinstance(error, OSError) and error.filename is not None:
        return ExitCode.FAULT, f"{error.filename}: {error.strerror}; check the path and its rights"
    return ExitCode.FAULT, (
        f"unexpected {type(error).__name__}: {_first_line(cause)}; DRIPFLEET_DEBUG=1 shows where"
    )


def _refusal(error: BaseException) -> str:
    """What a server said that is there, and will not have us."""
    line = next((x for x in str(error).splitlines() if "FATAL:" in x), "")
    return line.partition("FATAL:")[2].strip().rstrip(".")


def _is(error: BaseException, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(error, kind)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(" .;") if lines else "no reason given"
