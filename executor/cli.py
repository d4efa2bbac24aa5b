"""`pushwright build`: the command line of the executor, with Kaniko's names for what Kaniko has.

With `--protocol` it is the child of a worker instead: specification on standard input, events and control on
descriptors (`executor/spec`, `executor/progress`, `isolation/supervisor`).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from executor.errors import BuildCancelledError, PushwrightError, UsageError
from executor.isolation.supervisor import Control, EventPipe
from executor.progress import ENVELOPE, EventWriter, Masker, Observer, error_fields
from executor.secret_values import secrets_of
from executor.spec import BuildSpec, Credential, DirectoryContext, RegistryOptions

SPEC_LIMIT_BYTES = 16 * 1024 * 1024
# the lease ends this long after the executor must be dead (design: silence for lease - 5 s)
LEASE_MARGIN_SECONDS = 5.0
# BuildKit's own bound (session/secrets, MaxSecretSize)
SECRET_LIMIT_BYTES = 500 * 1024
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
_EPILOG = """
examples:
  pushwright build --context . --destination registry.example.com/team/app:1.0
  pushwright build --context . --no-push --oci-layout-path ./image
  pushwright build --context . --dockerfile deploy/Dockerfile --target test --no-push

exit status: 0 done, 1 the build failed, 2 bad usage, 3 this host cannot do what was asked,
4 the registry refused or is away
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one build and give its exit status; errors are `error:` and `hint:` lines on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if "--protocol" in words:
            return _serve_protocol(_protocol_parser().parse_args(words))
        options = build_parser().parse_args(words)
        return _build(options, os.environ)
    except PushwrightError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("error: the build was interrupted\n")
        return BuildCancelledError.exit_status
    except BrokenPipeError:
        # whoever read the events has gone; what was begun has been ended and removed
        return BuildCancelledError.exit_status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pushwright build",
        description="Build the image of a Dockerfile, without a daemon and without root, and push it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_inputs(parser.add_argument_group("what is built"))
    _add_outputs(parser.add_argument_group("where the image goes"))
    _add_registries(parser.add_argument_group("registries"))
    _add_running(parser.add_argument_group("how it is built"))
    return parser


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-c", "--context", default="/workspace", help="directory, or dir://PATH (default: /workspace)")
    group.add_argument("--context-sub-path", default="", metavar="PATH", help="directory inside the context to use")
    group.add_argument("-f", "--dockerfile", default="Dockerfile", metavar="PATH", help="inside the context")
    group.add_argument("--target", default="", metavar="STAGE", help="stage to build (default: the last)")
    group.add_argument("--build-arg", action="append", default=[], metavar="NAME[=VALUE]", dest="build_args")
    group.add_argument("--platform", "--custom-platform", default="", metavar="OS/ARCH", dest="platform")
    group.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID,src=FILE|env=NAME",
        dest="secrets",
        help="a value for RUN --mount=type=secret,id=ID; it reaches only the steps that mount it",
    )
    group.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", dest="labels")
    group.add_argument("--annotation", action="append", default=[], metavar="NAME=VALUE", dest="annotations")


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-d", "--destination", action="append", default=[], metavar="REFERENCE", dest="destinations")
    group.add_argument("--no-push", action="store_true", help="build only")
    group.add_argument(
        "--keep-as",
        action="append",
        default=[],
        metavar="REPOSITORY:TAG",
        dest="keep_as",
        help="keep the image in the local store under this name, for the registry of `pushwright up`",
    )
    group.add_argument("--oci-layout-path", default="", metavar="DIRECTORY", help="write an OCI image layout")
    group.add_argument("--tar-path", default="", metavar="FILE", help="write an archive that `docker load` takes")
    group.add_argument("--digest-file", default="", metavar="FILE", help="write the manifest's digest")
    group.add_argument("--image-format", choices=("oci", "docker"), default="oci")
    group.add_argument("--compression-level", type=int, default=2, choices=range(4), help="ISA-L gzip level")


