"""The exceptions of Pushwright, and what each tells its reader.

::

    PushwrightError
    ├── UserError                the project's author can fix it            exit status 1
    │   ├── DockerfileError      with file and line
    │   ├── ContextError         a build context that cannot be used
    │   ├── GitError             the commit cannot be had
    │   ├── StepFailedError      a RUN exited non-zero, or a step cannot be done
    │   └── BuildDeadlineError   the build ran longer than it may
    ├── UsageError               a flag, an argument, a specification        exit status 2
    ├── HostError                this machine cannot do what was asked       exit status 3
    │   ├── IsolationError
    │   ├── StoreError
    │   └── DiskFullError
    ├── RegistryError            the registry refused or is away             exit status 4
    │   ├── RegistryUnavailableError   (retryable)
    │   ├── RegistryAuthError
    │   ├── RegistryNotFoundError
    │   └── RegistryContentError       its bytes are not what they claim to be
    └── BuildCancelledError      somebody asked for it                       exit status 130
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Party = Literal["user", "host", "registry"]


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file that a person wrote; lines count from 1 and `end_line` is inclusive."""

    file: str
    line: int
    end_line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class PushwrightError(Exception):
    """Base of every error that reaches a person.

    `code` is a stable kebab-case slug, `message` says what was expected and what was found, `hint` what to do,
    `fixable_by` who can do it, and `retryable` whether the same request may succeed later.
    """

    code: str = "internal"
    fixable_by: ClassVar[Party] = "host"
    retryable: bool = False
    exit_status: ClassVar[int] = 3

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        location: Location | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.location = location
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        text = f"{self.location}: {self.message}" if self.location else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON values: the shape of the `error` event and of `error` in a build record."""
        value: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "fixable_by": self.fixable_by,
            "retryable": self.retryable,
        }
        if self.hint:
            value["hint"] = self.hint
        if self.location:
            value["file"], value["line"] = self.location.file, self.location.line
        return value


class UserError(PushwrightError):
    """Something in the repository or the request that its author can mend."""

    code = "user-error"
    fixable_by: ClassVar[Party] = "user"
    exit_status: ClassVar[int] = 1


class DockerfileError(UserError):
    """A Dockerfile that does not parse or does not make sense; always with a location.

    `excerpt` are the lines of the file around it, for people; whoever has the text gives them.
    """

    code = "dockerfile-syntax"
    excerpt: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        value = super().to_dict()
        if self.excerpt:
            value["excerpt"] = list(self.excerpt)
        return value


class ContextError(UserError):
    """A build context, or a path in it, that cannot be used."""

    code = "context-invalid"


class GitError(UserError):
    """The commit could not be fetched or checked out."""

    code = "git-failed"


class StepFailedError(UserError):
    """A step of the build failed; `status` is the command's exit status and `tail` its last output lines."""

    code = "step-failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        location: Location | None = None,
        status: int | None = None,
        tail: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, code=code, hint=hint, location=location)
        self.status = status
        self.tail = tail

    def to_dict(self) -> dict[str, Any]:
        value = super().to_dict()
        if self.status is not None:
            value["status"] = self.status
        if self.tail:
            value["tail"] = list(self.tail)
        return value


class BuildDeadlineError(UserError):
    """The build ran past its deadline and was killed."""

    code = "deadline-exceeded"


class UsageError(PushwrightError):
    """A flag, argument, setting or specification that is not understood."""

    code = "usage"
    fixable_by: ClassVar[Party] = "user"
    exit_status: ClassVar[int] = 2


class HostError(PushwrightError):
    """This machine cannot do what was asked."""

    code = "host-error"


class IsolationError(HostError):
    """The kernel or its configuration refuses a part of the isolation."""

    code = "isolation-unavailable"


class StoreError(HostError):
    """The content store is damaged, of another version, or not writable."""

    code = "store-error"


class DiskFullError(HostError):
    """No space, or no inodes, are left where the store lives."""

    code = "disk-full"
    retryable = True


class RegistryError(PushwrightError):
    """A registry answered with a refusal."""

    code = "registry-refused"
    fixable_by: ClassVar[Party] = "registry"
    exit_status: ClassVar[int] = 4


class RegistryUnavailableError(RegistryError):
    """A registry could not be reached, or answered that it cannot serve now."""

    code = "registry-unavailable"
    retryable = True


class RegistryAuthError(RegistryError):
    """A registry asked for credentials, or refused the ones it got."""

    code = "registry-unauthorized"


class RegistryNotFoundError(RegistryError):
    """A registry does not know this name, tag or digest."""

    code = "registry-not-found"


class RegistryContentError(RegistryError):
    """Bytes from a registry do not match their digest, size, media type or limits."""

    code = "registry-content"


class BuildCancelledError(PushwrightError):
    """The build was cancelled from outside."""

    code = "cancelled"
    fixable_by: ClassVar[Party] = "user"
    exit_status: ClassVar[int] = 130
