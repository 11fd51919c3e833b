/* Sums of numbers, of their squares, and their range, in one pass and without the interpreter.
 *
 * Optional: what it does, dtk/statistics/{grid_sums,moments}.py do with NumPy, to the rounding of float64. Needs GCC or
 * Clang, for their vector types; compiled without fused products, it gives the same bits on every machine.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define BLOCK 2048   /* values that stay in a core's first cache, so that they may be read again */
#define CANCELS 100. /* two digits of sixteen */
#define EXACT 9007199254740992. /* float64 holds every integer up to here */

enum { F32, F64, I8, U8, I16, U16, I32, U32, I64, U64, NUM_KINDS };
static const Py_ssize_t item_nbytes[] = {4, 8, 1, 1, 2, 2, 4, 4, 8, 8};

/* Of distances from a start. */
typedef struct {
    int64_t count;
    double total, squares, low, high;
} Distances;

/* Of values, NaN left out: the mean less `start`, which keeps its digits, and squares of distances from the mean. */
typedef struct {
    int64_t count;
    double start, mean, squares, low, high;
} Sums;

/* Sum up a block, eight values at a time in as many sums; where it is whole, NaN is not looked for. LESS and MORE are
 * never NaN unless what was found so far is. */
#define DEFINE_DISTANCES(NAME, TARGET, T, IS_WHOLE, VECTOR, MASK, LOAD, LESS, MORE)                                    \
    TARGET static void NAME(const T *from, Py_ssize_t n, double start, Distances *to) {                                \
        enum { WIDTH = sizeof(VECTOR) / 8, PARTS = 8 / WIDTH };                                                        \
        const VECTOR zeros = {0}, starts = zeros + start, top = zeros + INFINITY;                                      \
        VECTOR totals[PARTS], squares[PARTS], lows[PARTS], highs[PARTS];                                               \
        MASK counts = {0};                                                                                             \
        for (int j = 0; j < PARTS; j++) {                                                                              \
            totals[j] = squares[j] = zeros;                                                                            \
            lows[j] = top;                                                                                             \
            highs[j] = -top;                                                                                           \
        }                                                                                                              \
        Py_ssize_t i = 0;                                                                                              \
        for (; i + 8 <= n; i += 8) {                                                                                   \
            for (int j = 0; j < PARTS; j++) {                                                                          \
                const VECTOR values = LOAD(from + i + j * WIDTH);                                                      \
                VECTOR distances = values - starts;                                                                    \
                if (!IS_WHOLE) {                                                                                       \
                    const MASK present = values == values;                                                             \
                    counts -= present;                                                                                 \
                    distances = (VECTOR)((MASK)distances & present);                                                   \
                }                                                                                                      \
                totals[j] += distances;                                                                                \
                squares[j] += distances * distances;                                                                   \
                lows[j] = LESS(values, lows[j]);                                                                       \
                highs[j] = MORE(values, highs[j]);                                                                     \
            }                                                                                                          \
        }                                                                                                              \
        *to = (Distances){IS_WHOLE ? i : 0, 0, 0, INFINITY, -INFINITY};                                                \
        for (int k = 0; k < WIDTH; k++) to->count += counts[k];                                                        \
        for (int k = 0; k < 8; k++) {                                                                                  \
            to->total += totals[k / WIDTH][k % WIDTH];                                                                 \
            to->squares += squares[k / WIDTH][k % WIDTH];                                                              \
            if (lows[k / WIDTH][k % WIDTH] < to->low) to->low = lows[k / WIDTH][k % WIDTH];                            \
            if (highs[k / WIDTH][k % WIDTH] > to->high) to->high = highs[k / WIDTH][k % WIDTH];                        \
        }                                                                                                              \
        for (; i < n; i++) {                                                                                           \
            const double value = from[i], distance = value - start;                                                    \
            if (!IS_WHOLE && value != value) continue;                                                                 \
            to->count++;                                                                                               \
            to->total += distance;                                                                                     \
            to->squares += distance * distance;                                                                        \
            if (value < to->low) to->low = value;                                                                      \
            if (value > to->high) to->high = value;                                                                    \
        }                                                                                                              \
    }

