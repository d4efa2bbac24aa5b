"""Whole builds by the real executor, against a real registry, read back by independent tools."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Bench
from tests.support.executor_run import write_context

MULTI_STAGE = """\
ARG BASE=busybox:stable
FROM $BASE AS build
ARG WHO=world
WORKDIR /work
COPY src/ .
RUN echo "built for $WHO" > out.txt && rm a.c && mkdir empty
FROM busybox:stable AS unused
RUN exit 9
FROM busybox:stable
LABEL purpose=test
ENV GREETING="hello $PATH"
COPY --from=build --chown=app:2000 /work /app/
USER app
WORKDIR /home/app
RUN touch mine && rm /etc/group 2>/dev/null || true
EXPOSE 80 443/udp
ENTRYPOINT ["/bin/cat"]
CMD ["/app/out.txt"]
"""


def _layers(layout: Path, result: dict[str, Any]) -> list[tarfile.TarFile]:
    manifest = json.loads(result["manifest"])
    blobs = layout / "blobs" / "sha256"
    return [tarfile.open(blobs / layer["digest"][7:], "r:gz") for layer in manifest["layers"]]


def _skopeo_config(host: str, name: str) -> dict[str, Any]:
    text = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--config", f"docker://{host}/{name}"],
        capture_output=True,
        check=True,
    ).stdout
    found: dict[str, Any] = json.loads(text)
    return found


def test_multi_stage_build_is_pushed_and_read_back_by_skopeo(bench: Bench, tmp_path: Path) -> None:
    done = bench.build(
        MULTI_STAGE,
        "-d",
        f"{bench.host}/team/app:1",
        "--build-arg",
        "WHO=tests",
        "--label",
        "from=flag",
        "--oci-layout-path",
        tmp_path / "layout",
        "--digest-file",
        tmp_path / "digest",
        files={"src/a.c": "int x;", "src/sub/b.txt": "b"},
    )
    assert done.status == 0, done.events[-1]
    assert (tmp_path / "digest").read_text() == done.result["digest"]
    config = _skopeo_config(bench.host, "team/app:1")
    assert config["config"]["Labels"] == {"from": "flag", "purpose": "test"}
    assert config["config"]["User"] == "app"
    assert config["config"]["WorkingDir"] == "/home/app"
    assert config["config"]["Entrypoint"] == ["/bin/cat"]
    assert config["config"]["Cmd"] == ["/app/out.txt"]
    assert sorted(config["config"]["ExposedPorts"]) == ["443/udp", "80/tcp"]
    greeting = "hello /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert f"GREETING={greeting}" in config["config"]["Env"]
    assert not any(event.get("stage") == "unused" for event in done.events)
    described = [line for line in config["history"] if not line.get("empty_layer")]
    assert len(described) == len(config["rootfs"]["diff_ids"])

    copied, home, run = _layers(tmp_path / "layout", done.result)[-3:]
    assert {item.name: (item.uid, item.gid) for item in copied} == {
        "app": (1000, 2000),
        "app/empty": (1000, 2000),
        "app/out.txt": (1000, 2000),
        "app/sub": (1000, 2000),
        "app/sub/b.txt": (1000, 2000),
    }
    assert copied.extractfile("app/out.txt").read() == b"built for tests\n"  # type: ignore[union-attr]
    assert [(item.name, item.uid) for item in home] == [("home", 1000), ("home/app", 1000)]
    # not owned by the user, so it could not be removed: and nothing of the step's mounts is in the layer
    assert [item.name for item in run] == ["home", "home/app", "home/app/mine"]


def test_every_layer_s_diff_id_is_that_of_its_bytes(bench: Bench, tmp_path: Path) -> None:
    import gzip
    import hashlib

    done = bench.build(
        "FROM busybox:stable\nRUN echo 1 > /one\nRUN rm /one /bin/vi && echo 2 > /two\n",
        "--no-push",
        "--oci-layout-path",
        tmp_path / "layout",
    )
    manifest = json.loads(done.result["manifest"])
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        data = (blobs / layer["digest"][7:]).read_bytes()
        assert len(data) == layer["size"]
        assert hashlib.sha256(data).hexdigest() == layer["digest"][7:]
        assert hashlib.sha256(gzip.decompress(data)).hexdigest() == diff_id[7:]


def test_removed_files_become_whiteouts_and_replaced_directories_too(bench: Bench, tmp_path: Path) -> None:
    done = bench.build(
        "FROM busybox:stable\n"
        "RUN mkdir -p /d/sub && echo a > /d/a && echo b > /d/sub/b && echo f > /file && mkdir /gone && touch /gone/x\n"
        "RUN rm /d/a && rm -r /gone && rm -r /d/sub && mkdir /d/sub && echo c > /d/sub/c && rm /file && mkdir /file\n",
        "--no-push",
        "--oci-layout-path",
        tmp_path / "layout",
    )
    last = _layers(tmp_path / "layout", done.result)[-1]
    assert sorted(item.name for item in last) == [
        ".wh.gone",
        "d",
        "d/.wh.a",
        "d/sub",
        "d/sub/.wh.b",
        "d/sub/c",
        "file",
    ]


def test_a_step_s_mount_points_are_not_in_a_layer(bench: Bench, tmp_path: Path) -> None:
    done = bench.build(
        'FROM scratch\nCOPY --from=busybox:stable /bin/busybox /busybox\nRUN ["/busybox", "touch", "/made"]\n',
        "--no-push",
        "--oci-layout-path",
        tmp_path / "layout",
    )
    names = [item.name for item in _layers(tmp_path / "layout", done.result)[-1]]
    # /dev, /proc and /sys stay, as BuildKit leaves them; /etc with its two files does not
    assert names == ["dev", "made", "proc", "sys"]


def test_umoci_unpacks_what_was_built(bench: Bench, tmp_path: Path) -> None:
    done = bench.build(
        "FROM busybox:stable\nRUN mkdir /x && echo hi > /x/y && ln /x/y /x/z && chown 3:4 /x/y && chmod 4755 /x/y\n"
        "RUN rm /bin/vi\n",
        "--no-push",
        "-d",
        "example.com/x:tag",
        "--oci-layout-path",
        tmp_path / "layout",
    )
    assert done.status == 0
    subprocess.run(
        ["skopeo", "copy", f"oci:{tmp_path}/layout", f"oci:{tmp_path}/named:tag"], check=True, capture_output=True
    )
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{tmp_path}/named:tag", str(tmp_path / "bundle")],
        check=True,
        capture_output=True,
    )
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "x" / "z").read_text() == "hi\n"
    assert (root / "x" / "y").stat().st_ino == (root / "x" / "z").stat().st_ino
    assert (root / "x" / "y").stat().st_mode & 0o7777 == 0o4755
    assert (root / "bin" / "ls").is_symlink()
    assert not (root / "bin" / "vi").is_symlink()


def test_the_same_base_is_unpacked_once(bench: Bench) -> None:
    first = bench.build("FROM busybox:stable\nRUN true\n", "--no-push")
    trees = sorted((bench.data / "store" / "unpacked").rglob("complete"))
    second = bench.build("FROM busybox:stable\nRUN true\n", "--no-push")
    assert first.status == second.status == 0
    assert sorted((bench.data / "store" / "unpacked").rglob("complete")) == trees
    assert not any(event["type"] == "step-progress" for event in second.events)
    assert list((bench.data / "store" / "work").iterdir()) == []


def test_reproducible_builds_have_one_digest(bench: Bench, tmp_path: Path) -> None:
    dockerfile = "FROM busybox:stable\nCOPY a /a\nRUN mkdir /z && echo 1 > /z/b && echo 2 > /z/a\n"
    digests = set()
    for number in range(2):
        done = bench.build(dockerfile, "--no-push", "--reproducible", files={"a": "same"})
        digests.add(done.result["digest"])
        (bench.contexts / "another").mkdir(exist_ok=True) if number == 0 else None
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("dockerfile", "code", "line", "said"),
    [
        ("FROM busybox:stable\nRUNN x\n", "dockerfile-syntax", 2, "RUN"),
        ("FROM busybox:stable\nCOPY nothing /x\n", "copy-source-missing", 2, "'nothing'"),
        ("FROM busybox:stable\nCOPY ../../etc/passwd /x\n", "copy-source-missing", 2, "passwd"),
        ("FROM busybox:stable\nUSER nobody-here\nRUN true\n", "user-unknown", 3, "nobody-here"),
        ("FROM busybox:stable\nRUN --mount=type=ssh true\n", "dockerfile-unsupported", 2, "--mount"),
        ("FROM no-such-image:1\n", "registry-not-found", 1, "no-such-image"),
        ("FROM busybox:stable\n\nRUN echo out; echo err >&2; exit 42\n", "run-failed", 3, "42"),
        ('FROM busybox:stable\nRUN ["/no/such"]\n', "run-not-started", 2, "/no/such"),
    ],
)
def test_user_errors_name_the_line_and_what_was_expected(
    bench: Bench, dockerfile: str, code: str, line: int, said: str
) -> None:
    done = bench.build(dockerfile, "--no-push", "--skip-default-registry-fallback")
    assert done.error["code"] == code, done.error
    assert (done.error["file"], done.error["line"]) == ("Dockerfile", line)
    assert said in done.error["message"] + done.error.get("hint", "")
    assert done.status == (4 if code.startswith("registry") else 1)
    assert "Traceback" not in done.stderr
    assert list((bench.data / "store" / "work").iterdir()) == []


def test_a_failing_run_gives_its_status_and_last_lines(bench: Bench) -> None:
    done = bench.build("FROM busybox:stable\nRUN seq 100; echo last >&2; exit 7\n", "--no-push")
    assert done.error["status"] == 7
    assert done.error["tail"][-1] == "last" or done.error["tail"][-1] == "100"
    assert "99" in done.error["tail"]
    assert "1\n2\n3\n" in done.output("stdout")


def test_run_sees_home_path_and_umask_of_its_user(bench: Bench) -> None:
    done = bench.build(
        'FROM busybox:stable\nUSER app\nRUN echo "$HOME $(umask) $(id -u):$(id -g) $(id -G) $(pwd) $(hostname)"; '
        "echo to-stdout > /dev/stdout; echo to-stderr > /dev/stderr\n",
        "--no-push",
    )
    assert "/home/app 0022 1000:1000 1000 2000 / buildkitsandbox\n" in done.output("stdout")
    assert "to-stdout\n" in done.output("stdout")
    assert "to-stderr\n" in done.output("stderr")


def test_output_over_the_limit_is_dropped_and_said(bench: Bench) -> None:
    done = bench.build("FROM busybox:stable\nRUN yes aaaaaaaaaaaaaaa | head -c 100000000; echo end\n", "--no-push")
    assert done.status == 0
    assert 60_000_000 < len(done.output()) < 70_000_000
    assert "over the limit" in done.output()[-200:]


def test_ignored_files_are_not_copied(bench: Bench, tmp_path: Path) -> None:
    done = bench.build(
        "FROM scratch\nCOPY . /\n",
        "--no-push",
        "--oci-layout-path",
        tmp_path / "layout",
        files={".dockerignore": "secret\n**/*.o\n!keep.o\n", "secret/key": "k", "a.o": "", "keep.o": "", "d/b.o": ""},
    )
    (layer,) = _layers(tmp_path / "layout", done.result)
    assert [item.name for item in layer] == [".dockerignore", "Dockerfile", "d", "keep.o"]


def test_a_context_that_only_its_owner_may_read_is_built(bench: Bench, tmp_path: Path) -> None:
    context = write_context(tmp_path / "closed", "FROM scratch\nCOPY key run /d/\n", {"key": "k", "run": "r"})
    (context / "key").chmod(0o600)
    (context / "run").chmod(0o4755)
    context.chmod(0o700)
    done = bench.build_in(context, "--no-push", "--oci-layout-path", tmp_path / "layout")
    assert done.status == 0, done.events[-1]
    (layer,) = _layers(tmp_path / "layout", done.result)
    assert {item.name: (item.mode, item.uid) for item in layer if item.isfile()} == {
        "d/key": (0o600, 0),
        "d/run": (0o4755, 0),
    }
    assert list((bench.data / "store" / "work").iterdir()) == []


def test_docker_archive_has_what_docker_load_reads(bench: Bench, tmp_path: Path) -> None:
    done = bench.build(
        "FROM busybox:stable\nRUN true\n", "--no-push", "-d", "team/app:1", "--tar-path", tmp_path / "image.tar"
    )
    assert done.status == 0
    inspected = subprocess.run(
        ["skopeo", "inspect", f"docker-archive:{tmp_path}/image.tar"], check=True, capture_output=True
    ).stdout
    assert len(json.loads(inspected)["Layers"]) == len(json.loads(done.result["manifest"])["layers"])
    with tarfile.open(tmp_path / "image.tar") as archive:
        described = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert described[0]["RepoTags"] == ["team/app:1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--destination"),
        (("--no-push", "--build-arg", "=x"), "--build-arg"),
        (("--no-push", "--platform", "linux"), "platform"),
        (("-d", "UPPER/case:1"), "UPPER"),
    ],
)
def test_bad_usage_is_told(bench: Bench, arguments: tuple[str, ...], said: str) -> None:
    done = bench.build("FROM scratch\nCOPY Dockerfile /\n", *arguments)
    told = done.stderr + (done.events[-1]["message"] if done.events else "")
    assert done.status in {2, 4}
    assert said in told
