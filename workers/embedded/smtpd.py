"""The sink's side of an SMTP conversation (RFC 5321), made to be fast and to fail on command.

Commands may come pipelined (RFC 2920), with a dot in the same packet as the next envelope; the
replies to a packet leave in one write. Only CRLF.CRLF ends a mail.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import ssl
from collections.abc import Callable

from workers.embedded.faults import Fault
from workers.embedded.smtp_wire import GARBAGE, Wire

LINE = 4096  # longest command line taken, octets
NOT_ASCII = b"553 5.6.7 Not without SMTPUTF8\r\n"
_MAIL = re.compile(rb"FROM:\s*<([^<>\x00-\x20]*)>(.*)", re.IGNORECASE)
_RCPT = re.compile(rb"TO:\s*<([^<>\x00-\x20]+)>\s*", re.IGNORECASE)


class Conversation(Wire):
    """One connection, from its greeting to its end."""

    def _line(self) -> bool:
        """Do the next command, if a whole one is there."""
        end = self.buffer.find(b"\r\n", 0, LINE)
        if end < 0:
            if len(self.buffer) >= LINE:
                self.out.append(b"500 5.5.2 Line too long\r\n")
                self._hang_up()
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        if self.awaits_login:
            self._login_line(line)
            return True
        verb, _, rest = line.partition(b" ")
        handler = _HANDLERS.get(verb.upper())
        if handler is None:
            self._say(b"500 5.5.2 Unknown command\r\n")
        else:
            handler(self, rest.strip())
        return True

    def _hello(self, name: bytes) -> None:
        self._greet(name, extended=False)

    def _ehlo(self, name: bytes) -> None:
        self._greet(name, extended=True)

    def _greet(self, name: bytes, *, extended: bool) -> None:
        if not name:
            self._say(b"501 5.5.4 Say who you are\r\n")
            return
        fault = self.desk.faults.pick("ehlo")
        if fault and self._refused(fault):
            return
        self._forget()
        self.greeted = True
        words = [b"localhost"]
        if extended:
            words += [b"PIPELINING", b"8BITMIME", b"SIZE %d" % self.desk.max_bytes]
            words += [b"ENHANCEDSTATUSCODES"]
            if self.desk.smtputf8:
                words.append(b"SMTPUTF8")
            if self.desk.tls and not self.secure:
                words.append(b"STARTTLS")
            elif self.desk.login:
                words.append(b" ".join((b"AUTH", *self.desk.mechanisms)))
        lines = [b"250-" + word + b"\r\n" for word in words[:-1]] + [b"250 " + words[-1] + b"\r\n"]
        self._say(b"".join(lines), fault)

    def _mail(self, rest: bytes) -> None:
        match = _MAIL.fullmatch(rest)
        if not self.greeted or self.sender is not None:
            self._say(b"503 5.5.1 Out of order\r\n")
        elif not self.known:
            self._say(b"530 5.7.0 Authentication required\r\n")
        elif match is None:
            self._say(b"501 5.5.4 Syntax: MAIL FROM:<address>\r\n")
        else:
            utf8 = False
            for word in match[2].split():
                if self.desk.smtputf8 and word.upper() == b"SMTPUTF8":
                    utf8 = True
                    continue
                key, _, value = word.upper().partition(b"=")
                if key == b"SIZE" and value.isdigit():
                    if int(value) > self.desk.max_bytes:
                        self._say(b"552 5.3.4 Too big\r\n")
                        return
                elif key != b"BODY" or value not in (b"7BIT", b"8BITMIME"):
                    self._say(b"555 5.5.4 Unknown parameter\r\n")
                    return
            if not _spelled(match[1], utf8):
                self._say(NOT_ASCII)
                return
            fault = self.desk.faults.pick("mail")
            if fault is None or not self._refused(fault):
                self.sender = match[1].decode()
                self.utf8 = utf8
                self._say(b"250 2.1.0 Ok\r\n", fault)

    def _rcpt(self, rest: bytes) -> None:
        match = _RCPT.fullmatch(rest)
        if self.sender is None:
            self._say(b"503 5.5.1 MAIL first\r\n")
        elif match is None:
            self._say(b"501 5.5.4 Syntax: RCPT TO:<address>\r\n")
        elif len(self.rcpts) >= 100:
            self._say(b"452 4.5.3 Too many recipients\r\n")
        elif not _spelled(match[1], self.utf8):
            self._say(NOT_ASCII)
        else:
            rcpt = match[1].decode()
            fault = self.desk.faults.pick("rcpt", (rcpt,))
            if fault is None or not self._refused(fault):
                self.rcpts.append(rcpt)
                self._say(b"250 2.1.5 Ok\r\n", fault)

    def _data(self, rest: bytes) -> None:
        if self.sender is None or not self.rcpts:
            self._say(b"503 5.5.1 No valid recipients\r\n")
            return
        fault = self.desk.faults.pick("data", self.rcpts)
        if fault is None or not self._refused(fault):
            self.in_body = True
            self.searched = 0
            # With a CRLF before it, a dot on the first line looks like every other.
            self.buffer[:0] = b"\r\n"
            self.body_begun = False
            self._say(b"354 End data with <CR><LF>.<CR><LF>\r\n", fault)

    # the mail itself

    def _body(self) -> bool:
        """Take the mail, if its dot has come."""
        if not self.body_begun and len(self.buffer) > 2:
            self.body_begun = True
            self.body_fault = self.desk.faults.pick("body", self.rcpts)
        if self.body_fault is not None and self._body_disturbed(self.body_fault):
            return False
        end = self.buffer.find(b"\r\n.\r\n", self.searched)
        if end < 0:
            self.searched = max(0, len(self.buffer) - 4)
            if len(self.buffer) > self.desk.max_bytes + LINE:
                self.out.append(b"552 5.3.4 Too big\r\n")
                self._hang_up()
            return False
        mail = bytes(self.buffer[: end + 2])
        del self.buffer[: end + 5]
        if b"\r\n." in mail:
            mail = mail.replace(b"\r\n.", b"\r\n")
        self._dot(mail[2:])
        return True

    def _body_disturbed(self, fault: Fault) -> bool:
        """Play the fault of the body at its first octets; whether reading waits or has ended."""
        if fault.action == "drip":
            if len(self.buffer) == self.dripped:
                return False
            self.dripped = len(self.buffer)
            self.transport.pause_reading()
            self._wait(fault.seconds, self.transport.resume_reading)
            return True
        self.body_fault = None
        if self._refused(fault):
            if not self.closing:
                self._hang_up()
            return True
        if fault.action == "stall":
            self._wait(fault.seconds, lambda: None)
            return True
        self.out.append(GARBAGE)
        return False

    def _dot(self, mail: bytes) -> None:
        sender, rcpts = self.sender or "", self.rcpts
        self._forget()
        if len(mail) > self.desk.max_bytes:
            self._say(b"552 5.3.4 Too big\r\n")
            return
        fault = self.desk.faults.pick("dot", rcpts)
        if fault and fault.action in ("code", "close", "drop"):
            self._refused(fault)
            return
        try:
            queue_id = self.desk.spool.keep(mail, sender, rcpts, fault.label if fault else "")
        except OSError as error:
            import structlog  # late: half of the sink's start-up

            structlog.get_logger().warning("sink.not_stored", reason=error.strerror)
            self._say(b"452 4.3.1 Cannot store it now\r\n")
            return
        if fault and self._refused(fault):
            return
        reply = b"250 2.0.0 Ok: queued as " + queue_id.encode() + b"\r\n"
        if self.desk.latency:
            self._wait(self.desk.latency, lambda: self._say(reply, fault))
        else:
            self._say(reply, fault)

    # the rest

    def _rset(self, rest: bytes) -> None:
        self._forget()
        self._say(b"250 2.0.0 Ok\r\n")

    def _noop(self, rest: bytes) -> None:
        self._say(b"250 2.0.0 Ok\r\n")

    def _vrfy(self, rest: bytes) -> None:
        self._say(b"252 2.5.0 Send some mail and see\r\n")

    def _quit(self, rest: bytes) -> None:
        self._say(b"221 2.0.0 Bye\r\n")
        self._hang_up()

    def _starttls(self, rest: bytes) -> None:
        if self.desk.tls is None or self.secure:
            self._say(b"502 5.5.1 Not here\r\n")
            return
        self._say(b"220 2.0.0 Go ahead\r\n")
        self._flush()
        self.blocked = True
        self.buffer.clear()  # what came before the handshake was in the clear: never obeyed
        task = self.loop.create_task(self._handshake(self.desk.tls))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _handshake(self, context: ssl.SSLContext) -> None:
        try:
            transport = await self.loop.start_tls(self.transport, self, context, server_side=True)
        except (OSError, ConnectionError):  # ssl.SSLError is an OSError
            self._hang_up(rudely=True)
            return
        if transport is None or self.closing:
            return
        self.secure = True
        self.transport = transport
        self.greeted = False
        self._forget()
        self._resume(lambda: None)

    def _auth(self, rest: bytes) -> None:
        kind, _, response = rest.partition(b" ")
        if self.desk.login is None or (self.desk.tls and not self.secure):
            self._say(b"502 5.5.1 Not here\r\n")
        elif kind.upper() not in self.desk.mechanisms:
            self._say(b"504 5.5.4 Not this mechanism\r\n")
        else:
            self.login_user = None
            self.awaits_login = kind.upper()
            if response:
                self._login_line(response)
            else:
                self._say(
                    b"334 " + (b"VXNlcm5hbWU6" if kind.upper() == b"LOGIN" else b"") + b"\r\n"
                )

    def _login_line(self, line: bytes) -> None:
        """The next line of a login under way."""
        mechanism, self.awaits_login = self.awaits_login, b""
        try:
            said = base64.b64decode(line, validate=True)
        except binascii.Error:
            said = b""
        if mechanism == b"PLAIN":
            self._check_login(said.split(b"\x00")[1:])
        elif self.login_user is None:
            self.login_user, self.awaits_login = said, mechanism
            self._say(b"334 UGFzc3dvcmQ6\r\n")
        else:
            self._check_login([self.login_user, said])

    def _check_login(self, words: list[bytes]) -> None:
        user, password = self.desk.login or ("", "")
        if len(words) == 2 and hmac.compare_digest(
            b"\x00".join(words), f"{user}\x00{password}".encode()
        ):
            self.known = True
            self._say(b"235 2.7.0 Ok\r\n")
        else:
            self._say(b"535 5.7.8 Wrong user or password\r\n")


def _spelled(address: bytes, utf8: bool) -> bool:
    """Whether an address may stand in this transaction (RFC 6531 §3.4)."""
    try:
        return address.decode("utf-8").isascii() or utf8
    except UnicodeDecodeError:
        return False


_HANDLERS: dict[bytes, Callable[[Conversation, bytes], None]] = {
    b"EHLO": Conversation._ehlo,
    b"HELO": Conversation._hello,
    b"MAIL": Conversation._mail,
    b"RCPT": Conversation._rcpt,
    b"DATA": Conversation._data,
    b"RSET": Conversation._rset,
    b"NOOP": Conversation._noop,
    b"VRFY": Conversation._vrfy,
    b"QUIT": Conversation._quit,
    b"STARTTLS": Conversation._starttls,
    b"AUTH": Conversation._auth,
}