typedef double Two __attribute__((vector_size(16)));
typedef int64_t TwoMask __attribute__((vector_size(16)));
#ifdef __x86_64__
#define LOAD_F32(from) (Two) _mm_cvtps_pd(_mm_castpd_ps(_mm_load_sd((const double *)(const void *)(from))))
#define LOAD_F64(from) (Two) _mm_loadu_pd(from)
#define LESS(values, others) (Two) _mm_min_pd((__m128d)(values), (__m128d)(others))
#define MORE(values, others) (Two) _mm_max_pd((__m128d)(values), (__m128d)(others))
#else
#define LOAD_F32(from) ((Two){(from)[0], (from)[1]})
#define LOAD_F64(from) ((Two){(from)[0], (from)[1]})
#define CHOSEN(those, values, others) ((Two)(((TwoMask)(values) & (those)) | ((TwoMask)(others) & ~(those))))
#define LESS(values, others) CHOSEN((values) < (others), values, others)
#define MORE(values, others) CHOSEN((values) > (others), values, others)
#endif
DEFINE_DISTANCES(whole_f32, , float, 1, Two, TwoMask, LOAD_F32, LESS, MORE)
DEFINE_DISTANCES(present_f32, , float, 0, Two, TwoMask, LOAD_F32, LESS, MORE)
DEFINE_DISTANCES(whole_f64, , double, 1, Two, TwoMask, LOAD_F64, LESS, MORE)
DEFINE_DISTANCES(present_f64, , double, 0, Two, TwoMask, LOAD_F64, LESS, MORE)

typedef struct {
    void (*whole_f32)(const float *, Py_ssize_t, double, Distances *);
    void (*present_f32)(const float *, Py_ssize_t, double, Distances *);
    void (*whole_f64)(const double *, Py_ssize_t, double, Distances *);
    void (*present_f64)(const double *, Py_ssize_t, double, Distances *);
} Passes;
static Passes passes = {whole_f32, present_f32, whole_f64, present_f64};

#ifdef __x86_64__
typedef double Four __attribute__((vector_size(32)));
typedef int64_t FourMask __attribute__((vector_size(32)));
#define AVX2 __attribute__((target("avx2")))
#define LOAD4_F32(from) (Four) _mm256_cvtps_pd(_mm_loadu_ps(from))
#define LOAD4_F64(from) (Four) _mm256_loadu_pd(from)
#define LESS4(values, others) (Four) _mm256_min_pd((__m256d)(values), (__m256d)(others))
#define MORE4(values, others) (Four) _mm256_max_pd((__m256d)(values), (__m256d)(others))
DEFINE_DISTANCES(whole_f32_avx2, AVX2, float, 1, Four, FourMask, LOAD4_F32, LESS4, MORE4)
DEFINE_DISTANCES(present_f32_avx2, AVX2, float, 0, Four, FourMask, LOAD4_F32, LESS4, MORE4)
DEFINE_DISTANCES(whole_f64_avx2, AVX2, double, 1, Four, FourMask, LOAD4_F64, LESS4, MORE4)
DEFINE_DISTANCES(present_f64_avx2, AVX2, double, 0, Four, FourMask, LOAD4_F64, LESS4, MORE4)
#endif

static int choose(PyObject *module) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        passes = (Passes){whole_f32_avx2, present_f32_avx2, whole_f64_avx2, present_f64_avx2};
#endif
    return 0;
}

/* Sum up a block. Distances are counted from one of its values, and again from the mean where that was far off. */
#define DEFINE_BLOCK(NAME, T, WHOLE, PRESENT)                                                                          \
    static void NAME(const T *from, Py_ssize_t n, int is_whole, Sums *to) {                                            \
        Distances found = {0};                                                                                         \
        double start = from[0];                                                                                        \
        is_whole = is_whole && isfinite(start);                                                                        \
        if (is_whole) {                                                                                                \
            WHOLE(from, n, start, &found);                                                                             \
            is_whole = isfinite(found.squares); /* or some are NaN or infinite, or squares overflow */                 \
        }                                                                                                              \
        if (!is_whole) {                                                                                               \
            Py_ssize_t i = 0;                                                                                          \
            while (i < n && !isfinite(from[i])) i++;                                                                   \
            start = i < n ? from[i] : 0;                                                                               \
            PRESENT(from, n, start, &found);                                                                           \
        }                                                                                                              \
        double mean = found.total / (double)found.count, squares = found.squares - found.total * mean;                 \
        if (found.squares > CANCELS * squares) {                                                                       \
            start += mean;                                                                                             \
            (is_whole ? WHOLE : PRESENT)(from, n, start, &found);                                                      \
            mean = found.total / (double)found.count;                                                                  \
            squares = found.squares - found.total * mean;                                                              \
        }                                                                                                              \
        *to = (Sums){found.count, start, mean, squares < 0 ? 0 : squares, found.low, found.high};                      \
    }

