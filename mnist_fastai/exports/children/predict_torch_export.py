"""model.pt2, images.npy, logits.npy: predict with `torch.export.load`."""

import sys

import numpy as np
import torch

path, images, logits = sys.argv[1:]
model = torch.export.load(path).module()
with torch.no_grad():
    batches = torch.from_numpy(np.load(images)).split(500)
    np.save(logits, torch.cat([model(batch)[0] for batch in batches]).numpy())
