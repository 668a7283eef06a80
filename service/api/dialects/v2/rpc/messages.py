"""The messages of the protocol, with its names and field numbers, built when this is imported.

Only what Tidegate reads or writes is declared; protobuf ignores other fields. Generated modules
would be bound to the protobuf release that made them, and one process can have only one release.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

CALLS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
)

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}

# message → its fields: name, type, number. "*" repeats a field, "map" is a map of parameters, and
# the fields of a `oneof` follow its name.
Fields = dict[str, tuple[str, int]]
_NAMED: Fields = {"name": ("string", 1), "version": ("string", 2)}
_PARAMETERS = "map InferParameter"
_INFERENCE: dict[str, Fields] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": ("bool", 1)},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": ("bool", 1)},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": ("bool", 1)},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_NAMED, "extensions": ("*string", 3)},
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": {
        "name": ("string", 1),
        "versions": ("*string", 2),
        "platform": ("string", 3),
        "inputs": ("*ModelMetadataResponse.TensorMetadata", 4),
        "outputs": ("*ModelMetadataResponse.TensorMetadata", 5),
    },
    "ModelMetadataResponse.TensorMetadata": {
        "name": ("string", 1),
        "datatype": ("string", 2),
        "shape": ("*int64", 3),
    },
    "InferParameter": {
        "parameter_choice.bool_param": ("bool", 1),
        "parameter_choice.int64_param": ("int64", 2),
        "parameter_choice.string_param": ("string", 3),
        "parameter_choice.double_param": ("double", 4),
        "parameter_choice.uint64_param": ("uint64", 5),
    },
    "InferTensorContents": {"bytes_contents": ("*bytes", 8)},
    "ModelInferRequest": {
        "model_name": ("string", 1),
        "model_version": ("string", 2),
        "id": ("string", 3),
        "parameters": (_PARAMETERS, 4),
        "inputs": ("*ModelInferRequest.InferInputTensor", 5),
        "outputs": ("*ModelInferRequest.InferRequestedOutputTensor", 6),
        "raw_input_contents": ("*bytes", 7),
    },
    "ModelInferRequest.InferInputTensor": {
        "name": ("string", 1),
        "datatype": ("string", 2),
        "shape": ("*int64", 3),
        "parameters": (_PARAMETERS, 4),
        "contents": ("InferTensorContents", 5),
    },
    "ModelInferRequest.InferRequestedOutputTensor": {
        "name": ("string", 1),
        "parameters": (_PARAMETERS, 2),
    },
    "ModelInferResponse": {
        "model_name": ("string", 1),
        "model_version": ("string", 2),
        "id": ("string", 3),
        "outputs": ("*ModelInferResponse.InferOutputTensor", 5),
        "raw_output_contents": ("*bytes", 6),
    },
    "ModelInferResponse.InferOutputTensor": {
        "name": ("string", 1),
        "datatype": ("string", 2),
        "shape": ("*int64", 3),
    },
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": {"config": ("ModelConfig", 1)},
    "ModelConfig": {
        "name": ("string", 1),
        "platform": ("string", 2),
        "version_policy": ("ModelVersionPolicy", 3),
        "max_batch_size": ("int32", 4),
        "input": ("*ModelInput", 5),
        "output": ("*ModelOutput", 6),
        "scheduling_choice.dynamic_batching": ("ModelDynamicBatching", 11),
        "backend": ("string", 17),
    },
    "ModelVersionPolicy": {"policy_choice.all": ("ModelVersionPolicy.All", 2)},
    "ModelVersionPolicy.All": {},
    "ModelInput": {
        "name": ("string", 1),
        "data_type": ("DataType", 2),
        "format": ("ModelInput.Format", 3),
        "dims": ("*int64", 4),
    },
    "ModelOutput": {
        "name": ("string", 1),
        "data_type": ("DataType", 2),
        "dims": ("*int64", 3),
        "label_filename": ("string", 4),
    },
    "ModelDynamicBatching": {},
    "ModelStatisticsRequest": _NAMED,
    "ModelStatisticsResponse": {"model_stats": ("*ModelStatistics", 1)},
    "ModelStatistics": {
        **_NAMED,
        "last_inference": ("uint64", 3),
        "inference_count": ("uint64", 4),
        "execution_count": ("uint64", 5),
        "inference_stats": ("InferStatistics", 6),
        "batch_stats": ("*InferBatchStatistics", 7),
    },
    "InferStatistics": {
        name: ("StatisticDuration", number)
        for number, name in enumerate(
            (
                "success",
                "fail",
                "queue",
                "compute_input",
                "compute_infer",
                "compute_output",
                "cache_hit",
                "cache_miss",
            ),
            start=1,
        )
    },
    "InferBatchStatistics": {
        "batch_size": ("uint64", 1),
        "compute_input": ("StatisticDuration", 2),
        "compute_infer": ("StatisticDuration", 3),
        "compute_output": ("StatisticDuration", 4),
    },
    "StatisticDuration": {"count": ("uint64", 1), "ns": ("uint64", 2)},
    "RepositoryIndexRequest": {"repository_name": ("string", 1), "ready": ("bool", 2)},
    "RepositoryIndexResponse": {"models": ("*RepositoryIndexResponse.ModelIndex", 1)},
    "RepositoryIndexResponse.ModelIndex": {
        **_NAMED,
        "state": ("string", 3),
        "reason": ("string", 4),
    },
}
_HEALTH: dict[str, Fields] = {
    "HealthCheckRequest": {"service": ("string", 1)},
    "HealthCheckResponse": {"status": ("HealthCheckResponse.ServingStatus", 1)},
}
_ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_INT32": 8, "TYPE_FP32": 11}
    | {"TYPE_STRING": 13},
    "ModelInput.Format": {"FORMAT_NONE": 0, "FORMAT_NHWC": 1, "FORMAT_NCHW": 2},
    "HealthCheckResponse.ServingStatus": {
        "UNKNOWN": 0,
        "SERVING": 1,
        "NOT_SERVING": 2,
        "SERVICE_UNKNOWN": 3,
    },
}


class _File:
    """One file of messages, in a pool of its own: another library may have the same names."""

    def __init__(self, package: str, messages: dict[str, Fields]) -> None:
        self._package = package
        self._made: dict[str, descriptor_pb2.DescriptorProto] = {}
        self._file = descriptor_pb2.FileDescriptorProto(
            name=f"{package}.proto", package=package, syntax="proto3"
        )
        for name in messages:
            outer, _, inner = name.rpartition(".")
            owner = self._made[outer].nested_type if outer else self._file.message_type
            self._made[name] = owner.add(name=inner)
        for name, fields in messages.items():
            for field, (kind, number) in fields.items():
                self._add(self._made[name], name, field, kind, number)
        for name, values in _ENUMS.items():
            outer, _, inner = name.rpartition(".")
            if outer in messages or (not outer and "ModelInput" in messages):
                owner = self._made[outer].enum_type if outer else self._file.enum_type
                enum = owner.add(name=inner)
                for value, number in values.items():
                    enum.value.add(name=value, number=number)

    def classes(self) -> dict[str, Any]:
        """Return the class of each message, by its name."""
        pool = descriptor_pool.DescriptorPool()
        pool.AddSerializedFile(self._file.SerializeToString())
        return {
            name: message_factory.GetMessageClass(
                pool.FindMessageTypeByName(f"{self._package}.{name}")
            )
            for name in self._made
        }

    def _add(
        self,
        message: descriptor_pb2.DescriptorProto,
        message_name: str,
        field: str,
        kind: str,
        number: int,
    ) -> None:
        choice, _, name = field.rpartition(".")
        made = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
        if choice:
            if choice not in [one.name for one in message.oneof_decl]:
                message.oneof_decl.add(name=choice)
            made.oneof_index = [one.name for one in message.oneof_decl].index(choice)
        if kind.startswith("map "):
            self._add_map(message, message_name, made, kind.removeprefix("map "))
            return
        if kind.startswith("*"):
            made.label = _Field.LABEL_REPEATED
        self._set_type(made, kind.removeprefix("*"))

    def _add_map(
        self,
        message: descriptor_pb2.DescriptorProto,
        message_name: str,
        field: descriptor_pb2.FieldDescriptorProto,
        value: str,
    ) -> None:
        """A map is a repeated message of a key and a value."""
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        for number, (name, kind) in enumerate((("key", "string"), ("value", value)), start=1):
            made = entry.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
            self._set_type(made, kind)
        field.label = _Field.LABEL_REPEATED
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{self._package}.{message_name}.ParametersEntry"

    def _set_type(self, field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
            return
        field.type = _Field.TYPE_ENUM if kind in _ENUMS else _Field.TYPE_MESSAGE
        field.type_name = f".{self._package}.{kind}"


MESSAGES = _File("inference", _INFERENCE).classes()
HEALTH_MESSAGES = _File("grpc.health.v1", _HEALTH).classes()
