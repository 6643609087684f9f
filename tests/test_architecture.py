"""The architecture: which package may import which, which libraries it may load, and no cycles."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("laser_dist", "beam_pipelines", "tfds_builders")
# A module imports from its own package and from lower layers. Packages of one layer do not import
# each other.
LAYERS = {
    "laser_dist.commands": 8,
    "laser_dist.api": 7,
    "laser_dist.evaluation": 6,
    "tfds_builders": 6,
    "beam_pipelines": 5,
    "laser_dist.training": 4,
    "laser_dist.encoding": 4,
    "laser_dist.examples": 3,
    "laser_dist.prediction": 3,
    "laser_dist.simulation": 3,
    "laser_dist.models": 2,
    "laser_dist.video": 2,
    "laser_dist.jnd": 1,
    "laser_dist.isolation": 1,
    "laser_dist.storage": 0,
    # Every package may import these.
    "laser_dist.errors": -1,
    "laser_dist.machine": -1,
    "laser_dist.keras_import": -1,
    "laser_dist.wording": -1,
    "laser_dist": -1,
}
# Subpackages that import only from those before them. The package's other modules import any.
SUBPACKAGES = {"laser_dist.training": ("config", "storage", "learning")}
TENSORFLOW = {"tensorflow", "tf_keras", "tensorflow_datasets"}
LEARNING = TENSORFLOW | {"keras"}
CLUSTERS = {"ray", "apache_beam"}


@dataclass(frozen=True)
class Import:
    """An import statement.

    Attributes:
      importer: module that holds it.
      imported: module that it names, of this project or not.
      is_eager: whether it runs when `importer` is imported, not in a function called later or for
        a type checker only.
    """

    importer: str
    imported: str
    is_eager: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def statements(node: ast.AST, is_eager: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_eager
        is_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield from statements(child, is_eager and not is_later)


def imported_modules(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert statement.level == 0, f"relative import: {ast.unparse(statement)}"
    names = [f"{statement.module}.{alias.name}" for alias in statement.names]
    return [name if name in MODULES else str(statement.module) for name in names]


IMPORTS = sorted(
    {
        Import(importer, imported, is_eager)
        for importer, tree in MODULES.items()
        for statement, is_eager in statements(tree, True)
        for imported in imported_modules(statement)
    },
    key=repr,
)


def is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def package_of(module: str) -> str:
    return max((name for name in LAYERS if is_within(module, name)), key=len)


def top(module: str) -> str:
    return module.partition(".")[0]


def reachable(module: str) -> set[str]:
    """All modules that `module` imports, directly or not, eagerly or not."""
    reached, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        found = {each.imported for each in IMPORTS if each.importer == current} - reached
        reached |= found
        waiting.extend(found & MODULES.keys())
    return reached


def test_every_package_has_a_layer():
    packages = {f"laser_dist.{path.parent.name}" for path in ROOT.glob("laser_dist/*/__init__.py")}
    assert packages | set(PACKAGES) <= set(LAYERS)
    assert {name for name in MODULES if package_of(name) == "laser_dist"} == {"laser_dist"}


def test_imports_point_down_the_layers():
    wrong = [
        f"{each.importer} -> {each.imported}"
        for each in IMPORTS
        if top(each.imported) in PACKAGES
        and package_of(each.importer) != package_of(each.imported)
        and LAYERS[package_of(each.importer)] <= LAYERS[package_of(each.imported)]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_a_subpackage_imports_only_those_before_it(package):
    names = [f"{package}.{name}" for name in SUBPACKAGES[package]]
    wrong = [
        f"{each.importer} -> {each.imported}"
        for number, name in enumerate(names)
        for each in IMPORTS
        if is_within(each.importer, name) and is_within(each.imported, package)
        if not any(is_within(each.imported, lower) for lower in names[: number + 1])
    ]
    assert wrong == []


def test_every_imported_module_of_the_project_exists():
    imported = {each.imported for each in IMPORTS if top(each.imported) in PACKAGES}
    assert imported <= MODULES.keys()


def names_in(module: str) -> set[str]:
    """Names that a module defines or imports, at any level."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def test_scripts_import_names_that_exist():
    scripts = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/two_hosts/*.py")]
    wrong = [
        f"{path.name}: {statement.module}.{alias.name}"
        for path in scripts
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(statement, ast.ImportFrom) and top(str(statement.module)) in PACKAGES
        for alias in statement.names
        if f"{statement.module}.{alias.name}" not in MODULES
        and (statement.module not in MODULES or alias.name not in names_in(statement.module))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("package", "libraries"),
    [
        ("laser_dist.storage", LEARNING | CLUSTERS),
        ("laser_dist.video", LEARNING | CLUSTERS),
        ("laser_dist.jnd", LEARNING | CLUSTERS),
        ("laser_dist.simulation", LEARNING | CLUSTERS),
        ("laser_dist.models", TENSORFLOW | CLUSTERS),
        ("beam_pipelines", LEARNING | {"ray"}),
        ("tfds_builders", {"keras", "tf_keras", "ray"}),
    ],
)
def test_a_package_does_not_import(package, libraries):
    for module in MODULES:
        if is_within(module, package):
            assert not libraries & set(map(top, reachable(module))), module


def test_ray_is_imported_only_in_functions_of_two_modules():
    ray = {each for each in IMPORTS if top(each.imported) == "ray"}
    allowed = {"laser_dist.training.ray_entry", "laser_dist.commands.doctor"}
    assert {each.importer for each in ray} <= allowed
    assert not any(each.is_eager for each in ray)


@pytest.mark.parametrize(
    ("call", "modules"),
    [
        (r'\bav\.open\((?!.*"w")', {"video/containers.py"}),  # to read
        (r"\bImage\.open\(", {"video/images.py", "video/through_pillow.py"}),
        (r"(?<!def )\bload_model\(", {"models/predictors.py"}),
        (r"\bh5py\.File\(", {"models/weight_files.py", "commands/import_weights.py"}),
        (r"\bpickle\.loads?\(|allow_pickle=True|safe_mode=False|\bImage\.init\(", set()),
    ],
    ids=["FFmpeg", "Pillow", "Keras", "HDF5", "pickles"],
)
def test_files_of_anybody_are_opened_where_their_format_is_checked(call, modules):
    found = {
        path.relative_to(ROOT).as_posix().removeprefix("laser_dist/")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if re.search(call, path.read_text())
    }
    # A child process checks that its own error can be sent to the parent.
    assert found - {"isolation.py"} == modules


def test_keras_is_not_imported_from_tensorflow():
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in {"tf.keras", "tensorflow.keras"}, module
    for each in IMPORTS:
        assert top(each.imported) != "tf_keras", each
        assert not each.imported.startswith("tensorflow.keras"), each
        assert not each.imported.startswith("tensorflow.python"), each


def test_no_modules_import_each_other_in_a_cycle():
    graph = {
        module: {
            each.imported
            for each in IMPORTS
            if each.importer == module and each.imported in MODULES
        }
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


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
def test_help_imports_only_the_standard_library(code):
    script = (
        "import sys; before = set(sys.modules)\n"
        f"try: {code}\n"
        "except SystemExit as exit: assert not exit.code\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.split()) - sys.stdlib_module_names == {"laser_dist"}


@pytest.fixture(scope="module")
def project_files() -> dict[str, str]:
    """Text of each file of the project, by path."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"only Git knows which files belong to the project: {error}")
    return {
        name: (ROOT / name).read_bytes().decode("utf-8", "replace")
        for name in done.stdout.split("\0")
        if (ROOT / name).is_file()  # neither the last, empty name nor a file just removed
    }


@pytest.mark.parametrize(
    "pattern",
    [
        # Folders that exist on one machine only. `app/home/x` is none, and Beam's images have
        # their boot program in the excluded folder.
        r"(?<![\w.~-])/(?!opt/apache/beam\b)(?:work|root|home|opt|mnt|Users)/",
        # Where packages come from is the installer's configuration.
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
