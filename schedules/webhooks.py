"""How a ``webhook`` step of a file is read: what goes to another system, by name."""

from __future__ import annotations

from ruamel.yaml.nodes import ScalarNode, SequenceNode

from schedules.expression.types import COLUMNS, HIDDEN
from schedules.kinds import WebhookStep
from schedules.reading import Table


def read_webhook(body: Table | None, id_: str, next_: str | None) -> WebhookStep:
    """Read the body of a webhook; to be used only where the report stays empty."""
    if body is None:
        return WebhookStep(id_, "?", next_)
    body.only(("to", "fields"))
    to = body.slug("to", required=True)
    return WebhookStep(id_, to or "?", next_, _fields(body))


def _fields(body: Table) -> tuple[str, ...]:
    node = body.values.get("fields")
    if node is None:
        return ()
    if not isinstance(node, SequenceNode) or not node.value:
        body.report.add(
            node,
            f"'fields' of {body.name} is no list of names: expected one such as"
            " [first_name, plan]; write it so, or leave it out",
        )
        return ()
    found: list[str] = []
    for item in node.value:
        name = item.value if isinstance(item, ScalarNode) else ""
        if not name.strip() or len(name) > 200 or not name.isprintable() or name in HIDDEN:
            columns = ", ".join(COLUMNS)
            body.report.add(
                item,
                f"{name[:40]!r} in 'fields' of {body.name} is nothing that may be passed on:"
                f" expected {columns} or an attribute; the receiver knows them by external_id",
            )
        elif name in found:
            body.report.add(
                item,
                f"{name!r} stands twice in 'fields' of {body.name}: expected it once; remove it",
            )
        else:
            found.append(name)
    return tuple(found)
