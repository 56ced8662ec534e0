"""Imports point one way, as pyproject.toml's `tool.importlinter` says, and that is checked."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
}
ONE_WAY = "one-way"
PURE_AGGREGATES = "pure-aggregates"


def lint_imports(tree: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """Checks the packages in a folder against the contracts in it, by default all."""
    program = "from importlinter.cli import lint_imports_command as lint; lint()"
    options = [f"--contract={contract}" for contract in contracts]
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--no-logo", *options],
        cwd=tree,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and their contracts, to be spoilt."""
    for package in ("command_service", "query_service", "shared"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def add_imports(module: Path, *imported: str) -> None:
    with module.open("a", encoding="utf-8") as file:
        file.writelines(f"\nimport {name}\n" for name in imported)


def test_every_import_points_the_right_way() -> None:
    checked = lint_imports(ROOT)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in checked.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("command_service/__init__.py", "query_service"),
        ("query_service/__init__.py", "command_service"),
        ("shared/errors.py", "command_service.aggregates"),
        ("shared/errors.py", "query_service"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_found(
    copy: Path, module: str, imported: str
) -> None:
    add_imports(copy / module, imported)
    checked = lint_imports(copy, ONE_WAY)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    importer = module.split("/", maxsplit=1)[0]
    package = imported.split(".", maxsplit=1)[0]
    assert f"{importer} is not allowed to import {package}" in checked.stdout


@pytest.mark.parametrize("package", CONTRACTS[PURE_AGGREGATES]["source_modules"])
def test_whatever_an_aggregate_must_not_know_is_found(copy: Path, package: str) -> None:
    forbidden = CONTRACTS[PURE_AGGREGATES]["forbidden_modules"]
    add_imports(copy / package.replace(".", "/") / "ship.py", *forbidden)
    checked = lint_imports(copy, PURE_AGGREGATES)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    missed = [
        module
        for module in forbidden
        if f"{package} is not allowed to import {module}:" not in checked.stdout
    ]
    assert missed == []


def test_what_an_aggregate_knows_through_another_module_is_found(copy: Path) -> None:
    add_imports(copy / "shared" / "errors.py", "grpc")
    checked = lint_imports(copy, PURE_AGGREGATES)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert "shared.errors -> grpc" in checked.stdout
