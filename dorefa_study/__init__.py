"""The study of bit widths against channel widths, as commands."""
