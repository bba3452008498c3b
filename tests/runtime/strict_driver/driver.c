/* A strict stand-in for NVIDIA's driver library libcuda.so.1: host memory plays the device.

   It is not CUDA and computes nothing but the negative of an image. It exists to hold the true PyCUDA and the true
   cuda-python, and what we do with them, to the driver's rules on a machine without a GPU:
   - one context stack per thread; the primary context dies with its last release and takes everything with it;
   - device memory cannot be read by the host, every range is checked, and so is every handle ever given out;
   - a stream runs its work when somebody waits for it, so that a result that is read too early is wrong;
   - stream capture records, refuses what the mode forbids, and fails as a whole once it is invalidated;
   - memory is finite, and any call can be told to fail (strict_fail).
   A misuse is written down as a violation; at the end of the process one line of JSON goes to STRICT_CUDA_REPORT.

   STRICT_CUDA_ABSENT=1 has no device; STRICT_CUDA_INTEGRATED=1 shares memory as a Jetson does;
   STRICT_CUDA_MEMORY is the device's memory in MiB; STRICT_CUDA_NAME its name. */

#include "rules.h"

/* ---- streams ----------------------------------------------------------------------------------------------- */

static void append(Object *list, Work work) {
    Work *copy = malloc(sizeof(Work));
    *copy = work;
    copy->next = NULL;
    if (list->last) list->last->next = copy; else list->first = copy;
    list->last = copy;
}

static void drop(Object *list) {
    while (list->first) {
        Work *next = list->first->next;
        free(list->first);
        list->first = next;
    }
    list->last = NULL;
}

static int compute(const Work *work) {
    const unsigned char *from = (unsigned char *)on_device(work->from, work->bytes);
    unsigned char *to = (unsigned char *)on_device(work->to, work->bytes);
    const float *style = work->style ? (float *)on_device(work->style, sizeof(float)) : NULL;
    char *scratch = work->scratch_bytes ? on_device(work->scratch, work->scratch_bytes) : NULL;
    if (!from || !to || (work->style && !style) || (work->scratch_bytes && !scratch))
        return violated(ILLEGAL_ADDRESS, "the network ran on memory that is not there");
    if (scratch) memset(scratch, 0x5a, work->scratch_bytes);
    int shift = style ? (int)*style : 0;
    for (size_t i = 0; i < work->bytes; i++) {
        int value = 255 - from[i] + shift;
        to[i] = value < 0 ? 0 : value > 255 ? 255 : value;
    }
    return SUCCESS;
}

static int copy_now(const Work *work) {
    char *to = on_device(work->to, work->bytes), *from = on_device(work->from, work->bytes);
    if (!to) to = on_host(work->to, work->bytes);
    if (!from) from = on_host(work->from, work->bytes);
    if (!to || !from) return violated(ILLEGAL_ADDRESS, "a copy ran on memory that is not there any more");
    memcpy(to, from, work->bytes);
    return SUCCESS;
}

/* Runs what the stream was given, up to a ticket. */
static int run(Object *stream, long until) {
    int code = SUCCESS;
    while (stream->first && stream->completed < until && !code) {
        Work *work = stream->first;
        stream->first = work->next;
        if (!stream->first) stream->last = NULL;
        if (work->what == WAIT) code = run(work->stream, work->ticket);
        else if (work->what == COPY) code = copy_now(work);
        else if (work->what == NETWORK) code = compute(work);
        else stream->completed = work->ticket;
        free(work);
    }
    return code;
}

static void tick(Object *stream) { stream->clock[stream->number]++; }

/* Counts copies that may run beside another stream's network, and networks that no event puts in order. */
static void look_at_order(Object *stream, What what) {
    for (int i = 0; i < stream_count; i++) {
        Object *other = streams[i];
        if (other == stream || !other->alive || !other->networks) continue;
        int ordered = stream->clock[i] >= other->networks;
        if (what == COPY && !ordered) free_copies++;
        if (what == NETWORK && !ordered) unordered_networks++;
    }
    if (what == NETWORK) stream->networks = stream->clock[stream->number];
}

static int enqueue(Object *stream, Work work) {
    if (stream->capturing) {
        if (stream->invalidated) return CAPTURE_INVALIDATED;
        append(stream->recorder, work);
        return SUCCESS;
    }
    tick(stream);
    if (work.what == COPY || work.what == NETWORK) look_at_order(stream, work.what);
    if (work.what == NETWORK) networks++;
    append(stream, work);
    return SUCCESS;
}

