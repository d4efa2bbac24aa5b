"""What is checked: a parsed Dockerfile, its text, and what is known of its surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from executor.context.ignore import IgnoreRules
from executor.dockerfile.instructions import Dockerfile
from executor.errors import Location
from executor.oci import Platform


@dataclass(frozen=True, slots=True)
class BaseImage:
    """What the config of a base image says, for whoever has fetched it: some checks depend on it."""

    environment: tuple[str, ...] = ()
    platform: Platform | None = None
    has_shell: bool = False
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One Dockerfile to check.

    `bases` has the base images that were looked at, by the stage's index. Without its image a stage gets no finding
    that the image could refute. `needed` are the stages to check; all when None.
    """

    dockerfile: Dockerfile
    source: bytes
    platform: Platform
    build_platform: Platform
    build_args: Mapping[str, str] = field(default_factory=dict)
    target_name: str = ""
    ignore: IgnoreRules | None = None
    bases: Mapping[int, BaseImage] = field(default_factory=dict)
    needed: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that was broken; `origin` is the first line of the instruction whose comments may skip it."""

    rule: str
    message: str
    location: Location
    origin: int
