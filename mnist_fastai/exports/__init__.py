"""A run → files that others load: each is loaded and compared in a fresh process before it is written."""

from .check import Reference
from .formats import FORMATS, Exported, export, find_folder
from .hub import export_hub
from .int8 import Measured, quantize

__all__ = ["FORMATS", "Exported", "Measured", "Reference", "export", "export_hub", "find_folder", "quantize"]
