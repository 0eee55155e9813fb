/*
 * subprocess_none.c - programs as children, where there are none.
 */
#ifndef AIOL_NET_SUBPROCESS_NONE_C
#define AIOL_NET_SUBPROCESS_NONE_C

#include "api/subprocess.h"
#include "net/sendfile.c"

static aioloop_future *aiol_subprocess_none(aioloop *loop) {
    return aiol_future_failed(loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, NULL));
}

AIOLOOP_API aioloop_future *(aioloop_subprocess_exec)(aioloop *loop, const aioloop_subprocess_protocol *protocol, void *arg,
                                                      const char *const *args, const aioloop_subprocess_options *options) {
    (void)protocol;
    (void)arg;
    (void)args;
    (void)options;
    return aiol_subprocess_none(loop);
}

AIOLOOP_API aioloop_future *(aioloop_subprocess_shell)(aioloop *loop, const aioloop_subprocess_protocol *protocol,
                                                       void *arg, const char *command,
                                                       const aioloop_subprocess_options *options) {
    (void)protocol;
    (void)arg;
    (void)command;
    (void)options;
    return aiol_subprocess_none(loop);
}

AIOLOOP_API aioloop_subprocess *aioloop_subprocess_ref(aioloop_subprocess *transport) {
    return transport;
}

AIOLOOP_API void aioloop_subprocess_unref(aioloop_subprocess *transport) {
    (void)transport;
}

AIOLOOP_API aioloop *aioloop_subprocess_get_loop(const aioloop_subprocess *transport) {
    (void)transport;
    return NULL;
}

AIOLOOP_API int aioloop_subprocess_get_pid(const aioloop_subprocess *transport) {
    (void)transport;
    return AIOLOOP_EINVAL;
}

AIOLOOP_API bool aioloop_subprocess_get_returncode(const aioloop_subprocess *transport, int *code) {
    (void)transport;
    (void)code;
    return false;
}

AIOLOOP_API aioloop_transport *aioloop_subprocess_get_pipe_transport(const aioloop_subprocess *transport, int fd) {
    (void)transport;
    (void)fd;
    return NULL;
}

AIOLOOP_API int aioloop_subprocess_send_signal(aioloop_subprocess *transport, int signal) {
    (void)transport;
    (void)signal;
    return AIOLOOP_EINVAL;
}

AIOLOOP_API int aioloop_subprocess_terminate(aioloop_subprocess *transport) {
    (void)transport;
    return AIOLOOP_EINVAL;
}

AIOLOOP_API int aioloop_subprocess_kill(aioloop_subprocess *transport) {
    (void)transport;
    return AIOLOOP_EINVAL;
}

AIOLOOP_API void aioloop_subprocess_close(aioloop_subprocess *transport) {
    (void)transport;
}

AIOLOOP_API bool aioloop_subprocess_is_closing(const aioloop_subprocess *transport) {
    (void)transport;
    return true;
}

#endif
