"""What a Dockerfile of BuildKit's language does beyond its oldest instructions, built by the real executor."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Bench
from tests.support.executor_run import Ended

SECRET = "planted-secret-71c0"


def _last_layer(layout: Path, done: Ended) -> tarfile.TarFile:
    layer = json.loads(done.result["manifest"])["layers"][-1]
    return tarfile.open(layout / "blobs" / "sha256" / layer["digest"][7:], "r:gz")


def _everything(layout: Path) -> bytes:
    """Every byte of an image: manifest, config and layers, unpacked."""
    found = b""
    for blob in (layout / "blobs" / "sha256").iterdir():
        data = blob.read_bytes()
        found += gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return found


class TestHeredocs:
    def test_a_run_heredoc_is_the_text_for_the_shell(self, bench: Bench) -> None:
        done = bench.build('FROM busybox:stable\nRUN <<EOF\nX=1\nfalse\necho "got $X"\nEOF\n', "--no-push")
        assert done.status == 0, done.events[-1]
        assert done.output() == "got 1\n"

    def test_a_script_runs_by_its_own_interpreter_and_is_not_in_the_image(self, bench: Bench, tmp_path: Path) -> None:
        done = bench.build(
            'FROM busybox:stable\nRUN <<script\n#!/bin/awk -f\nBEGIN { print "awk here" }\nscript\n',
            "--no-push",
            "--oci-layout-path",
            tmp_path,
        )
        assert done.status == 0, done.events[-1]
        assert done.output() == "awk here\n"
        assert b"awk here" not in b"".join(
            _last_layer(tmp_path, done).extractfile(item).read()  # type: ignore[union-attr]
            for item in _last_layer(tmp_path, done)
            if item.isfile()
        )

    def test_several_heredocs_go_to_the_shell(self, bench: Bench) -> None:
        done = bench.build("FROM busybox:stable\nRUN cat <<A && cat <<-B\none\nA\n\ttwo\nB\n", "--no-push")
        assert done.output() == "one\ntwo\n"

    def test_copied_heredocs_are_expanded_unless_quoted(self, bench: Bench, tmp_path: Path) -> None:
        done = bench.build(
            "FROM scratch\nARG WHO=me\nCOPY --chmod=640 --chown=5:6 <<plain <<'quoted' /d/\n"
            "for $WHO ${NOT:-none}\nplain\nfor $WHO\nquoted\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
        )
        assert done.status == 0, done.events[-1]
        layer = _last_layer(tmp_path, done)
        read: dict[str, Any] = {item.name: layer.extractfile(item).read() for item in layer if item.isfile()}  # type: ignore[union-attr]
        assert read == {"d/plain": b"for me none\n", "d/quoted": b"for $WHO\n"}
        assert {(item.mode, item.uid, item.gid) for item in layer if item.isfile()} == {(0o640, 5, 6)}


class TestCopyFlags:
    def test_link_ignores_what_is_below(self, bench: Bench, tmp_path: Path) -> None:
        done = bench.build(
            "FROM busybox:stable\nRUN mkdir -m 700 /real && ln -s real /dir\nCOPY --link a /dir/a\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
            files={"a": "a"},
        )
        assert done.status == 0, done.events[-1]
        layer = _last_layer(tmp_path, done)
        assert [(item.name, item.mode, item.isdir()) for item in layer] == [
            ("dir", 0o755, True),
            ("dir/a", 0o644, False),
        ]

    def test_excluded_files_stay_behind(self, bench: Bench, tmp_path: Path) -> None:
        done = bench.build(
            "FROM scratch\nCOPY --exclude=*.md --exclude=sub/*.txt d /d\nCOPY --exclude=*.md *.* /e/\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
            files={"d/a.md": "", "d/b": "", "d/sub/c.txt": "", "d/sub/d.md": "", "x.md": "", "y.txt": ""},
        )
        assert done.status == 0, done.events[-1]
        assert [item.name for item in _last_layer(tmp_path, done)] == ["e", "e/y.txt"]
        first = json.loads(done.result["manifest"])["layers"][0]
        with tarfile.open(tmp_path / "blobs" / "sha256" / first["digest"][7:], "r:gz") as layer:
            assert [item.name for item in layer] == ["d", "d/b", "d/sub", "d/sub/d.md"]

    def test_symbolic_modes_are_applied_to_each_entry(self, bench: Bench, tmp_path: Path) -> None:
        done = bench.build(
            "FROM scratch\nCOPY --chmod=u=rwX,go=rX,o-r d /d\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
            files={"d/sub/f": ""},
        )
        assert done.status == 0, done.events[-1]
        modes = {item.name: oct(item.mode) for item in _last_layer(tmp_path, done)}
        assert modes == {"d": "0o755", "d/sub": "0o751", "d/sub/f": "0o640"}


def _archive(compression: str = "", *members: tuple[str, bytes, int]) -> bytes:
    """A tar of files (name, content, mode) of owner 7:8, and of a link that leads out."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content, mode in members or (("d/f", b"content", 0o640),):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), mode, 7, 8
            archive.addfile(entry, io.BytesIO(content))
    data = stream.getvalue()
    return {"": data, "gz": gzip.compress(data), "bz2": bz2.compress(data), "xz": lzma.compress(data)}[compression]


