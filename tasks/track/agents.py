"""Which program came by a link, in a word, from what it says of itself. Values in, values out.

Nothing of this is certain: a scanner may call itself a browser, which `engine` then sees by what it
does. A program that says what it is, is believed.

Sources: Apple's Mail Privacy Protection loads pictures by proxies that say `Mozilla/5.0` and no more;
Gmail's proxy says `GoogleImageProxy` (support.google.com/mail/answer/145919), Yahoo's
`YahooMailProxy`; the scanners and fetchers below name themselves so in their vendors' documents or in
the access logs that operators publish.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Agent = Literal[
    "browser", "apple_mpp", "google_proxy", "yahoo_proxy", "scanner", "preview", "prefetch", "tool",
    "unnamed",
]  # fmt: skip

_BY_NAME: Final[tuple[tuple[Agent, re.Pattern[str]], ...]] = (
    ("google_proxy", re.compile(r"googleimageproxy|ggpht\.com", re.I)),
    ("yahoo_proxy", re.compile(r"yahoomailproxy|yahoocachesystem", re.I)),
    (
        "scanner",
        re.compile(
            r"barracuda|proofpoint|mimecast|symantec|messagelabs|fireeye|trellix|forcepoint|sophos"
            r"|trend ?micro|cloudmark|ironport|zscaler|checkpoint|safelinks|urldefense|bingpreview"
            r"|virustotal|antivirus|mail-?scanner|linkcheck|security",
            re.I,
        ),
    ),
    (
        "preview",
        re.compile(
            r"slackbot|twitterbot|facebookexternalhit|linkedinbot|whatsapp|telegrambot|discordbot"
            r"|skypeuripreview|embedly|applebot|pinterest|mattermost|iframely",
            re.I,
        ),
    ),
    ("scanner", re.compile(r"bot\b|crawl|spider|headless|phantomjs|slurp|archiver|monitor", re.I)),
    (
        "tool",
        re.compile(
            r"^(curl|wget|python|go-http|java|okhttp|apache-httpclient|node|axios|ruby|php|perl|lwp"
            r"|libwww|httpie|postman|powershell|winhttp|dart|undici|guzzle|aiohttp|httpx)\b",
            re.I,
        ),
    ),
)
# As it stands, without a word of a system or an engine.
_MPP: Final = re.compile(r"Mozilla/5\.0")


def agent_of(name: str, purpose: str = "") -> Agent:
    """What came.

    Args:
        name: the header `User-Agent`, any text.
        purpose: the headers `Sec-Purpose`, `Purpose` and `X-Purpose`, one behind the other.
    """
    if purpose and re.search(r"prefetch|prerender|preview", purpose, re.I):
        return "prefetch"
    name = name[:512].strip()
    if not name:
        return "unnamed"
    if _MPP.fullmatch(name):
        return "apple_mpp"
    for agent, pattern in _BY_NAME:
        if pattern.search(name):
            return agent
    return "browser"
