"""Print the fields of the protocol's messages, as the official definition has them.

No arguments. The result: message → field → number, type, and whether it repeats.
"""

from __future__ import annotations

import json
from typing import Any

from grpc_health.v1 import health_pb2
from tritonclient.grpc import model_config_pb2, service_pb2


def fields(message: Any) -> dict[str, list[Any]]:
    return {
        field.name: [field.number, field.type, bool(field.is_repeated)] for field in message.fields
    }


def main() -> None:
    found: dict[str, Any] = {}
    left = [
        message
        for module in (service_pb2, model_config_pb2, health_pb2)
        for message in module.DESCRIPTOR.message_types_by_name.values()
    ]
    while left:
        message = left.pop()
        found[message.full_name] = fields(message)
        left += message.nested_types
    print(json.dumps(found))


main()
