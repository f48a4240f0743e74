"""model.onnx, images.npy, logits.npy: predict with ONNX Runtime."""

import sys

import numpy as np
import onnxruntime

path, images, logits = sys.argv[1:]
images = np.load(images)
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
batches = (images[i : i + 500] for i in range(0, len(images), 500))
np.save(logits, np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in batches]))
