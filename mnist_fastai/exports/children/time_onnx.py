"""ONNX files, images.npy: print the images per second of each, with one thread and batches of 500, as a JSON array."""

import json
import sys
import time

import numpy as np
import onnxruntime

*paths, images = sys.argv[1:]
batch = np.resize(np.load(images), (500, 28, 28))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths]
seconds = np.empty((8, len(sessions)))
for i, j in np.ndindex(seconds.shape):  # the files take turns, so that other load on the machine slows each alike
    began = time.perf_counter()
    sessions[j].run(["logits"], {"images": batch})
    seconds[i, j] = time.perf_counter() - began
print(json.dumps((len(batch) / np.median(seconds[1:], 0)).tolist()))
