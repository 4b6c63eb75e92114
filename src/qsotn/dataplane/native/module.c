/* The door from Python to the kernels. Every length, offset and count is held against the buffers here, before anything
 * behind it runs; a buffer that does not fit raises ValueError and nothing is written.
 *
 * Built for CPython's stable interface of 3.11, so one build serves every later version. Where a function releases the
 * interpreter's lock, nothing it does depends on what is in a buffer: another thread that writes to one meanwhile spoils
 * the result and nothing else. Functions that follow offsets found in a buffer keep the lock.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <string.h>

#include "kernel.h"

#ifndef QSOTN_SOURCE
#define QSOTN_SOURCE ""
#endif

enum { INTERFACE = 1, MOST_BUFFERS = 8, GROUP = 4 /* frames of a crypto multiframe */ };

struct buffers { Py_buffer views[MOST_BUFFERS]; int count; };

static void release(struct buffers *held)
{
    while (held->count)
        PyBuffer_Release(&held->views[--held->count]);
}

static PyObject *refuse(struct buffers *held, const char *what)
{
    release(held);
    PyErr_SetString(PyExc_ValueError, what);
    return NULL;
}

/* Takes a contiguous buffer into `held`; NULL, with an error set and everything released, if that cannot be. */
static Py_buffer *take(struct buffers *held, PyObject *object, int writable)
{
    Py_buffer *view = &held->views[held->count];
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE : PyBUF_C_CONTIGUOUS) < 0) {
        release(held);
        return NULL;
    }
    held->count++;
    return view;
}

#define HISTORY_LIMIT (UINT64_C(1) << 43)

static PyObject *payload_fcs(PyObject *module, PyObject *data)
{
    (void)module;
    struct buffers held = {.count = 0};
    Py_buffer *view = take(&held, data, 0);
    if (!view)
        return NULL;
    uint32_t rest = crc32_payload(view->buf, (size_t)view->len);
    release(&held);
    const char bytes[4] = {(char)(rest >> 24), (char)(rest >> 16), (char)(rest >> 8), (char)rest};
    return PyBytes_FromStringAndSize(bytes, sizeof bytes);
}

/* `data, history` to what comes of scrambling or descrambling it. */
static PyObject *transformed(PyObject *arguments, int forward)
{
    PyObject *data;
    unsigned long long history;
    struct buffers held = {.count = 0};
    if (!PyArg_ParseTuple(arguments, "OK", &data, &history))
        return NULL;
    Py_buffer *view = take(&held, data, 0);
    if (!view)
        return NULL;
    PyObject *result = PyBytes_FromStringAndSize(NULL, view->len);
    if (result) {
        uint8_t *bytes = (uint8_t *)PyBytes_AsString(result);
        history %= HISTORY_LIMIT;
        if (forward && view->len) {
            scramble_x43(view->buf, bytes, (size_t)view->len, history);
        } else {
            descramble_x43(view->buf, bytes, (size_t)view->len, history);
        }
    }
    release(&held);
    return result;
}

static PyObject *scramble(PyObject *module, PyObject *arguments)
{
    (void)module;
    return transformed(arguments, 1);
}

static PyObject *descramble(PyObject *module, PyObject *arguments)
{
    (void)module;
    return transformed(arguments, 0);
}

static PyObject *parity_bip8(PyObject *module, PyObject *frames)
{
    (void)module;
    struct buffers held = {.count = 0};
    Py_buffer *view = take(&held, frames, 0);
    if (!view)
        return NULL;
    if (view->len % FRAME_SIZE)
        return refuse(&held, "not a whole number of OTU frames");
    PyObject *result = PyBytes_FromStringAndSize(NULL, view->len / FRAME_SIZE);
    if (result) {
        char *parities = PyBytes_AsString(result);
        for (Py_ssize_t frame = 0; frame < view->len / FRAME_SIZE; frame++)
            parities[frame] = (char)otu_parity((const uint8_t *)view->buf + frame * FRAME_SIZE);
    }
    release(&held);
    return result;
}

