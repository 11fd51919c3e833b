/* Moves rows from columns to the ring of future batches, without the interpreter and without the cache's detour.
 *
 * Optional: what it does, dtk/loader/scatter.py does with NumPy, to the same bytes.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define HAS_SSE 1
#endif

#define STREAMED_NBYTES 2048
#define FETCHED 12 /* rows ahead of the one that is copied */
#define TILE_NBYTES 196608 /* of a core's second cache; the longer the runs of a column, the better it is read ahead */

/* One column: address of its values, address of its validity bits or 0, its first row in both, its kind. */
typedef struct {
    uint64_t values, validity, first, kind;
} Column;

enum { F32, F64, I8, U8, I16, U16, I32, U32, I64, U64, BIT, NUM_KINDS };

#define PACK(OUT, IN)                                                                                                  \
    {                                                                                                                  \
        const IN *from = (const IN *)(uintptr_t)column->values + at;                                                   \
        for (Py_ssize_t i = 0; i < rows; i++) to[i * width] = (OUT)from[i];                                            \
        break;                                                                                                         \
    }

#define DEFINE_PACK(NAME, OUT)                                                                                         \
    static void NAME(const Column *column, Py_ssize_t start, Py_ssize_t rows, OUT *to, Py_ssize_t width) {             \
        const uint64_t at = column->first + (uint64_t)start;                                                           \
        switch (column->kind) {                                                                                        \
        case F32: PACK(OUT, float)                                                                                     \
        case F64: PACK(OUT, double)                                                                                    \
        case I8: PACK(OUT, int8_t)                                                                                     \
        case U8: PACK(OUT, uint8_t)                                                                                    \
        case I16: PACK(OUT, int16_t)                                                                                   \
        case U16: PACK(OUT, uint16_t)                                                                                  \
        case I32: PACK(OUT, int32_t)                                                                                   \
        case U32: PACK(OUT, uint32_t)                                                                                  \
        case I64: PACK(OUT, int64_t)                                                                                   \
        case U64: PACK(OUT, uint64_t)                                                                                  \
        case BIT: {                                                                                                    \
            const uint8_t *from = (const uint8_t *)(uintptr_t)column->values;                                          \
            for (Py_ssize_t i = 0; i < rows; i++) {                                                                    \
                const uint64_t row = at + (uint64_t)i;                                                                 \
                to[i * width] = (OUT)(from[row >> 3] >> (row & 7) & 1);                                                \
            }                                                                                                          \
            break;                                                                                                     \
        }                                                                                                              \
        }                                                                                                              \
    }

DEFINE_PACK(pack_f32, float)
DEFINE_PACK(pack_i64, int64_t)

/* Missing values become NaN. */
static void mask_f32(const Column *column, Py_ssize_t start, Py_ssize_t rows, float *to, Py_ssize_t width) {
    const uint8_t *valid = (const uint8_t *)(uintptr_t)column->validity;
    const uint64_t at = column->first + (uint64_t)start;
    for (Py_ssize_t i = 0; i < rows; i++) {
        const uint64_t row = at + (uint64_t)i;
        if (!(valid[row >> 3] >> (row & 7) & 1)) to[i * width] = NAN;
    }
}

#ifdef HAS_SSE
/* Four columns of float32 at once: blocks of four by four are transposed in registers. Returns how many rows it did. */
static Py_ssize_t pack_four(const Column *column, Py_ssize_t start, Py_ssize_t rows, float *to, Py_ssize_t width) {
    const float *from[4];
    for (int j = 0; j < 4; j++)
        from[j] = (const float *)(uintptr_t)column[j].values + column[j].first + (uint64_t)start;
    Py_ssize_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        __m128 a = _mm_loadu_ps(from[0] + i), b = _mm_loadu_ps(from[1] + i);
        __m128 c = _mm_loadu_ps(from[2] + i), d = _mm_loadu_ps(from[3] + i);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(to + i * width, a);
        _mm_storeu_ps(to + (i + 1) * width, b);
        _mm_storeu_ps(to + (i + 2) * width, c);
        _mm_storeu_ps(to + (i + 3) * width, d);
    }
    return i;
}

static int are_plain_f32(const Column *column) {
    for (int j = 0; j < 4; j++)
        if (column[j].kind != F32 || column[j].validity != 0) return 0;
    return 1;
}
#endif

