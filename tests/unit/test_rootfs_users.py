"""Users and groups of an image whose files may be anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.errors import StepFailedError
from executor.rootfs.contained import Root
from executor.rootfs.users import User, resolve_owner, resolve_user

PASSWD = """\
# comment
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
twin:x:1000:7::/twin:
nohome:x:5:6:::
broken:x:abc:0::/:
short:x
huge:x:99999999999:0::/:
1234:x:77:78::/named-like-a-number:/bin/sh
"""
GROUP = """\
root:x:0:
app:x:1001:
audio:x:29:app,other
video:x:44:root,app
own:x:1001:app
bad:x:x:app
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    (tmp_path / "image/etc").mkdir(parents=True)
    (tmp_path / "image/etc/passwd").write_text(PASSWD)
    (tmp_path / "image/etc/group").write_text(GROUP)
    with Root.at(tmp_path / "image") as opened:
        yield opened


@pytest.mark.parametrize(
    ("spec", "user"),
    [
        ("", User(0, 0, (), "/root")),
        ("root", User(0, 0, (44,), "/root")),
        ("app", User(1000, 1001, (29, 44), "/home/app")),
        ("1000", User(1000, 1001, (29, 44), "/home/app")),
        ("0", User(0, 0, (44,), "/root")),
        ("app:audio", User(1000, 29, (), "/home/app")),
        ("app:55", User(1000, 55, (), "/home/app")),
        ("4000", User(4000, 0, (), "/")),
        ("4000:audio", User(4000, 29, (), "/")),
        ("4000:4001", User(4000, 4001, (), "/")),
        ("nohome", User(5, 6, (), "/")),
        ("1234", User(1234, 0, (), "/")),
        ("77", User(77, 78, (), "/named-like-a-number")),
        ("twin", User(1000, 7, (), "/home/app")),
    ],
)
def test_user(root: Root, spec: str, user: User) -> None:
    assert resolve_user(spec, root) == user


@pytest.mark.parametrize(
    ("spec", "owner"),
    [
        ("0", (0, 0)),
        ("5", (5, 5)),
        ("1000", (1000, 1000)),
        ("5:6", (5, 6)),
        ("app", (1000, 1001)),
        ("app:audio", (1000, 29)),
        ("5:audio", (5, 29)),
        ("app:3", (1000, 3)),
        ("4294967294", (4294967294, 4294967294)),
    ],
)
def test_owner(root: Root, spec: str, owner: tuple[int, int]) -> None:
    assert resolve_owner(spec, root) == owner


@pytest.mark.parametrize(
    "spec",
    ["nobody", "app:nogroup", "broken", "short", "app:", ":app", "a:b:c", "-1", "4294967295", "0x10", "99999999999",
     "app:4294967295", "+5", " app", "app\n", "١", "huge", "app:bad"],
)  # fmt: skip
def test_unknown_and_malformed(root: Root, spec: str) -> None:
    for resolve in (resolve_user, resolve_owner):
        with pytest.raises(StepFailedError) as caught:
            resolve(spec, root)
        assert caught.value.code in {"user-unknown", "group-unknown", "user-invalid"}


def test_an_empty_owner(root: Root) -> None:
    with pytest.raises(StepFailedError):
        resolve_owner("", root)


def test_an_image_without_files(tmp_path: Path) -> None:
    with Root.at(tmp_path) as root:
        assert resolve_user("", root) == User(0, 0, (), "/")
        assert resolve_user("5", root) == User(5, 0, (), "/")
        with pytest.raises(StepFailedError) as caught:
            resolve_user("app", root)
    assert caught.value.code == "user-unknown"
    assert caught.value.hint


class TestHostileFiles:
    def test_a_link_out_of_the_image(self, root: Root, tmp_path: Path) -> None:
        (tmp_path / "passwd").write_text("evil:x:66:66::/:\n")
        for target in (str(tmp_path / "passwd"), "../../passwd", "/proc/self/root" + str(tmp_path / "passwd")):
            (tmp_path / "image/etc/passwd").unlink()
            (tmp_path / "image/etc/passwd").symlink_to(target)
            with pytest.raises(StepFailedError) as caught:
                resolve_user("evil", root)
            assert caught.value.code == "user-unknown"

    def test_a_link_within_the_image(self, root: Root, tmp_path: Path) -> None:
        (tmp_path / "image/usr").mkdir()
        (tmp_path / "image/etc/passwd").rename(tmp_path / "image/usr/passwd")
        (tmp_path / "image/etc/passwd").symlink_to("/usr/passwd")
        assert resolve_user("app", root).uid == 1000

    def test_a_linked_directory(self, root: Root, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/passwd").write_text("evil:x:66:66::/:\n")
        (tmp_path / "image/etc").rename(tmp_path / "image/old")
        (tmp_path / "image/etc").symlink_to("../etc")
        with pytest.raises(StepFailedError):
            resolve_user("evil", root)

    @pytest.mark.parametrize("kind", ["fifo", "directory", "huge", "loop"])
    def test_what_is_no_file_to_read(self, root: Root, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "image/etc/passwd"
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to("passwd")
        else:
            with path.open("wb") as stream:
                stream.truncate(1 << 40)
        with pytest.raises(StepFailedError) as caught:
            resolve_user("app", root)
        assert caught.value.code == "user-database-invalid"

    def test_bytes_that_are_no_text(self, root: Root, tmp_path: Path) -> None:
        (tmp_path / "image/etc/passwd").write_bytes(
            b"\xff\xfe:x:1:1::/\0:\nb\0d:x:1:1\n::::::\napp:x:1000:1001::\xff:\n"
        )
        assert resolve_user("app", root).uid == 1000