DEFINE_BLOCK(block_f32, float, passes.whole_f32, passes.present_f32)
DEFINE_BLOCK(block_f64, double, passes.whole_f64, passes.present_f64)

#define CONVERT(IN)                                                                                                    \
    {                                                                                                                  \
        const IN *values = from;                                                                                       \
        for (Py_ssize_t i = 0; i < n; i++) floats[i] = (double)values[i];                                              \
        break;                                                                                                         \
    }

static void convert(const void *from, int kind, Py_ssize_t n, double *floats) {
    switch (kind) {
    case F32: CONVERT(float)
    case F64: CONVERT(double)
    case I8: CONVERT(int8_t)
    case U8: CONVERT(uint8_t)
    case I16: CONVERT(int16_t)
    case U16: CONVERT(uint16_t)
    case I32: CONVERT(int32_t)
    case U32: CONVERT(uint32_t)
    case I64: CONVERT(int64_t)
    case U64: CONVERT(uint64_t)
    }
}

/* Sum up at most BLOCK numbers; `floats` is room for as many. */
static void sum_block(const void *from, int kind, Py_ssize_t n, double *floats, Sums *to) {
    if (kind == F32) {
        block_f32(from, n, 1, to);
    } else if (kind == F64) {
        block_f64(from, n, 1, to);
    } else {
        convert(from, kind, n, floats);
        block_f64(floats, n, 1, to);
    }
}

/* The cells of dtk.statistics.grid_sums.GridSums. */
typedef struct {
    int64_t *count;
    double *start, *total, *squares, *low, *high;
} Cells;

static void add_to_cell(const Cells *cells, Py_ssize_t cell, const Sums *sums) {
    if (sums->count == 0) return;
    if (cells->count[cell] == 0 && isfinite(sums->mean)) cells->start[cell] = sums->start + sums->mean;
    const double apart = (sums->start - cells->start[cell]) + sums->mean, count = (double)sums->count;
    cells->count[cell] += sums->count;
    cells->total[cell] += count * apart;
    cells->squares[cell] += sums->squares + count * apart * apart;
    if (!(cells->low[cell] <= sums->low)) cells->low[cell] = sums->low; /* also where there was none */
    if (!(cells->high[cell] >= sums->high)) cells->high[cell] = sums->high;
}

/* add_rows(values, kind, outer, cells, length, count, start, total, squares, low, high): [outer, cells, length] numbers,
 * as they lie, to sums of each cell. */
