"""The rules: names, what they say, and findings (BuildKit `linter/ruleset.go`, as of Dockerfile 1.18 and later)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from executor.errors import Location

_WORD_END = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, slots=True)
class Rule:
    """One check; an experimental one runs only where it was asked for by name, or all were."""

    name: str
    description: str
    explanation: str
    experimental: bool = False

    @property
    def code(self) -> str:
        """The code of the rule's warnings: `check-` and the name in kebab case."""
        return "check-" + _WORD_END.sub("-", self.name).lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found, and where; `detail` is the rule's description."""

    rule: str
    message: str
    location: Location
    detail: str

    @property
    def code(self) -> str:
        return RULES[self.rule].code


_ALL = (
    Rule(
        "StageNameCasing",
        "Stage names should be lowercase",
        "Stage names do not depend on case, so write them in lower case.",
    ),
    Rule(
        "FromAsCasing",
        "The 'as' keyword should match the case of the 'from' keyword",
        "Write FROM … AS or from … as.",
    ),
    Rule(
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
        "Remove the blank line inside the continued instruction, or make it a comment.",
    ),
    Rule(
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        "Write every instruction in the case that most of the file has.",
    ),
    Rule(
        "DuplicateStageName",
        "Stage names should be unique",
        "A later stage of the same name hides the earlier one.",
    ),
    Rule(
        "ReservedStageName",
        "Reserved words should not be used as stage names",
        "scratch and context have a meaning of their own.",
    ),
    Rule(
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        'A shell between the runtime and the program does not pass signals on: write CMD ["program", "argument"], '
        "or set SHELL to say that a shell is meant.",
    ),
    Rule(
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        "Write LABEL org.opencontainers.image.authors=….",
    ),
    Rule(
        "UndefinedArgInFrom",
        "FROM command must use declared ARGs",
        "Declare the variable by ARG before the first FROM.",
    ),
    Rule(
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
        "base image changes",
        "Give the first WORKDIR of a stage an absolute path.",
    ),
    Rule(
        "UndefinedVar",
        "Variables should be defined before their use",
        "Declare the variable by ARG or ENV in the stage, before it is used.",
    ),
    Rule(
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
        "Of CMD, ENTRYPOINT and HEALTHCHECK only the last of a stage counts.",
    ),
    Rule(
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
        "Write ENV key=value and LABEL key=value.",
    ),
    Rule(
        "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform",
        "The registry has the base image for another platform only.",
    ),
    Rule(
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        "Remove the --platform flag.",
    ),
    Rule(
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
        "Whoever has the image can read its arguments and environment: use RUN --mount=type=secret.",
    ),
    Rule(
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
        "Give the ARG a default with which the file builds without --build-arg.",
    ),
    Rule(
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
        "Use $BUILDPLATFORM or $TARGETPLATFORM, or name the stage after the platform.",
    ),
    Rule(
        "CopyIgnoredFile",
        "Attempting to Copy file that is excluded by .dockerignore",
        "The file is not part of the build context: change .dockerignore, or copy another one.",
    ),
    Rule(
        "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is "
        "not intended to be a description comment, add an empty line or comment between the instruction and the "
        "comment.",
        "A comment right before FROM or ARG describes the stage or argument.",
        experimental=True,
    ),
    Rule(
        "ExposeProtoCasing",
        "Protocol in EXPOSE instruction should be lowercase",
        "Write tcp, udp or sctp.",
    ),
    Rule(
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
        "future release",
        "EXPOSE names the container's port alone; addresses and host ports are given when it is run.",
    ),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in _ALL}
