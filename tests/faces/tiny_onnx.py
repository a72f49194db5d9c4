"""An ONNX file that averages the four quarters of a picture, written byte by byte.

The package onnx is no dependency of the tests, and this graph has no weights. The numbers are the
fields of onnx.proto.
"""


def quarters(side=112):
    """AveragePool of half the side, then Flatten: [1, 3, side, side] to [1, 12]."""
    half = side // 2
    pool = _node("AveragePool", "pixels", "pooled", kernel_shape=half, strides=half)
    graph = _field(1, pool) + _field(1, _node("Flatten", "pooled", "embedding"))
    graph += _field(2, b"quarters") + _field(11, _tensor("pixels", 1, 3, side, side))
    graph += _field(12, _tensor("embedding", 1, 12))
    return _number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13))


def _node(kind, given, made, **attributes):
    node = _field(1, given.encode()) + _field(2, made.encode()) + _field(4, kind.encode())
    for name, value in attributes.items():  # of type INTS, which is 7
        pair = _number(8, value) + _number(8, value)
        node += _field(5, _field(1, name.encode()) + _number(20, 7) + pair)
    return node


def _tensor(name, *shape):
    sides = b"".join(_field(1, _number(1, side)) for side in shape)
    kind = _field(1, _number(1, 1) + _field(2, sides))  # 1 is float
    return _field(1, name.encode()) + _field(2, kind)


def _field(number, content):
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number, value):
    return _varint(number << 3) + _varint(value)


def _varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])
