/*
 * base.h - time, memory, buffers, and the types that everything shares.
 */
#ifndef AIOLOOP_API_BASE_H
#define AIOLOOP_API_BASE_H

#include "api/config.h"
#include "api/error.h"

/* An event loop. Made by aioloop_new_event_loop, ended by aioloop_free. It belongs to the thread that runs it first. */
typedef struct aioloop aioloop;

/* Time in nanoseconds: a duration, or a point on a loop's clock (aioloop_now), which is monotonic and starts
 * anywhere. Sums inside the library saturate, so AIOLOOP_FOREVER is later than everything. */
typedef int64_t aioloop_time;

#define AIOLOOP_FOREVER INT64_MAX
/* What AIOLOOP_SECONDS makes of a number that is none (NaN): every call refuses it with AIOLOOP_EINVAL. */
#define AIOLOOP_NOT_A_TIME INT64_MIN

#define AIOLOOP_US(n) ((aioloop_time)(n) * 1000)
#define AIOLOOP_MS(n) ((aioloop_time)(n) * 1000000)
#define AIOLOOP_SECONDS(x) aioloop_seconds(x)

/* Converts seconds, as asyncio has them, to aioloop_time; saturates. Any thread. */
AIOLOOP_API aioloop_time aioloop_seconds(double seconds);

/* A piece of memory to write. */
typedef struct aioloop_buf {
    const void *data;
    size_t size;
} aioloop_buf;

/* An operating system's socket or file descriptor: an int on POSIX, wide enough for a SOCKET on Windows. */
typedef AIOLOOP_SOCKET_TYPE aioloop_socket;

/* An open file: its descriptor. */
typedef int aioloop_file;

/* Where a loop's memory comes from. One function, as Lua's: new_size 0 frees (pointer may be NULL) and returns
 * NULL; pointer NULL allocates; else resizes. Returns NULL when there is no memory, and then the old block is
 * as it was. Called in the loop's thread, and in others by aioloop_call_soon_threadsafe and the calls of threads.h. */
typedef struct aioloop_allocator {
    void *(*allocate)(void *context, void *pointer, size_t old_size, size_t new_size);
    void *context;
} aioloop_allocator;

/* A plain callback. To fail, it calls aioloop_raise. */
typedef void (*aioloop_callback)(aioloop *loop, void *arg);

/* Remembers where the next object is made (file must live for ever); the macros at the end of the header call
 * it when AIOLOOP_DEBUG_SITES is defined. Any thread. */
AIOLOOP_API void aioloop_site(const char *file, int line);

#endif
