"""Generates the Python code of the contract in protos/ and puts it into what is built.

Run as a script, it only regenerates, for an editable install whose .proto files have changed.
"""

import os
import shutil
import sys
import sysconfig
from importlib import resources
from pathlib import Path
from typing import Any

import google.rpc
from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "build" / "gen"
DEPENDENCIES = ROOT / "build" / "deps"


def generate() -> None:
    """Writes the modules and type stubs of every .proto to build/gen.

    Raises:
        RuntimeError: protoc refused; its own message is on standard error.
    """
    # What the contract imports from elsewhere, where buf, too, finds it without a network; and what
    # clients that are made from .proto files need beside it, to decode the details of errors.
    shutil.rmtree(DEPENDENCIES, ignore_errors=True)
    (DEPENDENCIES / "google" / "rpc").mkdir(parents=True)
    google_rpc = Path(next(iter(google.rpc.__path__)))
    for name in ("status.proto", "error_details.proto"):
        shutil.copy(google_rpc / name, DEPENDENCIES / "google" / "rpc")

    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir(parents=True)
    # protoc looks for protoc-gen-mypy on PATH; an isolated build has it beside its interpreter.
    scripts = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    os.environ["PATH"] = os.pathsep.join([*scripts, os.environ.get("PATH", "")])
    arguments = [
        "protoc",
        f"--proto_path={PROTOS}",
        f"--proto_path={DEPENDENCIES}",
        f"--proto_path={resources.files('grpc_tools') / '_proto'}",
        f"--python_out={GENERATED}",
        f"--mypy_out=readable_stubs,quiet:{GENERATED}",
        *(str(path) for path in sorted(PROTOS.rglob("*.proto"))),
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc could not generate code from protos/")
    package = GENERATED / "tidemark"
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()
    (package / "py.typed").touch()


class GenerateContract(BuildHookInterface[Any]):
    """Adds the package `tidemark` to the wheel, or to the path of an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; `version` is "standard" or "editable"."""
        generate()
        if version == "editable":
            pth = ROOT / "build" / "tidemark.pth"
            pth.write_text(f"{GENERATED}\n")
            build_data["force_include_editable"][str(pth)] = "tidemark.pth"
        else:
            build_data["force_include"][str(GENERATED / "tidemark")] = "tidemark"


if __name__ == "__main__":
    generate()
