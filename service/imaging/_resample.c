/* Pillow's antialiased resize with identical pixels, restricted to one window of the result.
 *
 * Pillow computes the whole resized image with scalar arithmetic. A model that resizes and then
 * crops needs only the crop, and both passes are sums of products that suit vector instructions.
 * The arithmetic must not change: taps are computed in double as in Pillow and rounded to 22 bits,
 * and the result of the first pass is rounded to bytes before the second, with the axes in Pillow's
 * order. Property tests verify this for every filter, and the golden probes on every machine that
 * serves.
 *
 * Pixels come in through Arrow's C data interface, so that nothing is copied. AVX-512's products of
 * bytes (VNNI) or AVX2 are used if the machine supports them, NEON on arm64, and otherwise plain C,
 * which compilers vectorise in part.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#elif defined(__AARCH64EL__)
#include <arm_neon.h> /* every arm64 has it */
#endif

#define TAP_BITS 22 /* 32, minus 8 for a byte and 2 for weights beyond 1 */
#define HALF (1 << (TAP_BITS - 1))
#define PIXEL 4     /* bytes of a pixel in Pillow's memory: R, G, B and padding */
#define MADE 3      /* bytes of an output pixel */

/* The source pixels of one output pixel, along one axis: `count` of them from `start`. */
typedef struct {
    int64_t start, count;
} span;

typedef struct {
    span *spans;      /* [made] */
    int32_t *weights; /* [made][stride], padded with 0 */
    int32_t *lanes;   /* [made][stride][PIXEL], each weight repeated per byte of a pixel; or NULL */
    int8_t *digits;   /* the weights as bytes, see `split`; or NULL */
    int64_t stride;
    int64_t groups;   /* of digits per output pixel */
} taps;

/* --- the filters, as functions of the distance in output pixels ----------------------------- */

typedef struct {
    const char *name;
    double (*weight)(double);
    double support;
} filter;

