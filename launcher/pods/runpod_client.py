"""The HTTP client for RunPod: who asks, where, with which key. What cannot be used is refused here."""

import os
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from launcher import __version__
from launcher.errors import UsageError
from launcher.machine.loopback import is_loopback

BASE_URL = "https://api.runpod.io/v2"
ADDRESS_VARIABLE = "RUNPOD_API_BASE_URL"
"""Moves the API, GraphQL and REST alike; the `runpod` package reads it, too."""


def base_url() -> str:
    """Return REST v2's address."""
    moved = os.environ.get(ADDRESS_VARIABLE, "").rstrip("/")
    return f"{moved}/v2" if moved else BASE_URL


def connect(key: SecretStr, base_url: str, transport: httpx.BaseTransport | None) -> httpx.Client:
    """Return a client. Nothing is sent yet. Raises UsageError, quoting neither key nor address."""
    _check_key(key)
    _check_address(base_url)
    try:
        return httpx.Client(
            base_url=base_url,
            headers={
                # Cloudflare turns away what names itself like a mere library.
                "User-Agent": f"retrain/{__version__}",
                "Authorization": f"Bearer {key.get_secret_value()}",
                "Accept": "application/json",
            },
            transport=transport,
            trust_env=not is_loopback(base_url),
        )
    except (ValueError, ImportError, httpx.InvalidURL):
        pass  # Raised below, where the library's error, which may quote a proxy's password, is out of sight.
    raise UsageError(
        "the HTTP client for RunPod cannot be set up with this machine's proxy settings",
        next_step="check HTTPS_PROXY, ALL_PROXY and NO_PROXY",
    )


def _check_key(key: SecretStr) -> None:
    # Any other character cannot go into a header, and the HTTP library's complaint would quote it.
    text = key.get_secret_value()
    usable = bool(text) and all("!" <= character <= "~" for character in text)
    del text
    if not usable:
        raise UsageError(
            "the RunPod API key is empty or holds characters that no key has",
            next_step="set RUNPOD_API_KEY to the key as RunPod's console shows it",
        )


def _check_address(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    else:
        usable = usable and not (parts.username or parts.password or parts.query or parts.fragment)
        # The key goes there: in clear to this very machine at most.
        usable = usable and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(base_url)))
    if not usable:
        raise UsageError(
            "the address of RunPod's API must be an https URL without user, password and query",
            next_step=f"leave it out to use {BASE_URL}",
        )
