"""Arrays in, one self-contained HTML file out. Nothing here imports torch, fastai or matplotlib."""