int cuStreamCreate(void **stream, unsigned flags) {
    BEGIN("cuStreamCreate");
    if (flags > 1) return end(violated(INVALID_VALUE, "cuStreamCreate with the flags %u", flags));
    int number = 0;
    while (number < stream_count && streams[number]->alive) number++;
    if (number == STREAMS) return end(OUT_OF_MEMORY);
    Object *made = create(STREAM);
    made->number = number;
    if (number == stream_count) stream_count++;
    else made->clock[number] = streams[number]->clock[number]; /* a later stream of that number goes on counting */
    streams[number] = made;
    *stream = made;
    return end(SUCCESS);
}

int cuStreamDestroy_v2(void *handle) {
    BEGIN("cuStreamDestroy");
    Object *stream = find("cuStreamDestroy", STREAM, handle);
    if (!stream) return end(INVALID_HANDLE);
    if (stream->capturing) violated(0, "cuStreamDestroy of a stream that captures");
    int code = run(stream, 1L << 62);
    stream->alive = 0;
    return end(code);
}

int cuStreamSynchronize(void *handle) {
    BEGIN("cuStreamSynchronize");
    Object *stream = find("cuStreamSynchronize", STREAM, handle);
    if (!stream) return end(INVALID_HANDLE);
    if (stream->capturing) {
        stream->invalidated = 1;
        return end(violated(CAPTURE_UNSUPPORTED, "cuStreamSynchronize of a stream that captures"));
    }
    syncs++;
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 10;
    while (hold) {
        waiting++;
        if (pthread_cond_timedwait(&released, &lock, &deadline)) {
            hold = 0;
            violated(0, "nobody could release a stream that was held for ten seconds");
        }
        waiting--;
    }
    return end(run(stream, 1L << 62));
}

int cuStreamQuery(void *handle) {
    BEGIN("cuStreamQuery");
    Object *stream = find("cuStreamQuery", STREAM, handle);
    return end(!stream ? INVALID_HANDLE : run(stream, 1L << 62));
}

int cuStreamWaitEvent(void *handle, void *event_handle, unsigned flags) {
    BEGIN("cuStreamWaitEvent");
    Object *stream = find("cuStreamWaitEvent", STREAM, handle), *event = find("cuStreamWaitEvent", EVENT, event_handle);
    if (!stream || !event) return end(INVALID_HANDLE);
    if (stream->capturing) {
        stream->invalidated = 1;
        return end(violated(CAPTURE_ISOLATION, "a capturing stream waits for an event from outside"));
    }
    if (!event->recorder) return end(SUCCESS); /* never recorded: nothing to wait for */
    for (int i = 0; i < STREAMS; i++)
        if (event->clock[i] > stream->clock[i]) stream->clock[i] = event->clock[i];
    return end(enqueue(stream, (Work){.what = WAIT, .stream = event->recorder, .ticket = event->ticket}));
}

int cuEventCreate(void **event, unsigned flags) {
    BEGIN("cuEventCreate");
    *event = create(EVENT);
    return end(SUCCESS);
}

int cuEventDestroy_v2(void *handle) {
    BEGIN("cuEventDestroy");
    Object *event = find("cuEventDestroy", EVENT, handle);
    if (!event) return end(INVALID_HANDLE);
    event->alive = 0;
    return end(SUCCESS);
}

int cuEventRecord(void *handle, void *stream_handle) {
    BEGIN("cuEventRecord");
    Object *event = find("cuEventRecord", EVENT, handle), *stream = find("cuEventRecord", STREAM, stream_handle);
    if (!stream || !event) return end(INVALID_HANDLE);
    if (stream->capturing) return end(violated(CAPTURED_EVENT, "cuEventRecord on a stream that captures"));
    int code = enqueue(stream, (Work){.what = RECORD, .ticket = ++tickets});
    event->recorder = stream;
    event->ticket = tickets;
    memcpy(event->clock, stream->clock, sizeof event->clock);
    return end(code);
}

/* ---- memory ------------------------------------------------------------------------------------------------ */

static Address reserve(size_t bytes) {
    void *space = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return space == MAP_FAILED ? 0 : (Address)space;
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    BEGIN("cuMemGetInfo");
    *total = memory_bytes();
    *free_bytes = *total - used_bytes;
    return end(SUCCESS);
}