static double box_weight(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear_weight(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double hamming_weight(double x) {
    x = fabs(x);
    if (x == 0.0) return 1.0;
    if (x >= 1.0) return 0.0;
    x *= M_PI;
    return sin(x) / x * (0.54f + 0.46f * cos(x)); /* float constants, as in Pillow */
}

static double bicubic_weight(double x) {
    const double a = -0.5; /* Keys 1981 */
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos_weight(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

static const filter FILTERS[] = {
    {"box", box_weight, 0.5},         {"bilinear", bilinear_weight, 1.0},
    {"hamming", hamming_weight, 1.0}, {"bicubic", bicubic_weight, 2.0},
    {"lanczos", lanczos_weight, 3.0},
};

/* --- taps ----------------------------------------------------------------------------------- */

static void free_taps(taps *t) {
    free(t->spans);
    free(t->weights);
    free(t->lanes);
    free(t->digits);
}

static int32_t rounded(double weight) {
    return (int32_t)(weight * (1 << TAP_BITS) + (weight < 0 ? -0.5 : 0.5));
}

/* Compute the taps of one output pixel; `scratch` has room for a row of weights. */
static void make_tap(const filter *f, int64_t from, double scale, int64_t at, double *scratch,
                     span *where, int32_t *weights) {
    const double stretch = scale < 1.0 ? 1.0 : scale;
    const double support = f->support * stretch, inverse = 1.0 / stretch;
    const double centre = (at + 0.5) * scale;
    int64_t first = (int64_t)(centre - support + 0.5), last = (int64_t)(centre + support + 0.5);
    double total = 0.0;
    if (first < 0) first = 0;
    if (last > from) last = from;
    for (int64_t i = 0; i < last - first; i++) {
        scratch[i] = f->weight((i + first - centre + 0.5) * inverse);
        total += scratch[i];
    }
    for (int64_t i = 0; i < last - first; i++) {
        if (total != 0.0) scratch[i] /= total;
        weights[i] = rounded(scratch[i]);
    }
    where->start = first;
    where->count = last - first;
}

/* Compute the taps of the output pixels [begin, end) of `to`, from `from` source pixels.
 * Return 0, or -1 if out of memory. */
static int make_taps(const filter *f, int64_t from, int64_t to, int64_t begin, int64_t end,
                     taps *t) {
    const double scale = (double)from / to;
    const int64_t most = (int64_t)ceil(f->support * (scale < 1.0 ? 1.0 : scale)) * 2 + 1;
    double *scratch = malloc(most * sizeof *scratch);
    t->stride = (most + 1) / 2 * 2; /* even, since two pixels are processed at once */
    t->spans = malloc((end - begin) * sizeof *t->spans);
    t->weights = calloc((end - begin) * t->stride, sizeof *t->weights);
    if (!scratch || !t->spans || !t->weights) {
        free(scratch);
        return -1;
    }
    for (int64_t i = begin; i < end; i++) {
        int32_t *weights = t->weights + (i - begin) * t->stride;
        if (from == to) { /* Pillow skips this axis */
            t->spans[i - begin] = (span){i, 1};
            weights[0] = 1 << TAP_BITS;
        } else {
            make_tap(f, from, scale, i, scratch, &t->spans[i - begin], weights);
        }
    }
    free(scratch);
    return 0;
}

/* Repeat every weight per byte of a pixel. Return 0, or -1 if out of memory. */
static int spread(taps *t, int64_t made) {
    const int64_t count = made * t->stride;
    t->lanes = malloc(count * PIXEL * sizeof *t->lanes);
    if (!t->lanes) return -1;
    for (int64_t i = 0; i < count; i++)
        for (int c = 0; c < PIXEL; c++) t->lanes[i * PIXEL + c] = t->weights[i];
    return 0;
}

#define DIGITS 3
#define QUAD 4 /* products that VNNI adds up */

/* Split every weight w into three signed bytes, w = d0 + 2^8 d1 + 2^16 d2, for products of bytes.
 * The sums of the three products wrap around as 32-bit numbers do, so no bit of the result differs.
 * All weights fit: these filters' are at most 1.3, and from 2 on the sums of Pillow overflow.
 *
 * `group` weights are used together, in quads, and each quad is repeated `times` times:
 * [made][groups][DIGITS][group / QUAD][times][QUAD]. Return 0, or -1 if out of memory. */
static int split(taps *t, int64_t made, int64_t group, int64_t times) {
    const int64_t size = group * times;
    t->groups = (t->stride + group - 1) / group;
    t->digits = calloc(made * t->groups * DIGITS, size);
    if (!t->digits) return -1;
    for (int64_t x = 0; x < made; x++)
        for (int64_t i = 0; i < t->stride; i++) {
            int32_t weight = t->weights[x * t->stride + i];
            int8_t *first = t->digits + (x * t->groups + i / group) * DIGITS * size +
                            i % group / QUAD * QUAD * times + i % QUAD;
            for (int d = 0; d < DIGITS; d++) {
                const int8_t digit = (int8_t)weight;
                for (int64_t c = 0; c < times; c++) first[d * size + c * QUAD] = digit;
                weight = (weight - digit) >> 8;
            }
        }
    return 0;
}

/* Return the source pixels that `count` output pixels need; spans never move backwards. */
static span needed(const taps *t, int64_t count) {
    const span last = t->spans[count - 1];
    return (span){t->spans[0].start, last.start + last.count - t->spans[0].start};
}

/* --- the two passes ------------------------------------------------------- */

static inline uint8_t narrowed(int32_t sum) {
    sum >>= TAP_BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

/* Compute one row; `readable` pixels may be read from `row`. */
static void row_across(const uint8_t *row, int64_t Py_UNUSED(readable), const taps *t,
                       int64_t width, uint8_t *made) {
    for (int64_t x = 0; x < width; x++) {
        const uint8_t *source = row + t->spans[x].start * PIXEL;
        const int32_t *weights = t->weights + x * t->stride;
        int32_t sum[MADE] = {HALF, HALF, HALF};
        for (int64_t i = 0; i < t->spans[x].count; i++)
            for (int c = 0; c < MADE; c++) sum[c] += source[i * PIXEL + c] * weights[i];
        for (int c = 0; c < MADE; c++) made[x * MADE + c] = narrowed(sum[c]);
    }
}

/* Compute the bytes [from, to) of output row `y`, from rows that are `stride` bytes apart. */
static void row_down(const uint8_t *rows, int64_t stride, int64_t from, int64_t to, const taps *t,
                     int64_t y, uint8_t *made) {
    const int32_t *weights = t->weights + y * t->stride;
    const int64_t count = t->spans[y].count;
    for (int64_t j = from; j < to; j++) {
        int32_t sum = HALF;
        for (int64_t i = 0; i < count; i++) sum += rows[i * stride + j] * weights[i];
        made[j] = narrowed(sum);
    }
}

/* Compute `count` rows of `width` pixels, from rows that are `stride` bytes apart. */
static void rows_across(const uint8_t *rows, int64_t stride, int64_t count, int64_t readable,
                        const taps *t, int64_t width, uint8_t *made) {
    for (int64_t y = 0; y < count; y++)
        row_across(rows + y * stride, readable, t, width, made + y * width * MADE);
}

#if defined(__x86_64__) && defined(__GNUC__)
#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i widened(const uint8_t *at) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at));
}

/* Two pixels at a time, with each weight repeated per byte of its pixel. */
AVX2 static void row_across_avx2(const uint8_t *row, int64_t readable, const taps *t,
                                 int64_t width, uint8_t *made) {
    for (int64_t x = 0; x < width; x++) {
        const span s = t->spans[x];
        const uint8_t *source = row + s.start * PIXEL;
        const __m256i *lanes = (const __m256i *)(t->lanes + x * t->stride * PIXEL);
        /* An odd last pixel is paired with the next one, of weight 0, if that is readable. */
        const int64_t pairs = s.start + s.count < readable ? (s.count + 1) / 2 : s.count / 2;
        __m256i even = _mm256_setzero_si256(), odd = even;
        int64_t i = 0;
        for (; i + 2 <= pairs; i += 2) {
            even = _mm256_add_epi32(even, _mm256_mullo_epi32(widened(source + 2 * PIXEL * i),
                                                             _mm256_loadu_si256(lanes + i)));
            odd = _mm256_add_epi32(odd, _mm256_mullo_epi32(widened(source + 2 * PIXEL * (i + 1)),
                                                           _mm256_loadu_si256(lanes + i + 1)));
        }
        if (i < pairs)
            even = _mm256_add_epi32(even, _mm256_mullo_epi32(widened(source + 2 * PIXEL * i),
                                                             _mm256_loadu_si256(lanes + i)));
        even = _mm256_add_epi32(even, odd);
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
        sum = _mm_add_epi32(sum, _mm_set1_epi32(HALF));
        if (2 * pairs < s.count) {
            int32_t last;
            memcpy(&last, source + 2 * pairs * PIXEL, sizeof last);
            sum = _mm_add_epi32(
                sum, _mm_mullo_epi32(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(last)),
                                     _mm_set1_epi32(t->weights[x * t->stride + 2 * pairs])));
        }
        sum = _mm_srai_epi32(sum, TAP_BITS);
        sum = _mm_packs_epi32(sum, sum);
        const int32_t pixel = _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
        memcpy(made + x * MADE, &pixel, MADE);
    }
}

static void rows_across_avx2(const uint8_t *rows, int64_t stride, int64_t count, int64_t readable,
                             const taps *t, int64_t width, uint8_t *made) {
    for (int64_t y = 0; y < count; y++)
        row_across_avx2(rows + y * stride, readable, t, width, made + y * width * MADE);
}

AVX2 static inline __m256i weighted(__m256i sum, const uint8_t *at, __m256i weight) {
    return _mm256_add_epi32(sum, _mm256_mullo_epi32(widened(at), weight));
}

/* 32 bytes at a time. */
AVX2 static void row_down_avx2(const uint8_t *rows, int64_t stride, int64_t from, int64_t to,
                               const taps *t, int64_t y, uint8_t *made) {
    const int32_t *weights = t->weights + y * t->stride;
    const int64_t count = t->spans[y].count;
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int64_t j = from;
    for (; j + 32 <= to; j += 32) {
        __m256i a = _mm256_set1_epi32(HALF), b = a, c = a, d = a;
        for (int64_t i = 0; i < count; i++) {
            const uint8_t *at = rows + i * stride + j;
            const __m256i weight = _mm256_set1_epi32(weights[i]);
            a = weighted(a, at, weight);
            b = weighted(b, at + 8, weight);
            c = weighted(c, at + 16, weight);
            d = weighted(d, at + 24, weight);
        }
        a = _mm256_packs_epi32(_mm256_srai_epi32(a, TAP_BITS), _mm256_srai_epi32(b, TAP_BITS));
        c = _mm256_packs_epi32(_mm256_srai_epi32(c, TAP_BITS), _mm256_srai_epi32(d, TAP_BITS));
        /* Packing works on 128-bit halves: restore the order of the quarters. */
        a = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, c), order);
        _mm256_storeu_si256((__m256i *)(made + j), a);
    }
    row_down(rows, stride, j, to, t, y, made);
}

#define VNNI __attribute__((target("avx512vnni,avx512vl,avx512bw")))
#define TOGETHER 8 /* pixels */

VNNI static inline __m256i joined(__m256i d0, __m256i d1, __m256i d2) {
    return _mm256_add_epi32(d0, _mm256_add_epi32(_mm256_slli_epi32(d1, 8),
                                                 _mm256_slli_epi32(d2, 16)));
}

/* Return eight pixels, those beyond `readable` as 0, and each channel's quads together. */
VNNI static inline __m256i by_channel(const uint8_t *at, int64_t readable) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m256i pixels = readable >= TOGETHER
                               ? _mm256_loadu_si256((const __m256i *)at)
                               : _mm256_maskz_loadu_epi32((1 << readable) - 1, at);
    return _mm256_shuffle_epi8(pixels, order);
}