def _add_registries(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--docker-config", default="", metavar="FILE", help="credentials (default: DOCKER_CONFIG)")
    group.add_argument("--insecure-registry", action="append", default=[], metavar="HOST", help="plain HTTP")
    group.add_argument("--skip-tls-verify-registry", action="append", default=[], metavar="HOST")
    group.add_argument("--registry-certificate", action="append", default=[], metavar="HOST=FILE")
    group.add_argument("--registry-mirror", action="append", default=[], metavar="HOST[/PREFIX]")
    group.add_argument("--registry-map", action="append", default=[], metavar="HOST=HOST[/PREFIX]")
    group.add_argument("--skip-default-registry-fallback", action="store_true")


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data-dir", default="", metavar="DIRECTORY", help="where the store is (PUSHWRIGHT_HOME)")
    group.add_argument("--isolation", choices=("auto", "userns"), default="auto")
    group.add_argument("--network", choices=("host", "none"), default="host", help="network of RUN")
    group.add_argument("--reproducible", action="store_true", help="clamp every time to SOURCE_DATE_EPOCH, or 1980")
    group.add_argument("--progress", choices=("auto", "plain", "json"), default="auto")


def _protocol_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m executor", allow_abbrev=False)
    parser.add_argument("--protocol", action="store_true")
    parser.add_argument("--events-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--lease-seconds", type=float, default=30.0)
    return parser


# --- the child of a worker ---


def _serve_protocol(options: argparse.Namespace) -> int:
    events = EventPipe(options.events_fd)
    text = sys.stdin.buffer.read(SPEC_LIMIT_BYTES + 1)
    # whatever holds the other end of standard input is none of the builder's business
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        if len(text) > SPEC_LIMIT_BYTES:
            raise UsageError("specification: expected at most 16 MiB")
        spec = BuildSpec.from_json(_decode(text))
    except PushwrightError as error:
        EventWriter(events.write, Masker(()))("error", **error_fields(error))
        return error.exit_status
    observer = EventWriter(events.write, Masker(secrets_of(spec)))
    silence = max(options.lease_seconds - LEASE_MARGIN_SECONDS, options.lease_seconds / 2)
    control = Control(options.control_fd, silence, spec.limits.deadline_seconds, events)
    return _run(spec, observer, control)


def _decode(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"specification: not JSON: {error}") from error


def _write_to_stdout(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _run(spec: BuildSpec, observer: Observer, control: Control) -> int:
    from executor.launch import launch

    event = launch(spec, observer, control)
    fields = {key: value for key, value in event.items() if key not in ENVELOPE}
    observer(event["type"], **fields)
    return 0 if event["type"] == "result" else int(fields.get("exit_status", 3))


# --- for people ---


def _build(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    spec = specification(options, environ)
    masker = Masker(secrets_of(spec))
    if options.progress == "json":
        observer: Observer = EventWriter(_write_to_stdout, masker)
    else:
        from executor.log_text import LogText

        text = LogText()

        def show(line: bytes) -> None:
            sys.stderr.write(text.event(json.loads(line)))
            sys.stderr.flush()

        observer = EventWriter(show, masker)
    return _run(spec, observer, Control(deadline_seconds=spec.limits.deadline_seconds))


def specification(options: argparse.Namespace, environ: Mapping[str, str]) -> BuildSpec:
    """The build that a command line asks for; `UsageError` names the flag that is wrong."""
    if not (options.no_push or options.destinations or options.keep_as):
        raise UsageError(
            "expected --destination, found none", hint="give --destination REFERENCE, or --no-push to build only"
        )
    for name in options.keep_as:
        if not name.rpartition("/")[2].partition(":")[2]:
            raise UsageError(f"--keep-as: expected REPOSITORY:TAG, found {name[:100]!r}")
    store = Path(options.data_dir or data_directory(environ)) / "store"
    return BuildSpec(
        context=DirectoryContext(context_directory(options.context), sub_path=options.context_sub_path),
        store=str(store),
        dockerfile=options.dockerfile,
        destinations=tuple(options.destinations),
        push=not options.no_push,
        keep_as=tuple(options.keep_as),
        target=options.target,
        platform=options.platform,
        build_args=build_arguments(options.build_args, environ),
        secrets=_secrets(options.secrets, environ),
        labels=_pairs(options.labels, "--label"),
        annotations=_pairs(options.annotations, "--annotation"),
        image_format=options.image_format,
        compression_level=options.compression_level,
        created=_epoch(environ),
        reproducible=options.reproducible,
        isolation=options.isolation,
        network=options.network,
        proxies={name: environ[name] for base in _PROXIES for name in (base, base.lower()) if environ.get(name)},
        tar_path=_absolute(options.tar_path),
        oci_layout_path=_absolute(options.oci_layout_path),
        digest_file=_absolute(options.digest_file),
        registries=_registries(options, environ),
    )


def data_directory(environ: Mapping[str, str]) -> Path:
    """Where everything is kept: PUSHWRIGHT_HOME, else the place that fits the user."""
    if home := environ.get("PUSHWRIGHT_HOME"):
        return Path(home)
    if os.geteuid() == 0:
        return Path("/var/lib/pushwright")
    if base := environ.get("XDG_DATA_HOME"):
        return Path(base) / "pushwright"
    try:
        return Path(environ.get("HOME") or "~").expanduser() / ".local" / "share" / "pushwright"
    except RuntimeError as error:
        raise UsageError(
            f"expected a home directory for user {os.geteuid()}, found none",
            hint="say where data is kept, by --data-dir or PUSHWRIGHT_HOME",
        ) from error


def context_directory(text: str) -> str:
    """The directory that a `--context` names."""
    if text.startswith("dir://"):
        return text.removeprefix("dir://")
    if "://" in text:
        raise UsageError(
            f"--context: expected a directory or dir://, found {text[:100]!r}",
            code="context-unsupported",
            hint="fetch or unpack it first; archives, git and buckets as contexts are not there yet",
        )
    return text


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def _pairs(items: Sequence[str], flag: str) -> dict[str, str]:
    pairs = {}
    for item in items:
        name, found, value = item.partition("=")
        if not found or not name:
            raise UsageError(f"{flag}: expected NAME=VALUE, found {item[:100]!r}")
        pairs[name] = value
    return pairs


def _secrets(items: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """`--secret` as docker has it: `id=ID,src=FILE`, `id=ID,env=NAME`, or `id=ID` for the variable or file ID."""
    found: dict[str, str] = {}
    for item in items:
        fields = dict(part.partition("=")[::2] for part in item.split(","))
        name = fields.pop("id", "")
        kind = fields.pop("type", "")
        source = fields.pop("src", "") or fields.pop("source", "")
        variable = fields.pop("env", "")
        if not name or fields or (source and variable) or kind not in {"", "file", "env"}:
            raise UsageError(f"--secret: expected id=ID,src=FILE or id=ID,env=NAME, found {item[:100]!r}")
        if name in found:
            raise UsageError(f"--secret: {name[:60]!r} was given twice")
        if not source and not variable and (name in environ or kind == "env"):
            variable = name
        if variable and variable not in environ:
            raise UsageError(f"--secret: the variable {variable[:60]!r} is not set")
        value = os.fsencode(environ[variable]) if variable else _secret_file(source or name)
        found[name] = base64.b64encode(value).decode("ascii")
    return found


def _secret_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            value = stream.read(SECRET_LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--secret: {path} cannot be read: {error.strerror}") from error
    if len(value) > SECRET_LIMIT_BYTES:
        raise UsageError(f"--secret: {path}: expected at most {SECRET_LIMIT_BYTES} bytes")
    return value


def build_arguments(items: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """`NAME` alone takes its value from the environment, and is left out when it has none (as docker and Kaniko do)."""
    pairs = {}
    for item in items:
        name, found, value = item.partition("=")
        if not name:
            raise UsageError(f"--build-arg: expected NAME or NAME=VALUE, found {item[:100]!r}")
        if found:
            pairs[name] = value
        elif name in environ:
            pairs[name] = environ[name]
    return pairs


def _epoch(environ: Mapping[str, str]) -> int | None:
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH: expected whole seconds since 1970, found {text[:40]!r}")
    return int(text)


def _registries(options: argparse.Namespace, environ: Mapping[str, str]) -> RegistryOptions:
    maps: dict[str, tuple[str, ...]] = {}
    for item in options.registry_map:
        for source, target in _pairs(item.split(";"), "--registry-map").items():
            maps[source] = (*maps.get(source, ()), target)
    certificates = {}
    for host, path in _pairs(options.registry_certificate, "--registry-certificate").items():
        try:
            certificates[host] = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--registry-certificate: {path} cannot be read: {error}") from error
    return RegistryOptions(
        credentials=_credentials(options.docker_config, environ),
        maps=maps,
        mirrors=tuple(options.registry_mirror),
        skip_default_fallback=options.skip_default_registry_fallback,
        insecure=tuple(options.insecure_registry),
        skip_tls_verify=tuple(options.skip_tls_verify_registry),
        certificates=certificates,
    )


def _credentials(flag: str, environ: Mapping[str, str]) -> dict[str, Credential]:
    """Docker's config.json: the flag's, else DOCKER_CONFIG's, else Kaniko's, else the home directory's."""
    from executor.registry.docker_config import credentials_from_docker_config

    candidates = [Path(flag)] if flag else []
    if not flag and environ.get("DOCKER_CONFIG"):
        candidates.append(Path(environ["DOCKER_CONFIG"]) / "config.json")
    elif not flag:
        candidates += [Path("/kaniko/.docker/config.json"), Path(environ.get("HOME") or "/") / ".docker/config.json"]
    for path in candidates:
        try:
            return credentials_from_docker_config(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if flag:
                raise UsageError(f"--docker-config: no file at {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the registry credentials in {path} cannot be read: {error}") from error
    return {}
