"""Files read by name from a hostile tree."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from executor.context.directory import DOCKERFILE_LIMIT_BYTES, DirectorySource
from executor.errors import ContextError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    base = tmp_path / "tree"
    (base / "app" / "docker").mkdir(parents=True)
    (base / "Dockerfile").write_bytes(b"FROM base\n")
    (base / "app" / "Dockerfile").write_bytes(b"FROM app\n")
    (base / "app" / "docker" / "Dockerfile").write_bytes(b"FROM docker\n")
    (tmp_path / "secret").write_bytes(b"secret\n")
    return base


@pytest.mark.parametrize(
    ("sub_path", "name", "data"),
    [
        ("", "Dockerfile", b"FROM base\n"),
        ("", "./app//Dockerfile", b"FROM app\n"),
        ("", "/Dockerfile", b"FROM base\n"),
        ("", "app/docker/../Dockerfile", b"FROM app\n"),
        ("app", "Dockerfile", b"FROM app\n"),
        ("./app/", "docker/Dockerfile", b"FROM docker\n"),
        ("app", "../Dockerfile", b"FROM base\n"),
        ("/app", "/Dockerfile", b"FROM app\n"),
    ],
)
def test_a_dockerfile_is_found_from_the_context(tree: Path, sub_path: str, name: str, data: bytes) -> None:
    found = DirectorySource(tree, sub_path).read_dockerfile(name)
    assert (found.path, found.data) == (name, data)


def test_the_root_is_the_context(tree: Path) -> None:
    (tree / "link").symlink_to("app/docker/..")
    assert DirectorySource(tree).root == tree
    source = DirectorySource(tree, "link")
    assert source.root == tree / "app"
    with source.open_root() as descriptor:
        assert set(os.listdir(descriptor)) == {"Dockerfile", "docker"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_error_while_the_root_is_open_passes_unchanged(tree: Path) -> None:
    with pytest.raises(FileNotFoundError), DirectorySource(tree).open_root() as descriptor:
        os.stat("none", dir_fd=descriptor)


def test_links_inside_the_tree_are_followed(tree: Path) -> None:
    (tree / "app" / "linked").symlink_to("docker/../../app/docker/Dockerfile")
    (tree / "app" / "chain").symlink_to("linked")
    assert DirectorySource(tree, "app").read_dockerfile("chain").data == b"FROM docker\n"


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../secret", "../../../../../../../../etc/passwd", "app/../../secret", "away/passwd"]
)
def test_links_out_of_the_tree_are_refused(tree: Path, target: str) -> None:
    (tree / "away").symlink_to("/etc")
    (tree / "evil").symlink_to(target)
    with pytest.raises(ContextError) as caught:
        DirectorySource(tree).read_dockerfile("evil")
    assert caught.value.code == "context-escape"


@pytest.mark.parametrize("name", ["../secret", "app/../../secret", "/../secret", "..", "app/../.."])
def test_names_out_of_the_tree_are_refused(tree: Path, name: str) -> None:
    with pytest.raises(ContextError) as caught:
        DirectorySource(tree).read_dockerfile(name)
    assert caught.value.code == "context-escape"


@pytest.mark.parametrize("sub_path", ["..", "app/../..", "out", "absolute"])
def test_a_context_outside_the_tree_is_refused(tree: Path, sub_path: str) -> None:
    (tree / "out").symlink_to("../..")
    (tree / "absolute").symlink_to("/etc")
    with pytest.raises(ContextError) as caught:
        DirectorySource(tree, sub_path)
    assert caught.value.code == "context-escape"


@pytest.mark.parametrize("sub_path", ["none", "Dockerfile", "app/Dockerfile/x", "fifo", "dangling", "x" * 300])
def test_a_context_that_is_no_directory_is_refused(tree: Path, sub_path: str) -> None:
    os.mkfifo(tree / "fifo")
    (tree / "dangling").symlink_to("none")
    with pytest.raises(ContextError, match="expected a directory"):
        DirectorySource(tree, sub_path)


def test_a_tree_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContextError):
        DirectorySource(tmp_path / "none")


@pytest.mark.parametrize("name", ["none", "app/none", "dangling"])
def test_a_missing_dockerfile_is_said_so(tree: Path, name: str) -> None:
    (tree / "dangling").symlink_to("none")
    with pytest.raises(ContextError) as caught:
        DirectorySource(tree).read_dockerfile(name)
    assert caught.value.code == "dockerfile-not-found"
    assert repr(name) in caught.value.message


@pytest.mark.parametrize(
    "kind", ["fifo", "linked fifo", "socket", "directory", "device", "link loop", "no name", "NUL"]
)
def test_what_is_no_regular_file_is_refused(tree: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "thing"
    if kind in {"fifo", "linked fifo"}:
        os.mkfifo(tree / ("thing" if kind == "fifo" else "fifo"))
    if kind == "linked fifo":
        (tree / name).symlink_to("fifo")
    elif kind == "socket":
        monkeypatch.chdir(tree)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    elif kind == "directory":
        name = "app"
    elif kind == "device":
        # a tree that is /dev itself: making a device node needs rights that tests may not have
        tree, name = Path("/dev"), "null"
    elif kind == "link loop":
        (tree / name).symlink_to(name)
    elif kind == "no name":
        name = ""
    elif kind == "NUL":
        name = "a\0b"
    with pytest.raises(ContextError):
        DirectorySource(tree).read_dockerfile(name)


def test_a_dockerfile_has_a_size_limit(tree: Path) -> None:
    with (tree / "Dockerfile").open("wb") as file:
        file.truncate(DOCKERFILE_LIMIT_BYTES)
    assert len(DirectorySource(tree).read_dockerfile("Dockerfile").data) == DOCKERFILE_LIMIT_BYTES
    with (tree / "Dockerfile").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ContextError, match="at most 1048576 bytes, found 1099511627776"):
        DirectorySource(tree).read_dockerfile("Dockerfile")


def test_the_dockerfile_s_own_ignore_file_comes_first(tree: Path) -> None:
    source = DirectorySource(tree, "app")
    assert source.read_ignore("docker/Dockerfile") is None
    (tree / ".dockerignore").write_bytes(b"of the tree")
    assert source.read_ignore("docker/Dockerfile") is None
    (tree / "app" / ".dockerignore").write_bytes(b"of the context")
    found = source.read_ignore("docker/Dockerfile")
    assert found is not None
    assert (found.path, found.data) == (".dockerignore", b"of the context")
    (tree / "app" / "docker" / "Dockerfile.dockerignore").write_bytes(b"of the Dockerfile")
    found = source.read_ignore("docker/Dockerfile")
    assert found is not None
    assert (found.path, found.data) == ("docker/Dockerfile.dockerignore", b"of the Dockerfile")


def test_an_ignore_file_that_leads_out_is_refused(tree: Path) -> None:
    (tree / ".dockerignore").symlink_to("../secret")
    with pytest.raises(ContextError) as caught:
        DirectorySource(tree).read_ignore("Dockerfile")
    assert caught.value.code == "context-escape"


def test_descriptors_are_closed_whatever_happens(tree: Path) -> None:
    (tree / "evil").symlink_to("app/docker/../../../x")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("Dockerfile", "evil", "none", "app", "app/docker/none"):
        try:
            DirectorySource(tree).read_dockerfile(name)
        except ContextError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before
