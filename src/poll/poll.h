/*
 * poll.h - which descriptors are ready. The contract of a poller: six functions, each file has one set.
 *                                                                              (asyncio: selectors.py)
 *
 * A poller is level-triggered: it tells a readiness at each wait as long as it lasts. An end, a hang-up or an error
 * counts as every event that was asked for. The generation given with a descriptor comes back with its events, so that
 * what is found for one that was meanwhile forgotten can be told from what is found for its successor of the same
 * number.
 */
#ifndef AIOL_POLL_POLL_H
#define AIOL_POLL_POLL_H

#include "sys/sys.h"

enum { AIOL_READABLE = 1, AIOL_WRITABLE = 2 };

#define AIOL_POLL_BATCH 256 /* descriptors that one wait tells of */

typedef struct aiol_ready {
    aioloop_socket fd;
    uint32_t generation;
    unsigned events;
} aiol_ready;

typedef struct aiol_poll {
    const struct aiol_poller *poller;
    const aioloop_allocator *allocator;
    unsigned without;
    int fd;      /* epoll's own */
    void *state; /* the others' */
} aiol_poll;

typedef struct aiol_poller {
    const char *name;
    int (*open)(aiol_poll *p);
    void (*close)(aiol_poll *p);
    /* Makes room for fd, so that set needs no memory. AIOLOOP_EINVAL for one that is too large for this poller. */
    int (*reserve)(aiol_poll *p, aioloop_socket fd);
    /* Watches fd for events instead of old (0: not at all). AIOLOOP_EPERM for what cannot be watched, ... */
    int (*set)(aiol_poll *p, aioloop_socket fd, unsigned old, unsigned events, uint32_t generation);
    /* Waits up to timeout ns (below 0: for ever) and stores at most AIOL_POLL_BATCH events; how many, or an error. 0 on
     * EINTR. */
    int (*wait)(aiol_poll *p, int64_t timeout, aiol_ready *ready);
    /* What can be polled in its place, or AIOLOOP_ENOTAVAILABLE. */
    int (*descriptor)(const aiol_poll *p);
} aiol_poller;

/* Milliseconds for a system call: rounded up, so that a wait never ends early; -1 for ever. */
AIOL_INLINE int aiol_poll_ms(int64_t timeout) {
    if (timeout < 0)
        return -1;
    if (timeout > (int64_t)INT_MAX * 1000000 - 1000000)
        return INT_MAX;
    return (int)((timeout + 999999) / 1000000);
}

AIOL_INLINE int aiol_poll_no_descriptor(const aiol_poll *p) {
    (void)p;
    return AIOLOOP_ENOTAVAILABLE;
}

#endif