/* Return one output pixel of each of two rows, 32 bits per channel. */
VNNI static inline __m256i both_across(const uint8_t *first, const uint8_t *second,
                                       int64_t readable, span s, const __m256i *digits) {
    __m256i a0 = _mm256_setr_epi32(HALF, HALF, HALF, HALF, 0, 0, 0, 0), b0 = a0;
    __m256i a1 = _mm256_setzero_si256(), b1 = a1, a2 = a1, b2 = a1;
    for (int64_t i = s.start; i < s.start + s.count; i += TOGETHER, digits += DIGITS) {
        const __m256i a = by_channel(first + i * PIXEL, readable - i);
        const __m256i b = by_channel(second + i * PIXEL, readable - i);
        const __m256i w0 = _mm256_loadu_si256(digits), w1 = _mm256_loadu_si256(digits + 1);
        const __m256i w2 = _mm256_loadu_si256(digits + 2);
        a0 = _mm256_dpbusd_epi32(a0, a, w0);
        b0 = _mm256_dpbusd_epi32(b0, b, w0);
        a1 = _mm256_dpbusd_epi32(a1, a, w1);
        b1 = _mm256_dpbusd_epi32(b1, b, w1);
        a2 = _mm256_dpbusd_epi32(a2, a, w2);
        b2 = _mm256_dpbusd_epi32(b2, b, w2);
    }
    a0 = joined(a0, a1, a2);
    b0 = joined(b0, b1, b2);
    const __m256i sum = _mm256_add_epi32(_mm256_permute2x128_si256(a0, b0, 0x20),
                                         _mm256_permute2x128_si256(a0, b0, 0x31));
    return _mm256_srai_epi32(sum, TAP_BITS);
}

