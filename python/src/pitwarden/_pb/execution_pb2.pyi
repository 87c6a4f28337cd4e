from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExecuteRequest(_message.Message):
    __slots__ = ("pool", "command", "payload", "content_type", "request_id", "session_id", "idempotent", "progress")
    POOL_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    pool: str
    command: str
    payload: bytes
    content_type: str
    request_id: str
    session_id: str
    idempotent: bool
    progress: bool
    def __init__(self, pool: _Optional[str] = ..., command: _Optional[str] = ..., payload: _Optional[bytes] = ..., content_type: _Optional[str] = ..., request_id: _Optional[str] = ..., session_id: _Optional[str] = ..., idempotent: bool = ..., progress: bool = ...) -> None: ...

class ProgressReport(_message.Message):
    __slots__ = ("fraction", "message")
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    fraction: float
    message: str
    def __init__(self, fraction: _Optional[float] = ..., message: _Optional[str] = ...) -> None: ...

class ExecuteResponse(_message.Message):
    __slots__ = ("payload", "content_type", "request_id", "worker_id", "progress")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    content_type: str
    request_id: str
    worker_id: str
    progress: ProgressReport
    def __init__(self, payload: _Optional[bytes] = ..., content_type: _Optional[str] = ..., request_id: _Optional[str] = ..., worker_id: _Optional[str] = ..., progress: _Optional[_Union[ProgressReport, _Mapping]] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("items", "cancel_request_ids")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[SubmitItem]
    cancel_request_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, items: _Optional[_Iterable[_Union[SubmitItem, _Mapping]]] = ..., cancel_request_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class SubmitItem(_message.Message):
    __slots__ = ("request", "timeout_ms")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    request: ExecuteRequest
    timeout_ms: int
    def __init__(self, request: _Optional[_Union[ExecuteRequest, _Mapping]] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class SubmitResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SubmitResult]
    def __init__(self, results: _Optional[_Iterable[_Union[SubmitResult, _Mapping]]] = ...) -> None: ...

class SubmitResult(_message.Message):
    __slots__ = ("request_id", "response", "error", "progress", "more")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    response: ExecuteResponse
    error: Error
    progress: ProgressReport
    more: bool
    def __init__(self, request_id: _Optional[str] = ..., response: _Optional[_Union[ExecuteResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., progress: _Optional[_Union[ProgressReport, _Mapping]] = ..., more: bool = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "type", "message", "traceback", "worker_id", "exit_reason", "retry_after_ms", "may_have_begun", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EXIT_REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    MAY_HAVE_BEGUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    type: str
    message: str
    traceback: str
    worker_id: str
    exit_reason: str
    retry_after_ms: int
    may_have_begun: bool
    reason: str
    def __init__(self, code: _Optional[int] = ..., type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., worker_id: _Optional[str] = ..., exit_reason: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., may_have_begun: bool = ..., reason: _Optional[str] = ...) -> None: ...
