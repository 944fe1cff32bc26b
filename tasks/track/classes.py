"""What a refusal says of an address: dead, for now, of this mail alone, or of who sends. Values in, values out.

=========  ==============================================================  =========================
class      what it means                                                   what the fleet does
=========  ==============================================================  =========================
`hard`     nobody is there: no such mailbox, no such domain                the address gets nothing
`soft`     somebody is there and it did not go: full, slow, given up on    three of five: no marketing
`message`  this mail will not do: too large, a form they do not take       nothing: look at the mail
`policy`   they do not want it from us: reputation, DMARC, a blocklist     nothing: look at the relay
=========  ==============================================================  =========================

In this order: words of policy (a blocklist's 5.1.1 condemns nobody), words of a full mailbox, the enhanced
code, words of a dead address where the code is permanent, else `soft`, of which it takes three. Codes:
RFC 3463 and its registry (RFC 5248), RFC 7504, RFC 7505 (null MX), RFC 7293 (new owner), RFC 7372
(authentication). Words: texts of Postfix (bounce(8), smtpd), Exim, qmail, Sendmail, Exchange's list of
NDRs, Gmail's and Yahoo's lists of SMTP errors.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Class = Literal["hard", "soft", "message", "policy"]

CODES: Final[dict[str, Class]] = {
    "1.0": "hard",  # other address status
    "1.1": "hard",  # bad destination mailbox
    "1.2": "hard",  # bad destination system: no such host
    "1.3": "hard",  # bad destination mailbox syntax
    "1.4": "message",  # ambiguous
    "1.5": "message",  # valid; why it came back is not said
    "1.6": "hard",  # moved, no forwarding
    "1.7": "message",  # bad sender's syntax: ours
    "1.8": "policy",  # bad sender's system: ours does not resolve for them
    "1.9": "message",  # relayed to a system without DSN
    "1.10": "hard",  # null MX, RFC 7505
    "2.0": "soft",
    "2.1": "hard",  # mailbox disabled; 4.2.1 is Gmail's "too fast", see below
    "2.2": "soft",  # full
    "2.3": "message",  # longer than they take
    "2.4": "message",  # a list that cannot be expanded
    "3.3": "message",  # the system does not support what the mail needs
    "3.4": "message",  # too big for the system
    "4.4": "hard",  # no route: Postfix's and Exchange's word for a domain without MX and address
    "4.310": "hard",  # Exchange Online: the domain does not exist
    "4.312": "soft",  # Exchange Online: its DNS did not answer
    "4.316": "soft",  # Exchange Online: refused its connection
    "5.6": "message",
    "7.13": "hard",  # account disabled
    "7.17": "hard",  # the mailbox has a new owner, RFC 7293
    "7.18": "hard",  # the domain has a new owner, RFC 7293
}
"""By subject and detail."""
SUBJECTS: Final[dict[str, Class]] = {
    "1": "hard",
    "2": "soft",
    "3": "soft",
    "4": "soft",
    "5": "message",
    "6": "message",
    "7": "policy",
}
"""By subject, where the detail says nothing more."""
# Codes that hosts give for whatever it was: their words decide, and where those say nothing, three do.
VAGUE: Final = frozenset({"0.0", "0.", "1.0", "4.1", "5.0", "4.0", "2.0", "3.0"})

# Lists are named by their hosts; every other word counts only where it is no part of one.
_LISTS: Final = re.compile(
    r"spamhaus\.|spamcop\.|barracudacentral|sorbs\.net|spfbl\.net|uceprotect|surbl\.|uribl\.|\b(dnsbl|rbl)\b",
    re.IGNORECASE,
)
_POLICY: Final = re.compile(
    r"\b(spamhaus|spamcop|barracuda ?central|sorbs|uceprotect|blocklist(ed)?|blacklist(ed)?"
    r"|block(ed)? (list|using|by|due|because)|(is|was|been|were) blocked|dnsbl|rbl|dmarc|dkim|spf"
    r"|unsolicited|spam|reputation|unauthenticated|not authenticated|authentication (required|check)"
    r"|relay(ing)? (access )?(is )?(denied|not permitted|not allowed)|unable to relay|not permitted to relay"
    r"|greylist(ed|ing)?|rate.?limit(ed)?|too many (messages|connections|recipients)|policy"
    r"|sender (address )?(rejected|denied)|banned|virus|malware|phish(ing)?|not accepting mail from"
    r"|access denied, (banned|traffic)|reverse dns|ptr record|bulk mail)\b",
    re.IGNORECASE,
)
_FULL: Final = re.compile(
    r"\b((mail)?box (is )?(currently )?full|full (mail)?box|over ?quota|(exceed(ed|s|ing)?|over) (its |the |his |her |their )?"
    r"(\w+ )?(quota|storage|size limit of the mailbox)|quota (has been )?exceeded|out of (storage )?space"
    r"|out of storage|insufficient (system |mail)?(storage|space)|mailbox size limit|is over.?quota"
    r"|not enough (disk|storage) space)\b",
    re.IGNORECASE,
)
_TOO_LARGE: Final = re.compile(
    r"\b((message|mail|email) (\w+ ){0,3}(too (large|big)|size (\w+ )?exceed\w*)|exceed\w* (\w+ ){0,4}message size"
    r"|(larger|bigger) than (the )?(current |maximum )?(system |message )?(storage |size )?limit)",
    re.IGNORECASE,
)
_DEAD: Final = re.compile(
    r"\b(user unknown|unknown (user|recipient|local.?part|address|account|mailbox)|no such (user|mailbox|recipient|address"
    r"|account|person|domain|host)|(does|did|do) ?n[o']t (exist|have an? .{0,40}account)|doesn.t (exist|have an? .{0,40}account)"
    r"|not a valid (mailbox|recipient|user|address)|invalid (recipient|mailbox|user|address)|recipient ?not ?found"
    r"|(user|recipient|mailbox|address|account) (\S+ ){0,4}(not found|unknown|unavailable|invalid|doesn.t exist"
    r"|not known|not exist|has moved|no longer (exists|available|valid|in use|active|here))"
    r"|no mailbox (here )?by that name|this address no longer accepts|unrout?eable (address|mail domain)"
    r"|(account|mailbox|user|address|recipient) (\S+ ){0,4}(disabled|inactive|suspended|deactivated|deleted|closed|terminated)"
    r"|(disabled|inactive|deactivated) (account|mailbox|user|recipient|address)|unknown in (virtual|local|relay)"
    r"|(host or )?domain (name )?(does not exist|not found)|host not found|couldn't find any host|nxdomain|null ?mx"
    r"|does not accept mail|no longer (employed|works|with)|recipient address rejected: (undeliverable|access denied)"
    r"|address rejected: user|addressee unknown|not our customer|mailbox unavailable|bad destination)\b",
    re.IGNORECASE,
)
_WHITE: Final = re.compile(r"\s+")
_ADDRESSES: Final = re.compile(r"<?[^\s<>@]{1,80}@[\w.-]{1,190}>?")
# Without its digits, which an enhanced code is made of.
_HOSTS: Final = re.compile(
    r"(?:https?://\S+|\b[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[a-z][a-z-]*[a-z]\b\.?)", re.IGNORECASE
)


def classify(code: str | None, text: str, smtp: int | None = None) -> Class:
    """What a final refusal says.

    Args:
        code: enhanced, `5.1.1`; None: there is none. What was temporary and was given up on in the end
            has a 4 in front, and is `soft`, whatever its subject.
        text: the words of the host that refused, or of the one that gave up.
        smtp: basic code of the reply, for hosts without enhanced codes.
    """
    named = _ADDRESSES.sub("", _WHITE.sub(" ", text[:2000]))
    words = _HOSTS.sub("", named)
    first, _, rest = (code or "").partition(".")
    if _LISTS.search(named) or _POLICY.search(words):
        # "Does not exist (policy)" is rarer than a blocklist that hides behind a 5.1.1.
        return "policy"
    if _FULL.search(words):
        return "soft"
    if _TOO_LARGE.search(words):
        return "message"
    permanent = first == "5" or (not code and smtp is not None and smtp // 100 == 5)
    if first == "4" or (smtp is not None and smtp // 100 == 4):
        return "soft"
    if code and rest not in VAGUE:
        if rest in CODES:
            return CODES[rest]
        # Restricted recipients of Exchange and others answer 5.7.1 with words of an address.
        if rest == "7.1" and _DEAD.search(words) and "restrict" not in words.lower():
            return "hard"
        return SUBJECTS.get(rest.split(".")[0], "soft")
    if (permanent or not code) and _DEAD.search(words):
        return "hard"
    if smtp in (551, 556):  # user not local; RFC 7504: the domain takes no mail
        return "hard"
    if smtp == 552:
        return "message" if not code else "soft"
    return "soft"
