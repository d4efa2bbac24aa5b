"""Who gets to see a credential, and who does not."""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Iterator

import pytest

from executor.errors import RegistryAuthError, RegistryError, RegistryUnavailableError
from executor.oci import Platform
from executor.reference import Reference
from executor.registry.auth import Authorizer, Challenge, parse_challenges
from executor.registry.client import RegistryClient
from executor.registry.hosts import HostRules
from executor.registry.mirrors import Endpoint
from executor.registry.transport import Request, Response, Transport
from executor.spec import Credential, RegistryOptions
from tests.support.images import descriptor_of, push_image, put_image, sample_image
from tests.support.registry import Answer, Behaviour, FakeRegistry, Seen, error, fake_registry

SECRET = "planted-secret"
USER = Credential("ann", SECRET)


def _basic(credential: Credential) -> str:
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as fake:
        put_image(fake, "team/app", sample_image(), "v1")
        yield fake


def _client(registry: FakeRegistry, credential: Credential | None = USER, **options: object) -> RegistryClient:
    credentials = {registry.host: credential} if credential else {}
    return RegistryClient(RegistryOptions(credentials=credentials, retries=0, **options))  # type: ignore[arg-type]


def _reference(registry: FakeRegistry, rest: str = "team/app:v1") -> Reference:
    return Reference.parse(f"{registry.host}/{rest}")


def _guard(registry: FakeRegistry, *, tokens: bool) -> None:
    registry.username, registry.password, registry.tokens = USER.username, USER.password, tokens


def _saw_secret(registry: FakeRegistry) -> bool:
    return any(
        SECRET in item.path or SECRET.encode() in item.body or _basic(USER) == item.authorization
        for item in registry.seen
    )


def _once_allowed(answer: Answer) -> Behaviour:
    """Give `answer`, but only to whom the registry lets in."""
    return lambda _, right: right if right.status == 401 else copy.deepcopy(answer)


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        ("Basic", [Challenge("basic", {})]),
        ('Basic realm="a b, c=d"', [Challenge("basic", {"realm": "a b, c=d"})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
            [Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})],
        ),
        (
            'BASIC REALM=x, bearer realm = "y" , service=z',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y", "service": "z"})],
        ),
        ('Bearer realm="a\\"b\\\\c"', [Challenge("bearer", {"realm": 'a"b\\c'})]),
        ('Bearer realm="unended', [Challenge("bearer", {})]),
        ("=?&", []),
    ],
)
def test_challenges(header: str, challenges: list[Challenge]) -> None:
    assert list(parse_challenges(header)) == challenges


def test_a_long_header_is_read_in_linear_time() -> None:
    assert parse_challenges("Bearer " + 'realm="' * 20_000)
    assert parse_challenges("Bearer " + "a" * 60_000)


def test_basic_is_asked_for_once(registry: FakeRegistry) -> None:
    _guard(registry, tokens=False)
    with _client(registry) as client:
        client.pull_image(_reference(registry), Platform())
    assert [item.authorization for item in registry.seen] == [None, _basic(USER), _basic(USER)]


def test_a_wrong_password_is_not_sent_for_ever(registry: FakeRegistry) -> None:
    _guard(registry, tokens=False)
    with _client(registry, Credential("ann", "wrong")) as client, pytest.raises(RegistryAuthError) as caught:
        client.pull_image(_reference(registry), Platform())
    assert len(registry.seen) == 2
    assert "wrong" not in str(caught.value)
    assert "not accepted" in str(caught.value)


def test_without_credentials_the_refusal_says_so(registry: FakeRegistry) -> None:
    _guard(registry, tokens=False)
    with _client(registry, None) as client, pytest.raises(RegistryAuthError, match="no credentials are configured"):
        client.resolve(_reference(registry))


def test_a_repository_that_an_anonymous_token_does_not_open(registry: FakeRegistry) -> None:
    registry.tokens = True
    registry.misbehave("GET", "^/token", Answer(200, {}, b'{"token": "opens-nothing"}'))
    with _client(registry, None) as client, pytest.raises(RegistryAuthError, match="no credentials are configured"):
        client.resolve(_reference(registry))


def test_a_registry_that_changes_from_tokens_to_basic(registry: FakeRegistry) -> None:
    _guard(registry, tokens=True)
    with _client(registry) as client:
        client.resolve(_reference(registry))
        _guard(registry, tokens=False)
        client.resolve(_reference(registry))
        _guard(registry, tokens=True)
        client.resolve(_reference(registry))


