/*
 * poll.c - readiness by poll(), which every POSIX system has.
 *
 *   a) Costs a pass over all descriptors at each wait.
 *   b) POLLHUP and POLLERR come unasked, so a descriptor nobody wants is taken out of the array.
 *   c) A closed descriptor gives POLLNVAL for ever; it is told as ready, so that its owner finds out by using it.
 *   d) "Broken" for devices on old macOS; sockets and pipes are fine.
 *   e) Counts in milliseconds.
 */
#ifndef AIOL_POLL_POLL_C
#define AIOL_POLL_POLL_C

#include "poll/poll.h"

typedef struct aiol_poll_state {
    struct pollfd *fds;    /* dense */
    uint32_t *generations; /* beside fds */
    uint32_t *places;      /* by descriptor: its index in fds + 1, 0: not there */
    size_t count;
    size_t start; /* where the next scan begins: more may be ready than are told, and each is to have its turn */
    size_t fds_capacity;
    size_t generations_capacity;
    size_t places_capacity;
} aiol_poll_state;

static int aiol_poll_open(aiol_poll *p) {
    p->state = aiol_alloc_zero(p->allocator, sizeof(aiol_poll_state));
    return p->state == NULL ? AIOLOOP_ENOMEM : 0;
}

static void aiol_poll_close(aiol_poll *p) {
    aiol_poll_state *s = (aiol_poll_state *)p->state;
    aiol_free(p->allocator, s->fds, s->fds_capacity * sizeof(s->fds[0]));
    aiol_free(p->allocator, s->generations, s->generations_capacity * sizeof(s->generations[0]));
    aiol_free(p->allocator, s->places, s->places_capacity * sizeof(s->places[0]));
    aiol_free(p->allocator, s, sizeof(*s));
    p->state = NULL;
}

/* The dense arrays get room for as many descriptors as there are numbers up to fd: more than enough, whatever is
 * attached. */
static int aiol_poll_reserve(aiol_poll *p, aioloop_socket fd) {
    aiol_poll_state *s = (aiol_poll_state *)p->state;
    size_t wanted = (size_t)fd + 1;
    int err = aiol_grow(p->allocator, &s->places, &s->places_capacity, sizeof(s->places[0]), wanted);
    if (err == 0)
        err = aiol_grow(p->allocator, &s->fds, &s->fds_capacity, sizeof(s->fds[0]), wanted);
    if (err == 0)
        err = aiol_grow(p->allocator, &s->generations, &s->generations_capacity, sizeof(s->generations[0]), wanted);
    return err;
}

static int aiol_poll_set(aiol_poll *p, aioloop_socket fd, unsigned old, unsigned events, uint32_t generation) {
    aiol_poll_state *s = (aiol_poll_state *)p->state;
    size_t place = s->places[fd];
    (void)old;
    if (events == 0) { /* b) */
        if (place != 0) {
            s->count--;
            s->fds[place - 1] = s->fds[s->count];
            s->generations[place - 1] = s->generations[s->count];
            s->places[s->fds[place - 1].fd] = (uint32_t)place;
            s->places[fd] = 0;
        }
        return 0;
    }
    if (place == 0) {
        place = ++s->count;
        s->places[fd] = (uint32_t)place;
        s->fds[place - 1].fd = fd;
    }
    s->fds[place - 1].events = (short)(((events & AIOL_READABLE) != 0 ? POLLIN : 0) |
                                       ((events & AIOL_WRITABLE) != 0 ? POLLOUT : 0));
    s->generations[place - 1] = generation;
    return 0;
}

static int aiol_poll_wait(aiol_poll *p, int64_t timeout, aiol_ready *ready) {
    aiol_poll_state *s = (aiol_poll_state *)p->state;
    int left = AIOL_SYS(poll, poll(s->fds, (nfds_t)s->count, aiol_poll_ms(timeout)));
    int n = 0;
    size_t scanned;
    if (left == -1)
        return errno == EINTR || errno == EAGAIN ? 0 : aiol_error_from_errno(errno);
    if (s->start >= s->count)
        s->start = 0;
    for (scanned = 0; scanned < s->count && left > 0 && n < AIOL_POLL_BATCH; scanned++) {
        size_t i = s->start;
        int found = s->fds[i].revents;
        s->start = i + 1 < s->count ? i + 1 : 0;
        if (found == 0)
            continue;
        left--;
        ready[n].fd = s->fds[i].fd;
        ready[n].generation = s->generations[i];
        ready[n].events = ((found & POLLIN) != 0 ? (unsigned)AIOL_READABLE : 0u) |
                          ((found & POLLOUT) != 0 ? (unsigned)AIOL_WRITABLE : 0u);
        if ((found & (POLLERR | POLLHUP | POLLNVAL)) != 0) /* c) */
            ready[n].events |= AIOL_READABLE | AIOL_WRITABLE;
        n++;
    }
    return n;
}

static const aiol_poller aiol_poller_poll = {"poll",        aiol_poll_open, aiol_poll_close,        aiol_poll_reserve,
                                             aiol_poll_set, aiol_poll_wait, aiol_poll_no_descriptor};

#endif