class TestAdd:
    @pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
    def test_an_archive_is_unpacked_whatever_its_name(self, bench: Bench, tmp_path: Path, compression: str) -> None:
        done = bench.build(
            "FROM scratch\nADD what plain.tar /x/\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
            files={"what": _archive(compression), "plain.tar": "no archive"},
        )
        assert done.status == 0, done.events[-1]
        found = {item.name: (item.uid, item.gid, item.mode) for item in _last_layer(tmp_path, done)}
        assert found["x/d/f"] == (7, 8, 0o640)
        assert found["x/plain.tar"] == (0, 0, 0o644)
        assert "x/what" not in found

    def test_flags_of_add(self, bench: Bench, tmp_path: Path) -> None:
        done = bench.build(
            "FROM scratch\nADD --unpack=false a.tar /kept/\nADD --chown=1:2 --chmod=600 a.tar /x\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
            files={"a.tar": _archive()},
        )
        assert done.status == 0, done.events[-1]
        found = {item.name: (item.uid, item.gid, item.mode) for item in _last_layer(tmp_path, done)}
        assert found["x/d/f"] == (1, 2, 0o600)
        assert "kept/a.tar" not in found

    @pytest.mark.parametrize("name", ["../planted", "/../../planted", "link/planted"])
    def test_an_archive_cannot_leave_its_destination(self, bench: Bench, tmp_path: Path, name: str) -> None:
        planted = tmp_path / "planted"
        planted.write_text(SECRET)
        done = bench.build(
            f"FROM busybox:stable\nRUN mkdir /x && ln -s {tmp_path} /x/link\nADD a.tar /x/\n",
            "--no-push",
            files={"a.tar": _archive("", (name, b"overwritten", 0o644))},
        )
        assert done.status in {0, 1}
        assert planted.read_text() == SECRET

    def test_a_truncated_archive_is_an_error_of_its_author(self, bench: Bench) -> None:
        data = _archive("gz", *((f"f{number}", os.urandom(3000), 0o644) for number in range(40)))
        done = bench.build("FROM scratch\nADD a.tgz /\n", "--no-push", files={"a.tgz": data[: len(data) // 2]})
        assert done.status == 1, done.events[-1]
        assert done.error["fixable_by"] == "user"
        assert (done.error["file"], done.error["line"]) == ("Dockerfile", 2)

    @pytest.mark.parametrize("source", ["https://example.com/x", "git@example.com:a/b.git", "$URL"])
    def test_remote_sources_are_refused_by_name(self, bench: Bench, source: str) -> None:
        done = bench.build(f"FROM scratch\nARG URL=http://example.com/x\nADD {source} /x\n", "--no-push")
        assert (done.error["code"], done.error["line"]) == ("dockerfile-unsupported", 3)


class TestMounts:
    def test_a_secret_is_there_for_its_step_only(self, bench: Bench, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        done = bench.build(
            "FROM busybox:stable\n"
            "RUN --mount=type=secret,id=key,required --mount=type=secret,id=key,env=KEY,target=/k,mode=0440,uid=7 \\\n"
            '    test "$(cat /run/secrets/key)" = "$KEY" && stat -c "%a %u" /k && cat /k \\\n'
            '    && echo "$KEY" > /tmp/x && rm /tmp/x\n'
            "RUN ls /run/secrets /k 2>&1; env | grep -c KEY; true\n",
            "--no-push",
            "--secret",
            f"id=key,src={secret}",
            "--oci-layout-path",
            tmp_path / "layout",
        )
        assert done.status == 0, done.events[-1]
        assert "440 7\n" in done.output()
        assert done.output().endswith("\n0\n")
        assert "No such file" in done.output()
        assert SECRET not in json.dumps(done.events)
        assert SECRET.encode() not in _everything(tmp_path / "layout")
        store = b"".join(path.read_bytes() for path in (bench.data / "store").rglob("*") if path.is_file())
        assert SECRET.encode() not in store

    def test_a_secret_that_is_required_and_not_given(self, bench: Bench) -> None:
        done = bench.build("FROM busybox:stable\nRUN --mount=type=secret,id=key,required true\n", "--no-push")
        assert (done.error["code"], done.error["line"]) == ("secret-missing", 2)
        assert bench.build("FROM busybox:stable\nRUN --mount=type=secret,id=key true\n", "--no-push").status == 0

    def test_binds_of_context_stage_and_image(self, bench: Bench, tmp_path: Path) -> None:
        done = bench.build(
            "FROM busybox:stable AS other\nRUN mkdir /o && echo from-stage > /o/f\n"
            "FROM busybox:stable\nWORKDIR /w\n"
            "RUN --mount=target=ctx --mount=from=other,source=/o,target=/s \\\n"
            "    --mount=from=busybox:stable,source=/bin,target=/b --mount=source=one,target=/single,rw \\\n"
            "    cat ctx/one /s/f /single && ls /b/busybox && ls -ln ctx/one \\\n"
            "    && ! touch ctx/x && ! touch /s/x && echo changed > /single && cat /single && ls ctx\n"
            "RUN ls -A /w; ls /s /single 2>&1; true\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
            files={"one": "from-context\n", "ignored": "", ".dockerignore": "ignored\n"},
        )
        assert done.status == 0, (done.events[-1], done.output())
        said = done.output()
        assert said.startswith("from-context\nfrom-stage\nfrom-context\n")
        assert " 0        0 " in said
        assert "changed\n" in said
        assert "ignored" not in said
        # mount points are gone, and with them whatever was written below
        assert said.count("No such file") == 2
        assert (bench.contexts.parent / "contexts").exists()
        assert [item.name for item in _last_layer(tmp_path, done)] == []

    def test_writes_to_a_stage_s_bind_are_discarded(self, bench: Bench) -> None:
        done = bench.build(
            "FROM busybox:stable AS other\nRUN mkdir /o && echo 1 > /o/f\nFROM busybox:stable\n"
            "RUN --mount=from=other,source=/o,target=/s,rw echo 2 > /s/f && cat /s/f\n"
            "COPY --from=other /o/f /f\nRUN cat /f\n",
            "--no-push",
        )
        assert done.output() == "2\n1\n"

    def test_tmpfs_is_empty_bounded_and_gone(self, bench: Bench, tmp_path: Path) -> None:
        done = bench.build(
            "FROM busybox:stable\nRUN --mount=type=tmpfs,target=/t/deep,size=1m ls -A /t/deep; "
            "dd if=/dev/zero of=/t/deep/x bs=1M count=4 2>&1 | grep -c space; stat -c %a /t/deep\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
        )
        assert done.output() == "1\n1777\n"
        assert [item.name for item in _last_layer(tmp_path, done)] == []

    def test_a_cache_survives_builds_and_is_not_in_the_image(self, bench: Bench, tmp_path: Path) -> None:
        dockerfile = (
            "FROM busybox:stable\nRUN --mount=type=cache,target=/c,id=survives,uid=9,mode=0750 "
            "stat -c '%a %u' /c; cat /c/n 2>/dev/null; echo more >> /c/n\n"
        )
        assert bench.build(dockerfile, "--no-push").output() == "750 9\n"
        done = bench.build(dockerfile, "--no-push", "--oci-layout-path", tmp_path)
        assert done.output() == "750 9\nmore\n"
        assert [item.name for item in _last_layer(tmp_path, done)] == []

    def test_a_cache_begins_with_what_it_is_made_from(self, bench: Bench) -> None:
        done = bench.build(
            "FROM busybox:stable AS seed\nRUN mkdir /s && echo seed > /s/f\nFROM busybox:stable\n"
            "RUN --mount=type=cache,target=/c,id=seeded,from=seed,source=/s cat /c/f && echo changed > /c/f\n"
            "RUN --mount=type=cache,target=/c,id=seeded,from=seed,source=/s cat /c/f\n",
            "--no-push",
        )
        assert done.output() == "seed\nchanged\n"

    @pytest.mark.parametrize("cache_id", ["../../../../planted", "/etc", "a/../../b"])
    def test_a_cache_id_is_never_a_path(self, bench: Bench, cache_id: str) -> None:
        planted = bench.data / "planted"
        planted.mkdir(exist_ok=True)
        done = bench.build(
            f"FROM busybox:stable\nRUN --mount=type=cache,target=/c,id={cache_id} ls -A /c; touch /c/mark\n",
            "--no-push",
        )
        assert done.status == 0
        assert done.output() == ""
        assert list(planted.iterdir()) == []

    def test_locked_caches_are_used_one_after_the_other(self, bench: Bench) -> None:
        dockerfile = (
            "FROM busybox:stable\nRUN --mount=type=cache,target=/c,id=locked,sharing=locked "
            "test ! -e /c/busy && touch /c/busy && sleep 1 && rm /c/busy\n"
        )
        ended: list[Ended] = []
        threads = [
            threading.Thread(target=lambda: ended.append(bench.build(dockerfile, "--no-push"))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [done.status for done in ended] == [0, 0, 0]

    @pytest.mark.parametrize("link", ["/", "../../../../..", "/proc/self/root"])
    def test_links_in_a_source_stay_in_it(self, bench: Bench, link: str, tmp_path: Path) -> None:
        planted = tmp_path / "planted"
        planted.write_text(SECRET)
        done = bench.build(
            f"FROM busybox:stable AS other\nRUN ln -s {link} /out\nFROM busybox:stable\n"
            f"RUN --mount=from=other,source=/out{planted},target=/m cat /m\n",
            "--no-push",
        )
        assert done.status == 1
        assert done.error["code"] == "mount-source-missing"
        assert SECRET not in json.dumps(done.events)

    @pytest.mark.parametrize("link", ["/", "../../..", "/proc/1/root"])
    def test_links_as_target_stay_in_the_step(self, bench: Bench, link: str, tmp_path: Path) -> None:
        planted = tmp_path / "planted"
        planted.mkdir()
        (planted / "kept").write_text(SECRET)
        done = bench.build(
            f"FROM busybox:stable\nRUN ln -s {link} /out\n"
            f"RUN --mount=type=tmpfs,target=/out{planted} ls -A {planted} /out{planted} 2>&1; true\n",
            "--no-push",
        )
        assert "kept" not in done.output()
        assert (planted / "kept").read_text() == SECRET

    def test_a_mount_over_the_root_or_of_an_ssh_agent_is_refused(self, bench: Bench) -> None:
        assert bench.build("FROM busybox:stable\nRUN --mount=type=tmpfs,target=/ true\n", "--no-push").status == 1
        done = bench.build("FROM busybox:stable\nRUN --mount=type=ssh true\n", "--no-push")
        assert done.error["code"] == "dockerfile-unsupported"


class TestOtherInstructions:
    def test_network_none_takes_the_network_away(self, bench: Bench) -> None:
        done = bench.build("FROM busybox:stable\nRUN --network=none ip -o link | wc -l\n", "--no-push")
        assert done.output() == "1\n"
        refused = bench.build("FROM busybox:stable\nRUN --network=host true\n", "--no-push", "--network", "none")
        assert refused.error["code"] == "network-refused"

    def test_onbuild_triggers_run_first_in_order_and_once(self, bench: Bench, tmp_path: Path) -> None:
        name = f"{bench.host}/library/triggers:1"
        base = bench.build(
            'FROM busybox:stable\nONBUILD COPY given /given\nONBUILD RUN echo "one $(cat /given)"\nONBUILD ENV A=b\n',
            "-d",
            name,
        )
        assert base.status == 0
        done = bench.build(
            f"FROM {name} AS first\nRUN echo two $A\nFROM first\nRUN echo three\n",
            "--no-push",
            "--oci-layout-path",
            tmp_path,
            files={"given": "file"},
        )
        assert done.status == 0, done.events[-1]
        assert done.output() == "one file\ntwo b\nthree\n"
        config = json.loads((tmp_path / "blobs" / "sha256" / done.result["config_digest"][7:]).read_bytes())
        assert "OnBuild" not in config["config"]
        assert "A=b" in config["config"]["Env"]
