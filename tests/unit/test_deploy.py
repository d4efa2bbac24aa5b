"""What is shipped for deployments: the compose file's promises, the seccomp profile, and the maker of passwords."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """A script of deploy/ as a module; it is no package."""
    spec = importlib.util.spec_from_file_location(f"deploy_{name}", ROOT / "deploy" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_env = load("make_env")
make_seccomp = load("make_seccomp")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return value


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((ROOT / "deploy" / "seccomp.json").read_text())
    return value


def test_the_profile_is_the_default_with_the_additions(profile: dict[str, Any]) -> None:
    count = len(make_seccomp.ADDITIONS)
    default = {**profile, "syscalls": profile["syscalls"][count:]}
    assert make_seccomp.extended(default) == profile


def test_the_additions_are_what_the_default_refuses(profile: dict[str, Any]) -> None:
    """A name that Docker's default allows to everyone would be no addition, and one too many here."""
    default = profile["syscalls"][len(make_seccomp.ADDITIONS) :]
    allowed = {
        name
        for rule in default
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("includes") and not rule.get("args")
        for name in rule["names"]
    }
    added = {name for names, _ in make_seccomp.ADDITIONS for name in names}
    assert added.isdisjoint(allowed)
    assert "openat" in allowed


def test_dangerous_calls_stay_refused(profile: dict[str, Any]) -> None:
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    unconditional = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and not (rule.get("includes") or {}).get("caps")
        for name in rule["names"]
    }
    refused = {
        "bpf",
        "keyctl",
        "kexec_load",
        "init_module",
        "perf_event_open",
        "setns",
        "userfaultfd",
        "io_uring_setup",
    }
    assert refused.isdisjoint(unconditional)


def test_no_service_has_rights_on_the_host(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        forbidden = {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode", "cgroup_parent"}
        assert forbidden.isdisjoint(service), name
        assert service["cap_drop"], name
        for volume in service.get("volumes", []):
            assert "docker.sock" not in volume, name
            assert not volume.startswith("/"), name


def test_only_the_worker_is_less_confined_than_by_default(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in set(services) - {"worker"}:
        assert services[name]["security_opt"] == ["no-new-privileges"], name
    options = {option.partition("=")[0] for option in services["worker"]["security_opt"]}
    assert options == {"seccomp", "systempaths", "apparmor"}


def test_what_is_published_is_published_on_loopback(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in compose["services"]["redis"]


def test_every_service_tells_whether_it_works(compose: dict[str, Any]) -> None:
    assert all("healthcheck" in service for service in compose["services"].values())


def test_no_password_is_written_in_the_file(compose: dict[str, Any]) -> None:
    """Each secret is a variable without which Compose refuses to start."""
    text = (ROOT / "docker-compose.yml").read_text()
    for name in ("PUSHWRIGHT_REDIS_PASSWORD", "PUSHWRIGHT_SECRET_KEY", "PUSHWRIGHT_API_TOKEN"):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text


def test_the_settings_of_the_containers_exist(compose: dict[str, Any]) -> None:
    from tasks.settings import SETTINGS

    for name in ("web", "worker"):
        assert set(compose["services"][name]["environment"]) <= set(SETTINGS), name


def test_the_example_names_every_variable() -> None:
    import re

    used = set(re.findall(r"\$\{([A-Z_]+)[:}]", (ROOT / "docker-compose.yml").read_text()))
    shown = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used <= shown
    assert set(make_env.VALUES) <= shown


def compose_config(directory: Path) -> subprocess.CompletedProcess[str]:
    """Compose's opinion of a copy of the file, with whatever `.env` the directory has."""
    from tests.support.compose import compose_command

    (directory / "deploy").mkdir(exist_ok=True)
    for name in ("docker-compose.yml", "deploy/seccomp.json"):
        (directory / name).write_bytes((ROOT / name).read_bytes())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHWRIGHT_", "COMPOSE"))}
    return subprocess.run(
        [*compose_command(), "config", "--quiet"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_compose_takes_the_file(tmp_path: Path) -> None:
    make_env.make(tmp_path)
    done = compose_config(tmp_path)
    assert done.returncode == 0, done.stderr


def test_compose_refuses_to_start_without_passwords(tmp_path: Path) -> None:
    done = compose_config(tmp_path)
    assert done.returncode != 0
    assert "make compose-env" in done.stderr


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    assert set(make_env.make(tmp_path)) == set(make_env.VALUES)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert make_env.make(tmp_path) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_the_operator_wrote_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# ours\nPUSHWRIGHT_PORT=9000\nPUSHWRIGHT_API_TOKEN=chosen-by-the-operator\n")
    made = make_env.make(tmp_path)
    assert "PUSHWRIGHT_API_TOKEN" not in made
    lines = (tmp_path / ".env").read_text().splitlines()
    assert lines[:3] == ["# ours", "PUSHWRIGHT_PORT=9000", "PUSHWRIGHT_API_TOKEN=chosen-by-the-operator"]


def test_nobody_else_can_read_the_passwords(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir(mode=0o755)
    (tmp_path / "deploy" / "secrets").mkdir(mode=0o755)
    make_env.make(tmp_path)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deploy" / "secrets").stat().st_mode) == 0o700


def test_a_new_registry_password_reaches_both_sides(tmp_path: Path) -> None:
    make_env.make(tmp_path)
    before = (tmp_path / "deploy" / "secrets" / "registry.htpasswd").read_text()
    kept = [line for line in (tmp_path / ".env").read_text().splitlines() if "REGISTRY_PASSWORD" not in line]
    (tmp_path / ".env").write_text("\n".join(kept) + "\n")
    assert make_env.make(tmp_path) == ["PUSHWRIGHT_REGISTRY_PASSWORD"]
    after = (tmp_path / "deploy" / "secrets" / "registry.htpasswd").read_text()
    assert after != before
    password = make_env.read_values(tmp_path / ".env")["PUSHWRIGHT_REGISTRY_PASSWORD"]
    assert password not in after


def test_the_key_is_one_that_the_vault_takes(tmp_path: Path) -> None:
    from tasks.vault import Vault

    make_env.make(tmp_path)
    vault = Vault([make_env.read_values(tmp_path / ".env")["PUSHWRIGHT_SECRET_KEY"]])
    assert vault.open(vault.seal("text", "here"), "here") == "text"


def test_the_hash_is_bcrypt_of_the_password() -> None:
    found = make_env.bcrypt("a password")
    assert found.startswith("$2y$10$")
    assert len(found) == 60
    assert make_env.bcrypt("a password") != found


def test_a_directory_that_cannot_be_written_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "deploy").write_text("a file where a directory is expected")
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "make_env.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