/* Pack a tile of float32. */
static void pack_tile_f32(const Column *columns, Py_ssize_t width, Py_ssize_t start, Py_ssize_t rows, float *tile) {
    Py_ssize_t j = 0;
    while (j < width) {
        Py_ssize_t done = 0, together = 1;
#ifdef HAS_SSE
        if (j + 4 <= width && are_plain_f32(columns + j)) {
            together = 4;
            done = pack_four(columns + j, start, rows, tile + j, width);
        }
#endif
        for (Py_ssize_t stop = j + together; j < stop; j++) {
            pack_f32(columns + j, start + done, rows - done, tile + done * width + j, width);
            if (columns[j].validity) mask_f32(columns + j, start, rows, tile + j, width);
        }
    }
}

/* A big row goes past the cache: it is read again a long time later. */
static void put_row(char *to, const char *from, Py_ssize_t nbytes) {
#ifdef HAS_SSE
    if (nbytes >= STREAMED_NBYTES) {
        const Py_ssize_t head = (Py_ssize_t)(-(uintptr_t)to & 63);
        memcpy(to, from, (size_t)head);
        Py_ssize_t done = head;
        for (; done + 64 <= nbytes; done += 64) {
            const __m128i *source = (const __m128i *)(from + done);
            __m128i *target = (__m128i *)(to + done);
            for (int part = 0; part < 4; part++) _mm_stream_si128(target + part, _mm_loadu_si128(source + part));
        }
        memcpy(to + done, from + done, (size_t)(nbytes - done));
        return;
    }
#endif
    memcpy(to, from, (size_t)nbytes);
}

/* Fetch where a row will go: it is in no cache, and the copy would wait for it. */
static void fetch_row(const char *ring, int64_t place, Py_ssize_t nbytes) {
#ifdef HAS_SSE
    if (place < 0 || nbytes >= STREAMED_NBYTES) return;
    const char *to = ring + place * nbytes;
    for (Py_ssize_t at = 0; at < nbytes; at += 64) _mm_prefetch(to + at, _MM_HINT_T0);
    _mm_prefetch(to + nbytes - 1, _MM_HINT_T0);
#endif
}

static void end_puts(void) {
#ifdef HAS_SSE
    _mm_sfence();
#endif
}

