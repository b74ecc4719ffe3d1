"""Whether an address is this very machine: no proxy reaches it, and what is sent does not leave."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(endpoint: str | None) -> bool:
    """Tell whether a URL names this very machine."""
    host = urlsplit(endpoint).hostname if endpoint else None
    if host is None or host == "localhost":
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
