"""Do imports go one way, and does the model stand without the tools built on it?"""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nfcot_model

ROOT = Path(nfcot_model.__file__).parents[1]
LAYERS = ("nfcot_model", "probes", "analyses", "viz_app")
HEAVY = {"torch", "transformers", "accelerate", "pandas", "pyarrow", "sklearn", "streamlit"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in LAYERS for path in sources(package)}


def imported(tree: ast.AST) -> set[str]:
    """Every module named by an import anywhere in a tree, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            qualified = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (qualified & MODULES.keys()) or {node.module or ""}
    return names


def at_import_time(body: list[ast.stmt]) -> set[str]:
    """Modules imported by running a module's body, functions and TYPE_CHECKING blocks apart."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= imported(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            names |= at_import_time(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            names |= at_import_time(list(ast.iter_child_nodes(node)))  # type: ignore[arg-type]
    return names


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_imports_only_packages_below_it(package: str) -> None:
    above = set(LAYERS[LAYERS.index(package) + 1 :])
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imported(ast.parse(path.read_text()))
        if name.split(".")[0] in above
    }
    assert not wrong


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        name: at_import_time(ast.parse(path.read_text()).body) & MODULES.keys()
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' → '.join([*trail, name])}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


IMPORT_NAMES = {"scikit-learn": "sklearn", "pyyaml": "yaml", "markdown-it-py": "markdown_it"}


def test_every_dependency_of_a_plain_installation_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=,]", line)[0] for line in project["dependencies"]}
    used = {
        name.split(".")[0]
        for path in MODULES.values()
        for name in imported(ast.parse(path.read_text()))
    }
    assert {name for name in names if IMPORT_NAMES.get(name, name) not in used} == set()


BLOCKED = ("transformer_lens", "streamlit", "umap", "plotly")

IMPORT_ALL = """
import importlib, sys
for name in {blocked!r}:
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""


HOOKS = "nfcot_model.hooks"


def test_every_model_module_but_the_hooks_imports_without_the_optional_tools() -> None:
    found = pkgutil.walk_packages(nfcot_model.__path__, "nfcot_model.")
    modules = ["nfcot_model", *(m.name for m in found if not m.name.startswith(HOOKS))]
    assert len(modules) > 10
    done = import_blocked(modules)
    assert done.returncode == 0, done.stderr
    done = import_blocked([HOOKS])
    assert "hooks need transformer-lens: install the extra 'hooks'" in done.stderr


def import_blocked(modules: list[str]) -> subprocess.CompletedProcess[str]:
    code = IMPORT_ALL.format(blocked=BLOCKED, modules=modules)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, nfcot_model; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_public_name_exists() -> None:
    for name in nfcot_model.__all__:
        assert getattr(nfcot_model, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing_such'"):
        _ = nfcot_model.nothing_such