static PyObject *scramble_otu(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *source, *target;
    struct buffers held = {.count = 0};
    if (!PyArg_ParseTuple(arguments, "OO", &source, &target))
        return NULL;
    Py_buffer *from = take(&held, source, 0);
    Py_buffer *to = from ? take(&held, target, 1) : NULL;
    if (!to)
        return NULL;
    if (from->len % FRAME_SIZE || from->len != to->len)
        return refuse(&held, "not the same whole number of OTU frames");
    Py_BEGIN_ALLOW_THREADS
    otu_scramble(from->buf, to->buf, (size_t)(from->len / FRAME_SIZE));
    Py_END_ALLOW_THREADS
    release(&held);
    Py_RETURN_NONE;
}

static PyObject *encode_fec(PyObject *module, PyObject *frames)
{
    (void)module;
    struct buffers held = {.count = 0};
    Py_buffer *view = take(&held, frames, 1);
    if (!view)
        return NULL;
    if (view->len % FRAME_SIZE)
        return refuse(&held, "not a whole number of OTU frames");
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < view->len; at += FRAME_SIZE)
        fec_encode((uint8_t *)view->buf + at);
    Py_END_ALLOW_THREADS
    release(&held);
    Py_RETURN_NONE;
}

static PyObject *decode_fec(PyObject *module, PyObject *frames)
{
    (void)module;
    struct buffers held = {.count = 0};
    struct fec_result result = {0, 0};
    Py_buffer *view = take(&held, frames, 1);
    if (!view)
        return NULL;
    if (view->len % FRAME_SIZE)
        return refuse(&held, "not a whole number of OTU frames");
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < view->len; at += FRAME_SIZE)
        fec_decode((uint8_t *)view->buf + at, &result);
    Py_END_ALLOW_THREADS
    release(&held);
    return Py_BuildValue("LL", (long long)result.corrected, (long long)result.uncorrectable);
}

static Py_ssize_t payload_length(Py_ssize_t frames, Py_ssize_t gap)
{
    return frames * PAYLOAD_SIZE + (gap ? frames / GROUP * gap : 0);
}

static int fits(Py_ssize_t frames, Py_ssize_t gap, const Py_buffer *overhead, const Py_buffer *payload)
{
    return gap >= 0 && gap <= LONGEST_AREA && (!gap || frames % GROUP == 0) &&
           overhead->len == frames * OVERHEAD_SIZE && payload->len == payload_length(frames, gap);
}

/* `overhead, payload, gap, parity, places, frames, fec`: the frame's BIP-8 goes, two frames later, into `places`. */
static PyObject *build_frames(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *objects[5];
    Py_ssize_t gap;
    int fec;
    struct buffers held = {.count = 0};
    if (!PyArg_ParseTuple(arguments, "OOnOOOp", &objects[0], &objects[1], &gap, &objects[2], &objects[3], &objects[4],
                          &fec))
        return NULL;
    static const int writable[5] = {1, 0, 1, 0, 1};
    Py_buffer *views[5];
    for (int at = 0; at < 5; at++)
        if (!(views[at] = take(&held, objects[at], writable[at])))
            return NULL;
    uint8_t *overhead = views[0]->buf, *parity = views[2]->buf, *frame = views[4]->buf;
    const uint8_t *payload = views[1]->buf, *places = views[3]->buf;
    const Py_ssize_t frames = views[4]->len / FRAME_SIZE, count = views[3]->len;
    if (views[4]->len % FRAME_SIZE || views[2]->len != 2 || !fits(frames, gap, views[0], views[1]))
        return refuse(&held, "overhead, payload, parity and frames do not belong together");
    for (Py_ssize_t at = 0; at < count; at++)
        if (places[at] >= OVERHEAD_SIZE || places[at] % OVERHEAD_COLUMNS >= PARITY_COLUMN)
            return refuse(&held, "a parity's place is not in the first 14 columns");
    for (Py_ssize_t at = 0; at < frames; at++) {
        for (Py_ssize_t place = 0; place < count; place++)
            overhead[at * OVERHEAD_SIZE + places[place] % OVERHEAD_SIZE] = parity[0];
        parity[0] = parity[1];
        parity[1] = otu_build(overhead + at * OVERHEAD_SIZE, payload, frame + at * FRAME_SIZE, fec);
        payload += PAYLOAD_SIZE + (at % GROUP == GROUP - 1 ? gap : 0);
    }
    release(&held);
    Py_RETURN_NONE;
}

