/* Decode a part of a JPEG, with the libjpeg-turbo that Pillow's wheel contains.
 *
 * A model that crops needs only some columns and rows. libjpeg-turbo can leave out the rest of the
 * inverse DCT, upsampling and colour conversion; no Python package offers that. The entropy-coded
 * data is read to its end all the same, so that missing and corrupt data is reported as always.
 *
 * The library is loaded at run time, because only Pillow's own copy is sure to compute Pillow's
 * pixels. The version and the size of its structures are compared with those of this build.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The configuration of Pillow's library, whatever that of the system's library is. */
#define JCONFIG_INCLUDED
#define JPEG_LIB_VERSION 62
#define MEM_SRCDST_SUPPORTED 1
#define BITS_IN_JSAMPLE 8
#include <jpeglib.h>

#ifndef JCS_ALPHA_EXTENSIONS
#error "these are not the headers of libjpeg-turbo"
#endif

#define PIXEL 4 /* bytes: R, G, B and 255 */
#define ROWS_AT_ONCE 16

#define FUNCTIONS(X)                                                                              \
    X(jpeg_std_error)                                                                             \
    X(jpeg_CreateDecompress)                                                                      \
    X(jpeg_destroy_decompress)                                                                    \
    X(jpeg_mem_src)                                                                               \
    X(jpeg_read_header)                                                                           \
    X(jpeg_has_multiple_scans)                                                                    \
    X(jpeg_start_decompress)                                                                      \
    X(jpeg_crop_scanline)                                                                         \
    X(jpeg_skip_scanlines)                                                                        \
    X(jpeg_read_scanlines)                                                                        \
    X(jpeg_finish_decompress)

#define DECLARE(name) __typeof__(&name) name;
typedef struct {
    FUNCTIONS(DECLARE)
} functions;
static functions lib;

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf on_error;
    char message[JMSG_LENGTH_MAX]; /* the error, or else the first warning, or "" */
} errors;

typedef struct {
    unsigned left, upper, right, lower;
} box;

/* Called for errors; libjpeg expects that it does not return. */
static void leave(j_common_ptr info) {
    errors *e = (errors *)info->err;
    e->base.format_message(info, e->message);
    longjmp(e->on_error, 1);
}

/* Called for the first warning; the later ones are counted by libjpeg only. */
static void note(j_common_ptr info) {
    errors *e = (errors *)info->err;
    e->base.format_message(info, e->message);
}

/* The further columns on each side of the window, because at the edge of what it decodes the decoder
 * has no neighbours of a sample: one chroma sample to upsample, and where a scan may be missing, two
 * blocks beyond that of this sample to smooth it. */
static unsigned margin(j_decompress_ptr info) {
    const int widest = info->max_h_samp_factor; /* columns of a sample */
    return 2 * widest + (lib.jpeg_has_multiple_scans(info) ? 2 * DCTSIZE * widest : 0);
}

/* Skip to the row `from`, and decode the rows up to `to` into their place in the image. */
static void read_rows(j_decompress_ptr info, unsigned from, unsigned to, unsigned left,
                      unsigned char *image) {
    if (from > info->output_scanline)
        lib.jpeg_skip_scanlines(info, from - info->output_scanline);
    while (info->output_scanline < to) {
        JSAMPROW rows[ROWS_AT_ONCE];
        const unsigned wanted = to - info->output_scanline;
        const unsigned count = wanted < ROWS_AT_ONCE ? wanted : ROWS_AT_ONCE;
        for (unsigned i = 0; i < count; i++)
            rows[i] = image +
                      ((size_t)(info->output_scanline + i) * info->image_width + left) * PIXEL;
        if (!lib.jpeg_read_scanlines(info, rows, count)) return; /* jpeg_finish_decompress fails */
    }
}

/* Decode the columns and rows of `window` into their place in `image`, which is width × height.
 * The outcome is in `e->message`. */
