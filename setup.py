"""The packages, the compiled modules and the README; everything else is in pyproject.toml.

The folders service/ and models/ are imported as tidegate.service and tidegate.models, and those in
clusters/ as tidegate.ray and tidegate.spark: at the root they would hide the libraries ray and spark.
The compiled modules are optional. Without a C compiler Pillow resizes, and without the headers of
libjpeg-turbo (Debian: libjpeg62-turbo-dev) JPEGs are always decoded whole: slower, the same pixels.
"""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

FOLDERS = ("service", "models")
PATTERNS = [pattern for folder in FOLDERS for pattern in (folder, f"{folder}.*")]
DATA_FOLDERS = ["models.probes.photos"] if find_packages(include=["models"]) else []
CLUSTERS = find_packages("clusters")
README = Path(__file__).with_name("README.md").read_text("utf-8")

setup(
    # A package index has none of the files that the README links to.
    long_description=re.sub(r"\[([^]]+)\]\((?!https?:)[^)]+\)", r"\1", README),
    long_description_content_type="text/markdown",
    packages=[
        f"tidegate.{name}" for name in [*find_packages(include=PATTERNS), *DATA_FOLDERS, *CLUSTERS]
    ],
    package_dir={
        **{f"tidegate.{folder}": folder for folder in FOLDERS},
        **{f"tidegate.{name}": f"clusters/{name}" for name in CLUSTERS},
    },
    ext_modules=[
        Extension(
            "tidegate.service.imaging._resample",
            ["service/imaging/_resample.c"],
            # A fused multiply-add rounds once, but Pillow's build rounds twice.
            extra_compile_args=["-O3", "-std=c11", "-D_GNU_SOURCE", "-ffp-contract=off"],
            optional=True,
        ),
        Extension(
            "tidegate.service._softmax",
            ["service/_softmax.c"],
            extra_compile_args=["-O3", "-std=c11", "-D_GNU_SOURCE"],
            optional=True,
        ),
        Extension(
            "tidegate.service.imaging._jpeg",
            ["service/imaging/_jpeg.c"],
            extra_compile_args=["-O2", "-std=c11", "-D_GNU_SOURCE"],
            optional=True,
        ),
    ],
)
