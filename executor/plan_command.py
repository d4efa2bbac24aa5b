"""`pushwright plan`: what a Dockerfile says and what building it would do, without fetching or running anything."""

from __future__ import annotations

import argparse
import json
import os
import platform as host
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from executor.errors import DockerfileError, PushwrightError

_EPILOG = """
examples:
  pushwright plan
  pushwright plan --context app --dockerfile deploy/Dockerfile --target test --json
  pushwright plan --check --build-arg BUILDKIT_DOCKERFILE_CHECK=error=true

exit status: 0 done, 1 the Dockerfile is wrong, or a check found something and error=true, 2 bad usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the plan of a Dockerfile and give the exit status."""
    options = build_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        return _show(options)
    except PushwrightError as error:
        if options.json:
            _print(json.dumps({"error": error.to_dict()}, ensure_ascii=False, indent=2))
        else:
            sys.stderr.write(_error_text(error))
        return error.exit_status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pushwright plan",
        description="Show what a Dockerfile says and how it would be built, without building it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--context", default=".", help="directory (default: the current one)")
    parser.add_argument("-f", "--dockerfile", default="Dockerfile", metavar="PATH", help="inside the context")
    parser.add_argument("--target", default="", metavar="STAGE", help="stage to build (default: the last)")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME[=VALUE]", dest="build_args")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="default: this machine's")
    parser.add_argument("--json", action="store_true", help="the whole plan as one JSON document")
    parser.add_argument("--check", action="store_true", help="only what the checks find; status 1 with error=true")
    return parser


def _show(options: argparse.Namespace) -> int:
    document = document_of(options)
    if options.json:
        _print(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        _print("\n".join(_check_text(document) if options.check else _plan_text(document)))
    return 1 if options.check and document["check_error"] and document["findings"] else 0


def document_of(options: argparse.Namespace) -> dict[str, Any]:
    """The document that a command line asks for."""
    from executor.cli import build_arguments, context_directory
    from executor.context.directory import DirectorySource
    from executor.context.ignore import IgnoreRules
    from executor.dockerfile.excerpt import with_excerpts
    from executor.dockerfile.lint.check import check
    from executor.dockerfile.lint.subject import Subject
    from executor.dockerfile.parse import parse_syntax
    from executor.oci import Platform
    from executor.plan import make_plan
    from executor.plan_document import plan_document

    source = DirectorySource(Path(context_directory(options.context)))
    found = source.read_dockerfile(options.dockerfile)
    ignored = source.read_ignore(options.dockerfile)
    rules = IgnoreRules.parse(ignored.data.decode("utf-8", "surrogateescape"), ignored.path) if ignored else None
    build_platform = Platform.from_text(f"linux/{host.machine()}")
    platform = Platform.from_text(options.platform) if options.platform else build_platform
    build_args = build_arguments(options.build_args, os.environ)
    with with_excerpts(found.data, found.path):
        dockerfile = parse_syntax(found.data, found.path)
        plan = make_plan(
            dockerfile,
            target=options.target,
            build_args=build_args,
            platform=platform,
            build_platform=build_platform,
        )
        subject = Subject(
            dockerfile=dockerfile,
            source=found.data,
            platform=platform,
            build_platform=build_platform,
            build_args=build_args,
            target_name=plan.target.stage.name or "" if options.target else "",
            ignore=rules,
            # without a target all stages are meant, as in BuildKit
            needed=frozenset(item.stage.index for item in plan.stages) if options.target else None,
        )
        return plan_document(plan, check(subject))


def _print(text: str) -> None:
    # bytes of file names that are not UTF-8 have become surrogates
    sys.stdout.write((text + "\n").encode("utf-8", "replace").decode("utf-8"))


def _error_text(error: PushwrightError) -> str:
    place = f"{error.location}: " if error.location else ""
    lines = [f"error: {place}{error.message}"]
    if isinstance(error, DockerfileError):
        lines += error.excerpt
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return "\n".join(lines).encode("utf-8", "replace").decode("utf-8") + "\n"


def _check_text(document: Mapping[str, Any]) -> Iterator[str]:
    """Findings as `file:line: Rule: message`, and what should be known besides."""
    file = document["dockerfile"]
    for finding in document["findings"]:
        yield _fit(f"{file}:{finding['start_line']}: {finding['rule']}: {finding['message']}")
    if document["findings_truncated"]:
        yield "… and more"
    for rule, hint in {finding["rule"]: finding["hint"] for finding in document["findings"]}.items():
        yield f"hint: {rule}: {hint}"
    yield from _notices_text(document)
    count = len(document["findings"])
    yield f"{count} finding{'' if count == 1 else 's'}" if count else "no findings"


def _notices_text(document: Mapping[str, Any]) -> Iterator[str]:
    for notice in document["notices"]:
        place = f"{document['dockerfile']}:{notice['start_line']}: " if "start_line" in notice else ""
        yield _fit(f"note: {place}{notice['message']}")
    for name in document["unused_build_args"]:
        yield _fit(f"note: no ARG declares the build argument {name}")


def _plan_text(document: Mapping[str, Any]) -> Iterator[str]:
    stages = document["stages"]
    target = stages[document["target"]]
    yield _fit(f"{document['dockerfile']}: target {_title(target)}, {document['platform']}")
    for number, group in enumerate(document["groups"], start=1):
        yield ""
        yield f"group {number}:"
        for index in group:
            yield from _stage_text(stages[index])
    left_out = [_title(stage) for stage in stages if not stage["needed"]]
    if left_out:
        yield ""
        yield _fit(f"not needed: {', '.join(left_out)}")
    yield ""
    yield from _check_text(document)


def _stage_text(stage: Mapping[str, Any]) -> Iterator[str]:
    yield _fit(f"  {_title(stage)}: from {stage['base_kind']} {stage['base']}".replace(" scratch scratch", " scratch"))
    for instruction in stage["instructions"]:
        start, end = instruction["start_line"], instruction["end_line"]
        lines = f"{start}" if start == end else f"{start}-{end}"
        yield _fit(f"    {lines:>9}  {_instruction_text(instruction)}")


def _instruction_text(instruction: Mapping[str, Any]) -> str:
    words = [instruction["keyword"]]
    for name, value in instruction["flags"].items():
        for item in value if isinstance(value, list) else [value]:
            words.append(f"--{name}" if item is True else f"--{name}={item}")
    if "argv" in instruction:
        words += instruction["argv"]
    else:
        words.append(instruction["value"])
    # a RUN has the words that open its here-documents in its text
    opened = [] if instruction["keyword"] == "RUN" else [f"<<{heredoc['name']}" for heredoc in instruction["heredocs"]]
    return " ".join([words[0], *opened, *words[1:]])


def _title(stage: Mapping[str, Any]) -> str:
    return stage["name"] or f"stage-{stage['index']}"


def _fit(text: str, limit: int = 200) -> str:
    """One line that no terminal acts on."""
    from executor.context.printable import printable

    return printable(text[:limit], 10 * limit) + ("…" if len(text) > limit else "")
