"""The optional packages behind descriptors: imported by those that need them, and named."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = ("PIL", "pandas", "pyarrow", "pydantic")
"""Starlette itself imports python-multipart where it is installed."""


def run(code: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_no_package_is_imported_before_it_is_needed() -> None:
    """An api process whose Service has JSON and arrays pays for none; an image for one."""
    code = (
        "import sys, tfrunner.io as io, tfrunner.api.app\n"
        "plain = [io.JSON(), io.NumpyNdarray(), io.Text(), io.File(), io.Multipart(a=io.Text())]\n"
        "plain[0].read(io.Body(b'[1]', ''))\n"
        f"print([each for each in {OPTIONAL} if each in sys.modules])\n"
        "io.Image()\n"
        f"print([each for each in {OPTIONAL} if each in sys.modules])"
    )
    assert run(code).splitlines() == ["[]", "['PIL']"]


@pytest.mark.parametrize(
    ("module", "declaration", "package"),
    [
        ("PIL", "io.Image()", "Pillow"),
        ("pandas", "io.PandasDataFrame()", "pandas"),
        ("pandas", "io.PandasDataFrame.from_sample([{'a': 1}])", "pandas"),
        ("pyarrow", "io.PandasDataFrame(default_format='parquet')", "pyarrow"),
        ("pydantic", "io.JSON(pydantic_model=dict)", "pydantic"),
        ("python_multipart", "io.Multipart(a=io.Text())", "python-multipart"),
    ],
)
def test_a_descriptor_names_the_package_that_it_lacks(
    module: str, declaration: str, package: str
) -> None:
    """When it is declared, with what to install."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import tfrunner.io as io\n"
        "from tfrunner.errors import ConfigError\n"
        f"try: {declaration}\n"
        "except ConfigError as exc: print(exc)"
    )
    said = run(code)
    assert f"needs {package}: " in said
    assert "pip install 'tfrunner[io]'" in said


@pytest.mark.parametrize(
    ("module", "descriptor", "content_type"),
    [
        ("pyarrow", "io.PandasDataFrame()", "application/vnd.apache.parquet"),
        ("python_multipart", "io.File()", "multipart/form-data; boundary=b"),
        ("python_multipart", "io.Image()", "multipart/form-data; boundary=b"),
    ],
)
def test_a_form_that_cannot_be_read_without_a_package_is_refused(
    module: str, descriptor: str, content_type: str
) -> None:
    """The others of the same descriptor can: 415, and why."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import tfrunner.io as io\n"
        "from tfrunner.errors import UnsupportedForm\n"
        f"try: {descriptor}.read(io.Body(b'x', {content_type!r}))\n"
        "except UnsupportedForm as exc: print(exc)"
    )
    said = run(code)
    assert f"lacks {module.replace('_', '-')}" in said
    assert "tfrunner[io]" in said
