"""Makes message classes from the serialized description of a proto file.

The descriptors are in a pool of the SDK's own. In protobuf's default pool they would collide with modules that an
application has generated from another version of our protos, or from its own protos with the same names. Modules that
protoc generates also refuse runtimes that are older than protoc; a description works with every version.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory

_pool: Any = descriptor_pool.DescriptorPool()


def define(module: dict[str, Any], name: str, description: bytes) -> None:
    """Adds the classes of the file's messages to a module's globals."""
    _pool.AddSerializedFile(description)
    file = module["DESCRIPTOR"] = _pool.FindFileByName(name)
    for message in file.message_types_by_name.values():
        module[message.name] = message_factory.GetMessageClass(message)