/* Two rows and four output pixels at a time. */
VNNI static void rows_across_vnni(const uint8_t *rows, int64_t stride, int64_t count,
                                  int64_t readable, const taps *t, int64_t width, uint8_t *made) {
    const __m256i without_fourth = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    const __m256i *digits = (const __m256i *)t->digits;
    const int64_t step = t->groups * DIGITS;
    for (int64_t y = 0; y < count; y += 2, rows += 2 * stride, made += 2 * width * MADE) {
        const int64_t next = y + 1 < count; /* the last row may be alone, and is then made twice */
        for (int64_t x = 0; x < width; x += 4) {
            __m256i sums[4];
            for (int64_t i = 0; i < 4; i++) {
                const int64_t at = x + i < width ? x + i : width - 1;
                sums[i] = both_across(rows, rows + next * stride, readable, t->spans[at],
                                      digits + at * step);
            }
            const __m256i pixels = _mm256_shuffle_epi8(
                _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]),
                                    _mm256_packs_epi32(sums[2], sums[3])),
                without_fourth);
            const int64_t left = (width - x) * MADE;
            const __mmask16 used = left < 4 * MADE ? (1 << left) - 1 : 0xfff;
            uint8_t *to = made + x * MADE;
            _mm_mask_storeu_epi8(to, used, _mm256_castsi256_si128(pixels));
            _mm_mask_storeu_epi8(to + next * width * MADE, used,
                                 _mm256_extracti128_si256(pixels, 1));
        }
    }
}

