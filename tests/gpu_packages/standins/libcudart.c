/* A stand-in for libcudart.so.13 on a machine without a GPU.
 *
 * Device memory is the host's, kernels do nothing, a graph remembers nothing, and every call is
 * counted. With it, the real CUDA provider of ONNX Runtime shows what it allocates, copies, waits
 * for and captures, and how it words errors. Results and durations mean nothing.
 *
 * Written against the public description of the runtime API. No header of CUDA is needed. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Error;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2 };

/* What is counted. standin_name() has the same order. */
enum {
  ALLOCATIONS, FREES, HOST_ALLOCATIONS, COPIES_IN, COPIES_OUT, COPIES_OTHER, BYTES_IN, BYTES_OUT,
  STREAM_SYNCS, EVENT_SYNCS, DEVICE_SYNCS, LAUNCHES, CAPTURES_BEGUN, CAPTURES_ENDED, GRAPH_LAUNCHES,
  GRAPHS_DESTROYED, STREAMS, LAUNCHING_STREAMS, LIVE_BYTES, PEAK_BYTES, COUNTERS
};
static const char *const names[COUNTERS] = {
  "allocations", "frees", "host_allocations", "copies_in", "copies_out", "copies_other", "bytes_in",
  "bytes_out", "stream_syncs", "event_syncs", "device_syncs", "launches", "captures_begun",
  "captures_ended", "graph_launches", "graphs_destroyed", "streams", "launching_streams",
  "live_bytes", "peak_bytes",
};
static atomic_long counters[COUNTERS];
static atomic_long limit; /* bytes of device memory; 0: as much as the host has */
static atomic_int delay;   /* of each kernel launch, in microseconds */
static atomic_int failure; /* what a kernel launch returns; 0: success */
static const char *failure_name = "cudaErrorUnknown", *failure_text = "unknown error";

#define COUNT(what) atomic_fetch_add(&counters[what], 1)

int standin_counters(void) { return COUNTERS; }
const char *standin_name(int counter) { return names[counter]; }
long standin_count(int counter) { return counters[counter]; }
void standin_limit(long bytes) { limit = bytes; }
void standin_delay(int microseconds) { delay = microseconds; }

/* The stand-in's texts are the real ones: the caller passes them. They must stay valid. */
void standin_fail(int code, const char *name, const char *text) {
  failure_name = name;
  failure_text = text;
  failure = code;
}

static void *seen[64];
static pthread_mutex_t seen_lock = PTHREAD_MUTEX_INITIALIZER;

/* Set the counts to zero, but not the bytes that are allocated. */
void standin_reset(void) {
  for (int counter = 0; counter < LIVE_BYTES; counter++) counters[counter] = 0;
  memset(seen, 0, sizeof seen);
  counters[PEAK_BYTES] = (long)counters[LIVE_BYTES];
}

/* Count the different streams that kernels were launched on. */
static Error launched(void *stream) {
  COUNT(LAUNCHES);
  if (delay) usleep(delay);
  pthread_mutex_lock(&seen_lock);
  for (int index = 0; index < 64 && seen[index] != stream; index++)
    if (!seen[index]) {
      seen[index] = stream;
      COUNT(LAUNCHING_STREAMS);
      break;
    }
  pthread_mutex_unlock(&seen_lock);
  return failure;
}

/* Memory. Each block is preceded by its size, and aligned as CUDA's are. */
enum { ALIGNED = 256 };

