"""The tests, in the folders of what they test."""

import os

# OpenBLAS's threads wait busily for each other, which costs most of the CPU time of a fit when the
# cores have other work. There are more test processes than cores. Set before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
