"""Registries that lie: each promise of the client, attacked."""

from __future__ import annotations

import email.utils
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.errors import PushwrightError, RegistryContentError, RegistryError, RegistryUnavailableError
from executor.imageconfig import ImageConfig
from executor.oci import (
    CONFIG_OCI,
    INDEX_OCI,
    LAYER_OCI,
    MANIFEST_DOCKER,
    MANIFEST_OCI,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
    encode_json,
)
from executor.reference import Reference
from executor.registry.client import RegistryClient
from executor.registry.hosts import HostRules
from executor.registry.retry import RetryPolicy
from executor.registry.transport import Request, Transport
from executor.spec import RegistryOptions
from tests.support.certificates import Authority
from tests.support.images import SampleImage, descriptor_of, put_image, sample_image
from tests.support.registry import Answer, FakeRegistry, Seen, error, fake_registry

AMD64 = Platform()
MIB = 1024 * 1024


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as fake:
        yield fake


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(waits: list[float]) -> Iterator[RegistryClient]:
    with RegistryClient(RegistryOptions(), retry=RetryPolicy(sleep=waits.append, jitter=lambda: 0.5)) as made:
        yield made


def _reference(registry: FakeRegistry, rest: str = "team/app:v1") -> Reference:
    return Reference.parse(f"{registry.host}/{rest}")


def _refused(client: RegistryClient, reference: Reference, platform: Platform = AMD64) -> str:
    """The code of the refusal to pull an image."""
    with pytest.raises(RegistryError) as caught:
        client.pull_image(reference, platform)
    assert reference.registry in str(caught.value)
    return caught.value.code


def _fetch_refused(client: RegistryClient, registry: FakeRegistry, descriptor: Descriptor) -> tuple[str, bytes]:
    got = bytearray()
    with pytest.raises(RegistryContentError) as caught:
        client.fetch_blob(_reference(registry), descriptor, got.extend)
    return caught.value.code, bytes(got)


# Blobs


def test_a_blob_of_another_digest(registry: FakeRegistry, client: RegistryClient, waits: list[float]) -> None:
    descriptor = descriptor_of(b"right")
    registry.misbehave("GET", "/blobs/", Answer(200, {}, b"wrong"))
    assert _fetch_refused(client, registry, descriptor) == ("digest-mismatch", b"wrong")
    assert waits == []


@pytest.mark.parametrize("body", [b"righ", b"right and more"])
def test_a_blob_of_another_size(registry: FakeRegistry, client: RegistryClient, body: bytes) -> None:
    registry.misbehave("GET", "/blobs/", Answer(200, {}, body))
    assert _fetch_refused(client, registry, descriptor_of(b"right")) == ("size-mismatch", b"")


