# Made by generate.py from pitwarden/v1/execution.proto.
from ._messages import define

define(
    globals(),
    'pitwarden/v1/execution.proto',
    b'\n\x1cpitwarden/v1/execution.proto\x12\x0cpitwarde'
    b'n.v1"\x92\x01\n\x0eExecuteRequest\x12\x0c\n\x04pool\x18\x01 \x01(\t\x12\x0f\n'
    b'\x07command\x18\x02 \x01(\t\x12\x0f\n\x07payload\x18\x03 \x01(\x0c\x12\x14\n\x0cconte'
    b'nt_type\x18\x04 \x01(\t\x12\x12\n\nrequest_id\x18\x05 \x01(\t\x12\x12\n\nses'
    b'sion_id\x18\x06 \x01(\t\x12\x12\n\nidempotent\x18\x07 \x01(\x08"_\n\x0fExe'
    b'cuteResponse\x12\x0f\n\x07payload\x18\x01 \x01(\x0c\x12\x14\n\x0ccontent'
    b'_type\x18\x02 \x01(\t\x12\x12\n\nrequest_id\x18\x03 \x01(\t\x12\x11\n\tworke'
    b'r_id\x18\x04 \x01(\t"T\n\rSubmitRequest\x12\'\n\x05items\x18\x01 \x03'
    b'(\x0b2\x18.pitwarden.v1.SubmitItem\x12\x1a\n\x12cancel_r'
    b'equest_ids\x18\x02 \x03(\t"O\n\nSubmitItem\x12-\n\x07reques'
    b't\x18\x01 \x01(\x0b2\x1c.pitwarden.v1.ExecuteRequest\x12\x12\n'
    b'\ntimeout_ms\x18\x02 \x01(\r"=\n\x0eSubmitResponse\x12+\n\x07r'
    b'esults\x18\x01 \x03(\x0b2\x1a.pitwarden.v1.SubmitResult'
    b'"\x94\x01\n\x0cSubmitResult\x12\x12\n\nrequest_id\x18\x01 \x01(\t\x121\n'
    b'\x08response\x18\x02 \x01(\x0b2\x1d.pitwarden.v1.ExecuteRe'
    b'sponseH\x00\x12$\n\x05error\x18\x03 \x01(\x0b2\x13.pitwarden.v1.E'
    b'rrorH\x00\x12\x0c\n\x04more\x18\x04 \x01(\x08B\t\n\x07outcome"\xb7\x01\n\x05Erro'
    b'r\x12\x0c\n\x04code\x18\x01 \x01(\r\x12\x0c\n\x04type\x18\x02 \x01(\t\x12\x0f\n\x07message'
    b'\x18\x03 \x01(\t\x12\x11\n\ttraceback\x18\x04 \x01(\t\x12\x11\n\tworker_id\x18\x05'
    b' \x01(\t\x12\x13\n\x0bexit_reason\x18\x06 \x01(\t\x12\x16\n\x0eretry_after'
    b'_ms\x18\x07 \x01(\r\x12\x1b\n\x0emay_have_begun\x18\x08 \x01(\x08H\x00\x88\x01\x01B\x11'
    b'\n\x0f_may_have_begun2\xec\x01\n\tExecution\x12F\n\x07Execu'
    b'te\x12\x1c.pitwarden.v1.ExecuteRequest\x1a\x1d.pitwa'
    b'rden.v1.ExecuteResponse\x12N\n\rExecuteStream'
    b'\x12\x1c.pitwarden.v1.ExecuteRequest\x1a\x1d.pitward'
    b'en.v1.ExecuteResponse0\x01\x12G\n\x06Submit\x12\x1b.pitw'
    b'arden.v1.SubmitRequest\x1a\x1c.pitwarden.v1.Su'
    b'bmitResponse(\x010\x01b\x06proto3',
)
