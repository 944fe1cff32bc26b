"""What the far end does wrong during a whole run, at every stage of a conversation."""

from __future__ import annotations

from tasks.moves.settings import DeliverySettings


def rules(delivery: DeliverySettings) -> tuple[str, ...]:
    """The sink's rules, as `workers.embedded.faults` reads them.

    A stall after the dot outlasts the wait for a reply, so it ends in doubt, and its mail is there.
    """
    return (
        "connect:421,p=0.05",
        "connect:close,p=0.05",
        "ehlo:close,p=0.05",
        "mail:451,p=0.01",
        "mail:close,p=0.01",
        "rcpt:550,rcpt=bounce*",
        "rcpt:450,p=0.01",
        "rcpt:421,p=0.004",
        "rcpt:garbage,p=0.005",
        "data:451,p=0.01",
        "data:stall,p=0.005,seconds=2",
        "body:close,p=0.01",
        "body:drip,p=0.005,seconds=0.2",
        "dot:451,p=0.01",
        "dot:554,p=0.01",
        "dot:accept_then_drop,p=0.01",
        "dot:drop,p=0.01",
        f"dot:stall,p=0.005,seconds={delivery.reply_wait * 1.2:g}",
        "dot:drip,p=0.005,seconds=0.05",
        "dot:garbage,p=0.005",
        "dot:reset,p=0.01",
    )
