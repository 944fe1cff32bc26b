"""A Django site of one app, django-post-office; run by `post_office` in an environment of its own.

Told by lines of JSON on stdin, each answered by one: first where its database and its SMTP server are and
what its mail says, then `queue` (mails to make due) and `send`.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any
from urllib.parse import unquote, urlsplit


def configure(told: dict[str, Any]) -> None:
    """Settings, tables and the template."""
    import django
    from django.conf import settings
    from django.core.management import call_command

    at = urlsplit(told["database"])
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": at.path.strip("/"),
                "USER": unquote(at.username or ""),
                "PASSWORD": unquote(at.password or ""),
                "HOST": at.hostname,
                "PORT": at.port,
                "CONN_MAX_AGE": None,
            }
        },
        INSTALLED_APPS=["post_office"],
        EMAIL_BACKEND="post_office.EmailBackend",
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=told["port"],
        POST_OFFICE={
            "BACKENDS": {"default": "django.core.mail.backends.smtp.EmailBackend"},
            "BATCH_SIZE": 1000,
            "THREADS_PER_PROCESS": 5,
            "LOG_LEVEL": 0,
        },
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "loaders": [("django.template.loaders.cached.Loader", [])],
                },
            }
        ],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()
    logging.disable(logging.INFO)
    call_command("migrate", verbosity=0)
    from post_office.models import EmailTemplate

    EmailTemplate.objects.create(
        name="first", subject=told["subject"], content=told["text"], html_content=told["html"]
    )


def queue(mails: int) -> int:
    """Make mails due, rendered when they are sent."""
    from post_office import mail

    names = ("Olivia", "Zoë", "Liam", "José", "Łukasz", "Imogen", "美咲", "Γιώργος")
    mail.send_many(
        [
            {
                "recipients": f"customer-{i:07}@example.com",
                "sender": "Example Company <hello@example.com>",
                "template": "first",
                "context": {
                    "first_name": names[i % len(names)],
                    "purchases": 1 + i % 9,
                    "spent": f"{i * 7919 % 50000 / 100:,.2f}",
                    "last_purchase": f"2026-01-{1 + i % 28:02}",
                    "leave": f"mailto:off@example.com?subject=unsubscribe%20{i:032}",
                },
                "headers": {
                    "List-Unsubscribe": f"<mailto:off@example.com?subject=unsubscribe%20{i:032}>",
                    "Auto-Submitted": "auto-generated",
                },
                "render_on_delivery": True,
                "priority": "medium",
            }
            for i in range(mails)
        ]
    )
    return mails


def send() -> int:
    """Send all that is due, as its command does; how many went."""
    from django.db import connection
    from post_office.mail import send_queued

    sent: int = 0
    while True:
        # Its children close the one that they inherit, and with it ours.
        connection.close()
        went, failed, requeued = send_queued(processes=2, log_level=0)
        sent += int(went)
        if not went + failed + requeued:
            return sent


def main() -> None:
    """Answer until stdin ends."""
    for line in sys.stdin:
        told = json.loads(line)
        if "database" in told:
            configure(told)
            answer = {}
        elif "queue" in told:
            answer = {"queued": queue(told["queue"])}
        else:
            answer = {"sent": send()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
