"""Docker's config.json: what is understood, what is refused, and that no secret is repeated."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest

from executor.errors import UsageError
from executor.registry.docker_config import (
    credential_for,
    credentials_from_docker_config,
    hosts_with_helpers,
)
from executor.spec import Credential


def _pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _read(**config: Any) -> dict[str, Credential]:
    return credentials_from_docker_config(json.dumps(config))


def test_the_forms_of_an_entry() -> None:
    found = _read(
        auths={
            "https://index.docker.io/v1/": {"auth": _pair("ann:pass:word")},
            "https://Registry.example.com/v2/": {"username": "ben", "password": "geheim"},
            "r.io:5000": {"auth": _pair("x:"), "identitytoken": "token-1"},
            "tokens.io": {"auth": _pair("<token>:token-2")},
            "quay.io/team": {"auth": _pair("cy:s3cret")},
            "empty.io": {},
        }
    )
    assert found == {
        "docker.io": Credential("ann", "pass:word"),
        "registry.example.com": Credential("ben", "geheim"),
        "r.io:5000": Credential(identity_token="token-1"),
        "tokens.io": Credential(identity_token="token-2"),
        "quay.io/team": Credential("cy", "s3cret"),
    }


def test_the_hubs_own_entry_wins_over_its_other_names() -> None:
    first = {"https://index.docker.io/v1/": {"auth": _pair("a:1")}, "docker.io": {"auth": _pair("b:2")}}
    for auths in (first, dict(reversed(first.items()))):
        assert _read(auths=auths)["docker.io"].username == "a"


def test_docker_desktops_tokens_are_not_credentials() -> None:
    assert _read(auths={"https://index.docker.io/v1/access-token": {"auth": _pair("a:1")}}) == {}


def test_other_settings_do_not_matter() -> None:
    assert _read(HttpHeaders={"X": "y"}, detachKeys="ctrl-e") == {}
    assert _read(auths=None) == {}


DAMAGED = [
    "",
    "[]",
    "{",
    '"text"',
    "[" * 100_000,
    '{"auths": []}',
    '{"auths": {"r.io": "user:SECRET"}}',
    '{"auths": {"r.io": {"auth": "***SECRET***"}}}',
    '{"auths": {"r.io": {"auth": 7}}}',
    json.dumps({"auths": {"r.io": {"auth": _pair("SECRET")}}}),
    json.dumps({"auths": {"r.io": {"auth": _pair("u:SECRET\r\nX: y")}}}),
    json.dumps({"auths": {"r.io": {"auth": base64.b64encode(b"u:\xff\xfe").decode()}}}),
    json.dumps({"auths": {"r.io": {"username": "u"}}}),
    json.dumps({"auths": {"r.io": {"password": "SECRET"}}}),
    json.dumps({"auths": {"r.io": {"identitytoken": "SECRET\n"}}}),
    json.dumps({"auths": {"r.io": {"registrytoken": "SECRET"}}}),
    json.dumps({"auths": {"r.io/../x": {"auth": _pair("u:SECRET")}}}),
    json.dumps({"auths": {"u@r.io": {"auth": _pair("u:SECRET")}}}),
    json.dumps({"auths": {"r.io/x?y": {"auth": _pair("u:SECRET")}}}),
    json.dumps({"auths": {"": {"auth": _pair("u:SECRET")}}}),
    json.dumps({"auths": {"https://[": {"auth": _pair("u:SECRET")}}}),
    json.dumps({"credHelpers": ["r.io"]}),
    json.dumps({"credHelpers": {"r.io": 1}}),
]


@pytest.mark.parametrize("text", DAMAGED)
def test_damage_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        credentials_from_docker_config(text)
    assert "SECRET" not in str(caught.value)
    assert _pair("SECRET") not in str(caught.value)


def test_helpers_are_named_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    text = json.dumps(
        {
            "auths": {"https://index.docker.io/v1/": {}, "r.io": {"auth": _pair("u:p")}},
            "credsStore": "desktop",
            "credHelpers": {"gcr.io": "gcloud", "r.io": "other"},
        }
    )
    with caplog.at_level(logging.WARNING):
        assert set(credentials_from_docker_config(text)) == {"r.io"}
    assert "docker.io" in caplog.text
    assert "docker-credential-gcloud" in caplog.text
    assert hosts_with_helpers(text) == {"docker.io": "desktop", "gcr.io": "gcloud"}


def test_the_longest_path_wins_and_a_path_reaches_no_further() -> None:
    host, team = Credential("host", "1"), Credential("team", "2")
    credentials = {"quay.io": host, "quay.io/team": team}
    assert credential_for(credentials, "quay.io", "team/app") == team
    assert credential_for(credentials, "quay.io", "team") == team
    assert credential_for(credentials, "quay.io", "teamwork/app") == host
    assert credential_for({"quay.io/team": team}, "quay.io", "other/app") is None
    assert credential_for(credentials, "evil.quay.io", "team/app") is None
    assert credential_for(credentials, "quay.io:5000", "team/app") is None


def test_a_credential_does_not_print_its_secret() -> None:
    assert "geheim" not in repr(_read(auths={"r.io": {"username": "u", "password": "geheim"}}))
