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

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
GENERATED = ROOT / "build" / "gen"
DEPENDENCIES = ROOT / "build" / "deps"


def generate() -> None:
    """Writes the modules and type stubs of every .proto to build/gen.

    Raises:
        RuntimeError: protoc refused; its own message is on standard error.
    """
    from grpc_tools import protoc

    import google.rpc

    protos = ROOT / "protos"
    google = Path(next(iter(google.rpc.__path__))).parent
    # Only what the contract imports, so that buf can lint without a network.
    shutil.rmtree(DEPENDENCIES, ignore_errors=True)
    (DEPENDENCIES / "google" / "rpc").mkdir(parents=True)
    shutil.copy(google / "rpc" / "status.proto", DEPENDENCIES / "google" / "rpc")

    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir(parents=True)
    # protoc looks for protoc-gen-mypy on PATH; an isolated build keeps it beside its interpreter.
    scripts = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    os.environ["PATH"] = os.pathsep.join([*scripts, os.environ.get("PATH", "")])
    arguments = [
        "protoc",
        f"--proto_path={protos}",
        f"--proto_path={DEPENDENCIES}",
        f"--proto_path={resources.files('grpc_tools') / '_proto'}",
        f"--python_out={GENERATED}",
        f"--mypy_out=readable_stubs:{GENERATED}",
        *(str(path) for path in sorted(protos.rglob("*.proto"))),
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc could not generate code from protos/")
    for folder in [GENERATED / "tidemark", *(GENERATED / "tidemark").rglob("*/")]:
        (folder / "__init__.py").touch()
    (GENERATED / "tidemark" / "py.typed").touch()


class GenerateContract(BuildHookInterface[Any]):
    """Adds the package `tidemark` to the wheel, or to the path of an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()
        if version == "editable":
            pth = ROOT / "build" / "tidemark.pth"
            pth.write_text(f"{GENERATED}\n")
            build_data["force_include_editable"][str(pth)] = "tidemark.pth"
        else:
            build_data["force_include"][str(GENERATED / "tidemark")] = "tidemark"


if __name__ == "__main__":
    generate()
