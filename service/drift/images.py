"""Images that the monitors count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Images:
    """Answered and rejected images in the order of their answers, [n] each."""

    times: NDArray[np.float64]  # Unix times
    classes: NDArray[np.int64]
    confidences: NDArray[np.float64]
    p_values: NDArray[np.float64]
    rejected: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, part: slice) -> Images:
        return Images(
            self.times[part],
            self.classes[part],
            self.confidences[part],
            self.p_values[part],
            self.rejected[part],
        )