Error cudaMalloc(void **pointer, size_t size) {
  COUNT(ALLOCATIONS);
  char *block;
  *pointer = 0;
  if (limit && counters[LIVE_BYTES] + (long)size > limit) return OUT_OF_MEMORY;
  if (posix_memalign((void **)&block, ALIGNED, size + ALIGNED)) return OUT_OF_MEMORY;
  *(size_t *)block = size;
  *pointer = block + ALIGNED;
  long live = atomic_fetch_add(&counters[LIVE_BYTES], (long)size) + (long)size;
  for (long peak = counters[PEAK_BYTES]; live > peak;)
    if (atomic_compare_exchange_weak(&counters[PEAK_BYTES], &peak, live)) break;
  return SUCCESS;
}
Error cudaFree(void *pointer) {
  if (!pointer) return SUCCESS;
  COUNT(FREES);
  char *block = (char *)pointer - ALIGNED;
  atomic_fetch_sub(&counters[LIVE_BYTES], (long)*(size_t *)block);
  free(block);
  return SUCCESS;
}
Error cudaMallocFromPoolAsync(void **pointer, size_t size, void *pool, void *stream) {
  return cudaMalloc(pointer, size);
}
Error cudaFreeAsync(void *pointer, void *stream) { return cudaFree(pointer); }
Error cudaHostAlloc(void **pointer, size_t size, unsigned flags) {
  COUNT(HOST_ALLOCATIONS);
  return posix_memalign(pointer, 4096, size) ? OUT_OF_MEMORY : SUCCESS;
}
Error cudaMallocHost(void **pointer, size_t size) { return cudaHostAlloc(pointer, size, 0); }
Error cudaFreeHost(void *pointer) {
  free(pointer);
  return SUCCESS;
}
Error cudaMemGetInfo(size_t *available, size_t *total) {
  *total = limit ? (size_t)limit : (size_t)141 << 30;
  *available = *total - (size_t)counters[LIVE_BYTES];
  return SUCCESS;
}
Error cudaPointerGetAttributes(void *attributes, const void *pointer) {
  memset(attributes, 0, 88);
  *(int *)attributes = 2; /* device memory */
  *(const void **)((char *)attributes + 8) = pointer;
  return SUCCESS;
}
Error cudaMemset(void *to, int value, size_t size) { return SUCCESS; }
Error cudaMemsetAsync(void *to, int value, size_t size, void *stream) { return SUCCESS; }

/* Copies are done at once. */
static Error copied(size_t size, int kind) {
  COUNT(kind == 1 ? COPIES_IN : kind == 2 ? COPIES_OUT : COPIES_OTHER);
  if (kind == 1 || kind == 2)
    atomic_fetch_add(&counters[kind == 1 ? BYTES_IN : BYTES_OUT], (long)size);
  return SUCCESS;
}
Error cudaMemcpy(void *to, const void *from, size_t size, int kind) {
  memmove(to, from, size);
  return copied(size, kind);
}
Error cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  return cudaMemcpy(to, from, size, kind);
}
Error cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                        size_t width, size_t height, int kind, void *stream) {
  for (size_t row = 0; row < height; row++)
    memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
  return copied(width * height, kind);
}
Error cudaMemcpyFromSymbol(void *to, const void *symbol, size_t size, size_t offset, int kind) {
  memset(to, 0, size);
  return SUCCESS;
}

/* One device, with the figures of an H100 where a runtime sizes something by them. */
static void set(void *properties, int offset, int value) {
  *(int *)((char *)properties + offset) = value;
}
static void set_long(void *properties, int offset, long value) {
  *(long *)((char *)properties + offset) = value;
}
Error cudaGetDeviceProperties(void *properties, int device) { /* offsets of CUDA 13 */
  memset(properties, 0, 1008);
  strcpy(properties, "No GPU (stand-in)");
  set_long(properties, 288, 141L << 30); /* totalGlobalMem */
  set_long(properties, 296, 49152);      /* sharedMemPerBlock */
  set(properties, 304, 65536);           /* regsPerBlock */
  set(properties, 308, 32);              /* warpSize */
  set(properties, 320, 1024);            /* maxThreadsPerBlock */
  set(properties, 324, 1024);            /* maxThreadsDim */
  set(properties, 328, 1024);
  set(properties, 332, 64);
  set(properties, 336, 2147483647); /* maxGridSize */
  set(properties, 340, 65535);
  set(properties, 344, 65535);
  set(properties, 360, 9);        /* major */
  set(properties, 384, 132);      /* multiProcessorCount */
  set(properties, 596, 60 << 20); /* l2CacheSize */
  set(properties, 604, 2048);     /* maxThreadsPerMultiProcessor */
  set_long(properties, 624, 233472); /* sharedMemPerMultiprocessor */
  set_long(properties, 672, 232448); /* sharedMemPerBlockOptin */
  return SUCCESS;
}
Error cudaDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 1: *value = 1024; break;    /* threads in a block */
    case 10: *value = 32; break;     /* warp */
    case 16: *value = 132; break;    /* multiprocessors */
    case 39: *value = 2048; break;   /* threads on a multiprocessor */
    case 75: *value = 9; break;      /* compute capability */
    case 76: *value = 0; break;
    case 97: *value = 232448; break; /* shared memory of a block, opted in */
    default: *value = 1;
  }
  return SUCCESS;
}
Error cudaGetDeviceCount(int *count) { *count = 1; return SUCCESS; }
Error cudaGetDevice(int *device) { *device = 0; return SUCCESS; }
Error cudaSetDevice(int device) { return device ? 101 : SUCCESS; }
Error cudaRuntimeGetVersion(int *version) { *version = 13000; return SUCCESS; }
Error cudaDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Error cudaDeviceSynchronize(void) { COUNT(DEVICE_SYNCS); return SUCCESS; }