static int get_arrays(PyObject *places, PyObject *ring, Py_buffer *place_view, Py_buffer *ring_view) {
    if (PyObject_GetBuffer(places, place_view, PyBUF_SIMPLE) < 0) return -1;
    if (PyObject_GetBuffer(ring, ring_view, PyBUF_SIMPLE | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(place_view);
        return -1;
    }
    return 0;
}

/* Are all places inside the ring? Negative ones mean: leave the row out. */
static int are_inside(const int64_t *places, Py_ssize_t rows, Py_ssize_t limit) {
    for (Py_ssize_t i = 0; i < rows; i++)
        if (places[i] >= limit) return 0;
    return 1;
}

/* pack(columns, num_rows, places, ring, row_nbytes, is_float): columns beside each other, as float32 or int64. */
static PyObject *pack(PyObject *module, PyObject *args) {
    PyObject *columns_object, *places_object, *ring_object;
    Py_ssize_t rows, row_nbytes;
    int is_float;
    if (!PyArg_ParseTuple(args, "OnOOnp", &columns_object, &rows, &places_object, &ring_object, &row_nbytes, &is_float))
        return NULL;
    Py_buffer column_view, place_view, ring_view;
    if (PyObject_GetBuffer(columns_object, &column_view, PyBUF_SIMPLE) < 0) return NULL;
    if (get_arrays(places_object, ring_object, &place_view, &ring_view) < 0) {
        PyBuffer_Release(&column_view);
        return NULL;
    }
    const Column *columns = column_view.buf;
    const Py_ssize_t width = column_view.len / (Py_ssize_t)sizeof(Column);
    const int64_t *places = place_view.buf;
    char *ring = ring_view.buf;
    const char *fault = NULL;
    if (width < 1 || row_nbytes != width * (is_float ? 4 : 8) || row_nbytes > TILE_NBYTES) fault = "width";
    for (Py_ssize_t j = 0; j < width && fault == NULL; j++)
        if (columns[j].kind >= NUM_KINDS || (columns[j].validity != 0 && !is_float)) fault = "kind";
    if (fault == NULL && place_view.len != rows * (Py_ssize_t)sizeof(int64_t)) fault = "places";
    char *tile = fault == NULL ? malloc(TILE_NBYTES) : NULL;
    if (fault == NULL && tile != NULL) {
        Py_BEGIN_ALLOW_THREADS;
        if (!are_inside(places, rows, ring_view.len / row_nbytes)) {
            fault = "places";
        } else {
            const Py_ssize_t most = TILE_NBYTES / row_nbytes;
            for (Py_ssize_t start = 0; start < rows; start += most) {
                const Py_ssize_t count = rows - start < most ? rows - start : most;
                if (is_float)
                    pack_tile_f32(columns, width, start, count, (float *)tile);
                else
                    for (Py_ssize_t j = 0; j < width; j++)
                        pack_i64(columns + j, start, count, (int64_t *)tile + j, width);
                for (Py_ssize_t i = 0; i < count; i++) {
                    if (i + FETCHED < count) fetch_row(ring, places[start + i + FETCHED], row_nbytes);
                    if (places[start + i] >= 0)
                        memcpy(ring + places[start + i] * row_nbytes, tile + i * row_nbytes, (size_t)row_nbytes);
                }
            }
        }
        Py_END_ALLOW_THREADS;
    }
    const int is_short = fault == NULL && tile == NULL;
    free(tile);
    PyBuffer_Release(&column_view);
    PyBuffer_Release(&place_view);
    PyBuffer_Release(&ring_view);
    if (is_short) return PyErr_NoMemory();
    if (fault != NULL) return PyErr_Format(PyExc_ValueError, "bad %s", fault);
    Py_RETURN_NONE;
}

/* move(rows, places, ring, row_nbytes, offset, nbytes): parts of rows, as they lie, to an offset of the ring's rows. */
static PyObject *move(PyObject *module, PyObject *args) {
    PyObject *rows_object, *places_object, *ring_object;
    Py_ssize_t row_nbytes, offset, nbytes;
    if (!PyArg_ParseTuple(args, "OOOnnn", &rows_object, &places_object, &ring_object, &row_nbytes, &offset, &nbytes))
        return NULL;
    Py_buffer row_view, place_view, ring_view;
    if (PyObject_GetBuffer(rows_object, &row_view, PyBUF_SIMPLE) < 0) return NULL;
    if (get_arrays(places_object, ring_object, &place_view, &ring_view) < 0) {
        PyBuffer_Release(&row_view);
        return NULL;
    }
    const int64_t *places = place_view.buf;
    const char *from = row_view.buf;
    const Py_ssize_t rows = place_view.len / (Py_ssize_t)sizeof(int64_t);
    const char *fault = NULL;
    if (nbytes < 1 || nbytes * rows != row_view.len || offset < 0 || offset + nbytes > row_nbytes) fault = "rows";
    if (fault == NULL) {
        char *ring = (char *)ring_view.buf + offset;
        Py_BEGIN_ALLOW_THREADS;
        if (!are_inside(places, rows, ring_view.len / row_nbytes)) {
            fault = "places";
        } else if (row_nbytes == 4 && nbytes == 4) {
            for (Py_ssize_t i = 0; i < rows; i++)
                if (places[i] >= 0) ((uint32_t *)ring)[places[i]] = ((const uint32_t *)from)[i];
        } else if (row_nbytes == 8 && nbytes == 8) {
            for (Py_ssize_t i = 0; i < rows; i++)
                if (places[i] >= 0) ((uint64_t *)ring)[places[i]] = ((const uint64_t *)from)[i];
        } else {
            for (Py_ssize_t i = 0; i < rows; i++)
                if (places[i] >= 0) put_row(ring + places[i] * row_nbytes, from + i * nbytes, nbytes);
            end_puts();
        }
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&row_view);
    PyBuffer_Release(&place_view);
    PyBuffer_Release(&ring_view);
    if (fault != NULL) return PyErr_Format(PyExc_ValueError, "bad %s", fault);
    Py_RETURN_NONE;
}

/* Do windows lie inside the rows? */
static int are_within(const int64_t *starts, Py_ssize_t windows, int64_t least, int64_t most, int64_t rows) {
    for (Py_ssize_t i = 0; i < windows; i++)
        if (starts[i] < -least || starts[i] >= rows - most) return 0;
    return 1;
}

/* gather(rows, starts, offsets, places, ring, row_nbytes, offset, nbytes): windows of rows. Row starts[i] + offsets[k]
 * goes to the k-th of as many equal parts of row places[i] of the ring as there are offsets, at an offset there. */
static PyObject *gather(PyObject *module, PyObject *args) {
    PyObject *rows_object, *starts_object, *offsets_object, *places_object, *ring_object;
    Py_ssize_t row_nbytes, offset, nbytes;
    if (!PyArg_ParseTuple(args, "OOOOOnnn", &rows_object, &starts_object, &offsets_object, &places_object,
                          &ring_object, &row_nbytes, &offset, &nbytes))
        return NULL;
    Py_buffer row_view, start_view, offset_view, place_view, ring_view;
    if (PyObject_GetBuffer(rows_object, &row_view, PyBUF_SIMPLE) < 0) return NULL;
    if (get_arrays(places_object, ring_object, &place_view, &ring_view) < 0) goto no_arrays;
    if (PyObject_GetBuffer(starts_object, &start_view, PyBUF_SIMPLE) < 0) goto no_starts;
    if (PyObject_GetBuffer(offsets_object, &offset_view, PyBUF_SIMPLE) < 0) goto no_offsets;
    const int64_t *places = place_view.buf, *starts = start_view.buf, *offsets = offset_view.buf;
    const char *from = row_view.buf;
    const Py_ssize_t windows = place_view.len / (Py_ssize_t)sizeof(int64_t);
    const Py_ssize_t parts = offset_view.len / (Py_ssize_t)sizeof(int64_t);
    const char *fault = NULL;
    if (parts < 1 || row_nbytes < 1 || row_nbytes % parts != 0 || start_view.len != place_view.len)
        fault = "windows";
    else if (nbytes < 1 || row_view.len % nbytes != 0 || offset < 0 || offset + nbytes > row_nbytes / parts)
        fault = "rows";
    if (fault == NULL) {
        const Py_ssize_t part_nbytes = row_nbytes / parts;
        char *ring = (char *)ring_view.buf + offset;
        Py_BEGIN_ALLOW_THREADS;
        int64_t least = offsets[0], most = offsets[0];
        int is_run = part_nbytes == nbytes; /* then a window is one piece of memory, here and there */
        for (Py_ssize_t k = 1; k < parts; k++) {
            least = offsets[k] < least ? offsets[k] : least;
            most = offsets[k] > most ? offsets[k] : most;
            is_run = is_run && offsets[k] == offsets[k - 1] + 1;
        }
        if (!are_inside(places, windows, ring_view.len / row_nbytes)) {
            fault = "places";
        } else if (!are_within(starts, windows, least, most, row_view.len / nbytes)) {
            fault = "starts";
        } else {
            for (Py_ssize_t i = 0; i < windows; i++) {
                if (places[i] < 0) continue;
                char *to = ring + places[i] * row_nbytes;
                if (is_run) {
                    put_row(to, from + (starts[i] + offsets[0]) * nbytes, row_nbytes);
                    continue;
                }
                for (Py_ssize_t k = 0; k < parts; k++)
                    put_row(to + k * part_nbytes, from + (starts[i] + offsets[k]) * nbytes, nbytes);
            }
            end_puts();
        }
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&offset_view);
    PyBuffer_Release(&start_view);
    PyBuffer_Release(&place_view);
    PyBuffer_Release(&ring_view);
    PyBuffer_Release(&row_view);
    if (fault != NULL) return PyErr_Format(PyExc_ValueError, "bad %s", fault);
    Py_RETURN_NONE;
no_offsets:
    PyBuffer_Release(&start_view);
no_starts:
    PyBuffer_Release(&place_view);
    PyBuffer_Release(&ring_view);
no_arrays:
    PyBuffer_Release(&row_view);
    return NULL;
}

static PyMethodDef methods[] = {
    {"pack", pack, METH_VARARGS, "Pack columns into rows, and scatter these."},
    {"move", move, METH_VARARGS, "Scatter rows."},
    {"gather", gather, METH_VARARGS, "Scatter windows of rows."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&definition); }
