/*
 * process_none.c - process pools where there are none.
 */
#ifndef AIOL_CORE_PROCESS_NONE_C
#define AIOL_CORE_PROCESS_NONE_C

#include "api/process_pool.h"
#include "core/executor.c"

AIOLOOP_API aioloop_process_pool *aioloop_process_pool_new(const aioloop_process_pool_options *options) {
    (void)options;
    aiol_fail(NULL, AIOLOOP_ENOTAVAILABLE, NULL);
    return NULL;
}

AIOLOOP_API int aioloop_process_pool_shutdown(aioloop_process_pool *pool, bool wait, bool cancel_pending) {
    (void)pool;
    (void)wait;
    (void)cancel_pending;
    return AIOLOOP_EINVAL;
}

AIOLOOP_API int aioloop_process_pool_kill(aioloop_process_pool *pool) {
    (void)pool;
    return AIOLOOP_EINVAL;
}

AIOLOOP_API void aioloop_process_pool_free(aioloop_process_pool *pool) {
    (void)pool;
}

AIOLOOP_API int aioloop_output_write(aioloop_output *out, const void *data, size_t size) {
    (void)out;
    (void)data;
    (void)size;
    return AIOLOOP_EINVAL;
}

AIOLOOP_API void aioloop_output_free(aioloop_output *output) {
    (void)output;
}

AIOLOOP_API aioloop_future *(aioloop_run_in_process)(aioloop *loop, aioloop_process_pool *pool,
                                                     aioloop_process_function fn, const void *input, size_t size) {
    (void)pool;
    (void)fn;
    (void)input;
    (void)size;
    return aiol_future_failed(loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, NULL));
}

#endif