int cuMemAlloc_v2(Address *address, size_t bytes) {
    BEGIN("cuMemAlloc");
    int code = unsafe("cuMemAlloc");
    if (code) return end(code);
    if (!bytes) return end(violated(INVALID_VALUE, "cuMemAlloc of 0 bytes"));
    if (used_bytes + bytes > memory_bytes()) return end(OUT_OF_MEMORY);
    Object *made = create(MEMORY);
    made->bytes = bytes;
    made->host = calloc(1, bytes);
    *address = made->device = reserve(bytes);
    used_bytes += bytes;
    return end(SUCCESS);
}

int cuMemFree_v2(Address address) {
    BEGIN("cuMemFree");
    int code = unsafe("cuMemFree");
    if (code) return end(code);
    for (Object *each = objects; each; each = each->older)
        if (each->alive && each->kind == MEMORY && each->device == address) {
            each->alive = 0;
            used_bytes -= each->bytes;
            free(each->host);
            munmap((void *)each->device, each->bytes);
            return end(SUCCESS);
        }
    return end(violated(INVALID_VALUE, "cuMemFree of memory that is not allocated"));
}

int cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    BEGIN("cuMemHostAlloc");
    int code = unsafe("cuMemHostAlloc");
    if (code) return end(code);
    if (!bytes) return end(violated(INVALID_VALUE, "cuMemHostAlloc of 0 bytes"));
    Object *made = create(PINNED);
    made->bytes = bytes;
    made->host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (flags & 2) made->device = reserve(bytes);
    *pointer = made->host;
    return end(SUCCESS);
}

int cuMemHostGetDevicePointer_v2(Address *address, void *pointer, unsigned flags) {
    BEGIN("cuMemHostGetDevicePointer");
    for (Object *each = objects; each; each = each->older)
        if (each->alive && each->kind == PINNED && each->host == pointer && each->device) {
            *address = each->device;
            return end(SUCCESS);
        }
    return end(violated(INVALID_VALUE, "cuMemHostGetDevicePointer of memory that is not mapped"));
}

int cuMemFreeHost(void *pointer) {
    BEGIN("cuMemFreeHost");
    int code = unsafe("cuMemFreeHost");
    if (code) return end(code);
    for (Object *each = objects; each; each = each->older)
        if (each->alive && each->kind == PINNED && each->host == pointer) {
            each->alive = 0;
            munmap(each->host, each->bytes); /* from here on a host that reads it crashes */
            if (each->device) munmap((void *)each->device, each->bytes);
            return end(SUCCESS);
        }
    return end(violated(INVALID_VALUE, "cuMemFreeHost of memory that is not pinned"));
}

static int copy(const char *call, Address to, Address from, size_t bytes, void *handle, int to_device) {
    BEGIN(call);
    Object *stream = find(call, STREAM, handle);
    if (!stream) return end(INVALID_HANDLE);
    Address device = to_device ? to : from, host = to_device ? from : to;
    if (!on_device(device, bytes)) return end(violated(INVALID_VALUE, "%s past the end of device memory", call));
    if (!on_host(host, bytes)) return end(violated(INVALID_VALUE, "%s with host memory that is not pinned", call));
    return end(enqueue(stream, (Work){.what = COPY, .to = to, .from = from, .bytes = bytes}));
}

int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
    return copy("cuMemcpyHtoDAsync", to, (Address)from, bytes, stream, 1);
}

int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
    return copy("cuMemcpyDtoHAsync", (Address)to, from, bytes, stream, 0);
}

/* ---- capture and graphs ------------------------------------------------------------------------------------ */

int cuStreamBeginCapture_v2(void *handle, int mode) {
    BEGIN("cuStreamBeginCapture");
    Object *stream = find("cuStreamBeginCapture", STREAM, handle);
    if (!stream) return end(handle ? INVALID_HANDLE : CAPTURE_UNSUPPORTED);
    if (stream->capturing) return end(violated(ILLEGAL_STATE, "cuStreamBeginCapture twice"));
    stream->capturing = 1;
    stream->mode = mode;
    stream->invalidated = 0;
    stream->owner = pthread_self();
    stream->recorder = create(RECORDED);
    return end(SUCCESS);
}

