"""Which values of a specification are secret, in every form that they may be shown in."""

from __future__ import annotations

import base64
from urllib.parse import quote, unquote, urlsplit

from executor.spec import BuildSpec

_SHORTEST_LINE = 4


def secrets_of(spec: BuildSpec) -> list[str]:
    """Every value in a specification that no event may show, and the forms it takes in URLs and HTTP headers."""
    pairs = [(getattr(spec.context, "username", ""), getattr(spec.context, "password", ""))]
    for credential in spec.registries.credentials.values():
        pairs += [(credential.username, credential.password), ("", credential.identity_token)]
    for url in (getattr(spec.context, "url", ""), *spec.proxies.values()):
        pairs.append(_user_of(url))
    for value in spec.secrets.values():
        text = base64.b64decode(value).decode("utf-8", "replace")
        # a key of several lines may be shown line by line
        pairs += [("", part) for part in {text.strip(), *text.split("\n")} if len(part) >= _SHORTEST_LINE]
    found = {form for user, secret in pairs if secret for form in _forms(user, secret)}
    return sorted(found)


def _user_of(url: str) -> tuple[str, str]:
    """The user name and password in a URL, as they are written there."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError:
        return "", ""
    return parts.username or "", parts.password or ""


def _forms(user: str, secret: str) -> set[str]:
    plain = {secret, unquote(secret)}
    # Basic authentication (RFC 7617)
    headers = {base64.b64encode(f"{unquote(user)}:{item}".encode()).decode() for item in plain}
    return {*plain, *headers, *(quote(item, safe="") for item in plain)}