VNNI static inline __m256i quad_of(const int8_t *digits) {
    int32_t quad;
    memcpy(&quad, digits, sizeof quad);
    return _mm256_set1_epi32(quad);
}

/* 32 bytes of four rows at a time. */
VNNI static void row_down_vnni(const uint8_t *rows, int64_t stride, int64_t from, int64_t to,
                               const taps *t, int64_t y, uint8_t *made) {
    const int64_t last = t->spans[y].count - 1;
    for (int64_t j = from; j < to; j += 32) {
        const __mmask32 used = to - j < 32 ? (1u << (to - j)) - 1 : 0xffffffff;
        const int8_t *digits = t->digits + y * t->groups * DIGITS * QUAD;
        __m256i sums[DIGITS][4]; /* of bytes 0 to 3, 4 to 7, 8 to 11 and 12 to 15 of each half */
        for (int q = 0; q < 4; q++) {
            sums[0][q] = _mm256_set1_epi32(HALF);
            sums[1][q] = sums[2][q] = _mm256_setzero_si256();
        }
        for (int64_t i = 0; i <= last; i += QUAD, digits += DIGITS * QUAD) {
            __m256i row[QUAD];
            for (int k = 0; k < QUAD; k++) { /* beyond the last row, weights are 0 */
                const int64_t at = i + k < last ? i + k : last;
                row[k] = _mm256_maskz_loadu_epi8(used, rows + at * stride + j);
            }
            const __m256i a = _mm256_unpacklo_epi8(row[0], row[1]);
            const __m256i b = _mm256_unpackhi_epi8(row[0], row[1]);
            const __m256i c = _mm256_unpacklo_epi8(row[2], row[3]);
            const __m256i d = _mm256_unpackhi_epi8(row[2], row[3]);
            const __m256i quads[4] = {_mm256_unpacklo_epi16(a, c), _mm256_unpackhi_epi16(a, c),
                                      _mm256_unpacklo_epi16(b, d), _mm256_unpackhi_epi16(b, d)};
            for (int n = 0; n < DIGITS; n++) {
                const __m256i weights = quad_of(digits + n * QUAD);
                for (int q = 0; q < 4; q++)
                    sums[n][q] = _mm256_dpbusd_epi32(sums[n][q], quads[q], weights);
            }
        }
        __m256i sum[4];
        for (int q = 0; q < 4; q++)
            sum[q] = _mm256_srai_epi32(joined(sums[0][q], sums[1][q], sums[2][q]), TAP_BITS);
        /* Unpacking and packing both work on 128-bit halves, so the order is restored. */
        const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(sum[0], sum[1]),
                                                  _mm256_packs_epi32(sum[2], sum[3]));
        _mm256_mask_storeu_epi8(made + j, used, bytes);
    }
}

static int has_vnni(void) {
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw");
}

static int has_avx2(void) { return __builtin_cpu_supports("avx2"); }

static int split_both(taps *across, int64_t columns, taps *down, int64_t rows) {
    return split(across, columns, TOGETHER, PIXEL) || split(down, rows, QUAD, 1);
}

static int spread_across(taps *across, int64_t columns, taps *Py_UNUSED(down),
                         int64_t Py_UNUSED(rows)) {
    return spread(across, columns);
}
#endif