int cuStreamEndCapture(void *handle, void **graph) {
    *graph = NULL;
    BEGIN("");
    Object *stream = find("cuStreamEndCapture", STREAM, handle);
    if (!stream) return end(INVALID_HANDLE);
    if (!stream->capturing) return end(violated(ILLEGAL_STATE, "cuStreamEndCapture without a capture"));
    if (stream->mode != RELAXED && !pthread_equal(stream->owner, pthread_self()))
        return end(violated(CAPTURE_WRONG_THREAD, "cuStreamEndCapture by another thread"));
    stream->capturing = 0;
    Object *recorded = stream->recorder;
    stream->recorder = NULL;
    int code = told_to_fail("cuStreamEndCapture");
    if (stream->invalidated && !code) code = CAPTURE_INVALIDATED;
    if (code) {
        drop(recorded);
        recorded->alive = 0;
        return end(code);
    }
    *graph = recorded;
    return end(SUCCESS);
}

int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    BEGIN("cuGraphInstantiate");
    Object *recorded = find("cuGraphInstantiate", RECORDED, graph);
    if (!recorded) return end(INVALID_HANDLE);
    Object *made = create(GRAPH);
    for (Work *work = recorded->first; work; work = work->next) append(made, *work);
    *executable = made;
    return end(SUCCESS);
}

static int destroy_list(const char *call, Kind kind, void *handle) {
    BEGIN(call);
    Object *list = find(call, kind, handle);
    if (!list) return end(INVALID_HANDLE);
    drop(list);
    list->alive = 0;
    return end(SUCCESS);
}

int cuGraphDestroy(void *graph) { return destroy_list("cuGraphDestroy", RECORDED, graph); }
int cuGraphExecDestroy(void *graph) { return destroy_list("cuGraphExecDestroy", GRAPH, graph); }

int cuGraphLaunch(void *executable, void *handle) {
    BEGIN("cuGraphLaunch");
    Object *graph = find("cuGraphLaunch", GRAPH, executable), *stream = find("cuGraphLaunch", STREAM, handle);
    if (!graph || !stream) return end(INVALID_HANDLE);
    if (stream->capturing) return end(violated(CAPTURE_UNSUPPORTED, "cuGraphLaunch on a stream that captures"));
    launches++;
    for (Work *work = graph->first; work; work = work->next) enqueue(stream, *work);
    return end(SUCCESS);
}

/* ---- device and context ------------------------------------------------------------------------------------ */

int cuInit(unsigned flags) {
    if (getenv("STRICT_CUDA_ABSENT")) return NO_DEVICE;
    initialised = 1;
    return SUCCESS;
}
int cuDriverGetVersion(int *version) { *version = 13020; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = 1; return initialised ? SUCCESS : NOT_INITIALIZED; }
int cuDeviceGet(int *device, int index) { *device = index; return index ? INVALID_DEVICE : SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) {
    const char *given = getenv("STRICT_CUDA_NAME");
    snprintf(name, length, "%s", given ? given : "Strict GPU");
    return SUCCESS;
}
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8; *minor = 9; return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : attribute == 18 ? (int)setting("STRICT_CUDA_INTEGRATED", 0) : 0;
    return SUCCESS;
}

int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) { flags_set = (int)flags; return SUCCESS; }

int cuDevicePrimaryCtxRetain(void **context, int device) {
    pthread_mutex_lock(&lock);
    if (!initialised) return end(violated(NOT_INITIALIZED, "cuDevicePrimaryCtxRetain before cuInit"));
    if (!references++) {
        primary = calloc(1, sizeof(Context));
        primary->alive = 1;
    }
    *context = primary;
    return end(SUCCESS);
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    pthread_mutex_lock(&lock);
    if (!references) return end(violated(INVALID_CONTEXT, "cuDevicePrimaryCtxRelease of a context that is not retained"));
    if (--references) return end(SUCCESS);
    for (Object *each = objects; each; each = each->older)
        if (each->alive && each->context == primary) {
            violated(0, "the context was released with %s in it", NAMES[each->kind]);
            each->alive = 0;
        }
    primary->alive = 0;
    return end(SUCCESS);
}

int cuCtxPushCurrent_v2(void *context) {
    pthread_mutex_lock(&lock);
    if (context != primary || !primary || !primary->alive)
        return end(violated(INVALID_CONTEXT, "cuCtxPushCurrent of a context that is not alive"));
    if (depth == DEPTH) return end(violated(INVALID_VALUE, "cuCtxPushCurrent without a pop, %d times", DEPTH));
    stack[depth++] = context;
    return end(SUCCESS);
}

int cuCtxPopCurrent_v2(void **context) {
    pthread_mutex_lock(&lock);
    if (!depth) return end(violated(INVALID_CONTEXT, "cuCtxPopCurrent of an empty stack"));
    Context *popped = stack[--depth];
    if (context) *context = popped;
    return end(SUCCESS);
}

