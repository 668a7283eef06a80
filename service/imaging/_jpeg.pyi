import numpy as np
from numpy.typing import NDArray

def open(path: str, /) -> None: ...
def decode(
    data: bytes,
    size: tuple[int, int],
    window: tuple[int, int, int, int],
    out: NDArray[np.uint8],  # [height, width, 4]
    /,
) -> str: ...