/* `frames, overhead, payload, gap, parities, fec` to (corrected symbols, uncorrectable codewords). */
static PyObject *take_frames(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *objects[4];
    Py_ssize_t gap;
    int fec;
    struct buffers held = {.count = 0};
    if (!PyArg_ParseTuple(arguments, "OOOnOp", &objects[0], &objects[1], &objects[2], &gap, &objects[3], &fec))
        return NULL;
    Py_buffer *views[4];
    for (int at = 0; at < 4; at++)
        if (!(views[at] = take(&held, objects[at], at > 0)))
            return NULL;
    const Py_ssize_t frames = views[0]->len / FRAME_SIZE;
    if (views[0]->len % FRAME_SIZE || views[3]->len != frames || !fits(frames, gap, views[1], views[2]))
        return refuse(&held, "frames, overhead, payload and parities do not belong together");
    struct fec_result result = {0, 0};
    const uint8_t *frame = views[0]->buf;
    uint8_t *overhead = views[1]->buf, *payload = views[2]->buf, *parities = views[3]->buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < frames; at++, frame += FRAME_SIZE, overhead += OVERHEAD_SIZE) {
        if (fec) {
            uint8_t clear[FRAME_SIZE];
            otu_scramble(frame, clear, 1);
            fec_decode(clear, &result);
            parities[at] = otu_take(clear, overhead, payload);
        } else {
            parities[at] = otu_take_scrambled(frame, overhead, payload);
        }
        payload += PAYLOAD_SIZE + (at % GROUP == GROUP - 1 ? gap : 0);
    }
    Py_END_ALLOW_THREADS
    release(&held);
    return Py_BuildValue("LL", (long long)result.corrected, (long long)result.uncorrectable);
}

static int inside(const int64_t *starts, const int64_t *sizes, Py_ssize_t first, Py_ssize_t count, int64_t size)
{
    for (Py_ssize_t at = first; at < count; at++)
        if (starts[at] < 0 || sizes[at] < 0 || sizes[at] > LONGEST_AREA || starts[at] > size - sizes[at])
            return 0;
    return 1;
}

static int is_words(const Py_buffer *view)
{
    return view->len % (Py_ssize_t)sizeof(int64_t) == 0 && (uintptr_t)view->buf % sizeof(int64_t) == 0;
}

/* `data, starts, sizes, first, type, target, position, enough, history` to (mapped, position, history). */
static PyObject *map_clients(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *objects[4];
    Py_ssize_t first, position, enough;
    unsigned long type;
    unsigned long long history;
    struct buffers held = {.count = 0};
    if (!PyArg_ParseTuple(arguments, "OOOnkOnnK", &objects[0], &objects[1], &objects[2], &first, &type, &objects[3],
                          &position, &enough, &history))
        return NULL;
    Py_buffer *views[4];
    for (int at = 0; at < 4; at++)
        if (!(views[at] = take(&held, objects[at], at == 3)))
            return NULL;
    const int64_t *starts = views[1]->buf, *sizes = views[2]->buf;
    const Py_ssize_t count = views[1]->len / (Py_ssize_t)sizeof(int64_t);
    if (views[1]->len != views[2]->len || !is_words(views[1]) || !is_words(views[2]) || first < 0 || first > count ||
        position < 0 || position > views[3]->len || !inside(starts, sizes, first, count, views[0]->len))
        return refuse(&held, "a client frame lies outside its buffer");
    const struct gfp_clients clients = {views[0]->buf, starts + first, sizes + first, (size_t)(count - first)};
    size_t mapped;
    uint64_t line = history % HISTORY_LIMIT;
    size_t written = gfp_map(&clients, (uint32_t)type, (uint8_t *)views[3]->buf + position,
                             (size_t)(views[3]->len - position), enough > position ? (size_t)(enough - position) : 0,
                             &line, &mapped);
    release(&held);
    return Py_BuildValue("nnK", (Py_ssize_t)mapped, position + (Py_ssize_t)written, (unsigned long long)line);
}

