"""What our HTTP clients trust behind https: the system's authorities, those in SSL_CERT_FILE, and certifi's."""

import ssl
from functools import cache

import certifi

__all__ = ["trusted"]


@cache
def trusted() -> ssl.SSLContext:
    """For TLS, whatever the client; read once, as it takes 20 ms."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