static void decode_window(const unsigned char *data, unsigned long length, box window,
                          unsigned width, unsigned height, unsigned char *image, errors *e) {
    struct jpeg_decompress_struct info;
    memset(&info, 0, sizeof info);
    info.err = lib.jpeg_std_error(&e->base);
    e->base.error_exit = leave;
    e->base.output_message = note;
    e->message[0] = '\0';
    if (setjmp(e->on_error)) {
        lib.jpeg_destroy_decompress(&info);
        return;
    }
    lib.jpeg_CreateDecompress(&info, JPEG_LIB_VERSION, sizeof info);
    lib.jpeg_mem_src(&info, data, length);
    lib.jpeg_read_header(&info, TRUE);
    if (info.image_width != width || info.image_height != height) {
        snprintf(e->message, sizeof e->message, "another size");
        lib.jpeg_destroy_decompress(&info);
        return;
    }
    info.out_color_space = JCS_EXT_RGBA;
    lib.jpeg_start_decompress(&info);

    const unsigned more = margin(&info);
    JDIMENSION left = window.left > more ? window.left - more : 0;
    JDIMENSION columns = (width - window.right > more ? window.right + more : width) - left;
    lib.jpeg_crop_scanline(&info, &left, &columns); /* to the left, to whole blocks */
    read_rows(&info, window.upper, window.lower, left, image);
    /* Skipping to the very end would not read the data, and would not notice that some is missing. */
    if (window.lower < height) read_rows(&info, height - 1, height, left, image);
    lib.jpeg_finish_decompress(&info);
    lib.jpeg_destroy_decompress(&info);
}

PyDoc_STRVAR(decode_doc,
"decode(data, size, window, out)\n--\n\n"
"Decode the box `window` (left, upper, right, lower) of a JPEG of `size` (width, height).\n\n"
"`out` is a contiguous buffer of height × width × 4 bytes. The window is written to its place, as\n"
"R, G, B and 255; some columns around it and the last row are written too, without meaning. All\n"
"other bytes stay as they are. Returns libjpeg's error, or else its first warning, or \"\". The interpreter lock is\n"
"released meanwhile. Raises ValueError for arguments that do not match, and RuntimeError if no\n"
"library was opened.");

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer data, out;
    unsigned width, height;
    box window;
    if (!PyArg_ParseTuple(args, "y*(II)(IIII)w*:decode", &data, &width, &height, &window.left,
                          &window.upper, &window.right, &window.lower, &out))
        return NULL;
    errors e;
    PyObject *message = NULL;
    if (!lib.jpeg_std_error) {
        PyErr_SetString(PyExc_RuntimeError, "no library was opened");
    } else if (window.left >= window.right || window.upper >= window.lower ||
               window.right > width || window.lower > height ||
               (uint64_t)out.len != (uint64_t)width * height * PIXEL) {
        PyErr_SetString(PyExc_ValueError, "the box is outside the image, or out has another size");
    } else {
        Py_BEGIN_ALLOW_THREADS
        decode_window(data.buf, data.len, window, width, height, out.buf, &e);
        Py_END_ALLOW_THREADS
        message = PyUnicode_DecodeLatin1(e.message, strlen(e.message), NULL);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    return message;
}

PyDoc_STRVAR(open_doc,
"open(path)\n--\n\n"
"Use the libjpeg-turbo at `path`. Raises ImportError if it cannot be loaded or is another version.");

static PyObject *open_library(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *path;
    if (!PyArg_ParseTuple(args, "s:open", &path)) return NULL;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return PyErr_Format(PyExc_ImportError, "%s", dlerror());
    functions found;
#define FIND(name)                                                                                \
    if (!(*(void **)&found.name = dlsym(handle, #name)))                                          \
        return PyErr_Format(PyExc_ImportError, "%s has no %s", path, #name);
    FUNCTIONS(FIND)
    errors e;
    struct jpeg_decompress_struct info = {.err = found.jpeg_std_error(&e.base)};
    e.base.error_exit = leave;
    if (setjmp(e.on_error)) return PyErr_Format(PyExc_ImportError, "%s: %s", path, e.message);
    /* libjpeg compares the version and the size of its main structure. */
    found.jpeg_CreateDecompress(&info, JPEG_LIB_VERSION, sizeof info);
    found.jpeg_destroy_decompress(&info);
    lib = found;
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"open", open_library, METH_VARARGS, open_doc},
    {"decode", decode, METH_VARARGS, decode_doc},
    {0},
};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "_jpeg", .m_size = 0, .m_methods = METHODS,
};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModule_Create(&MODULE); }