Error cudaGetLastError(void) { return failure; }
Error cudaPeekAtLastError(void) { return failure; }
const char *cudaGetErrorName(int code) {
  return code == SUCCESS ? "cudaSuccess"
       : code == OUT_OF_MEMORY ? "cudaErrorMemoryAllocation" : failure_name;
}
const char *cudaGetErrorString(int code) {
  return code == SUCCESS ? "no error" : code == OUT_OF_MEMORY ? "out of memory" : failure_text;
}

/* Streams, events and graphs are handles without content. */
static Error handle(void **made) {
  *made = malloc(8);
  return SUCCESS;
}
Error cudaStreamCreate(void **stream) { COUNT(STREAMS); return handle(stream); }
Error cudaStreamCreateWithFlags(void **stream, unsigned flags) { return cudaStreamCreate(stream); }
Error cudaStreamSynchronize(void *stream) { COUNT(STREAM_SYNCS); return SUCCESS; }
Error cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return SUCCESS; }
Error cudaStreamBeginCapture(void *stream, int mode) { COUNT(CAPTURES_BEGUN); return SUCCESS; }
Error cudaStreamEndCapture(void *stream, void **graph) {
  COUNT(CAPTURES_ENDED);
  return handle(graph);
}
Error cudaEventCreate(void **event) { return handle(event); }
Error cudaEventCreateWithFlags(void **event, unsigned flags) { return handle(event); }
Error cudaEventSynchronize(void *event) { COUNT(EVENT_SYNCS); return SUCCESS; }
Error cudaEventElapsedTime(float *ms, void *start, void *end) { *ms = 1; return SUCCESS; }
Error cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) {
  return handle(executable);
}
Error cudaGraphLaunch(void *executable, void *stream) { COUNT(GRAPH_LAUNCHES); return SUCCESS; }
Error cudaGraphExecDestroy(void *executable) { COUNT(GRAPHS_DESTROYED); return SUCCESS; }

/* Kernels: dim3 is three ints, passed by value. */
typedef struct { unsigned x, y, z; } Dim3;

/* Compiled code passes what stands between <<< and >>> from one call to the next. */
static _Thread_local struct { Dim3 grid, block; size_t shared; void *stream; } next;
int __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void *stream) {
  next.grid = grid;
  next.block = block;
  next.shared = shared;
  next.stream = stream;
  return SUCCESS;
}
Error __cudaPopCallConfiguration(Dim3 *grid, Dim3 *block, size_t *shared, void **stream) {
  *grid = next.grid;
  *block = next.block;
  *shared = next.shared;
  *stream = next.stream;
  return SUCCESS;
}
Error cudaLaunchKernel(const void *kernel, Dim3 grid, Dim3 block, void **arguments, size_t shared,
                       void *stream) {
  return launched(stream);
}
Error cudaLaunchCooperativeKernel(const void *kernel, Dim3 grid, Dim3 block, void **arguments,
                                  size_t shared, void *stream) {
  return launched(stream);
}
Error __cudaLaunchKernel(void *kernel, Dim3 grid, Dim3 block, void **arguments, size_t shared,
                         void *stream) {
  return launched(stream);
}
Error cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data) {
  function(data);
  return SUCCESS;
}
Error cudaFuncGetAttributes(void *attributes, const void *kernel) {
  memset(attributes, 0, 144);
  set(attributes, 24, 1024); /* maxThreadsPerBlock */
  return SUCCESS;
}
Error cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) {
  *blocks = 2;
  return SUCCESS;
}
Error cudaMemPoolCreate(void **pool, const void *properties) { return handle(pool); }
Error cudaMemPoolGetAttribute(void *pool, int attribute, void *value) {
  *(uint64_t *)value = 0;
  return SUCCESS;
}
Error cudaLibraryLoadData(void **library) { return handle(library); }
Error cudaLibraryGetKernel(void **kernel) { return handle(kernel); }
Error __cudaGetKernel(void **kernel) { return handle(kernel); }
void **__cudaRegisterFatBinary(void *binary) {
  static void *registered[1];
  return registered;
}
static int no_operation(void) { return SUCCESS; }
Error cudaGetDriverEntryPointByVersion(const char *name, void **function) {
  *function = (void *)no_operation;
  return SUCCESS;
}
