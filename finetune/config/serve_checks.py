"""Settings of the served check that are well typed and still cannot work."""

import math
from collections.abc import Iterator
from urllib.parse import urlsplit

from finetune.config.serve import ServeConfig

LAST_PORT = 65535


def serve_problems(serve: ServeConfig) -> Iterator[str]:
    """Every problem of the serve section: key, value, what is allowed, what to do."""
    for key in ("start_timeout_s", "request_timeout_s", "min_prompts"):
        value = getattr(serve, key)
        if not 0 < value < math.inf:
            yield f"serve.{key}={value} must be above 0 and finite"
    if serve.concurrency < 2:  # noqa: PLR2004
        yield f"serve.concurrency={serve.concurrency} must be 2 or more; one by one is always replayed"
    if serve.port is not None and not 0 < serve.port <= LAST_PORT:
        yield f"serve.port={serve.port} must be from 1 to {LAST_PORT}, or null for a free one"
    if serve.kv_cache_gib is not None and not 0 < serve.kv_cache_gib < math.inf:
        yield f"serve.kv_cache_gib={serve.kv_cache_gib} must be above 0, or null"
    if serve.url is not None:
        yield from _url(serve.url)


def _url(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        found = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        yield "serve.url is no URL; use one such as https://host:8000"
        return
    if "@" in parts.netloc or parts.query or parts.fragment:
        # not shown: it may hold the secret
        yield (
            "serve.url holds a user, a password or a query; leave them out, and put the key into the environment "
            "variable that serve.key_from_env names"
        )
    elif not found:
        yield f"serve.url={url} must begin with http:// or https:// and name a host"
