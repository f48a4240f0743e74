"""learner.pkl, images.npy, logits.npy: predict with fastai's `load_learner`. This package is imported by the pickle."""

import sys

import numpy as np
from fastai.learner import load_learner
from fastcore.basics import noop

path, images, logits = sys.argv[1:]
learner = load_learner(path)
with learner.no_bar():
    dl = learner.dls.test_dl(list(np.load(images)), bs=500, num_workers=0)
    np.save(logits, learner.get_preds(dl=dl, act=noop)[0].numpy())
