"""The client against a strict registry: what goes well, and what is tried again."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from executor.errors import (
    PushwrightError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
    StoreError,
    UsageError,
)
from executor.oci import (
    INDEX_OCI,
    MANIFEST_OCI,
    Descriptor,
    Digest,
    Index,
    Platform,
    encode_json,
)
from executor.reference import Reference
from executor.registry.client import RegistryClient
from executor.registry.retry import RetryPolicy
from executor.spec import RegistryOptions
from tests.support.images import SampleImage, descriptor_of, push_image, put_image, sample_image
from tests.support.registry import Answer, FakeRegistry, Seen, error, fake_registry

AMD64 = Platform()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as fake:
        yield fake


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the client wanted to wait."""
    return []


@pytest.fixture
def client(waits: list[float]) -> Iterator[RegistryClient]:
    with RegistryClient(RegistryOptions(), retry=RetryPolicy(sleep=waits.append, jitter=lambda: 0.5)) as made:
        yield made


def _reference(registry: FakeRegistry, rest: str = "team/app:v1") -> Reference:
    return Reference.parse(f"{registry.host}/{rest}")


def _fetch(client: RegistryClient, reference: Reference, descriptor: Descriptor) -> bytes:
    got = bytearray()
    client.fetch_blob(reference, descriptor, got.extend)
    return bytes(got)


def test_round_trip(registry: FakeRegistry, client: RegistryClient) -> None:
    sample = sample_image(b"first layer", b"second layer" * 100_000)
    reference = _reference(registry)
    assert push_image(client, reference, sample) == sample.descriptor
    assert client.resolve(reference) == sample.descriptor
    image = client.pull_image(reference, AMD64)
    assert image.manifest_bytes == sample.manifest
    layers = tuple(_fetch(client, reference, layer) for layer in image.manifest.layers)
    assert layers == sample.layers
    assert client.list_tags(reference) == ["v1"]


def test_a_blob_that_is_there_is_not_sent_again(registry: FakeRegistry, client: RegistryClient) -> None:
    reference, data = _reference(registry), b"blob"
    assert client.push_blob(reference, descriptor_of(data), lambda: io.BytesIO(data)) is True
    assert client.push_blob(reference, descriptor_of(data), lambda: io.BytesIO(data)) is False
    assert len(registry.requests("PUT")) == 1


def test_a_store_that_refuses_to_be_asked_is_sent_the_blob(registry: FakeRegistry, client: RegistryClient) -> None:
    with fake_registry() as store:
        store.misbehave("HEAD", "", error(403, "DENIED"))
        registry.misbehave("HEAD", "/blobs/", Answer(307, {"Location": f"{store.origin}/signed"}))
        assert client.push_blob(_reference(registry), descriptor_of(b"x"), lambda: io.BytesIO(b"x")) is True


