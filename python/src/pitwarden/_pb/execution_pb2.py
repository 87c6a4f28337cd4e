# Made by generate.py from pitwarden/v1/execution.proto.
from ._messages import define

define(
    globals(),
    'pitwarden/v1/execution.proto',
    b'\n\x1cpitwarden/v1/execution.proto\x12\x0cpitwarde'
    b'n.v1"\xd9\x01\n\x0eExecuteRequest\x12\x12\n\x04pool\x18\x01 \x01(\tR\x04p'
    b'ool\x12\x18\n\x07command\x18\x02 \x01(\tR\x07command\x12\x18\n\x07payload'
    b'\x18\x03 \x01(\x0cR\x07payload\x12!\n\x0ccontent_type\x18\x04 \x01(\tR\x0bc'
    b'ontentType\x12\x1d\n\nrequest_id\x18\x05 \x01(\tR\trequestI'
    b'd\x12\x1d\n\nsession_id\x18\x06 \x01(\tR\tsessionId\x12\x1e\n\nidem'
    b'potent\x18\x07 \x01(\x08R\nidempotent"\x8a\x01\n\x0fExecuteResp'
    b'onse\x12\x18\n\x07payload\x18\x01 \x01(\x0cR\x07payload\x12!\n\x0cconten'
    b't_type\x18\x02 \x01(\tR\x0bcontentType\x12\x1d\n\nrequest_id\x18'
    b'\x03 \x01(\tR\trequestId\x12\x1b\n\tworker_id\x18\x04 \x01(\tR\x08wor'
    b'kerId"m\n\rSubmitRequest\x12.\n\x05items\x18\x01 \x03(\x0b2\x18.'
    b'pitwarden.v1.SubmitItemR\x05items\x12,\n\x12cancel'
    b'_request_ids\x18\x02 \x03(\tR\x10cancelRequestIds"c\n\n'
    b'SubmitItem\x126\n\x07request\x18\x01 \x01(\x0b2\x1c.pitwarden.'
    b'v1.ExecuteRequestR\x07request\x12\x1d\n\ntimeout_ms'
    b'\x18\x02 \x01(\rR\ttimeoutMs"F\n\x0eSubmitResponse\x124\n\x07r'
    b'esults\x18\x01 \x03(\x0b2\x1a.pitwarden.v1.SubmitResult'
    b'R\x07results"\xb6\x01\n\x0cSubmitResult\x12\x1d\n\nrequest_id'
    b'\x18\x01 \x01(\tR\trequestId\x12;\n\x08response\x18\x02 \x01(\x0b2\x1d.pi'
    b'twarden.v1.ExecuteResponseH\x00R\x08response\x12+'
    b'\n\x05error\x18\x03 \x01(\x0b2\x13.pitwarden.v1.ErrorH\x00R\x05er'
    b'ror\x12\x12\n\x04more\x18\x04 \x01(\x08R\x04moreB\t\n\x07outcome"\xcb\x01\n\x05E'
    b'rror\x12\x12\n\x04code\x18\x01 \x01(\rR\x04code\x12\x12\n\x04type\x18\x02 \x01(\tR\x04'
    b'type\x12\x18\n\x07message\x18\x03 \x01(\tR\x07message\x12\x1c\n\ttraceb'
    b'ack\x18\x04 \x01(\tR\ttraceback\x12\x1b\n\tworker_id\x18\x05 \x01(\tR'
    b'\x08workerId\x12\x1f\n\x0bexit_reason\x18\x06 \x01(\tR\nexitReas'
    b'on\x12$\n\x0eretry_after_ms\x18\x07 \x01(\rR\x0cretryAfterMs'
    b'2\xec\x01\n\tExecution\x12F\n\x07Execute\x12\x1c.pitwarden.v1'
    b'.ExecuteRequest\x1a\x1d.pitwarden.v1.ExecuteRe'
    b'sponse\x12N\n\rExecuteStream\x12\x1c.pitwarden.v1.E'
    b'xecuteRequest\x1a\x1d.pitwarden.v1.ExecuteResp'
    b'onse0\x01\x12G\n\x06Submit\x12\x1b.pitwarden.v1.SubmitRe'
    b'quest\x1a\x1c.pitwarden.v1.SubmitResponse(\x010\x01b'
    b'\x06proto3',
)
