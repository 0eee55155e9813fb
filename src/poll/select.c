/*
 * select.c - readiness by select(), for systems with nothing else.
 *
 *   a) A descriptor of FD_SETSIZE (1024) or above would be written outside the set: it is refused.
 *   b) One closed descriptor makes the whole call fail with EBADF; each is then tried, the closed ones told as ready,
 *      and the others asked alone.
 *   c) Costs a pass over all numbers up to the largest at each wait.
 *   d) Counts in microseconds; some systems refuse more than a hundred million seconds.
 */
#ifndef AIOL_POLL_SELECT_C
#define AIOL_POLL_SELECT_C

#include "poll/poll.h"

typedef struct aiol_select_state {
    fd_set readable;
    fd_set writable;
    uint32_t generations[FD_SETSIZE];
    int end;   /* the largest descriptor watched, + 1 */
    int start; /* where the next scan begins: more may be ready than are told, and each is to have its turn */
} aiol_select_state;

static int aiol_select_open(aiol_poll *p) {
    aiol_select_state *s = (aiol_select_state *)aiol_alloc_zero(p->allocator, sizeof(*s));
    if (s == NULL)
        return AIOLOOP_ENOMEM;
    FD_ZERO(&s->readable);
    FD_ZERO(&s->writable);
    p->state = s;
    return 0;
}

static void aiol_select_close(aiol_poll *p) {
    aiol_free(p->allocator, p->state, sizeof(aiol_select_state));
    p->state = NULL;
}

static int aiol_select_reserve(aiol_poll *p, aioloop_socket fd) {
    (void)p;
    return fd < 0 || fd >= (int)FD_SETSIZE ? AIOLOOP_EINVAL : 0; /* a) */
}

static int aiol_select_set(aiol_poll *p, aioloop_socket fd, unsigned old, unsigned events, uint32_t generation) {
    aiol_select_state *s = (aiol_select_state *)p->state;
    (void)old;
    if ((events & AIOL_READABLE) != 0)
        FD_SET((unsigned)fd, &s->readable);
    else
        FD_CLR((unsigned)fd, &s->readable);
    if ((events & AIOL_WRITABLE) != 0)
        FD_SET((unsigned)fd, &s->writable);
    else
        FD_CLR((unsigned)fd, &s->writable);
    s->generations[fd] = generation;
    if (events != 0 && fd >= s->end)
        s->end = fd + 1;
    while (s->end > 0 && !FD_ISSET((unsigned)(s->end - 1), &s->readable) && !FD_ISSET((unsigned)(s->end - 1), &s->writable))
        s->end--;
    return 0;
}

/* b) Leaves in the sets the closed descriptors, and of the others those that are ready now. */
static void aiol_select_without_closed(const aiol_select_state *s, fd_set *readable, fd_set *writable) {
    struct timeval now = {0, 0};
    int fd;
    *readable = s->readable;
    *writable = s->writable;
    for (fd = 0; fd < s->end; fd++) {
        if (fcntl(fd, F_GETFD) == -1) {
            FD_CLR((unsigned)fd, readable);
            FD_CLR((unsigned)fd, writable);
        }
    }
    if (AIOL_SYS(select, select(s->end, readable, writable, NULL, &now)) == -1) {
        FD_ZERO(readable);
        FD_ZERO(writable);
    }
    for (fd = 0; fd < s->end; fd++) {
        if (fcntl(fd, F_GETFD) != -1)
            continue;
        if (FD_ISSET((unsigned)fd, &s->readable))
            FD_SET((unsigned)fd, readable);
        if (FD_ISSET((unsigned)fd, &s->writable))
            FD_SET((unsigned)fd, writable);
    }
}

static int aiol_select_wait(aiol_poll *p, int64_t timeout, aiol_ready *ready) {
    aiol_select_state *s = (aiol_select_state *)p->state;
    fd_set readable = s->readable;
    fd_set writable = s->writable;
    struct timeval limit;
    int end = s->end;
    int found;
    int n = 0;
    int scanned;
    if (timeout > 100000000 * INT64_C(1000000000))
        timeout = 100000000 * INT64_C(1000000000); /* d) */
    limit.tv_sec = (time_t)(timeout < 0 ? 0 : (timeout + 999) / 1000000000);
    limit.tv_usec = (suseconds_t)(timeout < 0 ? 0 : (timeout + 999) / 1000 % 1000000);
    found = AIOL_SYS(select, select(end, &readable, &writable, NULL, timeout < 0 ? NULL : &limit));
    if (found == -1 && errno == EBADF)
        aiol_select_without_closed(s, &readable, &writable);
    else if (found == -1)
        return errno == EINTR || errno == EAGAIN ? 0 : aiol_error_from_errno(errno);
    else if (found == 0)
        return 0;
    for (scanned = 0; scanned < end && n < AIOL_POLL_BATCH; scanned++) {
        int fd = s->start < end ? s->start : 0;
        unsigned events = (FD_ISSET((unsigned)fd, &readable) ? (unsigned)AIOL_READABLE : 0u) |
                          (FD_ISSET((unsigned)fd, &writable) ? (unsigned)AIOL_WRITABLE : 0u);
        s->start = fd + 1;
        if (events == 0)
            continue;
        ready[n].fd = fd;
        ready[n].generation = s->generations[fd];
        ready[n].events = events;
        n++;
    }
    return n;
}

static const aiol_poller aiol_poller_select = {"select",        aiol_select_open, aiol_select_close,      aiol_select_reserve,
                                               aiol_select_set, aiol_select_wait, aiol_poll_no_descriptor};

#endif