#ifdef __AARCH64EL__
/* Four source pixels at a time, whose four bytes each are the four sums. */
static void row_across_neon(const uint8_t *row, const taps *t, int64_t width, uint8_t *made) {
    for (int64_t x = 0; x < width; x++) {
        const uint8_t *source = row + t->spans[x].start * PIXEL;
        const int32_t *weights = t->weights + x * t->stride;
        const int64_t count = t->spans[x].count;
        int32x4_t even = vdupq_n_s32(HALF), odd = vdupq_n_s32(0);
        int64_t i = 0;
        for (; i + 4 <= count; i += 4) {
            const uint8x16_t pixels = vld1q_u8(source + i * PIXEL);
            const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(pixels)));
            const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(pixels));
            const int32x4_t w = vld1q_s32(weights + i);
            even = vmlaq_laneq_s32(even, vmovl_s16(vget_low_s16(low)), w, 0);
            odd = vmlaq_laneq_s32(odd, vmovl_high_s16(low), w, 1);
            even = vmlaq_laneq_s32(even, vmovl_s16(vget_low_s16(high)), w, 2);
            odd = vmlaq_laneq_s32(odd, vmovl_high_s16(high), w, 3);
        }
        for (; i < count; i++) {
            uint32_t pixel;
            memcpy(&pixel, source + i * PIXEL, PIXEL);
            const uint16x8_t wide = vmovl_u8(vcreate_u8(pixel));
            even = vmlaq_n_s32(even, vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide))),
                               weights[i]);
        }
        const int16x4_t sum = vshrn_n_s32(vaddq_s32(even, odd), 16);
        const uint8x8_t bytes = vqshrun_n_s16(vcombine_s16(sum, sum), TAP_BITS - 16);
        const uint32_t pixel = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
        memcpy(made + x * MADE, &pixel, MADE);
    }
}

static void rows_across_neon(const uint8_t *rows, int64_t stride, int64_t count,
                             int64_t Py_UNUSED(readable), const taps *t, int64_t width,
                             uint8_t *made) {
    for (int64_t y = 0; y < count; y++)
        row_across_neon(rows + y * stride, t, width, made + y * width * MADE);
}

/* Return eight sums as bytes: floor(sum / 2^22), between 0 and 255. */
static inline uint8x8_t narrowed_neon(int32x4_t low, int32x4_t high) {
    const int16x8_t halves = vshrn_high_n_s32(vshrn_n_s32(low, 16), high, 16);
    return vqshrun_n_s16(halves, TAP_BITS - 16);
}

/* 16 bytes at a time. */
static void row_down_neon(const uint8_t *rows, int64_t stride, int64_t from, int64_t to,
                          const taps *t, int64_t y, uint8_t *made) {
    const int32_t *weights = t->weights + y * t->stride;
    const int64_t count = t->spans[y].count;
    int64_t j = from;
    for (; j + 16 <= to; j += 16) {
        int32x4_t a = vdupq_n_s32(HALF), b = a, c = a, d = a;
        for (int64_t i = 0; i < count; i++) {
            const uint8x16_t bytes = vld1q_u8(rows + i * stride + j);
            const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
            const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
            a = vmlaq_n_s32(a, vmovl_s16(vget_low_s16(low)), weights[i]);
            b = vmlaq_n_s32(b, vmovl_high_s16(low), weights[i]);
            c = vmlaq_n_s32(c, vmovl_s16(vget_low_s16(high)), weights[i]);
            d = vmlaq_n_s32(d, vmovl_high_s16(high), weights[i]);
        }
        vst1q_u8(made + j, vcombine_u8(narrowed_neon(a, b), narrowed_neon(c, d)));
    }
    row_down(rows, stride, j, to, t, y, made);
}
#endif

static int always(void) { return 1; }

static int nothing(taps *Py_UNUSED(across), int64_t Py_UNUSED(columns), taps *Py_UNUSED(down),
                   int64_t Py_UNUSED(rows)) {
    return 0;
}

typedef struct {
    const char *name;
    int (*supported)(void);
    int (*prepare)(taps *, int64_t, taps *, int64_t); /* returns 0, or -1 if out of memory */
    void (*across)(const uint8_t *, int64_t, int64_t, int64_t, const taps *, int64_t, uint8_t *);
    void (*down)(const uint8_t *, int64_t, int64_t, int64_t, const taps *, int64_t, uint8_t *);
} path;

static const path PATHS[] = { /* the fastest first */
#ifdef AVX2
    {"vnni", has_vnni, split_both, rows_across_vnni, row_down_vnni},
    {"avx2", has_avx2, spread_across, rows_across_avx2, row_down_avx2},
#elif defined(__AARCH64EL__)
    {"neon", always, nothing, rows_across_neon, row_down_neon},
#endif
    {"c", always, nothing, rows_across, row_down},
};
#define PATH_COUNT (sizeof PATHS / sizeof *PATHS)
static path pass;