def test_tokens_are_fetched_once_for_each_scope(registry: FakeRegistry) -> None:
    _guard(registry, tokens=True)
    with _client(registry) as client:
        client.pull_image(_reference(registry), Platform())
        client.pull_image(_reference(registry), Platform())
        push_image(client, _reference(registry, "team/app:v2"), sample_image(b"new"))
    scopes = [item.path.partition("?")[2] for item in registry.requests("GET", "^/token")]
    assert scopes == [
        "service=fake&scope=repository%3Ateam%2Fapp%3Apull",
        "service=fake&scope=repository%3Ateam%2Fapp%3Apull%2Cpush",
    ]
    # the password goes to the token server and never to the registry's own paths
    for item in registry.requests("", "^/v2/"):
        assert item.authorization is None or item.authorization.startswith("Bearer ")


def test_a_token_that_expired_is_fetched_anew(registry: FakeRegistry) -> None:
    _guard(registry, tokens=True)
    with _client(registry) as client:
        client.resolve(_reference(registry))
        registry.revoke_tokens()
        client.resolve(_reference(registry))
    assert len(registry.requests("GET", "^/token")) == 2


def test_a_token_that_expires_within_an_upload(registry: FakeRegistry) -> None:
    _guard(registry, tokens=True)
    data = bytes(100_000)

    def expire(_: Seen, right: Answer) -> Answer:
        registry.revoke_tokens()
        return right

    registry.misbehave("POST", "/blobs/uploads/", expire, times=1)
    with _client(registry) as client:
        assert client.push_blob(_reference(registry), descriptor_of(data), lambda: io.BytesIO(data))
    assert registry.blobs["team/app"][descriptor_of(data).digest] == data


def test_anonymous_tokens(registry: FakeRegistry) -> None:
    registry.tokens = True
    with _client(registry, None) as client:
        client.pull_image(_reference(registry), Platform())
    assert [item.authorization for item in registry.requests("GET", "^/token")] == [None]


def test_an_identity_token_is_exchanged_by_post(registry: FakeRegistry) -> None:
    registry.tokens, registry.identity_token = True, SECRET
    with _client(registry, Credential(identity_token=SECRET)) as client:
        client.pull_image(_reference(registry), Platform())
    (exchange,) = registry.requests("", "^/token")
    assert exchange.method == "POST"
    assert SECRET not in exchange.path
    assert exchange.authorization is None
    assert b"client_id=pushwright" in exchange.body


def test_the_mounted_repository_is_in_the_scope(registry: FakeRegistry) -> None:
    _guard(registry, tokens=True)
    digest = registry.add_blob("base/image", b"shared")
    with _client(registry) as client:
        assert client.mount_blob(_reference(registry), digest, "base/image")


def test_credentials_of_a_path_are_for_that_path(registry: FakeRegistry) -> None:
    _guard(registry, tokens=False)
    put_image(registry, "other/app", sample_image(), "v1")
    options = RegistryOptions(credentials={f"{registry.host}/team": USER}, retries=0)
    with RegistryClient(options) as client:
        client.resolve(_reference(registry))
        with pytest.raises(RegistryAuthError):
            client.resolve(_reference(registry, "other/app:v1"))
    assert [item.authorization for item in registry.requests("", "other/app")] == [None]


def test_a_credential_goes_to_no_other_port(registry: FakeRegistry) -> None:
    with fake_registry() as other:
        other.username = "anybody"
        with _client(registry) as client, pytest.raises(RegistryAuthError):
            client.resolve(_reference(other))
        assert not _saw_secret(other)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {}, b"not json"),
        Answer(200, {}, b"[]"),
        Answer(200, {}, b"{}"),
        Answer(200, {}, b'{"token": 1}'),
        Answer(200, {}, b'{"token": ""}'),
        Answer(200, {}, b'{"token": "a\\r\\nX-Planted: 1"}'),
        Answer(200, {}, b'{"token": "' + b"a" * 2_000_000 + b'"}'),
        Answer(302, {"Location": "http://localhost:1/"}),
        error(403, "DENIED"),
        error(404, "UNKNOWN"),
    ],
)
def test_what_a_token_server_may_not_say(registry: FakeRegistry, answer: Answer) -> None:
    registry.tokens = True
    registry.misbehave("GET", "^/token", answer)
    with _client(registry, None) as client, pytest.raises(RegistryError) as caught:
        client.resolve(_reference(registry))
    assert not caught.value.retryable
    assert len(registry.requests("", "^/v2/")) == 1


def test_a_token_server_that_is_busy(registry: FakeRegistry) -> None:
    registry.tokens = True
    registry.misbehave("GET", "^/token", error(503, "UNAVAILABLE"))
    with _client(registry, None) as client, pytest.raises(RegistryUnavailableError):
        client.resolve(_reference(registry))


