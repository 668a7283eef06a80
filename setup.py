"""The one compiled module; all else is in pyproject.toml.

Optional: where there is no C compiler the installation goes on without it, and Pillow resizes.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "service.imaging._resample",
            ["service/imaging/_resample.c"],
            # A fused multiply-add rounds once where Pillow's own build rounds twice.
            extra_compile_args=["-O3", "-std=c11", "-D_GNU_SOURCE", "-ffp-contract=off"],
            optional=True,
        )
    ]
)
