"""Removes secrets from any text that leaves the job. Knows what presigned URLs look like."""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

_QUERY = re.compile(r"(\bhttps?://[^\s?#\"'<>]*)\?[^\s\"'<>]*", re.IGNORECASE)
_SIGNED = re.compile(
    r"\b((?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId)=)[^&\s\"'<>]+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[A-Za-z0-9%+/_.~-]{16,}=*")
_SECRET_LENGTH = 16
"""Shorter query values (expiry, algorithm) are no secrets and would blot out ordinary words."""
_HIDDEN = "[hidden]"


class Redactor:
    """Callable on text. Query strings always go; learned secrets go wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secret for secret in secrets if secret)
        self._tokens: set[str] = set()

    def learn_urls(self, urls: Iterable[str]) -> None:
        """Remember the long query values of presigned URLs, which are what makes them secret."""
        for url in urls:
            for name, value in parse_qsl(urlsplit(url).query):
                if len(value) >= _SECRET_LENGTH and name.lower() != "x-amz-algorithm":
                    self._tokens.add(value)

    def __call__(self, text: str) -> str:
        """Return `text` without secrets. Linear in its length, however many URLs were learned."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        text = _QUERY.sub(rf"\1?{_HIDDEN}", text)
        text = _SIGNED.sub(rf"\1{_HIDDEN}", text)
        return _TOKEN.sub(lambda found: _HIDDEN if found[0] in self._tokens else found[0], text)