static PyObject *add_rows(PyObject *module, PyObject *args) {
    PyObject *objects[7];
    int kind;
    Py_ssize_t outer, num_cells, length;
    if (!PyArg_ParseTuple(args, "OinnnOOOOOO", objects, &kind, &outer, &num_cells, &length, objects + 1, objects + 2,
                          objects + 3, objects + 4, objects + 5, objects + 6))
        return NULL;
    Py_buffer views[7];
    int taken = 0;
    for (; taken < 7; taken++)
        if (PyObject_GetBuffer(objects[taken], views + taken, taken ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) goto release;
    const char *fault = NULL;
    const Py_ssize_t nbytes = kind < 0 || kind >= NUM_KINDS ? 0 : item_nbytes[kind];
    if (nbytes == 0) {
        fault = "kind";
    } else if (outer < 1 || num_cells < 1 || length < 1 || views[0].len % nbytes != 0) {
        fault = "values";
    } else {
        const Py_ssize_t numbers = views[0].len / nbytes, rows = numbers / length;
        if (numbers % length != 0 || rows % outer != 0 || rows / outer != num_cells) fault = "values";
    }
    for (int i = 1; i < 7 && fault == NULL; i++)
        if (views[i].len != num_cells * 8) fault = "cells";
    if (fault != NULL) {
        PyErr_Format(PyExc_ValueError, "bad %s", fault);
        goto release;
    }
    const char *from = views[0].buf;
    const Cells cells = {views[1].buf, views[2].buf, views[3].buf, views[4].buf, views[5].buf, views[6].buf};
    Py_BEGIN_ALLOW_THREADS;
    double floats[BLOCK];
    for (Py_ssize_t row = 0; row < outer * num_cells; row++) {
        for (Py_ssize_t first = 0; first < length; first += BLOCK) {
            const Py_ssize_t n = length - first < BLOCK ? length - first : BLOCK;
            Sums sums;
            sum_block(from + (row * length + first) * nbytes, kind, n, floats, &sums);
            add_to_cell(&cells, row % num_cells, &sums);
        }
    }
    Py_END_ALLOW_THREADS;
release:
    for (int i = 0; i < taken; i++) PyBuffer_Release(views + i);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* Join sums as in Chan, Golub and LeVeque. */
static void merge(Sums *sums, const Sums *other) {
    if (other->count == 0) return;
    if (sums->count == 0) sums->start = other->start;
    const double share = (double)other->count / (double)(sums->count + other->count);
    const double apart = (other->start - sums->start) + (other->mean - sums->mean);
    sums->squares += other->squares + apart * apart * (double)sums->count * share;
    sums->mean += apart * share;
    sums->count += other->count;
    if (other->low < sums->low) sums->low = other->low;
    if (other->high > sums->high) sums->high = other->high;
}

/* Make absent values NaN: bit `first` and the next n say which are present. */
static void mask(double *floats, const uint8_t *validity, Py_ssize_t first, Py_ssize_t n) {
    static const uint64_t present[2] = {UINT64_MAX, 0}; /* all ones are a NaN */
    for (Py_ssize_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, floats + i, sizeof bits);
        bits |= present[validity[(first + i) >> 3] >> ((first + i) & 7) & 1];
        memcpy(floats + i, &bits, sizeof bits);
    }
}

/* Does float64 hold the values and their sums? Not infinite ones, nor integers beyond 2**53. */
static int is_held(const Sums *sums, int kind) {
    if (kind != F32 && kind != F64) return sums->low > -EXACT && sums->high < EXACT;
    return isfinite(sums->low) && isfinite(sums->high) && isfinite(sums->squares);
}

/* sum_numbers(values, kind, validity or None, first): count, mean, squares, low and high of what is neither null nor
 * NaN; bit `first` of the validity is the first value's. None where float64 doesn't hold them. */
static PyObject *sum_numbers(PyObject *module, PyObject *args) {
    PyObject *values, *validity;
    int kind;
    Py_ssize_t first;
    if (!PyArg_ParseTuple(args, "OiOn", &values, &kind, &validity, &first)) return NULL;
    Py_buffer view, valid_view = {0};
    if (PyObject_GetBuffer(values, &view, PyBUF_SIMPLE) < 0) return NULL;
    if (validity != Py_None && PyObject_GetBuffer(validity, &valid_view, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&view);
        return NULL;
    }
    const char *fault = NULL;
    int fits = 1;
    Sums sums = {0, 0, 0, 0, INFINITY, -INFINITY};
    const Py_ssize_t nbytes = kind < 0 || kind >= NUM_KINDS ? 0 : item_nbytes[kind];
    const Py_ssize_t length = nbytes == 0 ? 0 : view.len / nbytes;
    if (nbytes == 0) {
        fault = "kind";
    } else if (view.len % nbytes != 0) {
        fault = "values";
    } else if (valid_view.buf != NULL && (first < 0 || first > valid_view.len * 8 - length)) {
        fault = "validity";
    } else {
        Py_BEGIN_ALLOW_THREADS;
        double floats[BLOCK];
        for (Py_ssize_t at = 0; at < length; at += BLOCK) {
            const Py_ssize_t n = length - at < BLOCK ? length - at : BLOCK;
            const char *from = (const char *)view.buf + at * nbytes;
            Sums block;
            if (valid_view.buf != NULL) {
                convert(from, kind, n, floats);
                mask(floats, valid_view.buf, first + at, n);
                block_f64(floats, n, 0, &block);
            } else {
                sum_block(from, kind, n, floats, &block);
            }
            fits = block.count == 0 || is_held(&block, kind);
            if (!fits) break;
            merge(&sums, &block);
        }
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&view);
    if (valid_view.buf != NULL) PyBuffer_Release(&valid_view);
    if (fault != NULL) return PyErr_Format(PyExc_ValueError, "bad %s", fault);
    if (!fits || !isfinite(sums.squares)) Py_RETURN_NONE;
    return Py_BuildValue("Ldddd", (long long)sums.count, sums.start + sums.mean, sums.squares, sums.low, sums.high);
}

#define COUNT(IN)                                                                                                      \
    {                                                                                                                  \
        const IN *codes = view.buf;                                                                                    \
        for (Py_ssize_t i = 0; i < length && fault == NULL; i++) {                                                     \
            if (valid != NULL && !(valid[(first + i) >> 3] >> ((first + i) & 7) & 1)) continue;                        \
            const uint64_t code = (uint64_t)(int64_t)codes[i];                                                         \
            if (code < (uint64_t)num)                                                                                  \
                counts[(i & mask) * num + (Py_ssize_t)code]++;                                                         \
            else                                                                                                       \
                fault = "codes";                                                                                       \
        }                                                                                                              \
        break;                                                                                                         \
    }

/* count_codes(codes, kind, validity or None, first, counts, num): how often each code from 0 to num - 1 occurs that is
 * not null, added to int64 [4 or 1, num]: counting a code again waits for the last time, so that neighbours differ. */
static PyObject *count_codes(PyObject *module, PyObject *args) {
    PyObject *codes_object, *validity, *counts_object;
    int kind;
    Py_ssize_t first, num;
    if (!PyArg_ParseTuple(args, "OiOnOn", &codes_object, &kind, &validity, &first, &counts_object, &num)) return NULL;
    Py_buffer view, counts_view, valid_view = {0};
    if (PyObject_GetBuffer(codes_object, &view, PyBUF_SIMPLE) < 0) return NULL;
    if (PyObject_GetBuffer(counts_object, &counts_view, PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&view);
        return NULL;
    }
    if (validity != Py_None && PyObject_GetBuffer(validity, &valid_view, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&view);
        PyBuffer_Release(&counts_view);
        return NULL;
    }
    const char *fault = NULL;
    const Py_ssize_t nbytes = kind < I8 || kind >= NUM_KINDS ? 0 : item_nbytes[kind];
    const Py_ssize_t length = nbytes == 0 ? 0 : view.len / nbytes, room = counts_view.len / 8;
    const Py_ssize_t mask = num > 0 && room % 4 == 0 && room / 4 == num ? 3 : 0;
    const uint8_t *valid = valid_view.buf;
    int64_t *counts = counts_view.buf;
    if (nbytes == 0)
        fault = "kind";
    else if (view.len % nbytes != 0)
        fault = "codes";
    else if (num < 0 || (mask == 0 && room != num))
        fault = "counts";
    else if (valid != NULL && (first < 0 || first > valid_view.len * 8 - length))
        fault = "validity";
    if (fault == NULL) {
        Py_BEGIN_ALLOW_THREADS;
        switch (kind) {
        case I8: COUNT(int8_t)
        case U8: COUNT(uint8_t)
        case I16: COUNT(int16_t)
        case U16: COUNT(uint16_t)
        case I32: COUNT(int32_t)
        case U32: COUNT(uint32_t)
        case I64: COUNT(int64_t)
        case U64: COUNT(uint64_t)
        }
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&view);
    PyBuffer_Release(&counts_view);
    if (valid != NULL) PyBuffer_Release(&valid_view);
    if (fault != NULL) return PyErr_Format(PyExc_ValueError, "bad %s", fault);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"add_rows", add_rows, METH_VARARGS, "Sum up rows of numbers, each to a cell."},
    {"count_codes", count_codes, METH_VARARGS, "Count the codes of a dictionary."},
    {"sum_numbers", sum_numbers, METH_VARARGS, "Sum up numbers."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, choose}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_sums", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__sums(void) { return PyModuleDef_Init(&definition); }
