"""The rules of ARCHITECTURE.md, held against the source: who imports whom, who reads the environment, what ships."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("executor", "tasks", "webhook")
MAY_IMPORT = {"executor": set[str](), "tasks": {"executor"}, "webhook": {"executor", "tasks"}}
# third-party package -> the modules that may import it, as prefixes
ONLY_IN = {
    "flask": ("webhook",),
    "werkzeug": ("webhook",),
    "gunicorn": ("webhook",),
    "celery": ("tasks",),
    "kombu": ("tasks",),
    "redis": ("tasks", "webhook.embedded"),
    "cryptography": ("tasks.vault",),
    "pygit2": ("executor.context",),
    "requests": ("executor.registry", "webhook.client"),
    "urllib3": ("executor.registry", "webhook.client"),
    "dockerfile_parse": ("executor.dockerfile",),
    "isal": ("executor.layers",),
    "backports": ("executor.layers",),
}
# where the process's environment becomes values
ENVIRONMENT_READERS = {
    "executor.cli",
    "tasks.settings",
    # what a person's shell says to the commands: the server to ask, a secret's variable
    "webhook.commands.arguments",
    # puts a variable of OpenSSL back as it was
    "executor.context.libgit2",
}
ENTRY_POINTS = {"tasks.worker", "executor.plan_command"}
NAMES_WITHOUT_MEANING = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
MOST_LINES = 450


@dataclass(frozen=True)
class Module:
    """One source file, parsed."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def imports(self) -> Iterator[tuple[str, int]]:
        """Every module that is imported anywhere in the file, late imports included, with the line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: a relative import"
                yield node.module or "", node.lineno
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append(Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return tuple(found)


def is_within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def broken(rule: str, places: list[str]) -> str:
    return f"{rule}:\n" + "\n".join(places)


def test_there_is_something_to_look_at() -> None:
    assert {module.package for module in modules()} == set(PACKAGES)
    assert len(modules()) > 30


def test_imports_run_one_way() -> None:
    places = [
        f"{module.path}:{line}: {name}"
        for module in modules()
        for name, line in module.imports()
        if (other := name.partition(".")[0]) in PACKAGES
        and other != module.package
        and other not in MAY_IMPORT[module.package]
    ]
    assert not places, broken("imports run webhook -> tasks -> executor", places)


def test_nothing_imports_the_tests() -> None:
    places = [
        f"{module.path}:{line}"
        for module in modules()
        for name, line in module.imports()
        if name.partition(".")[0] in {"tests", "pytest", "hypothesis"}
    ]
    assert not places, broken("the tests are not part of the product", places)


def test_each_library_has_its_room() -> None:
    places = [
        f"{module.path}:{line}: {name}"
        for module in modules()
        for name, line in module.imports()
        if (allowed := ONLY_IN.get(name.partition(".")[0])) and not is_within(module.name, allowed)
    ]
    assert not places, broken("a library is used outside its room", sorted(set(places)))


def test_every_dependency_is_used_and_has_a_room() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[>\[.]", text)[0].replace("-", "_") for text in project["dependencies"]}
    used = {name.partition(".")[0] for module in modules() for name, _ in module.imports()}
    assert declared <= used, declared - used
    assert declared <= set(ONLY_IN), declared - set(ONLY_IN)


def environment_uses(module: Module) -> Iterator[tuple[str, int]]:
    """Each use of the process's environment: `set` of one variable, `hand-on` as a whole to a call, or `read`."""
    kinds: dict[int, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            kinds.update((id(item), "hand-on") for item in [*node.args, *(keyword.value for keyword in node.keywords)])
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            kinds[id(node.value)] = "set"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb"}:
            if isinstance(node.value, ast.Name) and node.value.id == "os":
                yield kinds.get(id(node), "read"), node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (("read", node.lineno) for alias in node.names if "env" in alias.name)


def test_the_environment_becomes_values_in_few_places() -> None:
    """A variable may be set for a library's sake, and a process's entry point may hand the whole on to a reader."""
    places = [
        f"{module.path}:{line}: {use}"
        for module in modules()
        for use, line in environment_uses(module)
        if module.name not in ENVIRONMENT_READERS
        and not (use == "hand-on" and (module.name in ENTRY_POINTS or module.package == "webhook"))
        and use != "set"
    ]
    assert not places, broken(f"the environment is read by {sorted(ENVIRONMENT_READERS)}", places)


def test_modules_are_short_and_named_after_something() -> None:
    long = [
        f"{module.path}: {lines} lines"
        for module in modules()
        if (lines := len(module.path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    ]
    assert not long, broken(f"a module has at most {MOST_LINES} lines", long)
    nameless = [str(module.path) for module in modules() if NAMES_WITHOUT_MEANING & set(module.name.split("."))]
    assert not nameless, broken("a module is named after its concept", nameless)


def test_no_function_changes_a_name_of_its_module() -> None:
    places = [
        f"{module.path}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global)
    ]
    assert not places, broken("no global statement", places)


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(module.path)
        for module in modules()
        if ast.get_docstring(module.tree) is None and module.path.name != "__init__.py"
    ]
    assert not silent, broken("a module begins with a docstring", silent)


def loaded_after(statement: str) -> set[str]:
    """What a fresh interpreter has imported after a statement."""
    script = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


RUNS_BUILDS = (
    "executor.builder",
    "executor.launch",
    "executor.isolation",
    "executor.steps",
    "executor.context.git",
    "tasks.build",
    "tasks.child",
    "tasks.worker",
    "pygit2",
    "dockerfile_parse",
)


@pytest.mark.parametrize("statement", ["from webhook.app import create_app", "import webhook.serve"])
def test_the_web_process_does_not_have_the_code_that_runs_builds(statement: str) -> None:
    present = sorted(name for name in loaded_after(statement) if is_within(name, RUNS_BUILDS))
    assert not present


def test_nothing_in_the_web_process_could_import_it_later() -> None:
    """The files that a served request can reach, late imports included, followed to the end."""
    by_name = {module.name: module for module in modules()}
    # the probe of this machine is for the command line, and no request leads to a command
    waiting, seen = ["webhook.app", "webhook.serve"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        waiting += [imported for imported, _ in by_name[name].imports()]
        # importing a.b.c runs a and a.b too
        waiting += [name.rpartition(".")[0]] if "." in name else []
    reached = sorted(name for name in seen if is_within(name, RUNS_BUILDS))
    assert not reached
    assert "webhook.hooks" in seen


def test_the_command_line_starts_without_its_libraries() -> None:
    """`pushwright build` is what people wait for; everything slow is imported when it is needed."""
    slow = {"flask", "celery", "redis", "requests", "pygit2", "cryptography", "gunicorn", "jsonschema"}
    assert not slow & loaded_after("import webhook.cli")
    assert not (slow - {"requests"}) & loaded_after("import executor.cli")


def test_the_executor_imports_nothing_of_the_server() -> None:
    present = {
        name.partition(".")[0] for name in loaded_after("import executor.cli, executor.builder, executor.launch")
    }
    assert not {"flask", "celery", "kombu", "redis", "tasks", "webhook"} & present


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution as it would be published, built by its own backend without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for name in (*PACKAGES, "tests", "examples", "deploy"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "secrets"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    script = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return directory / done.stdout.splitlines()[-1]


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    missing = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".lua", ".typed"} or path.name == "py.typed"
        if str(path.relative_to(ROOT)) not in names
    ]
    assert not missing, broken("not in the wheel", missing)
    assert any(name.endswith("licenses/LICENSE") for name in names)
