"""Makes `seccomp.json`: Docker's default profile plus what user namespaces need, each addition with its reason.

Docker's default profile lets these calls pass only to containers that hold CAP_SYS_ADMIN on the host, because outside a
user namespace they would need it. The worker holds no capability on the host; the kernel lets it use the calls in user
namespaces of its own, once the filter does not stand in the way. Nothing else of the default is changed: `clone3` goes
on answering ENOSYS (its flags are behind a pointer, where a filter cannot look; the C library falls back to `clone`),
and `bpf`, `perf_event_open`, `keyctl`, `userfaultfd`, `io_uring`, module loading and the like stay refused.

Run as `python3 deploy/make_seccomp.py DEFAULT.json > deploy/seccomp.json`, where DEFAULT.json is moby's
`profiles/seccomp/default.json` (Apache-2.0); Debian has it in the package golang-github-docker-docker-dev. The file in
the tree was made from version 26.1.5.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# one rule each, so that a reader of the profile finds the reason beside the names
ADDITIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("clone", "unshare"), "new user, mount, pid, ipc, uts and network namespaces"),
    (("setns",), "entering a namespace again by its descriptor"),
    (("mount", "umount", "umount2"), "proc, tmpfs, bind and overlay mounts inside a mount namespace of one's own"),
    (("pivot_root", "chroot"), "a root directory of one's own for each RUN step; the old root is unmounted"),
    (
        ("open_tree", "move_mount", "fsopen", "fspick", "fsconfig", "fsmount", "mount_setattr"),
        "the mount calls of Linux 5.2 and 5.12: overlays of many layers, recursive read-only binds",
    ),
    (("sethostname", "setdomainname"), "the host name of a RUN step, in a uts namespace of its own"),
)
# capabilities in a container's bounding set decide about these in the default profile; ours names them for everyone
_UPSTREAM = "From Docker's default profile (moby 26.1.5, profiles/seccomp/default.json, Apache-2.0), with additions:"


def extended(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The default profile with one rule more for each addition, before the rules that were there."""
    rules = [
        {"names": list(names), "action": "SCMP_ACT_ALLOW", "comment": f"Pushwright: {reason}"}
        for names, reason in ADDITIONS
    ]
    rules[0]["comment"] = f"{_UPSTREAM} {rules[0]['comment']}"
    return {**profile, "syscalls": [*rules, *profile["syscalls"]]}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: make_seccomp.py DEFAULT.json > seccomp.json", file=sys.stderr)
        return 2
    profile = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    json.dump(extended(profile), sys.stdout, indent="\t")
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
