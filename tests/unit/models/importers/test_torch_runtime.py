from __future__ import annotations

import pytest

from tidegate.models.errors import BuildRefused
from tidegate.models.importers import (  # noqa: F401 - that they import without torch is the first check
    from_huggingface,
    from_timm,
    from_torchvision,
)
from tidegate.models.importers.torch_runtime import require


def test_a_missing_library_is_reported_with_its_install_command() -> None:
    with pytest.raises(BuildRefused, match=r"pip install 'tidegate\[cpu,torch\]'"):
        require("torch_of_another_world")
