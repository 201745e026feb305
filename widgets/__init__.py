"""Views of runs and clusters for notebooks: the only part of the workbench that imports ipywidgets or anywidget."""

from .bench import Bench
from .view import BokehView

__all__ = ["Bench", "BokehView"]
