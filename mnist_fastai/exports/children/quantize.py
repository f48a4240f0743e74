"""model.onnx, images.npy, a temporary file, model-int8.onnx: static int8 quantization, calibrated on the images."""

import sys
from types import SimpleNamespace

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

path, images, prepared, out = sys.argv[1:]
images = np.load(images)
batches = iter(np.array_split(images, -(-len(images) // 100)))
reader = SimpleNamespace(get_next=lambda: next(({"images": batch} for batch in batches), None))
quant_pre_process(path, prepared, skip_symbolic_shape=True)
# what comes after the features is few multiplications, and 8 bits are too few for probabilities and likelihoods
nodes = onnx.load(prepared).graph.node


def before(output: str) -> set[str]:
    """The names of the nodes that an output comes from."""
    wanted, found = {output}, set()
    for node in reversed(nodes):
        if wanted & set(node.output):
            found.add(node.name)
            wanted |= set(node.input)
    return found


last = [node.name for node in nodes if "logits" in node.output]
last += {node.name for node in nodes} - before("logits")
quantize_static(
    prepared, out, reader, quant_format=QuantFormat.QDQ, per_channel=True,
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=last,
)  # fmt: skip
