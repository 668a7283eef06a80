/* The part of a stand-in for libcublasLt.so.13 that has to answer; the rest returns success. */
#include <string.h>

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d,
                                   void *preference, int wanted, void *results, int *found) {
  memset(results, 0, 128);
  *found = 1;
  return 0;
}
