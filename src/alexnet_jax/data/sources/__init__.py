"""Image data sets in the forms in which they are distributed."""

from alexnet_jax.data.sources.recognise import Kind, find
from alexnet_jax.data.sources.source import Picture, Source, read

__all__ = ["Kind", "Picture", "Source", "find", "read"]
