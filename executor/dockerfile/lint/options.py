"""`check=skip=A,B|all;error=true;experimental=C|all`: which rules run (BuildKit `linter/linter.go`)."""

from __future__ import annotations

from dataclasses import dataclass

from executor.dockerfile.lint.rules import RULES

# strconv.ParseBool
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_PARTS = 3


class CheckOptionError(ValueError):
    """Check options that are not understood; whoever read them knows where they stand."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Rules that are skipped, experimental ones that run all the same, and whether findings are errors."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    as_error: bool = False

    @classmethod
    def parse(cls, text: str) -> CheckOptions:
        """The options of a directive or of BUILDKIT_DOCKERFILE_CHECK; `CheckOptionError` for anything else."""
        found = cls()
        # at most three parts, as BuildKit: what stands behind further semicolons belongs to the third
        for part in text.strip().split(";", _PARTS - 1) if text.strip() else ():
            name, equals, value = part.partition("=")
            if not equals or name.strip() not in {"skip", "error", "experimental"}:
                raise CheckOptionError(f"expected skip=, error= or experimental=, found {part[:60]!r}")
            found = found._with(name.strip(), value.strip())
        return found

    def _with(self, name: str, value: str) -> CheckOptions:
        rules = frozenset(item.strip() for item in value.split(","))
        everything = value == "all"
        if name == "skip":
            kept = (self.skip if everything else rules, self.skip_all or everything)
            return CheckOptions(*kept, self.experimental, self.experimental_all, self.as_error)
        if name == "experimental":
            wanted = (self.experimental if everything else rules, self.experimental_all or everything)
            return CheckOptions(self.skip, self.skip_all, *wanted, self.as_error)
        if value not in _TRUE | _FALSE:
            raise CheckOptionError(f"error: expected true or false, found {value[:60]!r}")
        return CheckOptions(self.skip, self.skip_all, self.experimental, self.experimental_all, value in _TRUE)

    def merged(self, other: CheckOptions) -> CheckOptions:
        """These, and for one instruction those of a comment before it, which cannot make findings errors."""
        return CheckOptions(
            self.skip | other.skip,
            self.skip_all or other.skip_all,
            self.experimental | other.experimental,
            self.experimental_all or other.experimental_all,
            self.as_error,
        )

    def runs(self, rule: str) -> bool:
        """Whether a rule runs; `skip` does not touch the experimental ones, as in BuildKit."""
        if RULES[rule].experimental:
            return self.experimental_all or rule in self.experimental
        return not self.skip_all and rule not in self.skip

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names that are no rule's: they do nothing."""
        return tuple(sorted((self.skip | self.experimental) - set(RULES)))
