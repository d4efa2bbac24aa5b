"""Removing trees from a mounted stack of layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from executor.rootfs.remove_merged import remove_merged_tree
from tests.support.privilege import as_root

REMOVE = """
import os, sys
from executor.rootfs.remove_merged import remove_merged_tree
directory = os.open(sys.argv[1], os.O_RDONLY)
for name in sys.argv[2:]:
    remove_merged_tree(directory, os.fsencode(name))
"""


def remove(top: Path, name: bytes) -> None:
    directory = os.open(top, os.O_RDONLY)
    try:
        remove_merged_tree(directory, name)
    finally:
        os.close(directory)


def test_files_links_and_trees(tmp_path: Path) -> None:
    for name in ("tree/a/b", "tree/c", "outside/kept"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outside/kept/file").write_text("planted")
    for name in ("tree/f", "tree/a/f", "tree/a/b/f", "file"):
        (tmp_path / name).touch()
    (tmp_path / "tree/a/link").symlink_to(tmp_path / "outside")
    (tmp_path / "link").symlink_to("outside")
    (tmp_path / "beside").mkdir()
    for removed in (b"tree", b"file", b"link", b"nothing"):
        remove(tmp_path, removed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "outside"]
    assert (tmp_path / "outside/kept/file").read_text() == "planted"


def test_a_tree_deeper_than_any_path(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=here)
        there = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    remove(tmp_path, b"deep")
    assert list(tmp_path.iterdir()) == []


@as_root
def test_directories_of_lower_layers(tmp_path: Path) -> None:
    script = f"""
set -e
mount -t tmpfs tmpfs {tmp_path}
cd {tmp_path}
mkdir -p lower/d/e/g lower/kept upper/d/h work merged
echo x > lower/d/e/f
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr merged
{sys.executable} -c '{REMOVE}' merged d
ls merged
"""
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("kept\n", "")
