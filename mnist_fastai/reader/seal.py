"""A digest at the end of an ONNX file, by which a damaged one is told. Standard library.

Serialized protobuf messages that follow each other are read as one whose repeated fields are joined. So the digest is
one more entry of ModelProto's `metadata_props`, and the file stays a model for every other program.
"""

import hashlib

_KEY, _HEX = b"sha256", 64  # _HEX: characters of the value
# a StringStringEntryProto's fields 1, key, and 2, value; then a ModelProto's field 14 that holds it
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12" + bytes([_HEX])
_TAIL = b"\x72" + bytes([len(_ENTRY) + _HEX]) + _ENTRY


def seal(content: bytes) -> bytes:
    """The serialized ModelProto with the SHA-256 of its bytes."""
    return content + _TAIL + hashlib.sha256(content).hexdigest().encode()


def check_seal(content: bytes) -> bool | None:
    """Whether the bytes are those that were sealed; None where they have no seal, as files of others have not."""
    body, tail = content[: -len(_TAIL) - _HEX], content[-len(_TAIL) - _HEX :]
    if not tail.startswith(_TAIL):
        return None
    return hashlib.sha256(body).hexdigest().encode() == tail[len(_TAIL) :]
