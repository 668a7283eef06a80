import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Values = NDArray[np.float64]

def softmax(logits: Logits, temperature: float, out: Values, /) -> int: ...
def largest(values: Values, count: int, /) -> list[int]: ...
