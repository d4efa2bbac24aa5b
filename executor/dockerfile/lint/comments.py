"""The comments that stand before an instruction: they may describe it, or skip checks for it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from executor.dockerfile.lint.options import CheckOptionError, CheckOptions
from executor.dockerfile.words import SPACE


@dataclass(frozen=True, slots=True)
class Comments:
    """Comments between an instruction and the one before it, without the `#`; `description` is the adjacent one's.

    An empty comment ends what stands before it. So does, for descriptions, a blank line: the documentation says so,
    though BuildKit's parser lets it pass.
    """

    texts: tuple[str, ...] = ()
    description: str = ""

    def check_options(self) -> CheckOptions:
        """What the first `# check=…` among them says, up to its first blank; nothing when it is not understood."""
        for text in self.texts:
            name, equals, value = text.partition("=")
            if equals and name.strip(SPACE).lower() == "check":
                try:
                    return CheckOptions.parse(value.strip(SPACE).split(" ")[0])
                except CheckOptionError:
                    return CheckOptions()
        return CheckOptions()


NO_COMMENTS = Comments()


def comments_before(
    lines: Sequence[str], starts: Mapping[int, int], directive_lines: frozenset[int]
) -> Mapping[int, Comments]:
    """The comments before each instruction that has any, by its first line.

    `starts` maps the first line of each instruction to its last, counted from 1, in order.
    """
    found: dict[int, Comments] = {}
    position = 1
    for start, end in starts.items():
        between = [
            line.strip(SPACE)
            for number, line in enumerate(lines[position - 1 : start - 1], start=position)
            if number not in directive_lines
        ]
        if comments := _collect(between):
            found[start] = comments
        position = end + 1
    return found


def _collect(lines: Sequence[str]) -> Comments | None:
    texts: list[str] = []
    description = ""
    for line in lines:
        if not line.startswith("#"):
            description = ""
        elif description := line[1:].strip(SPACE):
            texts.append(description)
        else:
            texts.clear()
    return Comments(tuple(texts), description) if texts else None