def test_an_endless_blob(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("GET", "/blobs/", Answer(200, {}, bytes(100_000), endless=True))
    descriptor = descriptor_of(bytes(MIB))
    code, got = _fetch_refused(client, registry, descriptor)
    assert code == "size-mismatch"
    assert len(got) <= descriptor.size


def test_a_blob_that_never_gets_on(registry: FakeRegistry, client: RegistryClient, waits: list[float]) -> None:
    registry.misbehave("GET", "/blobs/", Answer(200, {"Content-Length": "5"}, b"right", cut_after=0))
    with pytest.raises(RegistryUnavailableError):
        client.fetch_blob(_reference(registry), descriptor_of(b"right"), lambda _: None)
    assert len(waits) == 4


def test_a_blob_without_length_that_ends_early(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("GET", "/blobs/", Answer(200, {"Connection": "close"}, b"ri", unmeasured=True))
    with pytest.raises(RegistryUnavailableError, match="ended at byte 2 of 5"):
        client.fetch_blob(_reference(registry), descriptor_of(b"right"), lambda _: None)


@pytest.mark.parametrize(
    "content_range", ["bytes 0-4/5", "bytes 3-4/5", "bytes 2", "", "bytes -2-4/5", "bytes 2-4/5; x"]
)
def test_another_range_than_asked_for(registry: FakeRegistry, client: RegistryClient, content_range: str) -> None:
    registry.misbehave("GET", "/blobs/", Answer(200, {"Content-Length": "5"}, b"right", cut_after=2), times=1)
    registry.misbehave("GET", "/blobs/", Answer(206, {"Content-Range": content_range}, b"ght"))
    assert _fetch_refused(client, registry, descriptor_of(b"right")) == ("range-invalid", b"ri")


def test_a_range_nobody_asked_for(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("GET", "/blobs/", Answer(206, {"Content-Range": "bytes 0-4/5"}, b"right"))
    assert _fetch_refused(client, registry, descriptor_of(b"right")) == ("range-invalid", b"")


def test_a_resumed_blob_with_another_rest(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("GET", "/blobs/", Answer(200, {"Content-Length": "5"}, b"right", cut_after=2), times=1)
    registry.misbehave("GET", "/blobs/", Answer(206, {"Content-Range": "bytes 2-4/5"}, b"XXX"))
    assert _fetch_refused(client, registry, descriptor_of(b"right")) == ("digest-mismatch", b"riXXX")


def test_a_blob_encoded_on_the_way(registry: FakeRegistry, client: RegistryClient) -> None:
    # nothing may be decoded: a layer is gzip itself, and a bomb would unfold
    registry.misbehave("GET", "/blobs/", Answer(200, {"Content-Encoding": "gzip"}, b"right"))
    got = bytearray()
    client.fetch_blob(_reference(registry), descriptor_of(b"right"), got.extend)
    assert bytes(got) == b"right"


def test_a_trickle_is_given_up(registry: FakeRegistry) -> None:
    ticks = iter(range(0, 10_000, 20))
    registry.misbehave("GET", "", Answer(200, {"Transfer-Encoding": "chunked"}, b"1\r\nx\r\n" * 100, endless=True))
    transport = Transport(HostRules(RegistryOptions()), clock=lambda: next(ticks))
    request = Request("GET", f"{registry.origin}/", "trickling")
    with transport.send(request) as response, pytest.raises(RegistryUnavailableError) as caught:
        for _ in response.chunks():
            pass
    transport.close()
    assert caught.value.code == "registry-too-slow"


def test_foreign_urls_are_never_followed(registry: FakeRegistry, client: RegistryClient) -> None:
    with fake_registry() as elsewhere:
        layer = b"layer"
        digest = registry.add_blob("team/app", layer)
        foreign = Descriptor(LAYER_OCI, digest, len(layer), urls=(f"{elsewhere.origin}/layer",))
        config = ImageConfig(diff_ids=(digest,)).encode()
        registry.add_blob("team/app", config)
        manifest = Manifest(descriptor_of(config, CONFIG_OCI), (foreign,)).encode()
        registry.add_manifest("team/app", manifest, MANIFEST_OCI, "v1")
        image = client.pull_image(_reference(registry), AMD64)
        client.fetch_blob(_reference(registry), image.manifest.layers[0], lambda _: None)
        assert elsewhere.seen == []


# Manifests


def test_a_manifest_over_the_limit(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.add_manifest("team/app", b" " * (4 * MIB + 1), MANIFEST_OCI, "v1")
    assert _refused(client, _reference(registry)) == "body-too-large"


def test_an_endless_manifest(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("GET", "/manifests/", Answer(200, {"Content-Type": MANIFEST_OCI}, bytes(100_000), endless=True))
    assert _refused(client, _reference(registry)) == "body-too-large"


def test_an_endless_refusal(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("GET", "/manifests/", Answer(403, {}, bytes(100_000), endless=True))
    assert _refused(client, _reference(registry)) == "registry-denied"


def test_an_endless_list_of_tags(registry: FakeRegistry, client: RegistryClient) -> None:
    following = {"Link": '</v2/team/app/tags/list?n=1&last=a>; rel="next"'}
    registry.misbehave("GET", "/tags/list", Answer(200, following, b'{"tags": ["a"]}'))
    with pytest.raises(RegistryContentError) as caught:
        client.list_tags(_reference(registry))
    assert caught.value.code == "too-many-tags"
    assert len(registry.seen) <= 100


def test_a_list_of_tags_that_goes_on_elsewhere(registry: FakeRegistry, client: RegistryClient) -> None:
    with fake_registry() as elsewhere:
        following = {"Link": f'<{elsewhere.origin}/v2/team/app/tags/list>; rel="next"'}
        registry.misbehave("GET", "/tags/list", Answer(200, following, b'{"tags": ["a"]}'))
        with pytest.raises(RegistryContentError):
            client.list_tags(_reference(registry))
        assert elsewhere.seen == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"tags": "v1"}', b'{"tags": ["../v1"]}', b'{"tags": [1]}', b'{"tags": ["a\\nb"]}']
)
def test_tags_that_are_none(registry: FakeRegistry, client: RegistryClient, body: bytes) -> None:
    registry.misbehave("GET", "/tags/list", Answer(200, {}, body))
    with pytest.raises(RegistryContentError):
        client.list_tags(_reference(registry))


def test_no_tags_at_all(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("GET", "/tags/list", Answer(200, {}, b'{"name": "team/app", "tags": null}'))
    assert client.list_tags(_reference(registry)) == []


@pytest.mark.parametrize("form", ["v1+json", "v1+prettyjws"])
def test_schema_1(registry: FakeRegistry, client: RegistryClient, form: str) -> None:
    body = encode_json({"schemaVersion": 1, "name": "team/app", "fsLayers": [], "history": []})
    registry.add_manifest("team/app", body, f"application/vnd.docker.distribution.manifest.{form}", "v1")
    assert _refused(client, _reference(registry)) == "schema1-unsupported"
    with pytest.raises(RegistryContentError):
        client.resolve(_reference(registry))


def test_schema_1_served_as_schema_2(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.add_manifest("team/app", b'{"schemaVersion": 1, "fsLayers": []}', MANIFEST_DOCKER, "v1")
    assert _refused(client, _reference(registry)) == "oci-invalid"


@pytest.mark.parametrize("media_type", ["", "text/html", "application/json", "application/octet-stream", CONFIG_OCI])
def test_a_manifest_of_an_unknown_type(registry: FakeRegistry, client: RegistryClient, media_type: str) -> None:
    registry.add_manifest("team/app", sample_image().manifest, media_type, "v1")
    assert _refused(client, _reference(registry)) == "media-type-unknown"


def _index_of(*entries: Descriptor) -> bytes:
    return Index(entries).encode()


def _entry(data: bytes, media_type: str, platform: Platform | None = AMD64) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data), platform=platform)


def test_an_index_served_as_a_manifest_and_the_other_way(registry: FakeRegistry, client: RegistryClient) -> None:
    sample = sample_image()
    put_image(registry, "team/app", sample)
    index = _index_of(_entry(sample.manifest, MANIFEST_OCI))
    registry.add_manifest("team/app", index, MANIFEST_OCI, "index-as-manifest")
    registry.add_manifest("team/app", sample.manifest, INDEX_OCI, "manifest-as-index")
    registry.add_manifest("team/app", sample.manifest, MANIFEST_DOCKER, "oci-as-docker")
    for tag in ("index-as-manifest", "manifest-as-index", "oci-as-docker"):
        assert _refused(client, _reference(registry, f"team/app:{tag}")) == "oci-invalid"


def test_a_document_that_is_both(registry: FakeRegistry, client: RegistryClient) -> None:
    # CVE-2021-41190: without a mediaType of its own, such a document is what the header says it is
    sample = sample_image()
    put_image(registry, "team/app", sample)
    both = json.loads(sample.manifest)
    del both["mediaType"]
    both["manifests"] = [_entry(sample.manifest, MANIFEST_OCI).to_json()]
    registry.add_manifest("team/app", encode_json(both), MANIFEST_OCI, "v1")
    assert _refused(client, _reference(registry)) == "oci-invalid"


def test_an_entry_of_another_type_than_the_index_says(registry: FakeRegistry, client: RegistryClient) -> None:
    sample = sample_image()
    put_image(registry, "team/app", sample)
    registry.add_manifest("team/app", _index_of(_entry(sample.manifest, MANIFEST_DOCKER)), INDEX_OCI, "v1")
    assert _refused(client, _reference(registry)) == "media-type-mismatch"


def test_an_entry_of_another_size_than_the_index_says(registry: FakeRegistry, client: RegistryClient) -> None:
    sample = sample_image()
    put_image(registry, "team/app", sample)
    entry = Descriptor(MANIFEST_OCI, Digest.of(sample.manifest), len(sample.manifest) + 1, platform=AMD64)
    registry.add_manifest("team/app", _index_of(entry), INDEX_OCI, "v1")
    assert _refused(client, _reference(registry)) == "size-mismatch"


def test_a_deep_index(registry: FakeRegistry, client: RegistryClient) -> None:
    sample = sample_image()
    put_image(registry, "team/app", sample)
    data, media_type = sample.manifest, MANIFEST_OCI
    for _ in range(50):
        data, media_type = _index_of(_entry(data, media_type)), INDEX_OCI
        registry.add_manifest("team/app", data, INDEX_OCI, "v1")
    assert _refused(client, _reference(registry)) == "index-too-deep"
    assert len(registry.seen) <= 4


def test_a_wide_index(registry: FakeRegistry, client: RegistryClient) -> None:
    inner = [_index_of(_entry(bytes([n]), MANIFEST_OCI, Platform("linux", "s390x"))) for n in range(200)]
    for data in inner:
        registry.add_manifest("team/app", data, INDEX_OCI)
    registry.add_manifest("team/app", _index_of(*(_entry(data, INDEX_OCI, None) for data in inner)), INDEX_OCI, "v1")
    assert _refused(client, _reference(registry)) == "index-too-large"
    assert len(registry.seen) <= 20


def test_an_index_that_contains_itself(registry: FakeRegistry, client: RegistryClient) -> None:
    # a true cycle needs a broken hash; a registry can only pretend one, by answering a digest with other bytes
    inner = _index_of(_entry(b"?", INDEX_OCI))
    outer = _index_of(_entry(inner, INDEX_OCI))
    registry.misbehave("GET", "/manifests/", Answer(200, {"Content-Type": INDEX_OCI}, outer))
    assert _refused(client, _reference(registry)) == "digest-mismatch"


def test_a_digest_header_that_lies(registry: FakeRegistry, client: RegistryClient) -> None:
    put_image(registry, "team/app", sample_image(), "v1")

    def lie(_: Seen, right: Answer) -> Answer:
        right.headers["Docker-Content-Digest"] = Digest.of(b"something else")
        return right

    registry.misbehave("GET", "/manifests/", lie)
    assert _refused(client, _reference(registry)) == "digest-mismatch"


@pytest.mark.parametrize("value", ["sha256:abc", "sha512:" + "a" * 128, "../../etc/passwd", "x" * 5000])
def test_a_digest_header_that_is_none(registry: FakeRegistry, client: RegistryClient, value: str) -> None:
    put_image(registry, "team/app", sample_image(), "v1")

    def damage(_: Seen, right: Answer) -> Answer:
        right.headers["Docker-Content-Digest"] = value
        return right

    registry.misbehave("GET", "/manifests/", damage)
    registry.misbehave("HEAD", "/manifests/", damage)
    assert _refused(client, _reference(registry)) == "digest-mismatch"
    with pytest.raises(RegistryContentError):
        client.resolve(_reference(registry))


def test_another_manifest_than_the_pinned_one(registry: FakeRegistry, client: RegistryClient) -> None:
    right, other = sample_image(b"right"), sample_image(b"other")
    put_image(registry, "team/app", other, "v1")
    pinned = _reference(registry).with_digest(Digest.of(right.manifest))

    def swap(_: Seen, __: Answer) -> Answer:
        return registry.get_manifest("team/app", "v1")

    registry.misbehave("GET", "/manifests/", swap)
    registry.misbehave("HEAD", "/manifests/", swap)
    assert _refused(client, pinned) == "digest-mismatch"
    with pytest.raises(RegistryContentError):
        client.resolve(pinned)


def test_a_mirror_cannot_swap_what_is_pinned(registry: FakeRegistry) -> None:
    sample, planted = sample_image(b"right"), sample_image(b"planted")
    pinned = _reference(registry).with_digest(put_image(registry, "team/app", sample, "v1"))
    with fake_registry() as mirror:
        put_image(mirror, "team/app", planted, "v1")
        mirror.misbehave("GET", "/manifests/", Answer(200, {"Content-Type": MANIFEST_OCI}, planted.manifest))
        options = RegistryOptions(maps={registry.host: (mirror.host,)})
        with RegistryClient(options) as client, pytest.raises(RegistryContentError) as caught:
            client.pull_image(pinned, AMD64)
        assert mirror.host in str(caught.value)


def test_a_registry_that_stored_something_else(registry: FakeRegistry, client: RegistryClient) -> None:
    lie = Answer(201, {"Docker-Content-Digest": Digest.of(b"something else")})
    registry.misbehave("PUT", "", lie)
    with pytest.raises(RegistryContentError):
        client.push_blob(_reference(registry), descriptor_of(b"x"), lambda: io.BytesIO(b"x"))
    with pytest.raises(RegistryContentError):
        client.put_manifest(_reference(registry), MANIFEST_OCI, sample_image().manifest)


# Images


def _altered(**fields: object) -> SampleImage:
    sample = sample_image()
    config = encode_json({**json.loads(sample.config), **fields})
    manifest = Manifest(descriptor_of(config, CONFIG_OCI), (descriptor_of(b"a layer"),)).encode()
    return SampleImage((b"a layer",), config, manifest)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (_altered(architecture="arm64"), "platform-mismatch"),
        (_altered(os="windows"), "platform-mismatch"),
        (_altered(rootfs={"type": "layers", "diff_ids": []}), "oci-invalid"),
        (_altered(rootfs={"type": "layers", "diff_ids": ["sha256:../../x"]}), "oci-invalid"),
        (_altered(rootfs={"type": "plan9"}), "oci-invalid"),
        (_altered(config=[]), "oci-invalid"),
    ],
)
def test_configs_that_do_not_fit(registry: FakeRegistry, client: RegistryClient, image: SampleImage, code: str) -> None:
    put_image(registry, "team/app", image, "v1")
    assert _refused(client, _reference(registry)) == code


def test_the_index_cannot_call_another_platform_ours(registry: FakeRegistry, client: RegistryClient) -> None:
    other = sample_image(platform=Platform("linux", "s390x"))
    put_image(registry, "team/app", other)
    registry.add_manifest("team/app", _index_of(_entry(other.manifest, MANIFEST_OCI)), INDEX_OCI, "v1")
    assert _refused(client, _reference(registry)) == "platform-mismatch"


def test_a_config_that_claims_to_be_huge_is_not_fetched(registry: FakeRegistry, client: RegistryClient) -> None:
    manifest = Manifest(Descriptor(CONFIG_OCI, Digest.of(b"?"), 1 << 40), ()).encode()
    registry.add_manifest("team/app", manifest, MANIFEST_OCI, "v1")
    assert _refused(client, _reference(registry)) == "oci-invalid"
    assert registry.requests("GET", "/blobs/") == []


# Redirects and waiting


def test_redirects_without_end(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("GET", "/blobs/", Answer(307, {"Location": "/v2/team/app/blobs/again"}))
    with pytest.raises(RegistryError) as caught:
        client.fetch_blob(_reference(registry), descriptor_of(b"x"), lambda _: None)
    assert caught.value.code == "redirect-refused"
    assert len(registry.seen) == 6


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://localhost/x", "http://u:p@localhost/x", "//\\x", "http://[::1"]
)
def test_redirects_to_what_is_no_place(registry: FakeRegistry, client: RegistryClient, location: str) -> None:
    registry.misbehave("GET", "/blobs/", Answer(307, {"Location": location}))
    with pytest.raises(RegistryError) as caught:
        client.fetch_blob(_reference(registry), descriptor_of(b"x"), lambda _: None)
    assert caught.value.code == "url-invalid"


@pytest.mark.parametrize("host", [".evil", "a..b", "a" * 64 + ".io", "*", "xn--", "0x7f.1", "evil%2eio", "-"])
def test_redirects_to_names_that_are_none(registry: FakeRegistry, client: RegistryClient, host: str) -> None:
    registry.misbehave("GET", "/blobs/", Answer(307, {"Location": f"https://{host}:1/"}))
    with pytest.raises(RegistryError):
        client.fetch_blob(_reference(registry), descriptor_of(b"x"), lambda _: None)


def test_a_plain_registry_cannot_send_us_to_other_plain_hosts(registry: FakeRegistry) -> None:
    transport = Transport(HostRules(RegistryOptions(insecure=("r.lan:5000", "store.lan"))))
    request = Request("GET", "http://r.lan:5000/v2/x/blobs/y", "fetching", {"Authorization": "Basic x"})
    for location in ("http://169.254.169.254/latest/meta-data/", registry.origin, "http://other.lan/"):
        with pytest.raises(RegistryError) as caught:
            transport.moved(request, location)
        assert caught.value.code == "redirect-insecure"
    for location in ("http://r.lan:5001/x", "http://store.lan/x", "https://cdn.example.com/x"):
        assert "Authorization" not in transport.moved(request, location).headers
    assert "Authorization" in transport.moved(request, "/v2/x/blobs/z").headers


def test_writing_follows_no_redirect(registry: FakeRegistry, client: RegistryClient) -> None:
    with fake_registry() as thief:
        for method in ("POST", "PUT", "DELETE"):
            registry.misbehave(method, "", Answer(307, {"Location": f"{thief.origin}/v2/team/app/blobs/uploads/"}))
        sample = sample_image()
        attempts = (
            lambda: client.push_blob(_reference(registry), descriptor_of(b"x"), lambda: io.BytesIO(b"x")),
            lambda: client.put_manifest(_reference(registry), MANIFEST_OCI, sample.manifest),
            lambda: client.delete_manifest(_reference(registry)),
        )
        for attempt in attempts:
            with pytest.raises(RegistryError) as caught:
                attempt()
            assert caught.value.code == "redirect-refused"
        assert thief.seen == []


@pytest.mark.parametrize("location", [None, "", "http://[::1", "ftp://localhost/x"])
def test_an_upload_without_a_place_to_go(registry: FakeRegistry, client: RegistryClient, location: str | None) -> None:
    registry.misbehave("POST", "", Answer(202, {} if location is None else {"Location": location}))
    with pytest.raises(RegistryError):
        client.push_blob(_reference(registry), descriptor_of(b"x"), lambda: io.BytesIO(b"x"))
    assert registry.requests("PUT") == []


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        ("3", 3.5),
        ("0", 0.5),
        ("86400", 60.0),
        ("9" * 5000, 60.0),
        (email.utils.formatdate(time.time() + 1e6, usegmt=True), 60.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.5),
        ("-5", 0.5),
        ("soon", 0.5),
        ("1e9", 0.5),
        ("١", 0.5),
    ],
)
def test_waiting_is_capped(
    registry: FakeRegistry, client: RegistryClient, waits: list[float], retry_after: str, wait: float
) -> None:
    put_image(registry, "team/app", sample_image(), "v1")
    header = retry_after.encode().decode("latin-1")
    registry.misbehave("GET", "/manifests/", error(429, "TOOMANYREQUESTS", Retry_After=header), times=1)
    client.get_manifest(_reference(registry))
    assert waits == [wait]


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _tls_options(registry: FakeRegistry, authority: Authority) -> RegistryOptions:
    return RegistryOptions(certificates={registry.host: authority.pem}, retries=0)


def test_a_declared_authority_is_trusted_for_its_host(authority: Authority) -> None:
    with fake_registry(tls=authority.issue("localhost")) as registry:
        put_image(registry, "team/app", sample_image(), "v1")
        with RegistryClient(_tls_options(registry, authority)) as client:
            client.pull_image(_reference(registry), AMD64)


def test_an_unknown_authority_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    with fake_registry(tls=authority.issue("localhost")) as registry:
        with RegistryClient(_tls_options(registry, other)) as client, pytest.raises(RegistryError) as caught:
            client.resolve(_reference(registry))
        assert caught.value.code == "registry-tls"
        assert not caught.value.retryable
        assert registry.seen == []


def test_a_certificate_for_another_name_is_not_trusted(authority: Authority) -> None:
    with fake_registry(tls=authority.issue("other.example.com")) as registry:
        with RegistryClient(_tls_options(registry, authority)) as client, pytest.raises(RegistryError) as caught:
            client.resolve(_reference(registry))
        assert caught.value.code == "registry-tls"
        assert registry.seen == []


def test_verification_is_skipped_for_declared_hosts_alone(authority: Authority) -> None:
    with (
        fake_registry(tls=authority.issue("localhost")) as registry,
        fake_registry(tls=authority.issue("localhost")) as other,
    ):
        put_image(registry, "team/app", sample_image(), "v1")
        options = RegistryOptions(skip_tls_verify=(registry.host,), certificates={other.host: ""}, retries=0)
        with RegistryClient(options) as client:
            client.pull_image(_reference(registry), AMD64)
            with pytest.raises(PushwrightError):
                client.resolve(_reference(other))
        assert other.seen == []


def test_no_falling_back_to_plain_http(authority: Authority) -> None:
    with fake_registry() as plain:
        with RegistryClient(_tls_options(plain, authority)) as client, pytest.raises(RegistryError) as caught:
            client.resolve(_reference(plain))
        assert caught.value.code == "registry-tls"
        assert "insecure" in str(caught.value)
        assert plain.seen == []


def test_no_redirect_from_https_to_http(authority: Authority) -> None:
    with fake_registry() as plain, fake_registry(tls=authority.issue("localhost")) as registry:
        registry.misbehave("GET", "/blobs/", Answer(307, {"Location": f"{plain.origin}/v2/team/app/blobs/x"}))
        registry.misbehave("POST", "", Answer(202, {"Location": f"{plain.origin}/v2/team/app/blobs/uploads/x"}))
        with RegistryClient(_tls_options(registry, authority)) as client:
            with pytest.raises(RegistryError) as caught:
                client.fetch_blob(_reference(registry), descriptor_of(b"x"), lambda _: None)
            assert caught.value.code == "redirect-insecure"
            with pytest.raises(RegistryError) as caught:
                client.push_blob(_reference(registry), descriptor_of(b"x"), lambda: io.BytesIO(b"x"))
            assert caught.value.code == "redirect-insecure"
        assert plain.seen == []


def test_a_certificate_that_is_none(registry: FakeRegistry) -> None:
    for pem in ("not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        options = RegistryOptions(certificates={registry.host: pem})
        with RegistryClient(options) as client, pytest.raises(PushwrightError) as caught:
            client.resolve(_reference(registry))
        assert caught.value.code == "certificate-invalid"
