"""Whether an ONNX file has all of its weights in itself. Standard library.

ONNX Runtime would read the others from files that the model names, and, up to version 1.20, from any address in memory.
"""

FIELDS = {  # of ONNX's messages: those through which a tensor is reached, by number, and the messages in them
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto", 22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}  # fmt: skip
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a TensorProto: entries, and 0 where the data is in the message itself


def is_complete(content: bytes) -> bool:
    """Whether no tensor of a serialized ModelProto lies elsewhere. Raises ValueError where the bytes are no message."""
    todo = [("ModelProto", 0, len(content))]
    while todo:
        message, at, end = todo.pop()
        while at < end:
            key, at = _varint(content, at)
            field, kind = key >> 3, key & 7
            value, start = 0, at
            if kind == 0:
                value, at = _varint(content, at)
            elif kind == 2:
                size, start = _varint(content, at)
                at = start + size
                if inner := FIELDS[message].get(field):
                    todo.append((inner, start, at))
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            if kind not in (0, 1, 2, 5) or at > end:
                raise ValueError("no protobuf message")
            if message == "TensorProto" and (field == EXTERNAL_DATA or (field == DATA_LOCATION and value)):
                return False
    return True


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """An integer of up to ten bytes, seven bits each, and where it ends."""
    value = 0
    for i, byte in enumerate(content[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("no protobuf message")
