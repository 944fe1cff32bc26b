"""From a fresh channel to one that takes mail: greeting, EHLO, STARTTLS, AUTH.

A 5yz up to here is a fault of the stream, never of a mail: the next mail would meet it too.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from pathlib import Path

from tasks.send.channel import Channel
from tasks.send.outcome import Kind, NotSent, Stage, before_the_dot
from tasks.send.reply import Reply


async def introduce(
    channel: Channel, helo_name: str, context: ssl.SSLContext | None
) -> NotSent | None:
    """Connect and go through the opening, as the relay's URL asks; None if the relay takes mail.

    The channel is left open after a refusal; the caller closes it.
    """
    security = channel.relay.security
    try:
        await channel.connect(context if security == "tls" else None)
    except TimeoutError:
        return NotSent(Stage.CONNECT, None, "no connection in time")
    except ssl.SSLError as error:
        return _tls_fault(channel, error)
    except OSError as error:
        return NotSent(Stage.CONNECT, None, f"no connection ({type(error).__name__})")
    refusal = await _greeting(channel) or await _ehlo(channel, helo_name)
    if refusal is None and security in ("optional", "starttls"):
        refusal = await _starttls(channel, helo_name, context)
    return refusal or await _auth(channel)


async def _greeting(channel: Channel) -> NotSent | None:
    channel.stage = Stage.GREETING
    replies = await channel.heard(channel.relay.timeouts.command)
    if replies and replies[0].code != 220:
        return before_the_dot(Stage.GREETING, Reply.of(replies[0]))
    return None if channel.fault is None else channel.unanswered(Stage.GREETING)


async def _ehlo(channel: Channel, helo_name: str) -> NotSent | None:
    channel.stage = Stage.EHLO
    channel.say(f"EHLO {helo_name}\r\n".encode("ascii"), 1)
    replies = await channel.heard(channel.relay.timeouts.command)
    if channel.fault is not None and not (replies and replies[0].code // 100 in (4, 5)):
        return channel.unanswered(Stage.EHLO)
    code, lines = replies[0]
    if code // 100 == 2:
        offered = (line[4:].decode("ascii", "replace").strip().upper() for line in lines[1:])
        words = (line.partition(" ") for line in offered)
        channel.extensions = {word: parameters for word, _, parameters in words}
        return None
    if code in (500, 502):
        # A server from before EHLO (RFC 5321 §3.2) has no extension, so neither TLS nor AUTH.
        return (await channel.command(Stage.EHLO, f"HELO {helo_name}\r\n".encode("ascii")))[1]
    return before_the_dot(Stage.EHLO, Reply.of(replies[0]))


async def _starttls(
    channel: Channel, helo_name: str, context: ssl.SSLContext | None
) -> NotSent | None:
    required = channel.relay.security == "starttls"
    if "STARTTLS" not in channel.extensions:
        # Stripped on the way, or never there: without it nothing is sent where it was required.
        return _fault(Stage.STARTTLS, "STARTTLS is not offered") if required else None
    reply, refusal = await channel.command(Stage.STARTTLS, b"STARTTLS\r\n")
    if refusal is not None:
        declined = reply is not None and reply.code // 100 == 5 and channel.fault is None
        return None if declined and not required else refusal
    try:
        await channel.encrypt(context or channel.relay.ssl_context())
    except OSError as error:
        return _tls_fault(channel, error)
    # What was said in the clear counts no more (RFC 3207 §4.2).
    channel.extensions = {}
    return await _ehlo(channel, helo_name)


async def _auth(channel: Channel) -> NotSent | None:
    credentials = channel.relay.credentials
    if credentials is None and channel.relay.token_file is None:
        return None
    channel.stage = Stage.AUTH
    if not channel.is_private:
        return _fault(Stage.AUTH, "the password is not sent without TLS")
    offered = channel.extensions.get("AUTH", "").split()
    if credentials is None:
        return await _auth_xoauth2(channel, offered)
    if "PLAIN" in offered:
        token = b64encode("\0".join(("", *credentials)).encode())  # RFC 4616
        return (await channel.command(Stage.AUTH, b"AUTH PLAIN " + token + b"\r\n"))[1]
    if "LOGIN" in offered:
        return await _auth_login(channel, *credentials)
    return _fault(Stage.AUTH, "neither AUTH PLAIN nor AUTH LOGIN is offered")


async def _auth_login(channel: Channel, username: str, password: str) -> NotSent | None:
    """The older mechanism (draft-murchison-sasl-login): user and password, each asked for by a 334.

    What the prompts say differs from server to server, so only their order counts.
    """
    refusal = (await channel.command(Stage.AUTH, b"AUTH LOGIN\r\n", good=3))[1]
    for word, good in ((username, 3), (password, 2)):
        if refusal is None:
            line = b64encode(word.encode()) + b"\r\n"
            refusal = (await channel.command(Stage.AUTH, line, good=good))[1]
    return refusal


async def _auth_xoauth2(channel: Channel, offered: list[str]) -> NotSent | None:
    """With an access token (Google's and Microsoft's XOAUTH2; the file is read at each connection).

    A token lives for an hour, so one that is refused is a matter of the moment and of whoever keeps
    it fresh: no stream is paused for it.
    """
    relay = channel.relay
    if "XOAUTH2" not in offered:
        return _fault(Stage.AUTH, "AUTH XOAUTH2 is not offered")
    try:
        token = Path(relay.token_file or "").read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        return NotSent(Stage.AUTH, None, f"the token cannot be read ({type(error).__name__})")
    if not token or not token.isprintable() or " " in token:
        return NotSent(Stage.AUTH, None, "the token's file holds no token")
    said = b64encode(f"user={relay.username}\1auth=Bearer {token}\1\1".encode())
    reply, refusal = await channel.command(Stage.AUTH, b"AUTH XOAUTH2 " + said + b"\r\n")
    if reply is not None and reply.code == 334:
        # The reason, for machines; an empty line asks for the refusal itself.
        refusal = (await channel.command(Stage.AUTH, b"\r\n"))[1]
    if refusal is not None and refusal.kind is Kind.STREAM_FAULT:
        return NotSent(refusal.stage, refusal.reply, refusal.cause, Kind.DEFERRED)
    return refusal


def _tls_fault(channel: Channel, error: OSError) -> NotSent:
    channel.stage = Stage.STARTTLS
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"the certificate is not trusted: {error.verify_message}"
        return _fault(Stage.STARTTLS, why)
    return NotSent(Stage.STARTTLS, None, f"TLS failed ({type(error).__name__})")


def _fault(stage: Stage, cause: str) -> NotSent:
    return NotSent(stage, None, cause, Kind.STREAM_FAULT)
