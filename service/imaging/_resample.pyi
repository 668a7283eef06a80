import numpy as np
from numpy.typing import NDArray

PATH: str  # "vnni", "avx2", "neon" or "c": the fastest that this machine supports

def resize(
    pixels: object,  # an Arrow capsule, or NDArray[np.uint8] [height, width, 4]
    size: tuple[int, int],
    source: tuple[int, int, int, int],
    to: tuple[int, int],
    filter: str,
    window: tuple[int, int, int, int],
    out: NDArray[np.uint8],
    /,
) -> None: ...
def choose(path: str, /) -> None: ...