/* `stream, position, end, history, areas, starts, sizes, types, verdicts` to (count, position, history, corrected,
 * lost). */
static PyObject *follow_clients(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *objects[6];
    Py_ssize_t position, end;
    unsigned long long history;
    struct buffers held = {.count = 0};
    if (!PyArg_ParseTuple(arguments, "OnnKOOOOO", &objects[0], &position, &end, &history, &objects[1], &objects[2],
                          &objects[3], &objects[4], &objects[5]))
        return NULL;
    Py_buffer *views[6];
    for (int at = 0; at < 6; at++)
        if (!(views[at] = take(&held, objects[at], at > 0)))
            return NULL;
    int together = position >= 0 && position <= end && end <= views[0]->len;
    for (int at = 2; at < 6; at++)
        together = together && views[at]->len == views[2]->len && is_words(views[at]);
    if (!together)
        return refuse(&held, "the stream's part or the records do not belong together");
    struct gfp_areas areas = {views[1]->buf, (size_t)views[1]->len, views[2]->buf, views[3]->buf, views[4]->buf,
                              views[5]->buf, (size_t)views[2]->len / sizeof(int64_t), 0};
    struct gfp_progress progress = {(size_t)position, history % HISTORY_LIMIT, 0, 0};
    gfp_follow(views[0]->buf, (size_t)end, &areas, &progress);
    release(&held);
    return Py_BuildValue("nnKLi", (Py_ssize_t)areas.count, (Py_ssize_t)progress.position,
                         (unsigned long long)progress.history, (long long)progress.corrected, progress.lost);
}

/* Sets the level that is used, for tests; returns it. A level beyond the processor's is its highest. */
static PyObject *limit_level(PyObject *module, PyObject *number)
{
    (void)module;
    long level = PyLong_AsLong(number);
    if (level == -1 && PyErr_Occurred())
        return NULL;
    enum level highest = kernel_supported();
    kernel_level = level < PORTABLE ? PORTABLE : level > (long)highest ? highest : (enum level)level;
    return PyLong_FromLong(kernel_level);
}

static PyMethodDef functions[] = {
    {"payload_fcs", payload_fcs, METH_O, NULL},
    {"scramble_x43", scramble, METH_VARARGS, NULL},
    {"descramble_x43", descramble, METH_VARARGS, NULL},
    {"parity_bip8", parity_bip8, METH_O, NULL},
    {"scramble_otu", scramble_otu, METH_VARARGS, NULL},
    {"encode_fec", encode_fec, METH_O, NULL},
    {"decode_fec", decode_fec, METH_O, NULL},
    {"build_frames", build_frames, METH_VARARGS, NULL},
    {"take_frames", take_frames, METH_VARARGS, NULL},
    {"map_clients", map_clients, METH_VARARGS, NULL},
    {"follow_clients", follow_clients, METH_VARARGS, NULL},
    {"limit_level", limit_level, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_kernel",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__kernel(void)
{
    kernel_initialise();
    PyObject *module = PyModule_Create(&definition);
    if (module && (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0 ||
                   PyModule_AddStringConstant(module, "SOURCE", QSOTN_SOURCE) < 0)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
