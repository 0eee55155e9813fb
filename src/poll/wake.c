/*
 * wake.c - ends another thread's wait.
 *
 * An eventfd, or a pipe where there is none. Whoever wakes writes one byte or number; the waiter empties it. A full
 * pipe is as good as a written one.
 */
#ifndef AIOL_POLL_WAKE_C
#define AIOL_POLL_WAKE_C

#include "poll/poll.h"

typedef struct aiol_wake {
    int reader;
    int writer; /* the same for an eventfd */
} aiol_wake;

static int aiol_wake_pipe(unsigned without, int *ends) {
    int err;
#if AIOL_HAVE_PIPE2
    if ((without & AIOL_WITHOUT_PIPE2) == 0)
        return AIOL_SYS(pipe2, pipe2(ends, O_NONBLOCK | O_CLOEXEC)) == -1 ? aiol_error_from_errno(errno) : 0;
#endif
    (void)without;
    if (AIOL_SYS(pipe, pipe(ends)) == -1)
        return aiol_error_from_errno(errno);
    err = aiol_socket_flags(ends[0]);
    if (err == 0)
        err = aiol_socket_flags(ends[1]);
    if (err < 0) {
        close(ends[0]);
        close(ends[1]);
    }
    return err;
}

AIOLOOP_INTERNAL int aiol_wake_open(aiol_wake *w, unsigned without) {
    int ends[2];
    int err;
#if AIOL_HAVE_EVENTFD
    if ((without & AIOL_WITHOUT_EVENTFD) == 0) {
        int fd = AIOL_SYS(eventfd, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
        if (fd == -1)
            return aiol_error_from_errno(errno);
        w->reader = fd;
        w->writer = fd;
        return 0;
    }
#endif
    err = aiol_wake_pipe(without, ends);
    if (err < 0)
        return err;
    w->reader = ends[0];
    w->writer = ends[1];
    return 0;
}

AIOLOOP_INTERNAL void aiol_wake_close(aiol_wake *w) {
    close(w->reader);
    if (w->writer != w->reader)
        close(w->writer);
}

/* Any thread, and signal handlers: errno is kept. */
AIOLOOP_INTERNAL void aiol_wake_signal(const aiol_wake *w) {
    uint64_t one = 1;
    int saved = errno;
    ssize_t n;
    do {
        n = write(w->writer, &one, sizeof(one));
    } while (n == -1 && errno == EINTR);
    errno = saved;
}

AIOLOOP_INTERNAL void aiol_wake_drain(const aiol_wake *w) {
    char bytes[256];
    ssize_t n;
    do {
        n = AIOL_SYS(read, read(w->reader, bytes, sizeof(bytes)));
    } while ((n == -1 && errno == EINTR) || n == (ssize_t)sizeof(bytes));
}

#endif
