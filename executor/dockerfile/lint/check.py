"""Runs the checks over a Dockerfile: findings in the order of the file, less those that were to be skipped."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from executor.dockerfile.directives import read_directives
from executor.dockerfile.instructions import Dockerfile
from executor.dockerfile.lint.comments import NO_COMMENTS, Comments, comments_before
from executor.dockerfile.lint.instructions import StageChecks
from executor.dockerfile.lint.options import CheckOptionError, CheckOptions
from executor.dockerfile.lint.rules import RULES, Finding
from executor.dockerfile.lint.stages import check_default_bases, check_names, predefined_args
from executor.dockerfile.lint.style import check_style
from executor.dockerfile.lint.subject import Hit, Subject
from executor.dockerfile.scope import GlobalScope
from executor.dockerfile.words import Expander
from executor.errors import DockerfileError, Location, UsageError

CHECK_ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"
# nobody reads more, and a hostile file could give millions
FINDINGS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found; `as_error` is that of `error=true`. `truncated`: there was more than is here.

    `unknown_rules` are names in the file's options that no rule has, so that they do nothing.
    """

    findings: tuple[Finding, ...]
    as_error: bool = False
    truncated: bool = False
    unknown_rules: tuple[str, ...] = ()

    def violation(self) -> DockerfileError | None:
        """The error that the findings are when `error=true` was asked for."""
        if not self.as_error or not self.findings:
            return None
        names = sorted({finding.rule for finding in self.findings})
        return DockerfileError(
            f"lint violation found for rules: {', '.join(names)}",
            code="dockerfile-check",
            location=self.findings[0].location,
            hint="mend what the checks say, or skip them by # check=skip=… at the top of the file",
        )


def check(subject: Subject) -> CheckReport:
    """Every finding about `subject`.

    Raises `DockerfileError` or `UsageError` for check options that are not understood, and nothing else: what a build
    would refuse, it refuses itself.
    """
    lines = [line.decode("utf-8", "surrogateescape").rstrip("\r\n") for line in io.BytesIO(_without_mark(subject))]
    directives = read_directives(lines, subject.dockerfile.file)
    location = directives["check"].location if "check" in directives else None
    options = _options(subject, location)
    comments = comments_before(
        lines,
        _extents(subject.dockerfile),
        frozenset(directive.location.line for directive in directives.values()),
    )
    # one more than is shown tells whether there is more
    found = list(islice(_findings(subject, options, comments), FINDINGS_LIMIT + 1))
    ordered = sorted(
        dict.fromkeys(found[:FINDINGS_LIMIT]), key=lambda finding: (finding.location.line, finding.message)
    )
    return CheckReport(tuple(ordered), options.as_error, len(found) > FINDINGS_LIMIT, options.unknown)


def _without_mark(subject: Subject) -> bytes:
    return subject.source.removeprefix(b"\xef\xbb\xbf")


def _options(subject: Subject, location: Location | None) -> CheckOptions:
    """Those of the build argument if there is one, else those of the directive (dockerui/config.go)."""
    text = subject.build_args.get(CHECK_ARGUMENT)
    try:
        if text is not None:
            return CheckOptions.parse(text)
        return CheckOptions.parse(subject.dockerfile.directives.get("check", ""))
    except CheckOptionError as error:
        hint = "as in check=skip=JSONArgsRecommended,StageNameCasing;error=true"
        if text is not None:
            raise UsageError(f"build argument {CHECK_ARGUMENT}: {error}", hint=hint.removeprefix("check=")) from error
        raise DockerfileError(f"check directive: {error}", location=location, hint=hint) from error


def _extents(dockerfile: Dockerfile) -> dict[int, int]:
    """First and last line of each instruction, in order."""
    places = [arg.location for arg in dockerfile.global_args]
    for stage in dockerfile.stages:
        places += [stage.location, *(instruction.location for instruction in stage.instructions)]
    return {place.line: place.end_line or place.line for place in places}


def _findings(subject: Subject, options: CheckOptions, comments: Mapping[int, Comments]) -> Iterator[Finding]:
    for hit in _hits(subject, comments):
        local = options.merged(comments.get(hit.origin, NO_COMMENTS).check_options())
        if local.runs(hit.rule):
            yield Finding(hit.rule, hit.message, hit.location, RULES[hit.rule].description)


def _hits(subject: Subject, comments: Mapping[int, Comments]) -> Iterator[Hit]:
    dockerfile = subject.dockerfile
    file_checks = chain(check_style(dockerfile, comments), check_names(subject), check_default_bases(subject))
    yield from file_checks
    try:
        scope = GlobalScope.resolve(
            dockerfile.global_args, subject.build_args, predefined_args(subject), Expander(dockerfile.escape)
        )
    except DockerfileError:
        # FROM lines cannot be expanded at all; the plan says why
        return
    yield from StageChecks(subject, scope).check()
