/*
 * engine.c - which engines there are, and how one is chosen by name.
 *
 * A choice is text: a name, then options after commas ("epoll,no-eventfd"; "sim,delayed,seed=7"). The first engine of
 * the table that opens serves when none is named, or when io_uring is and the system forbids it.
 */
#ifndef AIOL_IO_ENGINE_C
#define AIOL_IO_ENGINE_C

#include "io/op.h"
#if AIOL_HAVE_REACTOR
#include "io/reactor.c"
#endif
#if AIOL_HAVE_URING
#include "io/uring.c"
#endif
#if AIOL_HAVE_SIM
#include "io/sim.c"
#endif
#if AIOL_HAVE_PORT
#include "io/port.c"
#endif

#if !AIOL_HAVE_SIM
/* What api/sim.h answers without the simulated engine. */
AIOL_INLINE bool aiol_sim_is(const aiol_engine *e) {
    (void)e;
    return false;
}
#define aiol_sim_pair(e, sockets) ((void)(e), (void)(sockets), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_pipe(e, ends) ((void)(e), (void)(ends), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_socket_make(e, family, type, out)                                                 \
    ((void)(e), (void)(family), (void)(type), (void)(out), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_name_at(e, s, address) ((void)(e), (void)(s), (void)(address), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_set_delay(e, minimum, maximum) ((void)(e), (void)(minimum), (void)(maximum), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_set_buffer(e, bytes) ((void)(e), (void)(bytes), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_set_datagrams(e, lost, reordered) ((void)(e), (void)(lost), (void)(reordered), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_set_partition(e, on) ((void)(e), (void)(on), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_break(e, s, error) ((void)(e), (void)(s), (void)(error), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_fail_accepts(e, error, count) ((void)(e), (void)(error), (void)(count), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_random(e, bound) ((void)(e), (bound) - (bound))
#endif

typedef struct aiol_engine_kind {
    const char *name;
    bool on_request; /* only by name */
    int (*open)(const aiol_engine_setup *setup, aiol_engine **out);
} aiol_engine_kind;

#if AIOL_HAVE_EPOLL
static int aiol_engine_open_epoll(const aiol_engine_setup *setup, aiol_engine **out) {
    return aiol_reactor_open(setup, &aiol_poller_epoll, out);
}
#endif
#if AIOL_HAVE_POLL
static int aiol_engine_open_poll(const aiol_engine_setup *setup, aiol_engine **out) {
    return aiol_reactor_open(setup, &aiol_poller_poll, out);
}
#endif
#if AIOL_HAVE_SELECT
static int aiol_engine_open_select(const aiol_engine_setup *setup, aiol_engine **out) {
    return aiol_reactor_open(setup, &aiol_poller_select, out);
}
#endif

static const aiol_engine_kind aiol_engine_kinds[] = {
#if AIOL_HAVE_PORT
    {"port", false, aiol_port_open},
#endif
#if AIOL_HAVE_URING
    {"io_uring", false, aiol_uring_open},
#endif
#if AIOL_HAVE_EPOLL
    {"epoll", false, aiol_engine_open_epoll},
#endif
#if AIOL_HAVE_POLL
    {"poll", false, aiol_engine_open_poll},
#endif
#if AIOL_HAVE_SELECT
    {"select", false, aiol_engine_open_select},
#endif
#if AIOL_HAVE_SIM
    {"sim", true, aiol_sim_open},
#endif
};

/* Names that this build could know but does not have, for an answer better than "unknown". */
static const char *const aiol_engine_names[] = {"epoll", "poll", "select", "sim", "port", "kqueue", "io_uring", "iocp"};

static bool aiol_engine_word(const char *text, size_t size, const char *word) {
    return strlen(word) == size && memcmp(text, word, size) == 0;
}

static bool aiol_engine_option(aiol_engine_setup *setup, const char *text, size_t size) {
    static const struct {
        const char *word;
        unsigned without;
    } features[] = {{"no-accept4", AIOL_WITHOUT_ACCEPT4},
                    {"no-epoll_pwait2", AIOL_WITHOUT_EPOLL_PWAIT2},
                    {"no-eventfd", AIOL_WITHOUT_EVENTFD},
                    {"no-pipe2", AIOL_WITHOUT_PIPE2},
                    {"no-defer_taskrun", AIOL_WITHOUT_DEFER_TASKRUN},
                    {"no-coop_taskrun", AIOL_WITHOUT_COOP_TASKRUN},
                    {"no-buffer_ring", AIOL_WITHOUT_BUFFER_RING},
                    {"no-incremental", AIOL_WITHOUT_INCREMENTAL},
                    {"no-multishot", AIOL_WITHOUT_MULTISHOT},
                    {"no-sendfile", AIOL_WITHOUT_SENDFILE},
                    {"no-mmsg", AIOL_WITHOUT_MMSG},
                    {"no-nosignal", AIOL_WITHOUT_NOSIGNAL},
                    {"no-pidfd", AIOL_WITHOUT_PIDFD},
                    {"no-vfork", AIOL_WITHOUT_VFORK},
                    {"no-close_range", AIOL_WITHOUT_CLOSE_RANGE}};
    size_t i;
    for (i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        if (aiol_engine_word(text, size, features[i].word)) {
            setup->without |= features[i].without;
            return true;
        }
    }
    if (aiol_engine_word(text, size, "delayed")) {
        setup->delayed = true;
        setup->simulated = true;
        return true;
    }
    if (size > 5 && size < 25 && memcmp(text, "seed=", 5) == 0) {
        setup->seed = 0;
        setup->simulated = true;
        for (i = 5; i < size; i++) {
            if (text[i] < '0' || text[i] > '9')
                return false;
            setup->seed = setup->seed * 10 + (uint64_t)(text[i] - '0');
        }
        return true;
    }
    return false;
}

/* The first engine of that name that opens, or of all but those on request; AIOLOOP_EINVAL: there is none of that
 * name. */
static int aiol_engine_try(const char *name, size_t size, const aiol_engine_setup *setup, aiol_engine **out, char *text) {
    size_t count = sizeof(aiol_engine_kinds) / sizeof(aiol_engine_kinds[0]);
    int err = size == 0 ? AIOLOOP_ENOTAVAILABLE : AIOLOOP_EINVAL;
    size_t i;
    for (i = 0; i < count; i++) {
        const aiol_engine_kind *kind = &aiol_engine_kinds[i];
        if (size == 0 ? kind->on_request : !aiol_engine_word(name, size, kind->name))
            continue;
        err = kind->open(setup, out);
        if (err == 0) {
            (*out)->without = setup->without;
            return 0;
        }
        snprintf(text, AIOL_ERROR_TEXT_SIZE, "back end %s: %s", kind->name, aioloop_strerror(err));
        if (err == AIOLOOP_ENOMEM)
            return err;
        if (err == AIOLOOP_EINVAL)
            err = AIOLOOP_ENOTAVAILABLE;
    }
    return err;
}

/* choice NULL or "": the best that works. A message for people goes to text (256 bytes) on failure. */
AIOLOOP_INTERNAL int aiol_engine_open(const char *choice, aiol_engine_setup *setup, aiol_engine **out, char *text) {
    size_t size = choice == NULL ? 0 : strcspn(choice, ",");
    const char *rest = choice == NULL ? NULL : choice + size;
    int err;
    size_t i;
    while (rest != NULL && *rest == ',') {
        size_t length = strcspn(++rest, ",");
        if (!aiol_engine_option(setup, rest, length)) {
            snprintf(text, AIOL_ERROR_TEXT_SIZE, "unknown back end option \"%.*s\"", (int)aiol_min_size(length, 60), rest);
            return AIOLOOP_EINVAL;
        }
        rest += length;
    }
    if (size != 0 && (aiol_engine_word(choice, size, "sim") ? (setup->without & ~(unsigned)AIOL_WITHOUT_SENDFILE) != 0 : setup->simulated)) {
        snprintf(text, AIOL_ERROR_TEXT_SIZE, "an option of \"%.*s\" is another back end's", (int)aiol_min_size(strlen(choice), 100),
                 choice);
        return AIOLOOP_EINVAL;
    }
    setup->named = size != 0;
    err = aiol_engine_try(choice, size, setup, out, text);
    if (err < 0 && err != AIOLOOP_EINVAL && aiol_engine_word(choice, size, "io_uring"))
        err = aiol_engine_try(NULL, 0, setup, out, text); /* the system forbids it: whatever else there is */
    if (err != AIOLOOP_EINVAL)
        return err;
    for (i = 0; i < sizeof(aiol_engine_names) / sizeof(aiol_engine_names[0]); i++) {
        if (aiol_engine_word(choice, size, aiol_engine_names[i])) {
            snprintf(text, AIOL_ERROR_TEXT_SIZE, "back end %s is not in this build", aiol_engine_names[i]);
            return AIOLOOP_ENOTAVAILABLE;
        }
    }
    snprintf(text, AIOL_ERROR_TEXT_SIZE, "unknown back end \"%.*s\"", (int)aiol_min_size(size, 60), choice);
    return AIOLOOP_EINVAL;
}

#endif
