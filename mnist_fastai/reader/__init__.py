"""Reads digits in pictures without torch, fastai and matplotlib: image → ink → form → session or classifier."""
