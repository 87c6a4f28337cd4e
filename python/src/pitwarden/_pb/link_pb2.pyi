from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentFrame(_message.Message):
    __slots__ = ("welcome", "ping", "cancels", "requests", "drain", "stop", "recall", "pauses", "resumes", "acks", "replays", "limits")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    PAUSES_FIELD_NUMBER: _ClassVar[int]
    RESUMES_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    REPLAYS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    ping: Ping
    cancels: _containers.RepeatedScalarFieldContainer[int]
    requests: _containers.RepeatedCompositeFieldContainer[LinkRequest]
    drain: Drain
    stop: Stop
    recall: Recall
    pauses: _containers.RepeatedScalarFieldContainer[int]
    resumes: _containers.RepeatedScalarFieldContainer[int]
    acks: _containers.RepeatedScalarFieldContainer[int]
    replays: _containers.RepeatedScalarFieldContainer[int]
    limits: Limits
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., cancels: _Optional[_Iterable[int]] = ..., requests: _Optional[_Iterable[_Union[LinkRequest, _Mapping]]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., recall: _Optional[_Union[Recall, _Mapping]] = ..., pauses: _Optional[_Iterable[int]] = ..., resumes: _Optional[_Iterable[int]] = ..., acks: _Optional[_Iterable[int]] = ..., replays: _Optional[_Iterable[int]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class WorkerFrame(_message.Message):
    __slots__ = ("hello", "pong", "returned", "chunks", "results", "progress", "replayed", "leaving", "leaving_reason", "telemetry")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    LEAVING_REASON_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    pong: Pong
    returned: _containers.RepeatedScalarFieldContainer[int]
    chunks: _containers.RepeatedCompositeFieldContainer[LinkChunk]
    results: _containers.RepeatedCompositeFieldContainer[LinkResult]
    progress: _containers.RepeatedCompositeFieldContainer[Progress]
    replayed: _containers.RepeatedScalarFieldContainer[int]
    leaving: bool
    leaving_reason: str
    telemetry: bytes
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., returned: _Optional[_Iterable[int]] = ..., chunks: _Optional[_Iterable[_Union[LinkChunk, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[LinkResult, _Mapping]]] = ..., progress: _Optional[_Iterable[_Union[Progress, _Mapping]]] = ..., replayed: _Optional[_Iterable[int]] = ..., leaving: bool = ..., leaving_reason: _Optional[str] = ..., telemetry: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "worker_id", "token", "pid", "commands", "sdk_version", "python_version", "marks_begun", "writes_stacks", "interpreter_ms", "import_ms", "hooks_ms", "resumed")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    SDK_VERSION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    MARKS_BEGUN_FIELD_NUMBER: _ClassVar[int]
    WRITES_STACKS_FIELD_NUMBER: _ClassVar[int]
    INTERPRETER_MS_FIELD_NUMBER: _ClassVar[int]
    IMPORT_MS_FIELD_NUMBER: _ClassVar[int]
    HOOKS_MS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    worker_id: str
    token: str
    pid: int
    commands: _containers.RepeatedCompositeFieldContainer[Command]
    sdk_version: str
    python_version: str
    marks_begun: bool
    writes_stacks: bool
    interpreter_ms: int
    import_ms: int
    hooks_ms: int
    resumed: Resumed
    def __init__(self, protocol: _Optional[int] = ..., worker_id: _Optional[str] = ..., token: _Optional[str] = ..., pid: _Optional[int] = ..., commands: _Optional[_Iterable[_Union[Command, _Mapping]]] = ..., sdk_version: _Optional[str] = ..., python_version: _Optional[str] = ..., marks_begun: bool = ..., writes_stacks: bool = ..., interpreter_ms: _Optional[int] = ..., import_ms: _Optional[int] = ..., hooks_ms: _Optional[int] = ..., resumed: _Optional[_Union[Resumed, _Mapping]] = ...) -> None: ...

class Resumed(_message.Message):
    __slots__ = ("last_id", "completed", "failed", "held", "away_ms")
    LAST_ID_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    AWAY_MS_FIELD_NUMBER: _ClassVar[int]
    last_id: int
    completed: int
    failed: int
    held: _containers.RepeatedCompositeFieldContainer[HeldRequest]
    away_ms: int
    def __init__(self, last_id: _Optional[int] = ..., completed: _Optional[int] = ..., failed: _Optional[int] = ..., held: _Optional[_Iterable[_Union[HeldRequest, _Mapping]]] = ..., away_ms: _Optional[int] = ...) -> None: ...

class HeldRequest(_message.Message):
    __slots__ = ("id", "request_id", "command", "keep", "ended", "remaining_ms", "age_ms", "payload_bytes", "payload_crc32", "cancelled")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_CRC32_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    id: int
    request_id: str
    command: str
    keep: bool
    ended: bool
    remaining_ms: int
    age_ms: int
    payload_bytes: int
    payload_crc32: int
    cancelled: bool
    def __init__(self, id: _Optional[int] = ..., request_id: _Optional[str] = ..., command: _Optional[str] = ..., keep: bool = ..., ended: bool = ..., remaining_ms: _Optional[int] = ..., age_ms: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., payload_crc32: _Optional[int] = ..., cancelled: bool = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("name", "streams", "summary", "is_async")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    IS_ASYNC_FIELD_NUMBER: _ClassVar[int]
    name: str
    streams: bool
    summary: str
    is_async: bool
    def __init__(self, name: _Optional[str] = ..., streams: bool = ..., summary: _Optional[str] = ..., is_async: bool = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "concurrency", "orphan_timeout_ms", "drain_timeout_ms", "keep_results", "keep_bytes", "keep_ms", "payload_max_bytes", "tasks", "telemetry_bytes_per_s")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    ORPHAN_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_RESULTS_FIELD_NUMBER: _ClassVar[int]
    KEEP_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEEP_MS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    concurrency: int
    orphan_timeout_ms: int
    drain_timeout_ms: int
    keep_results: int
    keep_bytes: int
    keep_ms: int
    payload_max_bytes: int
    tasks: int
    telemetry_bytes_per_s: int
    def __init__(self, protocol: _Optional[int] = ..., concurrency: _Optional[int] = ..., orphan_timeout_ms: _Optional[int] = ..., drain_timeout_ms: _Optional[int] = ..., keep_results: _Optional[int] = ..., keep_bytes: _Optional[int] = ..., keep_ms: _Optional[int] = ..., payload_max_bytes: _Optional[int] = ..., tasks: _Optional[int] = ..., telemetry_bytes_per_s: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("orphan_timeout_ms", "drain_timeout_ms", "keep_results", "keep_bytes", "keep_ms", "tasks", "telemetry_bytes_per_s")
    ORPHAN_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_RESULTS_FIELD_NUMBER: _ClassVar[int]
    KEEP_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEEP_MS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    orphan_timeout_ms: int
    drain_timeout_ms: int
    keep_results: int
    keep_bytes: int
    keep_ms: int
    tasks: int
    telemetry_bytes_per_s: int
    def __init__(self, orphan_timeout_ms: _Optional[int] = ..., drain_timeout_ms: _Optional[int] = ..., keep_results: _Optional[int] = ..., keep_bytes: _Optional[int] = ..., keep_ms: _Optional[int] = ..., tasks: _Optional[int] = ..., telemetry_bytes_per_s: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("sequence", "in_flight", "requests_started", "requests_finished", "oldest_request_ms", "loop_lag_ms")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_STARTED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FINISHED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_REQUEST_MS_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_MS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    in_flight: int
    requests_started: int
    requests_finished: int
    oldest_request_ms: int
    loop_lag_ms: int
    def __init__(self, sequence: _Optional[int] = ..., in_flight: _Optional[int] = ..., requests_started: _Optional[int] = ..., requests_finished: _Optional[int] = ..., oldest_request_ms: _Optional[int] = ..., loop_lag_ms: _Optional[int] = ...) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("id", "command", "payload", "content_type", "request_id", "session_id", "timeout_ms", "keep")
    ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    id: int
    command: str
    payload: bytes
    content_type: str
    request_id: str
    session_id: str
    timeout_ms: int
    keep: bool
    def __init__(self, id: _Optional[int] = ..., command: _Optional[str] = ..., payload: _Optional[bytes] = ..., content_type: _Optional[str] = ..., request_id: _Optional[str] = ..., session_id: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., keep: bool = ...) -> None: ...

class LinkChunk(_message.Message):
    __slots__ = ("id", "payload", "content_type")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    id: int
    payload: bytes
    content_type: str
    def __init__(self, id: _Optional[int] = ..., payload: _Optional[bytes] = ..., content_type: _Optional[str] = ...) -> None: ...

class LinkResult(_message.Message):
    __slots__ = ("id", "payload", "content_type", "error", "ran_us")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RAN_US_FIELD_NUMBER: _ClassVar[int]
    id: int
    payload: bytes
    content_type: str
    error: LinkError
    ran_us: int
    def __init__(self, id: _Optional[int] = ..., payload: _Optional[bytes] = ..., content_type: _Optional[str] = ..., error: _Optional[_Union[LinkError, _Mapping]] = ..., ran_us: _Optional[int] = ...) -> None: ...

class LinkError(_message.Message):
    __slots__ = ("code", "type", "message", "traceback")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    code: int
    type: str
    message: str
    traceback: str
    def __init__(self, code: _Optional[int] = ..., type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("id", "fraction", "message")
    ID_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: int
    fraction: float
    message: str
    def __init__(self, id: _Optional[int] = ..., fraction: _Optional[float] = ..., message: _Optional[str] = ...) -> None: ...

class Telemetry(_message.Message):
    __slots__ = ("series", "drops", "spans")
    SERIES_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    series: _containers.RepeatedCompositeFieldContainer[TelemetrySeries]
    drops: _containers.RepeatedCompositeFieldContainer[TelemetryDrop]
    spans: bytes
    def __init__(self, series: _Optional[_Iterable[_Union[TelemetrySeries, _Mapping]]] = ..., drops: _Optional[_Iterable[_Union[TelemetryDrop, _Mapping]]] = ..., spans: _Optional[bytes] = ...) -> None: ...

class TelemetrySpans(_message.Message):
    __slots__ = ("spans", "left_out")
    SPANS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[TelemetrySpan]
    left_out: int
    def __init__(self, spans: _Optional[_Iterable[_Union[TelemetrySpan, _Mapping]]] = ..., left_out: _Optional[int] = ...) -> None: ...

class TelemetrySpan(_message.Message):
    __slots__ = ("name", "labels", "request_id", "began_at_ms", "duration_us", "error_type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BEGAN_AT_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.RepeatedCompositeFieldContainer[TelemetryLabel]
    request_id: str
    began_at_ms: int
    duration_us: int
    error_type: str
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[TelemetryLabel, _Mapping]]] = ..., request_id: _Optional[str] = ..., began_at_ms: _Optional[int] = ..., duration_us: _Optional[int] = ..., error_type: _Optional[str] = ...) -> None: ...

class TelemetrySeries(_message.Message):
    __slots__ = ("name", "kind", "labels", "count", "value", "buckets")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    labels: _containers.RepeatedCompositeFieldContainer[TelemetryLabel]
    count: int
    value: float
    buckets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[TelemetryLabel, _Mapping]]] = ..., count: _Optional[int] = ..., value: _Optional[float] = ..., buckets: _Optional[_Iterable[int]] = ...) -> None: ...

class TelemetryLabel(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class TelemetryDrop(_message.Message):
    __slots__ = ("reason", "count")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    count: int
    def __init__(self, reason: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Recall(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Stop(_message.Message):
    __slots__ = ("grace_ms",)
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    grace_ms: int
    def __init__(self, grace_ms: _Optional[int] = ...) -> None: ...
