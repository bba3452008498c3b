/* A fake of NVIDIA's driver library: host memory plays the device, copies run at once or are recorded and replayed.

   It exists so that cuda-python's true functions, and ctypes, can be called on a machine without a GPU. It proves
   the order and the arguments of calls, nothing about CUDA. Every call goes to the log named by FAKE_CUDA_LOG. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, ILLEGAL_STATE = 401 };
typedef unsigned long long Address;
typedef struct { void *to; const void *from; size_t bytes; } Copy;
typedef struct { Copy copies[64]; int count; } Graph;

static Graph *recording = NULL;
static void *current = NULL;

static void say(const char *call) {
    const char *path = getenv("FAKE_CUDA_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log) { fprintf(log, "%s%s\n", recording ? "captured " : "", call); fclose(log); }
}

static int copy(const char *call, void *to, const void *from, size_t bytes) {
    if (!current) return INVALID;
    say(call);
    if (!recording) { memcpy(to, from, bytes); return SUCCESS; }
    if (recording->count == 64) return INVALID;
    recording->copies[recording->count++] = (Copy){to, from, bytes};
    return SUCCESS;
}

int cuInit(unsigned flags) { return getenv("FAKE_CUDA_ABSENT") ? 100 : SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 13020; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDeviceGet(int *device, int index) { *device = index; return SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "Fake GPU");
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : 0;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0x77; say("retain"); return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { say("release"); return SUCCESS; }
int cuCtxSetCurrent(void *context) { current = context; return SUCCESS; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 1 << 30; *total = 1u << 31; return SUCCESS; }
int cuMemAlloc_v2(Address *address, size_t bytes) {
    if (!current) return INVALID;
    if (bytes > 1 << 30) return OUT_OF_MEMORY;
    *address = (Address)calloc(1, bytes);
    say("allocate");
    return SUCCESS;
}
int cuMemFree_v2(Address address) { free((void *)address); say("free"); return SUCCESS; }
int cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    *pointer = calloc(1, bytes);
    say(flags == 2 ? "pin mapped" : flags == 0 ? "pin" : "pin with unknown flags");
    return SUCCESS;
}
int cuMemHostGetDevicePointer_v2(Address *address, void *pointer, unsigned flags) {
    *address = (Address)pointer;
    return SUCCESS;
}
int cuMemFreeHost(void *pointer) { free(pointer); say("unpin"); return SUCCESS; }
int cuStreamCreate(void **stream, unsigned flags) {
    if (flags != 1) return INVALID;
    *stream = (void *)0x5;
    say("create_stream");
    return SUCCESS;
}
int cuStreamDestroy_v2(void *stream) { say("destroy_stream"); return SUCCESS; }
int cuStreamSynchronize(void *stream) { say("synchronize"); return SUCCESS; }
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
    return copy("copy_in", (void *)to, from, bytes);
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
    return copy("copy_out", to, (const void *)from, bytes);
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
    if (recording || mode != 1) return ILLEGAL_STATE;
    say("begin_capture");
    recording = calloc(1, sizeof(Graph));
    return SUCCESS;
}
int cuStreamEndCapture(void *stream, void **graph) {
    if (!recording) return ILLEGAL_STATE;
    *graph = recording;
    recording = NULL;
    say("end_capture");
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    *executable = malloc(sizeof(Graph));
    memcpy(*executable, graph, sizeof(Graph));
    say("instantiate");
    return SUCCESS;
}
int cuGraphDestroy(void *graph) { free(graph); say("destroy_recorded"); return SUCCESS; }
int cuGraphLaunch(void *executable, void *stream) {
    Graph *graph = executable;
    say("launch");
    for (int i = 0; i < graph->count; i++)
        memcpy(graph->copies[i].to, graph->copies[i].from, graph->copies[i].bytes);
    return SUCCESS;
}
int cuGraphExecDestroy(void *executable) { free(executable); say("destroy_graph"); return SUCCESS; }

/* cuda-python asks for every function of the driver by name; those that are not here stay null. */
int cuGetProcAddress_v2(const char *symbol, void **function, int version, unsigned long long flags, void *status) {
    char name[128];
    for (int suffix = 3; suffix >= 0; suffix--) {
        if (suffix == 1) continue;
        snprintf(name, sizeof name, suffix ? "%s_v%d" : "%s", symbol, suffix);
        if ((*function = dlsym(RTLD_DEFAULT, name)) || (*function = dlsym(dlopen("libcuda.so.1", RTLD_NOW), name)))
            return SUCCESS;
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
