"""Makes message classes out of a described file.

Its descriptors are in a pool of the SDK's own. In protobuf's default pool they would collide with modules that an
application generated from another version of our protos, or from protos of its own with the same names. Modules that
protoc writes also check that the runtime is not older than they are; a description works with each.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory

_pool: Any = descriptor_pool.DescriptorPool()


def define(module: dict[str, Any], name: str, description: bytes) -> None:
    """Puts the classes of the file's messages into the module."""
    _pool.AddSerializedFile(description)
    file = module["DESCRIPTOR"] = _pool.FindFileByName(name)
    for message in file.message_types_by_name.values():
        module[message.name] = message_factory.GetMessageClass(message)
