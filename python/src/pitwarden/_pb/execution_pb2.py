# Made by generate.py from pitwarden/v1/execution.proto.
from ._messages import define

define(
    globals(),
    'pitwarden/v1/execution.proto',
    b'\n\x1cpitwarden/v1/execution.proto\x12\x0cpitwarde'
    b'n.v1"\xa4\x01\n\x0eExecuteRequest\x12\x0c\n\x04pool\x18\x01 \x01(\t\x12\x0f\n'
    b'\x07command\x18\x02 \x01(\t\x12\x0f\n\x07payload\x18\x03 \x01(\x0c\x12\x14\n\x0cconte'
    b'nt_type\x18\x04 \x01(\t\x12\x12\n\nrequest_id\x18\x05 \x01(\t\x12\x12\n\nses'
    b'sion_id\x18\x06 \x01(\t\x12\x12\n\nidempotent\x18\x07 \x01(\x08\x12\x10\n\x08pro'
    b'gress\x18\x08 \x01(\x08"3\n\x0eProgressReport\x12\x10\n\x08fractio'
    b'n\x18\x01 \x01(\x01\x12\x0f\n\x07message\x18\x02 \x01(\t"\x8f\x01\n\x0fExecuteResp'
    b'onse\x12\x0f\n\x07payload\x18\x01 \x01(\x0c\x12\x14\n\x0ccontent_type\x18\x02 '
    b'\x01(\t\x12\x12\n\nrequest_id\x18\x03 \x01(\t\x12\x11\n\tworker_id\x18\x04 \x01'
    b'(\t\x12.\n\x08progress\x18\x05 \x01(\x0b2\x1c.pitwarden.v1.Prog'
    b'ressReport"T\n\rSubmitRequest\x12\'\n\x05items\x18\x01 \x03'
    b'(\x0b2\x18.pitwarden.v1.SubmitItem\x12\x1a\n\x12cancel_r'
    b'equest_ids\x18\x02 \x03(\t"O\n\nSubmitItem\x12-\n\x07reques'
    b't\x18\x01 \x01(\x0b2\x1c.pitwarden.v1.ExecuteRequest\x12\x12\n'
    b'\ntimeout_ms\x18\x02 \x01(\r"=\n\x0eSubmitResponse\x12+\n\x07r'
    b'esults\x18\x01 \x03(\x0b2\x1a.pitwarden.v1.SubmitResult'
    b'"\xc6\x01\n\x0cSubmitResult\x12\x12\n\nrequest_id\x18\x01 \x01(\t\x121\n'
    b'\x08response\x18\x02 \x01(\x0b2\x1d.pitwarden.v1.ExecuteRe'
    b'sponseH\x00\x12$\n\x05error\x18\x03 \x01(\x0b2\x13.pitwarden.v1.E'
    b'rrorH\x00\x120\n\x08progress\x18\x05 \x01(\x0b2\x1c.pitwarden.v1.'
    b'ProgressReportH\x00\x12\x0c\n\x04more\x18\x04 \x01(\x08B\t\n\x07outcom'
    b'e"\xc7\x01\n\x05Error\x12\x0c\n\x04code\x18\x01 \x01(\r\x12\x0c\n\x04type\x18\x02 \x01(\t\x12'
    b'\x0f\n\x07message\x18\x03 \x01(\t\x12\x11\n\ttraceback\x18\x04 \x01(\t\x12\x11\n\tw'
    b'orker_id\x18\x05 \x01(\t\x12\x13\n\x0bexit_reason\x18\x06 \x01(\t\x12\x16\n\x0er'
    b'etry_after_ms\x18\x07 \x01(\r\x12\x1b\n\x0emay_have_begun\x18\x08 '
    b'\x01(\x08H\x00\x88\x01\x01\x12\x0e\n\x06reason\x18\t \x01(\tB\x11\n\x0f_may_have_be'
    b'gun2\xec\x01\n\tExecution\x12F\n\x07Execute\x12\x1c.pitwarden'
    b'.v1.ExecuteRequest\x1a\x1d.pitwarden.v1.Execut'
    b'eResponse\x12N\n\rExecuteStream\x12\x1c.pitwarden.v'
    b'1.ExecuteRequest\x1a\x1d.pitwarden.v1.ExecuteR'
    b'esponse0\x01\x12G\n\x06Submit\x12\x1b.pitwarden.v1.Submi'
    b'tRequest\x1a\x1c.pitwarden.v1.SubmitResponse(\x01'
    b'0\x01BI\n\x0cpitwarden.v1B\x0eExecutionProtoP\x01Z\x18pi'
    b'twarden/v1;pitwardenv1\xaa\x02\x0cPitwarden.V1b\x06p'
    b'roto3',
)
