"""Makes `seccomp.json`: Docker's default profile plus what user namespaces need, each addition with its reason.

Docker's default profile refuses these calls to containers without CAP_SYS_ADMIN on the host (pivot_root to all),
because outside a user namespace they would need it. The worker has no capability on the host; in user namespaces of its
own the kernel lets it use the calls, once the filter does not stand in the way. Nothing else of the default is changed:
`clone` goes on refusing the flags of namespaces and `clone3` everything (`unshare` is enough), and `setns`, `bpf`,
`keyctl`, `perf_event_open`, `userfaultfd`, `io_uring`, the loading of modules and the like stay refused.

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
    (("unshare",), "new user, mount, pid, ipc, uts and network namespaces"),
    (("mount", "umount2"), "proc, tmpfs, bind and overlay mounts inside a mount namespace of one's own"),
    (("mount_setattr",), "recursive read-only binds (Linux 5.12)"),
    (
        ("pivot_root",),
        "a root directory of one's own, for the builder and for each RUN step; the old root is unmounted",
    ),
    (("sethostname",), "the host name of a RUN step, in a uts namespace of its own"),
    (("chroot",), "programs in RUN steps call it; Docker's default allows it to containers with CAP_SYS_CHROOT"),
)
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