def test_a_registry_that_refuses_to_be_asked(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.misbehave("HEAD", "/blobs/", error(403, "DENIED"))
    with pytest.raises(RegistryError) as caught:
        client.push_blob(_reference(registry), descriptor_of(b"x"), lambda: io.BytesIO(b"x"))
    assert caught.value.code == "registry-denied"
    assert registry.requests("POST") == []


def test_an_empty_blob(registry: FakeRegistry, client: RegistryClient) -> None:
    reference = _reference(registry)
    assert client.push_blob(reference, descriptor_of(b""), lambda: io.BytesIO(b"")) is True
    assert _fetch(client, reference, descriptor_of(b"")) == b""


def test_a_manifest_without_tag_is_put_by_its_digest(registry: FakeRegistry, client: RegistryClient) -> None:
    sample = sample_image()
    descriptor = push_image(client, _reference(registry, "team/app"), sample)
    assert client.list_tags(_reference(registry)) == []
    assert client.resolve(_reference(registry, f"team/app@{descriptor.digest}")) == descriptor


def test_a_manifest_other_than_the_reference_says_is_not_put(registry: FakeRegistry, client: RegistryClient) -> None:
    with pytest.raises(UsageError):
        client.put_manifest(_reference(registry).with_digest(Digest.of(b"other")), MANIFEST_OCI, b"{}")
    with pytest.raises(UsageError):
        client.put_manifest(_reference(registry), MANIFEST_OCI, b" " * (4 * 1024 * 1024 + 1))
    assert registry.seen == []


def test_a_manifest_before_its_blobs_is_refused_with_the_registrys_words(
    registry: FakeRegistry, client: RegistryClient
) -> None:
    with pytest.raises(RegistryNotFoundError, match=r"MANIFEST_BLOB_UNKNOWN: sha256:"):
        client.put_manifest(_reference(registry), MANIFEST_OCI, sample_image().manifest)


def test_mounting(registry: FakeRegistry, client: RegistryClient) -> None:
    digest = registry.add_blob("base/image", b"shared")
    assert client.mount_blob(_reference(registry), digest, "base/image") is True
    assert client.has_blob(_reference(registry), digest)
    assert client.mount_blob(_reference(registry), Digest.of(b"unknown"), "base/image") is False
    assert registry.open_uploads == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_refused_mount_is_a_no(
    registry: FakeRegistry, client: RegistryClient, waits: list[float], status: int
) -> None:
    registry.misbehave("POST", "mount=", error(status, "DENIED"))
    assert client.mount_blob(_reference(registry), Digest.of(b"x"), "base/image") is False
    assert waits == []


def test_a_mount_that_cannot_be_answered_now_is_tried_again(registry: FakeRegistry, client: RegistryClient) -> None:
    digest = registry.add_blob("base/image", b"shared")
    registry.misbehave("POST", "mount=", error(503, "UNAVAILABLE"), times=2)
    assert client.mount_blob(_reference(registry), digest, "base/image") is True


def test_deleting(registry: FakeRegistry, client: RegistryClient) -> None:
    reference = _reference(registry)
    digest = put_image(registry, "team/app", sample_image(), "v1")
    client.delete_manifest(reference.with_digest(digest))
    with pytest.raises(RegistryNotFoundError):
        client.resolve(reference)
    registry.misbehave("DELETE", "/manifests/", error(405, "UNSUPPORTED"))
    with pytest.raises(RegistryError) as caught:
        client.delete_manifest(reference)
    assert caught.value.code == "delete-unsupported"
    with pytest.raises(UsageError):
        client.delete_manifest(_reference(registry, "team/app"))


def test_tags_come_in_pages(registry: FakeRegistry, client: RegistryClient) -> None:
    registry.page_size = 3
    tags = [f"v{number}" for number in range(8)]
    put_image(registry, "team/app", sample_image(), *tags)
    assert client.list_tags(_reference(registry)) == tags
    assert len(registry.requests("GET", "/tags/list")) == 3


def test_resolving_without_head(registry: FakeRegistry, client: RegistryClient) -> None:
    sample = sample_image()
    put_image(registry, "team/app", sample, "v1")
    registry.misbehave("HEAD", "/manifests/", error(405, "UNSUPPORTED"), times=1)
    assert client.resolve(_reference(registry)) == sample.descriptor

    def without_digest(_: Seen, right: Answer) -> Answer:
        del right.headers["Docker-Content-Digest"]
        return right

    registry.misbehave("HEAD", "/manifests/", without_digest)
    assert client.resolve(_reference(registry)) == sample.descriptor


def test_a_tag_that_moves_between_two_questions(registry: FakeRegistry, client: RegistryClient) -> None:
    old, new = sample_image(b"old"), sample_image(b"new")
    put_image(registry, "team/app", old, "v1")
    reference = _reference(registry)
    pinned = reference.with_digest(client.resolve(reference).digest)
    put_image(registry, "team/app", new, "v1")
    assert client.pull_image(pinned, AMD64).manifest_bytes == old.manifest
    assert client.pull_image(reference, AMD64).manifest_bytes == new.manifest


def test_progress(registry: FakeRegistry) -> None:
    told: list[tuple[str, str, int, int]] = []
    data = bytes(1_000_000)
    descriptor = descriptor_of(data)
    with RegistryClient(RegistryOptions(), on_progress=lambda *event: told.append(event)) as client:
        client.push_blob(_reference(registry), descriptor, lambda: io.BytesIO(data))
        client.fetch_blob(_reference(registry), descriptor, lambda _: None)
        own: list[int] = []
        client.fetch_blob(_reference(registry), descriptor, lambda _: None, lambda done, _: own.append(done))
    item = descriptor.digest.hex[:12]
    for what in ("push", "pull"):
        counts = [done for kind, name, done, total in told if (kind, name, total) == (what, item, len(data))]
        assert counts == sorted(counts)
        assert counts[-1] == len(data)
    assert own[-1] == len(data)


def _index(registry: FakeRegistry, *entries: tuple[SampleImage, Platform | None], tag: str = "v1") -> Index:
    descriptors = []
    for image, platform in entries:
        put_image(registry, "team/app", image)
        found = image.descriptor
        descriptors.append(Descriptor(found.media_type, found.digest, found.size, platform=platform))
    index = Index(tuple(descriptors))
    registry.add_manifest("team/app", index.encode(), INDEX_OCI, tag)
    return index


def test_the_platform_is_chosen(registry: FakeRegistry, client: RegistryClient) -> None:
    amd, arm = sample_image(b"amd"), sample_image(b"arm", platform=Platform("linux", "arm64"))
    _index(registry, (amd, Platform("linux", "amd64")), (arm, Platform("linux", "arm64", "v8")))
    assert client.pull_image(_reference(registry), AMD64).manifest_bytes == amd.manifest
    assert client.pull_image(_reference(registry), Platform("linux", "arm64")).manifest_bytes == arm.manifest
    with pytest.raises(RegistryNotFoundError, match="linux/arm64/v8") as caught:
        client.pull_image(_reference(registry), Platform("linux", "s390x"))
    assert caught.value.code == "platform-not-found"


def test_variants_fall_back_downwards_only(registry: FakeRegistry, client: RegistryClient) -> None:
    v5, v6 = (sample_image(name.encode(), platform=Platform("linux", "arm", name)) for name in ("v5", "v6"))
    _index(registry, (v5, Platform("linux", "arm", "v5")), (v6, Platform("linux", "arm", "v6")))
    for wanted, expected in (("v7", v6), ("v6", v6), ("v5", v5)):
        pulled = client.pull_image(_reference(registry), Platform("linux", "arm", wanted))
        assert pulled.manifest_bytes == expected.manifest
    _index(registry, (v6, Platform("linux", "arm", "v6")), tag="new-only")
    with pytest.raises(RegistryNotFoundError):
        client.pull_image(_reference(registry, "team/app:new-only"), Platform("linux", "arm", "v5"))


def test_attestations_are_not_images(registry: FakeRegistry, client: RegistryClient) -> None:
    image, statement = sample_image(b"image"), sample_image(b"statement")
    _index(registry, (statement, Platform("unknown", "unknown")), (image, AMD64))
    assert client.pull_image(_reference(registry), AMD64).manifest_bytes == image.manifest


def test_an_index_in_an_index(registry: FakeRegistry, client: RegistryClient) -> None:
    image = sample_image()
    inner = _index(registry, (image, AMD64)).encode()
    outer = Index((Descriptor(INDEX_OCI, Digest.of(inner), len(inner)),)).encode()
    registry.add_manifest("team/app", outer, INDEX_OCI, "v1")
    assert client.pull_image(_reference(registry), AMD64).manifest_bytes == image.manifest


def test_an_entry_without_platform_is_judged_by_its_config(registry: FakeRegistry, client: RegistryClient) -> None:
    image = sample_image()
    _index(registry, (image, None))
    assert client.pull_image(_reference(registry), AMD64).manifest_bytes == image.manifest
    with pytest.raises(RegistryError) as caught:
        client.pull_image(_reference(registry), Platform("linux", "arm64"))
    assert caught.value.code == "platform-mismatch"


def test_a_broken_download_is_resumed(registry: FakeRegistry, client: RegistryClient, waits: list[float]) -> None:
    data = bytes(range(256)) * 4096
    registry.add_blob("team/app", data)

    def cut(_: Seen, right: Answer) -> Answer:
        right.headers["Content-Length"] = str(len(right.body))
        right.cut_after = 300_000
        return right

    registry.misbehave("GET", "/blobs/", cut, times=2)
    assert _fetch(client, _reference(registry), descriptor_of(data)) == data
    ranges = [item.headers.get("range") for item in registry.requests("GET", "/blobs/")]
    assert ranges == [None, "bytes=300000-", "bytes=600000-"]
    assert len(waits) == 2


def test_a_download_that_gets_on_is_not_counted_as_failing(
    registry: FakeRegistry, client: RegistryClient, waits: list[float]
) -> None:
    data = bytes(10 * 1024 * 1024)
    registry.add_blob("team/app", data)

    def cut(_: Seen, right: Answer) -> Answer:
        right.headers["Content-Length"] = str(len(right.body))
        right.cut_after = 1024 * 1024
        return right

    registry.misbehave("GET", "/blobs/", cut)
    assert _fetch(client, _reference(registry), descriptor_of(data)) == data
    # more breaks than there are retries, and never a longer wait
    assert waits == [0.5] * 9


def test_a_server_that_ignores_ranges_is_read_from_the_start(registry: FakeRegistry, client: RegistryClient) -> None:
    data = bytes(range(256)) * 1000
    registry.add_blob("team/app", data)

    def cut_then_whole(seen: Seen, right: Answer) -> Answer:
        cut_after = None if "range" in seen.headers else 1000
        return Answer(200, {"Content-Length": str(len(data))}, data, cut_after=cut_after)

    registry.misbehave("GET", "/blobs/", cut_then_whole)
    assert _fetch(client, _reference(registry), descriptor_of(data)) == data


def test_failing_is_not_for_ever(registry: FakeRegistry, client: RegistryClient, waits: list[float]) -> None:
    registry.misbehave("GET", "", error(503, "UNAVAILABLE", "come back later"))
    with pytest.raises(RegistryUnavailableError, match=r"503 .*come back later") as caught:
        client.get_manifest(_reference(registry))
    assert caught.value.retryable
    assert waits == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(registry: FakeRegistry, client: RegistryClient, status: int) -> None:
    put_image(registry, "team/app", sample_image(), "v1")
    registry.misbehave("GET", "/manifests/", error(status, "UNKNOWN"), times=3)
    client.get_manifest(_reference(registry))
    assert len(registry.requests("GET", "/manifests/")) == 4


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 501])
def test_lasting_refusals_are_not_tried_again(
    registry: FakeRegistry, client: RegistryClient, waits: list[float], status: int
) -> None:
    registry.misbehave("GET", "/manifests/", error(status, "DENIED"))
    with pytest.raises(RegistryError) as caught:
        client.get_manifest(_reference(registry))
    assert not caught.value.retryable
    assert waits == []


