"""What holds the house together: who imports whom, what loads what, and what no file may hold."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("laser_dist", "beam_pipelines", "tfds_builders")
# Imports go to a lower floor or stay in their package; two packages of one floor are strangers.
FLOORS = {
    "laser_dist.commands": 5,
    "laser_dist.evaluation": 4,
    "tfds_builders": 4,
    "laser_dist.training": 3,
    "laser_dist.prediction": 2,
    "laser_dist.simulation": 2,
    "beam_pipelines": 3,
    "laser_dist.models": 1,
    "laser_dist.video": 1,
    "laser_dist.jnd": 1,
    "laser_dist.errors": 0,
    "laser_dist": 0,
}
# Parts of a package, of which each knows those before it; what lies beside them knows all.
PARTS = {"laser_dist.training": ("config", "storage", "examples", "learning")}
LEARNING = {"tensorflow", "keras", "tf_keras", "tensorflow_datasets"}
CLUSTERS = {"ray", "apache_beam"}
MAX_LINES = 400
# File to the reason why it may be longer.
LONGER: dict[str, str] = {}


@dataclass(frozen=True)
class Arrow:
    """An import.

    Attributes:
      importer: module that holds it.
      imported: module that it names, of the house or not.
      at_once: whether it happens when the importer is imported, not in a function called later or
        for a type checker alone.
    """

    importer: str
    imported: str
    at_once: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_in(node: ast.AST, at_once: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_once
        is_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield from imports_in(child, at_once and not is_later)


def named_by(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert statement.level == 0, f"relative: {ast.unparse(statement)}"
    names = [f"{statement.module}.{alias.name}" for alias in statement.names]
    return [name if name in MODULES else str(statement.module) for name in names]


ARROWS = sorted(
    {
        Arrow(importer, imported, at_once)
        for importer, tree in MODULES.items()
        for statement, at_once in imports_in(tree, True)
        for imported in named_by(statement)
    },
    key=repr,
)


def room_of(module: str) -> str:
    """The package with a floor of its own that a module belongs to."""
    return max((name for name in FLOORS if is_within(module, name)), key=len)


def is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def top(module: str) -> str:
    return module.partition(".")[0]


def reached_from(module: str) -> set[str]:
    """All that a module imports, and what that imports, now or later."""
    reached, waiting = set(), [module]
    while waiting:
        here = waiting.pop()
        found = {arrow.imported for arrow in ARROWS if arrow.importer == here} - reached
        reached |= found
        waiting.extend(found & MODULES.keys())
    return reached


def test_every_package_has_a_floor():
    packages = {f"laser_dist.{path.parent.name}" for path in ROOT.glob("laser_dist/*/__init__.py")}
    assert packages | set(PACKAGES) | {"laser_dist.errors"} == set(FLOORS)
    loose = {name for name in MODULES if room_of(name) == "laser_dist"}
    assert loose == {"laser_dist"}


def test_arrows_point_down_or_stay_in_their_package():
    wrong = [
        f"{arrow.importer} -> {arrow.imported}"
        for arrow in ARROWS
        if top(arrow.imported) in PACKAGES
        and room_of(arrow.importer) != room_of(arrow.imported)
        and FLOORS[room_of(arrow.importer)] <= FLOORS[room_of(arrow.imported)]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PARTS)
def test_a_part_knows_only_those_before_it(package):
    rooms = [f"{package}.{name}" for name in PARTS[package]]
    wrong = [
        f"{arrow.importer} -> {arrow.imported}"
        for number, room in enumerate(rooms)
        for arrow in ARROWS
        if is_within(arrow.importer, room) and is_within(arrow.imported, package)
        if not any(is_within(arrow.imported, known) for known in rooms[: number + 1])
    ]
    assert wrong == []


def test_the_page_on_architecture_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    names = {path.stem for path in files} - {"__init__"}
    assert {name for name in names if not re.search(rf"`[\w.]*\b{name}`", page)} == set()


def test_every_module_of_ours_that_is_named_is_there():
    named = {arrow.imported for arrow in ARROWS if top(arrow.imported) in PACKAGES}
    assert named <= MODULES.keys()


@pytest.mark.parametrize(
    ("package", "strangers"),
    [
        ("laser_dist.video", LEARNING | CLUSTERS),
        ("laser_dist.jnd", LEARNING | CLUSTERS),
        ("laser_dist.simulation", LEARNING | CLUSTERS),
        ("laser_dist.models", {"tensorflow", "tf_keras", "tensorflow_datasets"} | CLUSTERS),
        ("beam_pipelines", LEARNING | {"ray"}),
        ("tfds_builders", {"keras", "tf_keras", "ray"}),
    ],
)
def test_a_package_does_without(package, strangers):
    for module in MODULES:
        if is_within(module, package):
            assert not strangers & set(map(top, reached_from(module))), module


def test_ray_is_imported_where_runs_begin_and_jobs_are_submitted_and_only_then():
    arrows = {arrow for arrow in ARROWS if top(arrow.imported) == "ray"}
    importers = {"laser_dist.training.ray_entry", "laser_dist.commands.ray_head"}
    assert {arrow.importer for arrow in arrows} == importers
    assert not any(arrow.at_once for arrow in arrows)


def test_keras_is_never_taken_from_tensorflow():
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in {"tf.keras", "tensorflow.keras"}, module
    for arrow in ARROWS:
        assert top(arrow.imported) != "tf_keras", arrow
        assert not arrow.imported.startswith("tensorflow.keras"), arrow
        assert not arrow.imported.startswith("tensorflow.python"), arrow


def test_no_modules_import_each_other_in_a_circle():
    waiting = {
        module: {
            arrow.imported
            for arrow in ARROWS
            if arrow.importer == module and arrow.at_once and arrow.imported in MODULES
        }
        for module in MODULES
    }
    while free := {module for module, imported in waiting.items() if not imported}:
        waiting = {
            module: imported - free for module, imported in waiting.items() if module not in free
        }
    assert waiting == {}


@pytest.mark.parametrize(
    "code",
    [
        "import laser_dist",
        "import laser_dist.commands.main",
        "from laser_dist.commands.main import run; run(['--version'])",
        "from laser_dist.commands.main import run; run(['--help'])",
        "from laser_dist.commands.main import run; run(['train', '--help'])",
    ],
)
def test_asking_for_help_loads_nothing_but_the_standard_library(code):
    script = (
        "import sys; before = set(sys.modules)\n"
        f"try: {code}\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.split()) - sys.stdlib_module_names == {"laser_dist"}


@pytest.fixture(scope="module")
def project_files() -> dict[str, str]:
    """Texts of all files that belong to the project, by path."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"only Git knows which files belong to the project: {error}")
    texts = {}
    for name in done.stdout.split("\0"):
        if (ROOT / name).is_file():  # neither the empty end nor a file that was just removed
            texts[name] = (ROOT / name).read_bytes().decode("utf-8", "replace")
    return texts


@pytest.mark.parametrize(
    "pattern",
    [
        # Folders that only one machine has; as a word's beginning, so `app/home/x` is none. Beam's
        # own images have their boot program in the one that is left out.
        r"(?<![\w.~-])/(?!opt/apache/beam\b)(?:work|root|home|opt|mnt|Users)/",
        # Where packages come from is the installer's business.
        r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|index-url\s*=",
    ],
    ids=["machine", "registry"],
)
def test_no_file_names_a_machine_or_a_registry(pattern, project_files):
    found = {
        name: match[0]
        for name, text in project_files.items()
        if (match := re.search(pattern, text))
    }
    assert found == {}


def test_files_are_short(project_files):
    lengths = {
        name: text.count("\n") for name, text in project_files.items() if name.endswith(".py")
    }
    assert {name for name, lines in lengths.items() if lines > MAX_LINES} == set(LONGER)
