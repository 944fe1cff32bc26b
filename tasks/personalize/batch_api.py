"""The Batch API of a model's server, by OpenAI's client: a file of requests goes up, one of answers comes down.

What comes of each call is a value, as with single calls. A batch carries our id as metadata and its file
carries it in its name, so that one which was made and not noted is found again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, TypeVar
from uuid import UUID

from tasks.personalize.batch_lines import ENDPOINT
from tasks.personalize.client import Down, Refused, connect, fault_of
from tasks.personalize.settings import ModelSettings

if TYPE_CHECKING:
    from openai.types import Batch

OURS: Final = "dripfleet_batch"
"""The name of the metadata that holds our id."""
ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
"""A batch of such a status never changes again."""
_SLACK: Final = dt.timedelta(hours=1)  # what the server's clock may be behind ours

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a batch stands at its server; files are None where there are none."""

    server_id: str
    status: str
    input_file: str
    output_file: str | None
    error_file: str | None
    said: str | None


class BatchApi:
    """The server that the settings name."""

    def __init__(self, settings: ModelSettings) -> None:
        self._timeout = settings.timeout
        self._client = connect(settings)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def upload(self, ours: UUID, lines: IO[bytes]) -> str | Down | Refused:
        """Send the requests up; the id of the file."""
        named = (_name(ours), lines, "application/jsonl")
        return self._asked(lambda: self._client.files.create(file=named, purpose="batch").id)

    def uploaded(self, ours: UUID, since: dt.datetime) -> str | Down | Refused | None:
        """The file that was sent up since then and not noted; None: there is none."""

        def look() -> str | None:
            for each in self._client.files.list(purpose="batch", order="desc", limit=100):
                if each.filename == _name(ours):
                    return each.id
                if each.created_at < (since - _SLACK).timestamp():
                    return None
            return None

        return self._asked(look)

    def create(self, ours: UUID, file_id: str) -> Standing | Down | Refused:
        """Have a file that is there answered within a day."""
        create = self._client.batches.create
        return self._asked(
            lambda: _standing(
                create(
                    input_file_id=file_id,
                    endpoint=ENDPOINT,
                    completion_window="24h",
                    metadata={OURS: str(ours)},
                )
            )
        )

    def find(self, ours: UUID, since: dt.datetime) -> Standing | Down | Refused | None:
        """The batch that was made since then and not noted; None: there is none."""

        def look() -> Standing | None:
            for each in self._client.batches.list(limit=100):  # the newest first
                if (each.metadata or {}).get(OURS) == str(ours):
                    return _standing(each)
                if each.created_at < (since - _SLACK).timestamp():
                    return None
            return None

        return self._asked(look)

    def look(self, server_id: str) -> Standing | Down | Refused:
        """How a batch stands."""
        return self._asked(lambda: _standing(self._client.batches.retrieve(server_id)))

    def cancel(self, server_id: str) -> Standing | Down | Refused:
        """Have a batch stopped; what is answered by then can be read once it is ``cancelled``."""
        return self._asked(lambda: _standing(self._client.batches.cancel(server_id)))

    def read(self, file_id: str) -> bytes | Down | Refused:
        """The whole of a file."""
        return self._asked(lambda: self._client.files.content(file_id).content)

    def forget(self, file_id: str) -> bool | Down | Refused:
        """Have a file deleted."""
        return self._asked(lambda: self._client.files.delete(file_id).deleted)

    def _asked(self, call: Callable[[], T]) -> T | Down | Refused:
        import openai

        try:
            return call()
        except openai.APIStatusError as fault:
            # A server that does not speak this API, or does not know of this: it never will.
            if fault.status_code in (404, 405, 501):
                return Refused(f"answers {fault.status_code}")
            return fault_of(fault, self._timeout)
        except (openai.APIError, ValueError, TypeError, AttributeError) as fault:
            known = fault if isinstance(fault, openai.APIError) else ValueError(str(fault))
            return fault_of(known, self._timeout)


def _name(ours: UUID) -> str:
    return f"dripfleet-{ours}.jsonl"


def _standing(batch: Batch) -> Standing:
    errors = (batch.errors.data if batch.errors else None) or []
    said = "; ".join(f"{each.code}: {each.message}" for each in errors[:3]) or None
    files = batch.input_file_id, batch.output_file_id, batch.error_file_id
    return Standing(batch.id, batch.status, *files, said)
