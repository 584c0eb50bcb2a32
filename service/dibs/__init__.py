"""dibs: claims on tasks for parallel coding sessions."""

__version__ = "0.1.0"
