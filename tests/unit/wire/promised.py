"""What is promised of the wire: the number, type and name of each field, each value of an enum, each method.

Processes of neighbouring versions work together because none of these ever changes. `protos/promised.txt` says how they
are, a line each. A new one is added by `python -m tests.unit.wire.promised --write`; that changes and removes none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from ckptd.wire.v1 import admin_pb2, agent_pb2, arena_pb2, common_pb2, read_pb2, save_pb2, watch_pb2

PROMISED = Path(__file__).parents[3] / "protos" / "promised.txt"
MODULES = (common_pb2, save_pb2, read_pb2, watch_pb2, admin_pb2, arena_pb2, agent_pb2)


def described() -> dict[str, str]:
    """Return what there is today: by its name, what it is."""
    return {name: what for module in MODULES for name, what in _of_file(module)}


def promised() -> dict[str, str]:
    """Return what is promised."""
    lines = PROMISED.read_text(encoding="utf-8").splitlines()
    return {name: what for name, _, what in (line.partition(" = ") for line in lines)}


def broken(told: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return in words each promise that does not hold."""
    return [f"{name} = {what}, and now {found.get(name, 'it is gone')}" for name, what in told.items()
            if found.get(name) != what]  # fmt: skip


def _of_file(module: Any) -> Iterator[tuple[str, str]]:
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        yield from _of_message(f"{file.package}.{message.name}", message)
    for enum in file.enum_type:
        yield from _of_enum(f"{file.package}.{enum.name}", enum)
    for service in file.service:
        for method in service.method:
            takes, gives = ("stream " * each for each in (method.client_streaming, method.server_streaming))
            told = f"{takes}{method.input_type} -> {gives}{method.output_type}"
            yield f"{file.package}.{service.name}.{method.name}", told


def _of_message(name: str, message: DescriptorProto) -> Iterator[tuple[str, str]]:
    for field in message.field:
        kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        told = [str(field.number), kind]
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            told.append("repeated")
        if field.proto3_optional:
            told.append("optional")
        elif field.HasField("oneof_index"):
            told.append(f"one of {message.oneof_decl[field.oneof_index].name}")
        yield f"{name}.{field.name}", ", ".join(told)
    for inner in message.nested_type:
        yield from _of_message(f"{name}.{inner.name}", inner)
    for enum in message.enum_type:
        yield from _of_enum(f"{name}.{enum.name}", enum)


def _of_enum(name: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    for value in enum.value:
        yield f"{name}.{value.name}", str(value.number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="promise what is new, too")
    args = parser.parse_args()
    told, found = promised() if PROMISED.exists() else {}, described()
    if problems := broken(told, found):
        raise SystemExit("promised, and not so any more:\n" + "\n".join(problems))
    if args.write:
        lines = sorted(f"{name} = {what}\n" for name, what in {**told, **found}.items())
        PROMISED.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