def test_no_retries_when_none_are_wanted(registry: FakeRegistry) -> None:
    registry.misbehave("GET", "", error(500, "UNKNOWN"))
    with RegistryClient(RegistryOptions(retries=0)) as client, pytest.raises(RegistryUnavailableError):
        client.get_manifest(_reference(registry))
    assert len(registry.seen) == 1


def test_a_failing_upload_is_begun_anew(registry: FakeRegistry, client: RegistryClient) -> None:
    data, opened = bytes(500_000), []

    def open_stream() -> io.BytesIO:
        opened.append(io.BytesIO(data))
        return opened[-1]

    registry.misbehave("PUT", "/blobs/uploads/", error(500, "UNKNOWN"), times=1)
    assert client.push_blob(_reference(registry), descriptor_of(data), open_stream)
    assert registry.blobs["team/app"][Digest.of(data)] == data
    assert len(opened) == 2
    assert all(stream.closed for stream in opened)


def test_an_upload_that_arrived_although_the_answer_was_lost(registry: FakeRegistry, client: RegistryClient) -> None:
    data = b"arrived"
    registry.misbehave("PUT", "/blobs/uploads/", lambda _, right: error(502, "UNKNOWN"), times=1)
    client.push_blob(_reference(registry), descriptor_of(data), lambda: io.BytesIO(data))
    assert len(registry.requests("PUT")) == 1