/* Use the path called `name`, or the fastest. Return 0 if this machine does not support it. */
static int take(const char *name) {
    for (size_t i = 0; i < PATH_COUNT; i++)
        if ((!name || !strcmp(name, PATHS[i].name)) && PATHS[i].supported()) {
            pass = PATHS[i];
            return 1;
        }
    return 0;
}

/* --- Arrow's C data interface ---------------------------------------------------------------- */

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

/* Return the pixels of an exported RGB image, `count` lists of four bytes, or NULL with an
 * exception set. */
static const uint8_t *exported_pixels(PyObject *capsule, int64_t count) {
    const struct ArrowArray *image = PyCapsule_GetPointer(capsule, "arrow_array");
    if (!image) return NULL;
    if (!image->release || image->length != count || image->offset != 0 ||
        image->n_children != 1 || image->children[0]->n_buffers != 2 ||
        image->children[0]->offset != 0 || image->children[0]->length != count * PIXEL) {
        PyErr_SetString(PyExc_ValueError, "pixels must be the Arrow array of an RGB image of size");
        return NULL;
    }
    return image->children[0]->buffers[1];
}

/* Return the pixels of an array of `count` times four bytes, with its buffer in `lent`, or NULL
 * with an exception set. */
static const uint8_t *array_pixels(PyObject *array, int64_t count, Py_buffer *lent) {
    if (PyObject_GetBuffer(array, lent, PyBUF_SIMPLE)) return NULL;
    if (lent->len == count * PIXEL) return lent->buf;
    PyErr_SetString(PyExc_ValueError, "pixels must be an array of size with four bytes per pixel");
    return NULL;
}

/* --- Python ---------------------------------------------------------------------------------- */

typedef struct {
    int64_t left, upper, right, lower;
} box;

static int within(box inner, int64_t width, int64_t height) {
    return 0 <= inner.left && inner.left < inner.right && inner.right <= width &&
           0 <= inner.upper && inner.upper < inner.lower && inner.lower <= height;
}

typedef struct {
    const uint8_t *pixels; /* of the source box's upper left corner */
    int64_t stride;        /* bytes from row to row */
    int64_t readable;      /* pixels from there to the end of a row of the image */
} view;

/* Horizontal, then vertical pass. Return 0, or -1 if out of memory. */
static int across_first(view from, const taps *across, const taps *down, int64_t columns,
                        int64_t rows, uint8_t *made) {
    const int64_t length = columns * MADE;
    const span y = needed(down, rows);
    uint8_t *between = malloc(y.count * length);
    if (!between) return -1;
    pass.across(from.pixels + y.start * from.stride, from.stride, y.count, from.readable, across,
                columns, between);
    for (int64_t i = 0; i < rows; i++) {
        const span s = down->spans[i];
        pass.down(between + (s.start - y.start) * length, length, 0, length, down, i,
                  made + i * length);
    }
    free(between);
    return 0;
}

/* Vertical, then horizontal pass. Return 0, or -1 if out of memory. */
static int down_first(view from, const taps *across, const taps *down, int64_t columns,
                      int64_t rows, uint8_t *made) {
    const span x = needed(across, columns);
    /* A row from the source's left edge on, so that the horizontal taps apply without an offset. */
    uint8_t *between = malloc((x.start + x.count) * PIXEL);
    if (!between) return -1;
    for (int64_t i = 0; i < rows; i++) {
        const span s = down->spans[i];
        pass.down(from.pixels + s.start * from.stride, from.stride, x.start * PIXEL,
                  (x.start + x.count) * PIXEL, down, i, between);
        pass.across(between, 0, 1, x.start + x.count, across, columns, made + i * columns * MADE);
    }
    free(between);
    return 0;
}

