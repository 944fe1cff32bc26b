"""One call of a model's server, by OpenAI's client; any server that speaks its API will do.

What comes of a call is a value: an answer, or why there is none and when to ask again. The client's
own tries are off: whoever asks again, and when, is decided over all workers, in Postgres.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tasks.personalize.settings import ModelSettings

if TYPE_CHECKING:
    import openai
    from openai import OpenAI

LONGEST_PAUSE: Final = 3600.0
"""Seconds of a Retry-After that are believed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and what it counted; None where the server counts nothing."""

    content: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Down:
    """No answer, and nobody's fault here: `pause` seconds, where the server said how long."""

    why: str
    said: str
    pause: float | None = None
    billed: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The server will not answer this, however often it is asked."""

    said: str


Reply: TypeAlias = Answer | Down | Refused


class Client:
    """A model's server; called from many threads.

    Args:
        settings: where it is, and its patience.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._client = connect(settings)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def ask(
        self, model: str, messages: Sequence[Mapping[str, str]], form: Mapping[str, Any]
    ) -> Reply:
        """Ask for one text."""
        import openai

        create: Any = self._client.chat.completions.create
        began = time.monotonic()
        try:
            made = create(**request(self._settings, model, messages, form))
        except (openai.APIError, ValueError) as fault:
            return fault_of(fault, self._settings.timeout)
        choices = getattr(made, "choices", None)
        if not choices:
            return Down("model_down", "answers what is no answer", billed=True)
        usage = made.usage
        return Answer(
            choices[0].message.content or "",
            usage.prompt_tokens if usage else None,
            usage.completion_tokens if usage else None,
            time.monotonic() - began,
        )


def connect(settings: ModelSettings) -> OpenAI:
    """OpenAI's client of the server that the settings name."""
    from openai import OpenAI

    # Compatible servers want no key, and the client wants one.
    key = settings.key.get_secret_value() or "none"
    return OpenAI(api_key=key, base_url=settings.url, timeout=settings.timeout, max_retries=0)


def request(
    settings: ModelSettings,
    model: str,
    messages: Sequence[Mapping[str, str]],
    form: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of one call, which a line of a batch holds as well."""
    hosted = "api.openai.com" in settings.url
    return {
        "model": model,
        "messages": list(messages),
        "response_format": dict(form),
        "max_completion_tokens" if hosted else "max_tokens": settings.output_tokens,
    }


def fault_of(fault: openai.APIError | ValueError, timeout: float) -> Down | Refused:
    """Why a call had no answer, and when to ask again."""
    import openai

    if isinstance(fault, openai.APITimeoutError):
        # It may have been written, and then it is billed.
        return Down("model_slow", f"no answer within {timeout:g} s", billed=True)
    if isinstance(fault, openai.APIConnectionError):
        return Down("model_down", f"does not answer ({type(fault.__cause__).__name__})")
    if isinstance(fault, openai.RateLimitError):
        return Down("rate_limited", "answers 429", _pause(fault.response.headers))
    if not isinstance(fault, openai.APIStatusError):
        return Down("model_down", f"answers what is no answer ({type(fault).__name__})")
    said = f"answers {fault.status_code}"
    if fault.status_code >= 500 or fault.status_code in (408, 409):
        return Down("model_down", said, _pause(fault.response.headers))
    if fault.status_code in (401, 403, 404):
        return Down("model_refuses", f"{said}: look at DRIPFLEET_MODEL_KEY, _URL, _MODEL", 60)
    return Refused(said)


def _pause(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After, in either form (RFC 9110 §10.2.3); None: none that can be read."""
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), LONGEST_PAUSE)