def test_a_redirected_token_request_takes_no_credential_along(registry: FakeRegistry) -> None:
    _guard(registry, tokens=True)
    with fake_registry() as thief:
        registry.misbehave("GET", "^/token", Answer(307, {"Location": f"{thief.origin}/token"}))
        with _client(registry) as client, pytest.raises(RegistryError):
            client.resolve(_reference(registry))
        assert thief.seen == []


@pytest.mark.parametrize("tokens", [False, True])
def test_a_redirect_to_another_host_carries_no_authorization(registry: FakeRegistry, tokens: bool) -> None:
    _guard(registry, tokens=tokens)
    registry.add_blob("team/app", b"elsewhere")
    with fake_registry() as store:
        digest = store.add_blob("team/app", b"elsewhere")
        target = f"{store.origin}/v2/team/app/blobs/{digest}?signature=s"
        registry.misbehave("GET", f"/blobs/{digest}", _once_allowed(Answer(307, {"Location": target})))
        got = bytearray()
        with _client(registry) as client:
            client.fetch_blob(_reference(registry), descriptor_of(b"elsewhere"), got.extend)
        assert bytes(got) == b"elsewhere"
        assert registry.requests("GET", "/blobs/")[-1].authorization is not None
        assert [item.authorization for item in store.seen] == [None]


def test_a_challenge_from_where_we_were_sent_is_not_answered(registry: FakeRegistry) -> None:
    _guard(registry, tokens=False)
    with fake_registry() as thief:
        thief.username = "give it to me"
        registry.misbehave("GET", "/blobs/", Answer(307, {"Location": f"{thief.origin}/v2/team/app/blobs/x"}))
        with _client(registry) as client, pytest.raises(RegistryAuthError):
            client.fetch_blob(_reference(registry), descriptor_of(b"a layer"), lambda _: None)
        assert thief.seen
        assert not _saw_secret(thief)


def test_a_redirect_within_the_host_keeps_the_authorization(registry: FakeRegistry) -> None:
    _guard(registry, tokens=False)
    digest = registry.add_blob("team/app", b"moved")
    moved = Answer(307, {"Location": f"/v2/team/app/blobs/{digest}?there=1"})
    registry.misbehave("GET", f"/blobs/{digest}$", _once_allowed(moved))
    with _client(registry) as client:
        client.fetch_blob(_reference(registry), descriptor_of(b"moved"), lambda _: None)
    assert registry.seen[-1].authorization == _basic(USER)


@pytest.mark.parametrize("tokens", [False, True])
def test_an_upload_location_on_another_host_gets_no_authorization(registry: FakeRegistry, tokens: bool) -> None:
    _guard(registry, tokens=tokens)
    with fake_registry() as store:
        location = store.origin + store.begin_upload("team/app").headers["Location"]
        registry.misbehave("POST", "/blobs/uploads/", _once_allowed(Answer(202, {"Location": location})))
        with _client(registry) as client:
            client.push_blob(_reference(registry), descriptor_of(b"upload"), lambda: io.BytesIO(b"upload"))
        assert registry.requests("POST")[-1].authorization is not None
        (upload,) = store.seen
        assert upload.body == b"upload"
        assert upload.authorization is None