/* Return 0, or -1 if out of memory. */
static int make(view from, int64_t width, int64_t height, int64_t to_width, int64_t to_height,
                const filter *f, box window, uint8_t *made) {
    const int64_t columns = window.right - window.left, rows = window.lower - window.upper;
    taps across = {0}, down = {0};
    int failed = make_taps(f, width, to_width, window.left, window.right, &across) ||
                 make_taps(f, height, to_height, window.upper, window.lower, &down) ||
                 pass.prepare(&across, columns, &down, rows);
    if (!failed) {
        /* Pillow 13's rule, in pixels. The order matters, because the first pass is rounded. */
        const int64_t lost = height - to_height;
        const int down_goes_first = lost > 0 && lost > 2 * (width - to_width);
        failed = (down_goes_first ? down_first : across_first)(from, &across, &down, columns, rows,
                                                               made);
    }
    free_taps(&across);
    free_taps(&down);
    return failed;
}

PyDoc_STRVAR(resize_doc,
"resize(pixels, size, source, to, filter, window, out)\n--\n\n"
"Resize the box `source` of an RGB image to the size `to`; write its `window` into `out`.\n\n"
"`pixels` is the Arrow capsule that a Pillow image of `size` (width, height) exports, or a\n"
"contiguous buffer of height × width × 4 bytes, the fourth of each pixel unused; boxes are (left,\n"
"upper, right, lower); `out` is a contiguous buffer of height × width × 3 bytes. The result is\n"
"that of Pillow's crop, resize and crop. The interpreter lock is released meanwhile.\n"
"Raises ValueError for arguments that do not match, and MemoryError.");

static PyObject *resize(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *given;
    long long width, height, to_width, to_height;
    box source, window;
    const char *name;
    Py_buffer out, lent = {0};
    long long s[4], w[4];
    if (!PyArg_ParseTuple(args, "O(LL)(LLLL)(LL)s(LLLL)w*:resize", &given, &width, &height, &s[0],
                          &s[1], &s[2], &s[3], &to_width, &to_height, &name, &w[0], &w[1], &w[2],
                          &w[3], &out))
        return NULL;
    source = (box){s[0], s[1], s[2], s[3]};
    window = (box){w[0], w[1], w[2], w[3]};
    const filter *f = NULL;
    for (size_t i = 0; i < sizeof FILTERS / sizeof *FILTERS; i++)
        if (!strcmp(FILTERS[i].name, name)) f = &FILTERS[i];
    const uint8_t *pixels = PyCapsule_CheckExact(given)
                                ? exported_pixels(given, width * height)
                                : array_pixels(given, width * height, &lent);
    int failed = 1;
    if (!pixels) {
    } else if (!f || !within(source, width, height) || !within(window, to_width, to_height) ||
               out.len != (window.right - window.left) * (window.lower - window.upper) * MADE) {
        PyErr_SetString(PyExc_ValueError,
                        "unknown filter, box outside the image, or out of the wrong size");
    } else {
        const view from = {pixels + (source.upper * width + source.left) * PIXEL, width * PIXEL,
                           width - source.left};
        Py_BEGIN_ALLOW_THREADS
        failed = make(from, source.right - source.left, source.lower - source.upper, to_width,
                      to_height, f, window, out.buf);
        Py_END_ALLOW_THREADS
        if (failed) PyErr_NoMemory();
    }
    PyBuffer_Release(&lent);
    PyBuffer_Release(&out);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(choose_doc,
"choose(path)\n--\n\n"
"Use the implementation `path`, \"vnni\", \"avx2\", \"neon\" or \"c\", instead of the fastest.\n"
"For tests.\n\n"
"Raises ValueError if this machine does not support it.");

static PyObject *choose(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *name;
    if (!PyArg_ParseTuple(args, "s:choose", &name)) return NULL;
    if (take(name)) Py_RETURN_NONE;
    PyErr_Format(PyExc_ValueError, "this machine does not support %s", name);
    return NULL;
}

static PyMethodDef METHODS[] = {
    {"resize", resize, METH_VARARGS, resize_doc},
    {"choose", choose, METH_VARARGS, choose_doc},
    {0},
};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "_resample", .m_size = 0, .m_methods = METHODS,
};

PyMODINIT_FUNC PyInit__resample(void) {
    PyObject *module = PyModule_Create(&MODULE);
    take(NULL);
    if (module && PyModule_AddStringConstant(module, "PATH", pass.name)) Py_CLEAR(module);
    return module;
}
