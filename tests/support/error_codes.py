"""The codes of errors and warnings as the source has them: found in the syntax tree, not in a list of their own."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "PushwrightError"
# codes that are put together from parts: the place that does it, and the class it raises
COMPOSED = {"executor/rootfs/users.py": ("StepFailedError", ("user-unknown", "group-unknown"))}


@dataclass(frozen=True)
class ErrorClass:
    """A class of the tree as it is written: its bases, and the attributes that it sets itself."""

    bases: tuple[str, ...]
    attributes: Mapping[str, object]


@dataclass
class Uses:
    """The classes that carry a code, and the places where it is written."""

    classes: set[str] = field(default_factory=set)
    places: list[str] = field(default_factory=list)


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for package in ("executor", "tasks", "webhook"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def _attributes(node: ast.ClassDef) -> dict[str, object]:
    found: dict[str, object] = {}
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            found[target.id] = value.value
    return found


@cache
def error_classes() -> dict[str, ErrorClass]:
    """Every class of the tree of errors, by name."""
    classes = {
        node.name: ErrorClass(tuple(ast.unparse(base) for base in node.bases), _attributes(node))
        for _, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def is_error(name: str) -> bool:
        return name == BASE or (name in classes and any(is_error(base) for base in classes[name].bases))

    return {name: value for name, value in classes.items() if is_error(name)}


def attribute(classes: Mapping[str, ErrorClass], name: str, wanted: str) -> object:
    """An attribute of an error class, inherited where it sets none."""
    found = classes[name]
    if wanted in found.attributes:
        return found.attributes[wanted]
    return next(attribute(classes, base, wanted) for base in found.bases if base in classes)


@cache
def codes() -> dict[str, Uses]:
    """Every code: as a class's own, as `code="…"` of a call, or composed."""
    classes = error_classes()
    found: dict[str, Uses] = defaultdict(Uses)
    for name, value in classes.items():
        if code := value.attributes.get("code"):
            found[str(code)].classes.add(name)
            found[str(code)].places.append(f"class {name}")
    for path, tree in _trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            for keyword in node.keywords:
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    uses = found[str(keyword.value.value)]
                    uses.places.append(f"{path}:{node.lineno}")
                    called = ast.unparse(node.func)
                    uses.classes |= {called} & set(classes)
        raised, composed = COMPOSED.get(path, ("", ()))
        for code in composed:
            found[code].places.append(path)
            found[code].classes.add(raised)
    return dict(found)


def exit_statuses(code: str) -> set[int]:
    """The exit statuses with which an error of this code ends a command, as far as its classes tell."""
    classes = error_classes()
    return {int(str(attribute(classes, name, "exit_status"))) for name in codes()[code].classes}
