"""What Services take and give: how a body becomes a value, and a value a body.

Pillow, pandas, pyarrow, pydantic and python-multipart are imported where a descriptor is
declared that needs them.
"""

from tfrunner.io.array import NumpyNdarray
from tfrunner.io.body import Body, Descriptor
from tfrunner.io.file import File, FileLike
from tfrunner.io.frame import PandasDataFrame
from tfrunner.io.image import Image
from tfrunner.io.json_value import JSON, JSONSerializable
from tfrunner.io.multipart import Multipart
from tfrunner.io.text import Text

__all__ = [
    "Body",
    "Descriptor",
    "File",
    "FileLike",
    "Image",
    "JSON",
    "JSONSerializable",
    "Multipart",
    "NumpyNdarray",
    "PandasDataFrame",
    "Text",
]