int cuCtxGetCurrent(void **context) { *context = depth ? stack[depth - 1] : NULL; return SUCCESS; }
int cuCtxSetCurrent(void *context) {
    if (context && depth) stack[depth - 1] = context;
    else if (context) stack[depth++] = context;
    else if (depth) depth--;
    return SUCCESS;
}
int cuCtxGetDevice(int *device) { *device = 0; return depth ? SUCCESS : INVALID_CONTEXT; }
int cuCtxSynchronize(void) {
    BEGIN("cuCtxSynchronize");
    int code = unsafe("cuCtxSynchronize");
    for (int i = 0; i < stream_count && !code; i++)
        if (streams[i]->alive) code = run(streams[i], 1L << 62);
    return end(code);
}

int cuGetErrorString(int code, const char **text) {
    static __thread char buffer[64];
    snprintf(buffer, sizeof buffer, code == OUT_OF_MEMORY ? "out of memory" : "strict driver error %d", code);
    *text = buffer;
    return SUCCESS;
}

/* cuda-python asks for every function of the driver by name; those that are not here stay null. */
int cuGetProcAddress_v2(const char *symbol, void **function, int version, unsigned long long flags, void *status) {
    char name[128];
    static void *self;
    if (!self) self = dlopen("libcuda.so.1", RTLD_NOW);
    for (int suffix = 3; suffix >= 0; suffix--) {
        if (suffix == 1) continue;
        snprintf(name, sizeof name, suffix ? "%s_v%d" : "%s", symbol, suffix);
        if ((*function = dlsym(self, name))) return SUCCESS;
    }
    if (!strcmp(symbol, "cuGraphInstantiate")) {
        *function = (void *)cuGraphInstantiateWithFlags;
        return SUCCESS;
    }
    return NOT_FOUND;
}
int cuGetProcAddress(const char *symbol, void **function, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}

#include "unused.h"

/* ---- for the tests ----------------------------------------------------------------------------------------- */

/* What stands for a network on this device: the negative of the frame, brighter by the style's first number. */
int strict_network(void *handle, Address from, Address to, size_t bytes, Address style, Address scratch, size_t scratch_bytes) {
    BEGIN("strict_network");
    Object *stream = find("strict_network", STREAM, handle);
    if (!stream) return end(INVALID_HANDLE);
    if (!on_device(from, bytes) || !on_device(to, bytes))
        return end(violated(ILLEGAL_ADDRESS, "the network was given memory that is not there"));
    Work work = {.what = NETWORK, .to = to, .from = from, .bytes = bytes, .style = style, .scratch = scratch, .scratch_bytes = scratch_bytes};
    return end(enqueue(stream, work));
}

/* The call of this name fails with the code when it comes for the n-th time from now. */
void strict_fail(const char *call, int after, int code) {
    pthread_mutex_lock(&lock);
    snprintf(failure.call, sizeof failure.call, "%s", call);
    failure.after = after;
    failure.code = code;
    end(0);
}

/* Holds every cuStreamSynchronize until it is called with 0. */
void strict_hold(int held) {
    pthread_mutex_lock(&lock);
    hold = held;
    pthread_cond_broadcast(&released);
    end(0);
}

int strict_waiting(void) { return waiting; }
int strict_depth(void) { return depth; }
int strict_flags(void) { return flags_set; }
void strict_blame(const char *text) { violated(0, "%s", text); }

/* Everything that lives in a context, and the contexts. */
int strict_left(void) {
    int left = references + depth;
    for (Object *each = objects; each; each = each->older) left += each->alive;
    return left;
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("STRICT_CUDA_REPORT");
    FILE *file = path && initialised ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "{\"violations\": [");
    for (int i = 0; i < violation_count; i++) fprintf(file, "%s\"%s\"", i ? ", " : "", violations[i]);
    fprintf(file, "], \"left\": {\"contexts\": %d, \"context stack\": %d", references, depth);
    for (int kind = 0; kind < KINDS; kind++) {
        int left = 0;
        for (Object *each = objects; each; each = each->older) left += each->alive && each->kind == kind;
        fprintf(file, ", \"%s\": %d", NAMES[kind], left);
    }
    fprintf(file, "}, \"syncs\": %ld, \"launches\": %ld, \"networks\": %ld, \"unordered_networks\": %ld, \"free_copies\": %ld}\n",
            syncs, launches, networks, unordered_networks, free_copies);
    fclose(file);
}
