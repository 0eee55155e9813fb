/*
 * epoll.c - readiness by Linux's epoll.
 *
 *   a) Regular files and directories are refused with EPERM, though poll() calls them always ready.
 *   b) A registration belongs to the open file, not to the number: closing a descriptor that was duplicated (or
 *      inherited by a child) leaves it behind, still reporting, and with no number left to remove it by. So it is
 *      removed before the close.
 *   c) Closing the last descriptor removes the registration silently; a later MOD gives ENOENT, and ADD is right.
 *   d) EPOLLHUP and EPOLLERR come unasked, also for an empty set of events; a descriptor nobody wants is removed.
 *   e) epoll_wait counts in milliseconds. epoll_pwait2 (5.11) takes nanoseconds, in 64 bits on 32-bit systems too; some
 *      sandboxes and valgrind refuse it.
 */
#ifndef AIOL_POLL_EPOLL_C
#define AIOL_POLL_EPOLL_C

#include "poll/poll.h"

static int aiol_epoll_open(aiol_poll *p) {
    p->fd = AIOL_SYS(epoll_create1, epoll_create1(EPOLL_CLOEXEC));
    return p->fd == -1 ? aiol_error_from_errno(errno) : 0;
}

static void aiol_epoll_close(aiol_poll *p) {
    close(p->fd);
    p->fd = -1;
}

static int aiol_epoll_reserve(aiol_poll *p, aioloop_socket fd) {
    (void)p;
    (void)fd;
    return 0;
}

static int aiol_epoll_set(aiol_poll *p, aioloop_socket fd, unsigned old, unsigned events, uint32_t generation) {
    struct epoll_event event;
    int operation = old == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    memset(&event, 0, sizeof(event));
    event.events = ((events & AIOL_READABLE) != 0 ? (uint32_t)EPOLLIN : 0u) |
                   ((events & AIOL_WRITABLE) != 0 ? (uint32_t)EPOLLOUT : 0u);
    event.data.u64 = (uint64_t)generation << 32 | (uint32_t)fd;
    if (AIOL_SYS(epoll_ctl, epoll_ctl(p->fd, operation, fd, &event)) == 0)
        return 0;
    if (operation == EPOLL_CTL_MOD && errno == ENOENT) /* c) */
        operation = EPOLL_CTL_ADD;
    else if (operation == EPOLL_CTL_ADD && errno == EEXIST)
        operation = EPOLL_CTL_MOD;
    else
        return aiol_error_from_errno(errno);
    if (AIOL_SYS(epoll_ctl, epoll_ctl(p->fd, operation, fd, &event)) == 0)
        return 0;
    return aiol_error_from_errno(errno);
}

static AIOL_NOINLINE int aiol_epoll_wait_ns(aiol_poll *p, int64_t timeout, struct epoll_event *events) {
#if AIOL_HAVE_EPOLL_PWAIT2
    if ((p->without & AIOL_WITHOUT_EPOLL_PWAIT2) == 0) { /* e) */
        int64_t spec[2];
        int n;
        spec[0] = timeout / 1000000000;
        spec[1] = timeout % 1000000000;
        n = AIOL_SYS(epoll_pwait2, (int)syscall(SYS_epoll_pwait2, p->fd, events, AIOL_POLL_BATCH, spec, NULL, (size_t)0));
        if (n != -1 || (errno != ENOSYS && errno != EPERM))
            return n;
        p->without |= AIOL_WITHOUT_EPOLL_PWAIT2;
    }
#endif
    return AIOL_SYS(epoll_wait, epoll_wait(p->fd, events, AIOL_POLL_BATCH, aiol_poll_ms(timeout)));
}

static int aiol_epoll_wait(aiol_poll *p, int64_t timeout, aiol_ready *ready) {
    struct epoll_event events[AIOL_POLL_BATCH];
    int n;
    int i;
    if (timeout <= 0)
        n = AIOL_SYS(epoll_wait, epoll_wait(p->fd, events, AIOL_POLL_BATCH, timeout == 0 ? 0 : -1));
    else
        n = aiol_epoll_wait_ns(p, timeout, events);
    if (n == -1)
        return errno == EINTR ? 0 : aiol_error_from_errno(errno);
    for (i = 0; i < n; i++) {
        uint32_t found = events[i].events;
        unsigned mask = (found & (uint32_t)EPOLLIN) != 0 ? (unsigned)AIOL_READABLE : 0u;
        if ((found & (uint32_t)EPOLLOUT) != 0)
            mask |= AIOL_WRITABLE;
        if (AIOL_UNLIKELY((found & ~(uint32_t)(EPOLLIN | EPOLLOUT)) != 0)) /* EPOLLERR, EPOLLHUP */
            mask = AIOL_READABLE | AIOL_WRITABLE;
        ready[i].fd = (aioloop_socket)(uint32_t)events[i].data.u64;
        ready[i].generation = (uint32_t)(events[i].data.u64 >> 32);
        ready[i].events = mask;
    }
    return n;
}

static int aiol_epoll_descriptor(const aiol_poll *p) {
    return p->fd;
}

static const aiol_poller aiol_poller_epoll = {"epoll",        aiol_epoll_open, aiol_epoll_close,     aiol_epoll_reserve,
                                              aiol_epoll_set, aiol_epoll_wait, aiol_epoll_descriptor};

#endif