def test_a_source_that_fails_is_not_the_registrys_fault(
    registry: FakeRegistry, client: RegistryClient, waits: list[float]
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    for stream, expected in ((Broken(), "Input/output error"), (io.BytesIO(b"short"), "found 5")):
        with pytest.raises(StoreError, match=expected):
            client.push_blob(_reference(registry), Descriptor("x", Digest.of(b"?"), 100), lambda stream=stream: stream)  # type: ignore[misc]
    assert waits == []
    assert "team/app" not in registry.blobs


def test_what_the_caller_raises_passes_through(registry: FakeRegistry, client: RegistryClient) -> None:
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    put_image(registry, "team/app", sample_image(), "v1")
    layer = descriptor_of(b"a layer")
    with pytest.raises(Stop):
        client.fetch_blob(_reference(registry), layer, stop)
    with pytest.raises(Stop):
        client.push_blob(_reference(registry, "other"), layer, lambda: io.BytesIO(b"a layer"), stop)
    assert _fetch(client, _reference(registry), layer) == b"a layer"


def test_nobody_is_there(client: RegistryClient, waits: list[float]) -> None:
    with fake_registry() as gone:
        reference = _reference(gone)
    with pytest.raises(RegistryUnavailableError, match="Connection refused") as caught:
        client.resolve(reference)
    assert gone.host in str(caught.value)
    assert "0x" not in str(caught.value)
    assert len(waits) == 4


def test_connections_are_used_again_and_are_few(registry: FakeRegistry, client: RegistryClient) -> None:
    put_image(registry, "team/app", sample_image(), "v1")
    reference = _reference(registry)
    busy, most, lock = [0], [0], threading.Lock()
    all_in = threading.Event()

    def count(_: Seen, right: Answer) -> Answer:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
            if busy[0] == 8:
                all_in.set()
        all_in.wait(10)
        with lock:
            busy[0] -= 1
        return right

    registry.misbehave("GET", "/manifests/", count)
    with ThreadPoolExecutor(20) as pool:
        assert len({found.digest for found, _ in pool.map(lambda _: client.get_manifest(reference), range(40))}) == 1
    assert most[0] == 8
    assert registry.connections == 8


def test_one_thread_needs_one_connection(registry: FakeRegistry, client: RegistryClient) -> None:
    sample = sample_image()
    push_image(client, _reference(registry), sample)
    client.pull_image(_reference(registry), AMD64)
    with pytest.raises(PushwrightError):
        client.get_manifest(_reference(registry, "nothing:here"))
    assert client.list_tags(_reference(registry)) == ["v1"]
    assert registry.connections == 1


def test_mirrors_are_asked_first(registry: FakeRegistry, waits: list[float]) -> None:
    sample = sample_image()
    put_image(registry, "hub/library/app", sample, "v1")
    with fake_registry() as empty, fake_registry() as away:
        away.misbehave("GET", "", error(500, "UNKNOWN"))
        options = RegistryOptions(mirrors=(away.host, empty.host, f"{registry.host}/hub"), skip_default_fallback=True)
        with RegistryClient(options, retry=RetryPolicy(sleep=waits.append)) as client:
            reference = Reference.parse("app:v1")
            image = client.pull_image(reference, AMD64)
            assert _fetch(client, reference, image.manifest.layers[0]) == sample.layers[0]
        assert image.manifest_bytes == sample.manifest
        # what a tag stands for is asked in order; the rest comes from where it was answered
        assert [item.path for item in empty.seen] == ["/v2/library/app/manifests/v1"]
        assert {item.path for item in away.seen} == {"/v2/library/app/manifests/v1"}


def test_the_last_places_refusal_is_the_answer(registry: FakeRegistry) -> None:
    with fake_registry() as mirror:
        options = RegistryOptions(maps={registry.host: (mirror.host,)})
        with RegistryClient(options) as client, pytest.raises(RegistryNotFoundError) as caught:
            client.resolve(_reference(registry))
    assert registry.host in str(caught.value)


def test_pushing_and_direct_questions_pass_mirrors_by(registry: FakeRegistry) -> None:
    sample = sample_image()
    with fake_registry() as mirror:
        with RegistryClient(RegistryOptions(maps={registry.host: (mirror.host,)})) as client:
            push_image(client, _reference(registry), sample)
            client.mount_blob(_reference(registry), Digest.of(b"?"), "x")
            assert client.list_tags(_reference(registry)) == ["v1"]
            assert client.resolve(_reference(registry), direct=True) == sample.descriptor
            assert client.get_manifest(_reference(registry), direct=True)[1] == sample.manifest
        assert mirror.seen == []


def test_the_environment_has_no_part(
    registry: FakeRegistry, client: RegistryClient, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    put_image(registry, "team/app", sample_image(), "v1")
    with fake_registry() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
        netrc = f"{tmp_path}/netrc"
        with open(netrc, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write("machine localhost login eve password planted\n")
        monkeypatch.setenv("NETRC", netrc)
        client.resolve(_reference(registry))
        assert proxy.seen == []
    assert [item.authorization for item in registry.seen] == [None]


@pytest.mark.parametrize("name", ["http", "http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_is_given_is_used(registry: FakeRegistry, name: str) -> None:
    sample = sample_image()
    put_image(registry, "team/app", sample, "v1")
    registry.misbehave("HEAD", "^http://plain.example.com/", lambda _, __: registry.get_manifest("team/app", "v1"))
    options = RegistryOptions(insecure=("plain.example.com",))
    with RegistryClient(options, proxies={name: registry.origin}) as client:
        assert client.resolve(Reference.parse("plain.example.com/team/app:v1")) == sample.descriptor


def test_what_is_sent_with_every_request(registry: FakeRegistry, client: RegistryClient) -> None:
    put_image(registry, "team/app", sample_image(), "v1")
    client.pull_image(_reference(registry), AMD64)
    for seen in registry.seen:
        assert seen.headers["user-agent"].startswith("pushwright/")
        assert seen.headers["accept-encoding"] == "identity"
        assert "cookie" not in seen.headers


def test_unknown_fields_in_an_error_body_do_no_harm(registry: FakeRegistry, client: RegistryClient) -> None:
    bodies = [b"", b"<html>", b"[]", b'{"errors": 1}', b'{"errors": [1, {"code": 2}]}', b"[" * 50_000, b"\xff" * 100]
    for body in bodies:
        registry.misbehave("HEAD", "", Answer(404, {}, body), times=1)
        registry.misbehave("GET", "", Answer(404, {}, body), times=1)
        with pytest.raises(RegistryNotFoundError):
            client.get_manifest(_reference(registry))


def test_an_error_body_cannot_write_on_a_terminal(registry: FakeRegistry, client: RegistryClient) -> None:
    body = encode_json({"errors": [{"code": "DENIED\x1b[2J", "message": "a\nb\r" + "x" * 100_000}] * 100})
    registry.misbehave("GET", "", Answer(403, {}, body))
    with pytest.raises(RegistryError) as caught:
        client.get_manifest(_reference(registry))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 2000