def test_an_upload_location_that_asks_for_credentials_gets_none(registry: FakeRegistry) -> None:
    _guard(registry, tokens=False)
    with fake_registry() as thief:
        thief.username = "give it to me"
        registry.misbehave(
            "POST", "/blobs/uploads/", _once_allowed(Answer(202, {"Location": f"{thief.origin}/v2/a/b"}))
        )
        thief.misbehave("PUT", "", error(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"'))
        with _client(registry) as client, pytest.raises(RegistryAuthError):
            client.push_blob(_reference(registry), descriptor_of(b"upload"), lambda: io.BytesIO(b"upload"))
        assert len(thief.seen) == 1
        assert not _saw_secret(thief)


# Realms. Every fake is on loopback, where all ports are one machine, so the rule for other hosts is tried at the
# authorizer itself, with a transport that remembers what it was asked to send instead of sending it.


class _Recorder(Transport):
    """A transport that sends nothing: it remembers requests, and answers as a token server would."""

    def __init__(self, options: RegistryOptions) -> None:
        super().__init__(HostRules(options))
        self.sent: list[Request] = []

    def send(self, request: Request) -> Response:
        self.sent.append(request)
        return _Said(200, {}, b'{"token": "granted"}')


class _Said(Response):
    """An answer that did not come over a network."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.authorization, self.doing, self.url = status, headers, None, "asking", ""
        self._body = body

    def __exit__(self, *_: object) -> None:
        return

    def chunks(self) -> Iterator[bytes]:
        yield self._body


def _ask(registry: str, realm: str, credentials: dict[str, Credential], **options: object) -> list[Request]:
    """What is sent when `registry` asks for a token of `realm`."""
    transport = _Recorder(RegistryOptions(**options))  # type: ignore[arg-type]
    authorizer = Authorizer(transport, credentials)
    challenge = _Said(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}, b"")
    assert (
        authorizer.answer(Endpoint(registry, "team/app"), ("repository:team/app:pull",), challenge) == "Bearer granted"
    )
    return transport.sent


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("docker.io", "https://auth.docker.io/token"),
        ("registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("ghcr.io", "https://ghcr.io/token"),
        ("r.example.com:5000", "https://r.example.com:5001/auth?x=y"),
        ("localhost:5000", "http://localhost:5001/auth"),
    ],
)
def test_realms_that_get_the_credential(registry: str, realm: str) -> None:
    (sent,) = _ask(registry, realm, {registry: USER})
    assert sent.headers["Authorization"] == _basic(USER)
    assert sent.url.startswith(realm)
    assert sent.url.endswith("service=s&scope=repository%3Ateam%2Fapp%3Apull")
    assert not sent.follow_redirects


@pytest.mark.parametrize(
    ("registry", "realm", "code"),
    [
        ("r.example.com", "https://evil.io/token", "token-realm-foreign"),
        ("r.example.com", "https://r.example.com.evil.io/token", "token-realm-foreign"),
        ("r.example.com", "https://evilexample.com/token", "token-realm-foreign"),
        ("r.example.com", "https://example.com.:443/token", "token-realm-foreign"),
        ("docker.io", "https://auth.docker.io.evil.io/token", "token-realm-foreign"),
        ("victim.azurecr.io", "https://evil.azurecr.io/token", "token-realm-foreign"),
        ("r.example.com", "http://r.example.com/token", "token-realm-insecure"),
        ("r.example.com", "http://auth.example.com/token", "token-realm-insecure"),
        ("r.example.com", "http://localhost/token", "token-realm-insecure"),
        ("localhost:5000", "http://evil.io/token", "token-realm-insecure"),
        ("localhost:5000", "https://evil.io/token", "token-realm-foreign"),
        ("r.example.com", "https://u:p@r.example.com/token", "realm-invalid"),
        ("r.example.com", "file:///etc/passwd", "realm-invalid"),
        ("r.example.com", "/token", "realm-invalid"),
    ],
)
def test_realms_that_get_nothing(registry: str, realm: str, code: str) -> None:
    for identity in (USER, Credential(identity_token=SECRET)):
        transport = _Recorder(RegistryOptions())
        authorizer = Authorizer(transport, {registry: identity})
        challenge = _Said(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}, b"")
        with pytest.raises(RegistryAuthError) as caught:
            authorizer.answer(Endpoint(registry, "team/app"), ("s",), challenge)
        assert caught.value.code == code
        assert transport.sent == []
        assert SECRET not in str(caught.value)


def test_another_hosts_credential_is_not_used_for_a_registry_that_names_it() -> None:
    # else anyone's registry gets a token for the victim's repository of the same name
    (sent,) = _ask("evil.io", "https://ghcr.io/token", {"ghcr.io": USER})
    assert "Authorization" not in sent.headers
    with pytest.raises(RegistryAuthError):
        _ask("evil.io", "https://ghcr.io/token", {"ghcr.io": USER, "evil.io": Credential("eve", "x")})


def test_a_foreign_realm_can_be_declared() -> None:
    (sent,) = _ask("rg.example.cloud", "https://api.example.com/t", {"rg.example.cloud": USER, "api.example.com": USER})
    assert sent.headers["Authorization"] == _basic(USER)


@pytest.mark.parametrize("realm", ["https://169.254.169.254/token", "https://localhost/token", "https://[::1]/token"])
def test_without_credentials_inner_services_are_not_asked_for_a_registry(realm: str) -> None:
    with pytest.raises(RegistryAuthError) as caught:
        _ask("evil.io", realm, {})
    assert caught.value.code == "token-realm-foreign"


def test_a_realm_that_is_plain_because_its_registry_is() -> None:
    (sent,) = _ask("r.lan:5000", "http://r.lan:5001/auth", {"r.lan:5000": USER}, insecure=("r.lan:5000",))
    assert sent.headers["Authorization"] == _basic(USER)
