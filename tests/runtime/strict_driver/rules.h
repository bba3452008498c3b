/* What the strict driver knows: contexts, everything made in them, and the rules for finding it again. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef unsigned long long Address;
enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_STATE = 401, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700,
    CONTEXT_IS_DESTROYED = 709, NOT_PERMITTED = 800, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
    CAPTURE_ISOLATION = 905, CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908
};
enum { STREAMS = 64, DEPTH = 16, RELAXED = 2, THREAD_LOCAL = 1 };

typedef struct Context { int alive; } Context;

typedef enum { MEMORY, PINNED, STREAM, EVENT, RECORDED, GRAPH, KINDS } Kind;
static const char *const NAMES[KINDS] = {"device memory", "pinned memory", "streams", "events", "recorded graphs", "graphs"};

typedef enum { COPY, NETWORK, RECORD, WAIT } What;
typedef struct Object Object;
typedef struct Work {
    What what;
    Address to, from, style, scratch;      /* COPY: either end may be a host address */
    size_t bytes, scratch_bytes;
    Object *stream;                        /* WAIT: the stream whose ticket is waited for */
    long ticket;
    struct Work *next;
} Work;

struct Object {
    Kind kind;
    int alive, number;
    Context *context;
    char *host;                            /* MEMORY, PINNED: where the bytes are */
    Address device;                        /* MEMORY, PINNED: their address on the device, 0 if not mapped */
    size_t bytes;
    Work *first, *last;                    /* STREAM: what waits; RECORDED, GRAPH: what was recorded */
    long completed;                        /* STREAM: the newest ticket that was reached */
    long clock[STREAMS];                   /* STREAM, EVENT: what is certain to have happened, per stream */
    long networks;                         /* STREAM: its clock at its newest network */
    int capturing, mode, invalidated;      /* STREAM */
    pthread_t owner;
    Object *recorder;                      /* EVENT: the stream and ticket of its newest record */
    long ticket;
    Object *older;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static int initialised, references, flags_set, hold, waiting;
static Context *primary;
static __thread Context *stack[DEPTH];
static __thread int depth;
static Object *objects, *streams[STREAMS];
static int stream_count;
static size_t used_bytes;
static long tickets;
static long syncs, launches, networks, unordered_networks, free_copies;
static char violations[64][256];
static int violation_count;
static struct { char call[64]; int after, code; } failure;

/* ---- rules ------------------------------------------------------------------------------------------------- */

static int violated(int code, const char *text, ...) {
    va_list rest;
    va_start(rest, text);
    if (violation_count < 64) vsnprintf(violations[violation_count++], 256, text, rest);
    va_end(rest);
    return code;
}

static size_t setting(const char *name, size_t otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

static size_t memory_bytes(void) { return setting("STRICT_CUDA_MEMORY", 2048) << 20; }

/* The code that a call was told to fail with, once. */
static int told_to_fail(const char *call) {
    if (!*call || strcmp(call, failure.call) || --failure.after > 0) return SUCCESS;
    failure.call[0] = 0;
    return failure.code;
}

static int begin(const char *call) {
    pthread_mutex_lock(&lock);
    int code = told_to_fail(call);
    if (code) return code;
    if (!initialised) return violated(NOT_INITIALIZED, "%s before cuInit", call);
    if (!depth) return violated(INVALID_CONTEXT, "%s without a current context", call);
    if (!stack[depth - 1]->alive) return violated(CONTEXT_IS_DESTROYED, "%s in a destroyed context", call);
    return SUCCESS;
}

static int end(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}

#define BEGIN(call) { int status = begin(call); if (status) return end(status); }

static Object *create(Kind kind) {
    Object *made = calloc(1, sizeof(Object));
    made->kind = kind;
    made->alive = 1;
    made->context = depth ? stack[depth - 1] : NULL;
    made->older = objects;
    return objects = made;
}

static Object *find(const char *call, Kind kind, const void *handle) {
    for (Object *each = objects; each; each = each->older)
        if (each == handle && each->kind == kind) {
            if (each->alive && each->context == stack[depth - 1]) return each;
            violated(0, "%s with one of the %s that was destroyed", call, NAMES[kind]);
            return NULL;
        }
    violated(0, "%s with a handle that is none of the %s", call, NAMES[kind]);
    return NULL;
}

/* Where these bytes are, for device addresses; NULL if they are not inside one living allocation. */
static char *on_device(Address address, size_t bytes) {
    for (Object *each = objects; each; each = each->older)
        if (each->alive && each->device && address >= each->device && address + bytes <= each->device + each->bytes)
            return each->host + (address - each->device);
    return NULL;
}

static char *on_host(Address address, size_t bytes) {
    for (Object *each = objects; each; each = each->older)
        if (each->alive && each->kind == PINNED && address >= (Address)each->host
            && address + bytes <= (Address)each->host + each->bytes)
            return (char *)address;
    return NULL;
}

/* Potentially unsafe calls are refused while a capture forbids them, and invalidate it. */
static int unsafe(const char *call) {
    int refused = SUCCESS;
    for (int i = 0; i < stream_count; i++) {
        Object *stream = streams[i];
        if (!stream->alive || !stream->capturing || stream->mode == RELAXED) continue;
        if (stream->mode == THREAD_LOCAL && !pthread_equal(stream->owner, pthread_self())) continue;
        stream->invalidated = 1;
        refused = CAPTURE_UNSUPPORTED;
    }
    return refused;
}
