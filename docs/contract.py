"""Writes contract.md, beside this file, from the comments in protos/: `make contract`."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
    SourceCodeInfo,
)
from grpc_tools import protoc

from hatch_build import DEPENDENCIES, PROTOS

PAGE = Path(__file__).with_name("contract.md")
PACKAGE = "tidemark/v1"
INTRODUCTION = """\
# The contract

Made by `make contract` from the comments in [protos/tidemark/v1](../protos/tidemark/v1), which is
what counts. Fields may be added; nothing is renamed or renumbered.
"""

# Field numbers in descriptor.proto, of which the path to a comment consists.
SYNTAX, MESSAGES, ENUMS, SERVICES = 12, 4, 5, 6
FIELDS, VALUES, METHODS, ONEOFS = 2, 2, 2, 8

Location = SourceCodeInfo.Location
Part = DescriptorProto | EnumDescriptorProto | ServiceDescriptorProto


class Page:
    """One .proto as Markdown."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._locations: Mapping[tuple[int, ...], Location] = {
            tuple(each.path): each for each in file.source_code_info.location
        }
        self._entries = {
            f".{file.package}.{message.name}.{entry.name}": entry
            for message in file.message_type
            for entry in message.nested_type
        }

    def lines(self) -> Iterator[str]:
        """Everything in it, in its own order."""
        yield f"\n## {Path(self._file.name).name}\n"
        yield self._comment(SYNTAX)
        parts: list[tuple[int, int, Part]] = [
            *((MESSAGES, number, each) for number, each in enumerate(self._file.message_type)),
            *((ENUMS, number, each) for number, each in enumerate(self._file.enum_type)),
            *((SERVICES, number, each) for number, each in enumerate(self._file.service)),
        ]
        parts.sort(key=lambda part: self._locations[part[:2]].span[0])
        for kind, number, each in parts:
            path = (kind, number)
            yield from (
                f"\n*{_joined(comment)}*"
                for comment in self._locations[path].leading_detached_comments
            )
            yield f"\n### {each.name}\n"
            if comment := self._comment(*path):
                yield f"{comment}\n"
            yield from self._content(each, path)

    def _content(self, each: Part, path: Sequence[int]) -> Iterator[str]:
        match each:
            case ServiceDescriptorProto():
                yield from self._methods(each, path)
            case EnumDescriptorProto():
                for number, value in enumerate(each.value):
                    comment = self._comment(*path, VALUES, number)
                    yield f"- `{value.name}` = {value.number}{comment and f': {comment}'}"
            case DescriptorProto() if each.field:
                yield "| field | type | |\n|---|---|---|"
                yield from self._fields(each, path)
            case _:
                yield "No fields."

    def _methods(self, service: ServiceDescriptorProto, path: Sequence[int]) -> Iterator[str]:
        for number, method in enumerate(service.method):
            request = ("stream of " if method.client_streaming else "") + _linked(method.input_type)
            answer = ("stream of " if method.server_streaming else "") + _linked(method.output_type)
            yield f"- **{method.name}**: {request} → {answer}"
            if comment := self._comment(*path, METHODS, number):
                yield f"\n  {comment}\n"

    def _fields(self, message: DescriptorProto, path: Sequence[int]) -> Iterator[str]:
        told = set()
        for number, field in enumerate(message.field):
            oneof = field.oneof_index
            is_choice = field.HasField("oneof_index") and not field.proto3_optional
            if is_choice and oneof not in told:
                told.add(oneof)
                comment = self._comment(*path, ONEOFS, oneof)
                yield f"| *one of* | | {comment or message.oneof_decl[oneof].name} |"
            comment = self._comment(*path, FIELDS, number)
            indent = "· " if is_choice else ""
            yield f"| {indent}`{field.name}` = {field.number} | {self._type(field)} | {comment} |"

    def _type(self, field: FieldDescriptorProto) -> str:
        if (entry := self._entries.get(field.type_name)) is not None:
            key, value = map(self._type, entry.field)
            return f"map of {key} to {value}"
        named = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        kind = _linked(field.type_name) if field.type_name else named
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {kind}"
        return f"optional {kind}" if field.proto3_optional else kind

    def _comment(self, *path: int) -> str:
        location = self._locations.get(path)
        return _joined(location.leading_comments) if location else ""


def _joined(comment: str) -> str:
    return " ".join(comment.split()).replace("|", "\\|")


def _linked(full_name: str) -> str:
    name = full_name.removeprefix(".tidemark.v1.")
    return f"`{full_name[1:]}`" if "." in name else f"[{name}](#{name.lower()})"


def contract() -> str:
    """The whole page.

    Raises:
        RuntimeError: protoc refused; its own message is on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder) / "contract"
        arguments = [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={DEPENDENCIES}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            "--include_source_info",
            f"--descriptor_set_out={described}",
            *(str(path) for path in sorted((PROTOS / PACKAGE).glob("*.proto"))),
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc could not read protos/")
        files = FileDescriptorSet.FromString(described.read_bytes()).file
    lines = [line for file in files for line in Page(file).lines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join([INTRODUCTION.rstrip(), *lines, ""]))


if __name__ == "__main__":
    PAGE.write_text(contract(), encoding="utf-8")
