/*
 * fire.c - random connections on the system's own sockets, ended in every way while data is under way.
 *
 *     fire [--events N] [--seed S] [--round R] [--in-order] [-v]
 *
 * On one loop, TCP and Unix connections, servers, watchers, timers and callbacks do random things to each other. The other
 * end of a connection is a transport as well, a plain socket that the loop drives, or a plain socket of another thread.
 * Played in rounds, each with a loop and a seed of its own; --round plays one of them alone. (The system's timing is its
 * own, so a round does not repeat exactly; a failure prints what happened to the connection.) An event is one random
 * action or one callback.
 *
 * What must hold:
 *   - A byte of a stream is a function of who wrote it and where. What arrives is a prefix of what was written; before an end
 *     of file it is all of it, unless the writer was aborted, reset or lost. An error has a reason.
 *   - A buffer given by get_buffer is not touched before buffer_updated or after: it is poisoned, some are unmapped, and
 *     looked at before they are lent again. Memory lent by write_owned is overwritten by its release, of which there is
 *     exactly one. Memory of a plain write is overwritten when write returns; the library's own when it is freed.
 *   - A server that was closed refuses at once, and its address can be bound at once. The peer of a connection whose
 *     connection_lost ran, or of a descriptor that was unwatched and closed, sees the end at once.
 *   - The protocol's calls: connection_made once, connection_lost once, nothing after it; no data and no end while
 *     paused or closing; pause_writing and resume_writing in turn; none for a protocol that was replaced.
 *   - call_soon in order, timers not early and not when cancelled, posts of the thread in order and none lost.
 *   - At the end of a round no descriptor and no byte of memory is left; one in four ends with everything open, unless
 *     --in-order is given.
 *
 * It runs on the back end of AIOLOOP_BACKEND. What is wrong ends it with 1. Long, because it is a model and its script,
 * which look at each other.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FIRE_ROUND 40000 /* events */
#define FIRE_ENDS 65536  /* in one round */
#define FIRE_SERVERS 6   /* at once */
#define FIRE_SERVERS_ALL 2048
#define FIRE_WRITE 300000    /* the largest */
#define FIRE_QUEUE 2000000   /* no more is written above that */
#define FIRE_POOL 40         /* buffers for get_buffer, */
#define FIRE_GUARDED 12      /* of which so many are unmapped while they are not lent */
#define FIRE_LARGEST 262144u /* of them */
#define FIRE_PAGE 4096
#define FIRE_SLOTS 48 /* timers, and pairs of watched descriptors */
#define FIRE_SELVES 4
#define FIRE_RETIRED 64 /* released memory that is kept for a while, to see that nobody writes to it */
#define FIRE_TRACE 65536
#define FIRE_POISON 0xdb
#define FIRE_GARBAGE 0xe7
#define FIRE_ADDRESSES 200 /* 127.0.0.2 and up: each connection leaves a port waiting for a minute */
#define FIRE_FDS 8192

#if defined(__GNUC__) || defined(__clang__)
#define FIRE_NORETURN __attribute__((noreturn))
#define FIRE_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define FIRE_NORETURN
#define FIRE_PRINTF(text, first)
#endif

#if defined(MSG_NOSIGNAL)
#define FIRE_NOSIGNAL MSG_NOSIGNAL
#else
#define FIRE_NOSIGNAL 0
#endif
#if defined(POLLRDHUP)
#define FIRE_HANGUP (POLLRDHUP | POLLHUP | POLLERR)
#else
#define FIRE_HANGUP (POLLHUP | POLLERR)
#endif

/* ---- the model ---- */

/* DEAF: a transport whose connection nobody ever accepts. */
typedef enum fire_kind { FIRE_TRANSPORT, FIRE_DEAF, FIRE_RAW, FIRE_THREAD } fire_kind;
typedef enum fire_stage { FIRE_WAITING, FIRE_OPEN, FIRE_OVER, FIRE_NEVER } fire_stage;

enum { FIRE_TAG_END = 0x656e6421, FIRE_TAG_SERVER = 0x73727621 };

typedef struct fire_trace {
    uint64_t event;
    uint32_t id;
    const char *what;
    int64_t number;
} fire_trace;

/* Who acts: the loop's thread or the other one. */
typedef struct fire_actor {
    uint64_t random;
    uint64_t events;
    uint64_t bytes; /* received and checked */
    unsigned char *scratch;
    fire_trace *trace;
    uint32_t traced;
} fire_actor;

struct fire_end;

typedef struct fire_self {
    struct fire_end *end;
} fire_self;

typedef struct fire_server {
    int tag;
    aioloop_server *server; /* NULL: closed */
    bool is_unix;
    int port;
    char path[48];
    uint32_t orphans;  /* clients that ended in order, of whom nothing arrived, */
    uint32_t careless; /* and accepted connections that were ended here before they had got anything */
} fire_server;

/* One end of a connection. Those of the other thread are under fire.lock. */
typedef struct fire_end {
    int tag;
    uint32_t id;
    fire_kind kind;
    fire_stage stage;
    bool is_unix;
    bool client;
    struct fire_end *pair; /* known from the beginning */
    fire_server *server;
    uint32_t live_at; /* place in fire.live */

    fire_self selves[FIRE_SELVES]; /* for set_protocol; the first self is the transport's */
    fire_self *self;
    unsigned next_self;
    aioloop_transport *transport;
    aioloop_future *future;
    int fd;       /* of a plain socket */
    bool reading; /* it is watched */
    bool writing;

    uint64_t written;
    uint64_t received;
    unsigned char header[8];
    uint32_t peer_id; /* 0: not yet known */

    bool made;
    bool lost;
    bool paused;
    bool write_paused;
    bool write_ended;
    bool eof;
    bool silent;  /* its protocol has no eof_received */
    bool closing; /* by this end */
    bool unclean; /* what it wrote may be lost */
    bool cancelled;
    bool refused; /* nobody listens there */
    int error;
    int lent;
} fire_end;

typedef struct fire_buffer {
    unsigned char *memory;
    size_t size;
    bool guarded;
    fire_end *end; /* who has it */
    unsigned char *at;
    size_t lent;
} fire_buffer;

typedef struct fire_owned {
    fire_end *end;
    unsigned char *data;
    size_t size;
    bool released;
} fire_owned;

typedef struct fire_timer {
    aioloop_timer_handle handle;
    bool pending;
} fire_timer;

typedef struct fire_watch {
    int fd; /* -1: free */
    int peer;
    bool reader;
    bool writer;
} fire_watch;

typedef enum fire_phase { FIRE_SCRIPT, FIRE_DRAIN, FIRE_SETTLE, FIRE_CLOSED } fire_phase;

static struct {
    /* the program */
    uint64_t seed;
    bool verbose;
    bool in_order;
    const char *backend;
    fire_buffer pool[FIRE_POOL];
    int clog; /* a listener that accepts nobody, */
    int clog_port;
    int clogs[4]; /* and what fills it */
    int pairing;  /* a listener that makes pairs */
    int pairing_port;
    uint64_t connections;
    uint64_t owned;
    uint64_t lendings;
    uint64_t refusals;
    uint64_t ends_seen;
    int64_t slowest; /* of those, ns */
    uint64_t posts;
    uint64_t servers;

    /* the round */
    uint32_t round;
    fire_phase phase;
    aioloop *loop;
    fire_actor actor;
    fire_actor other;
    uint64_t until; /* events */
    bool over;
    uint32_t wanted; /* connections at once */
    fire_end *ends[FIRE_ENDS];
    uint32_t end_count;
    fire_end *live[FIRE_ENDS];
    uint32_t live_count;
    fire_server *all_servers[FIRE_SERVERS_ALL];
    uint32_t server_count;
    fire_server *open_servers[FIRE_SERVERS];
    fire_timer timers[FIRE_SLOTS];
    fire_watch watches[FIRE_SLOTS];
    fire_owned *retired[FIRE_RETIRED];
    uint32_t retired_count;
    uint64_t accepted_owned;
    uint64_t released_owned;
    fire_buffer *lent; /* the one that get_buffer has just given */
    uint64_t soon_made;
    uint64_t soon_ran;
    uint64_t post_ran;
    unsigned depth;
    aioloop_time drain_until;

    pthread_mutex_t memory_lock;
    int64_t in_use;

    pthread_mutex_t lock;
    pthread_t thread;
    bool thread_quit;
    bool thread_drains;
    bool thread_posts;
    uint64_t post_made;
    fire_end *theirs[FIRE_ENDS];
    uint32_t their_count;
} fire;

/* ---- failing ---- */

static FIRE_NORETURN void fire_die(const fire_end *e, const char *format, ...) FIRE_PRINTF(2, 3);

static void fire_show(const fire_actor *a, const char *who, uint32_t id, uint32_t peer) {
    uint32_t from = a->traced > FIRE_TRACE ? a->traced - FIRE_TRACE : 0;
    uint32_t found = 0;
    uint32_t i;
    for (i = a->traced; i > from && found < 80; i--) {
        const fire_trace *t = &a->trace[(i - 1) % FIRE_TRACE];
        found += t->id == 0 || t->id == id || t->id == peer;
    }
    for (; i < a->traced; i++) {
        const fire_trace *t = &a->trace[i % FIRE_TRACE];
        if (t->id == 0 || t->id == id || t->id == peer)
            fprintf(stderr, "  %s %lu: end %u: %s %ld\n", who, (unsigned long)t->event, (unsigned)t->id, t->what,
                    (long)t->number);
    }
}

static void fire_show_end(const fire_end *e) {
    fprintf(stderr,
            "  end %u: kind %d stage %d %s%s fd %d written %lu received %lu peer %u pair %u:%s%s%s%s%s%s%s%s%s%s%s "
            "error %d "
            "lent %d\n",
            (unsigned)e->id, (int)e->kind, (int)e->stage, e->is_unix ? "Unix" : "TCP", e->client ? " client" : "",
            e->fd, (unsigned long)e->written, (unsigned long)e->received, (unsigned)e->peer_id,
            (unsigned)(e->pair != NULL ? e->pair->id : 0), e->made ? " made" : "", e->lost ? " lost" : "",
            e->paused ? " paused" : "", e->write_paused ? " write-paused" : "", e->write_ended ? " write-ended" : "",
            e->eof ? " eof" : "", e->closing ? " closing" : "", e->unclean ? " unclean" : "",
            e->silent ? " silent" : "", e->cancelled ? " cancelled" : "", e->refused ? " refused" : "", e->error,
            e->lent);
}

static void fire_die(const fire_end *e, const char *format, ...) {
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "fire: %s: seed %lu round %u event %lu: ", fire.backend, (unsigned long)fire.seed,
            (unsigned)fire.round, (unsigned long)(fire.actor.events + fire.other.events));
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    if (e != NULL) {
        uint32_t peer = e->peer_id != 0 ? e->peer_id : e->pair != NULL ? e->pair->id : 0;
        fire_show_end(e);
        if (peer != 0 && peer <= fire.end_count)
            fire_show_end(fire.ends[peer]);
        fire_show(&fire.actor, "loop", e->id, peer);
        fire_show(&fire.other, "thread", e->id, peer);
    }
    _exit(1);
}

static void fire_note(fire_actor *a, const fire_end *e, const char *what, int64_t number) {
    fire_trace *t = &a->trace[a->traced++ % FIRE_TRACE];
    t->event = a->events;
    t->id = e != NULL ? e->id : 0;
    t->what = what;
    t->number = number;
    if (fire.verbose)
        fprintf(stderr, "%s %lu: end %u: %s %ld\n", a == &fire.actor ? "loop" : "thread", (unsigned long)a->events,
                (unsigned)t->id, what, (long)number);
}

/* ---- chance, bytes and memory ---- */

static uint64_t fire_next(fire_actor *a) {
    uint64_t x = (a->random += UINT64_C(0x9e3779b97f4a7c15));
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint32_t fire_pick(fire_actor *a, uint32_t n) {
    return (uint32_t)(fire_next(a) >> 33) % n;
}

/* 1 to most, small as often as large. */
static size_t fire_size(fire_actor *a, size_t most) {
    unsigned bits = 0;
    size_t n;
    while (most >> bits != 0)
        bits++;
    n = 1 + (size_t)(fire_next(a) & ((UINT64_C(1) << fire_pick(a, bits + 1)) - 1));
    return n < most ? n : most;
}

static uint64_t fire_word(uint32_t id, uint64_t at) {
    uint64_t x;
    if (at == 0)
        return (uint64_t)id << 32 | (uint32_t)~id;
    x = (at + (uint64_t)id * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ (x >> 32);
}

/* The bytes of what `id` writes, from `at` on. The first eight say who it is. */
static void fire_pattern(uint32_t id, uint64_t at, unsigned char *to, size_t size) {
    while (size != 0) {
        uint64_t word = fire_word(id, at / 8);
        size_t skip = (size_t)(at % 8);
        size_t n = 8 - skip < size ? 8 - skip : size;
        if (n == 8)
            memcpy(to, &word, 8);
        else
            memcpy(to, (const char *)&word + skip, n);
        to += n;
        at += n;
        size -= n;
    }
}

static bool fire_is_all(const unsigned char *memory, size_t size, int byte) {
    return size == 0 || (memory[0] == byte && memcmp(memory, memory + 1, size - 1) == 0);
}

/* What wrong bytes are: garbage of ours, or those of another place. */
static void fire_show_bytes(uint32_t id, const unsigned char *data, size_t size) {
    unsigned char expected[8];
    uint64_t at;
    size_t i;
    fprintf(stderr, "fire: %lu bytes:", (unsigned long)size);
    for (i = 0; i < size && i < 64; i++)
        fprintf(stderr, " %02x", (unsigned)data[i]);
    for (at = 0; size >= 8 && at < 50000000; at++) {
        fire_pattern(id, at, expected, 8);
        if (memcmp(expected, data, 8) == 0)
            break;
    }
    fprintf(stderr, at < 50000000 && size >= 8 ? ": they are those from %lu on\n" : "\n", (unsigned long)at);
}

/* Bytes that arrive at e. */
static void fire_check(fire_actor *a, fire_end *e, const unsigned char *data, size_t size) {
    a->bytes += size;
    while (e->received < 8 && size != 0) {
        uint64_t word;
        e->header[e->received++] = *data++;
        size--;
        if (e->received < 8)
            continue;
        memcpy(&word, e->header, 8);
        if ((uint32_t)(word >> 32) != (uint32_t)~word || word >> 32 == 0 || word >> 32 > FIRE_ENDS)
            fire_die(e, "a stream begins with %016lx", (unsigned long)word);
        e->peer_id = (uint32_t)(word >> 32);
        if (e->pair != NULL && e->pair->id != e->peer_id)
            fire_die(e, "what end %u wrote arrives", (unsigned)e->peer_id);
    }
    while (size != 0) {
        unsigned char expected[4096];
        size_t n = size < sizeof(expected) ? size : sizeof(expected);
        size_t i;
        fire_pattern(e->peer_id, e->received, expected, n);
        if (memcmp(expected, data, n) != 0) {
            for (i = 0; expected[i] == data[i]; i++)
                ;
            fire_show_bytes(e->peer_id, data + i, size - i);
            fire_die(e, "byte %lu is %02x, not %02x", (unsigned long)(e->received + i), (unsigned)data[i],
                     (unsigned)expected[i]);
        }
        e->received += n;
        data += n;
        size -= n;
    }
}

/* Freed memory is overwritten, so the kernel's or the library's looking at it shows. */
static void *fire_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    void *block = NULL;
    (void)context;
    if (new_size != 0) {
        block = malloc(new_size);
        if (block == NULL)
            return NULL;
        memset(block, FIRE_GARBAGE, new_size);
        if (pointer != NULL)
            memcpy(block, pointer, old_size < new_size ? old_size : new_size);
    }
    if (pointer != NULL) {
        memset(pointer, FIRE_GARBAGE, old_size);
        free(pointer);
    }
    pthread_mutex_lock(&fire.memory_lock);
    fire.in_use += (int64_t)new_size - (int64_t)old_size;
    pthread_mutex_unlock(&fire.memory_lock);
    return block;
}

static void *fire_memory(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL)
        fire_die(NULL, "out of memory");
    return memory;
}

static int64_t fire_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- buffers for get_buffer ---- */

static void fire_guard(fire_buffer *b, bool closed) {
    if (b->guarded && mprotect(b->memory, b->size, closed ? PROT_NONE : PROT_READ | PROT_WRITE) != 0)
        fire_die(NULL, "mprotect: %s", strerror(errno));
}

static void fire_pool_open(void) {
    size_t i;
    for (i = 0; i < FIRE_POOL; i++) {
        fire_buffer *b = &fire.pool[i];
        b->guarded = i < FIRE_GUARDED;
        b->size = b->guarded ? FIRE_PAGE * ((size_t)1 << i % 7)
                  : i < 30   ? (size_t)1 << (i - FIRE_GUARDED)
                             : FIRE_LARGEST >> (i - 30);
        if (b->guarded)
            b->memory =
                (unsigned char *)mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        else
            b->memory = (unsigned char *)fire_memory(b->size);
        if (b->memory == MAP_FAILED)
            fire_die(NULL, "mmap: %s", strerror(errno));
        memset(b->memory, FIRE_POISON, b->size);
        fire_guard(b, true);
    }
}

/* Takes the buffer back: nobody wrote to it but to its first `used` bytes. */
static void fire_take_back(size_t used) {
    fire_buffer *b = fire.lent;
    if (b == NULL)
        return;
    fire.lent = NULL;
    if (!fire_is_all(b->memory, (size_t)(b->at - b->memory), FIRE_POISON) ||
        !fire_is_all(b->at + used, b->size - (size_t)(b->at - b->memory) - used, FIRE_POISON))
        fire_die(b->end, "more than %lu bytes of a buffer of %lu were written to", (unsigned long)used,
                 (unsigned long)b->lent);
    memset(b->at, FIRE_POISON, used);
    fire_guard(b, true);
}

static size_t fire_lend(fire_end *e, void **buffer) {
    fire_buffer *b = &fire.pool[fire_pick(&fire.actor, FIRE_POOL)];
    size_t skip;
    fire_guard(b, false);
    if (!fire_is_all(b->memory, b->size, FIRE_POISON))
        fire_die(b->end, "a buffer of %lu bytes was written to after it was given back", (unsigned long)b->size);
    skip = fire_pick(&fire.actor, 2) != 0 ? 0 : fire_pick(&fire.actor, (uint32_t)b->size);
    b->end = e;
    b->at = b->memory + skip;
    b->lent = fire_pick(&fire.actor, 4) != 0 ? b->size - skip : fire_size(&fire.actor, b->size - skip);
    *buffer = b->at;
    fire.lent = b;
    fire.lendings++;
    return b->lent;
}

static void fire_pool_check(void) {
    size_t i;
    fire_take_back(0);
    for (i = 0; i < FIRE_POOL; i++) {
        fire_buffer *b = &fire.pool[i];
        fire_guard(b, false);
        if (!fire_is_all(b->memory, b->size, FIRE_POISON))
            fire_die(b->end, "a buffer of %lu bytes was written to after it was given back", (unsigned long)b->size);
        fire_guard(b, true);
    }
}

/* ---- memory for write_owned ---- */

static void fire_retire(fire_owned *o) {
    fire_owned **place = &fire.retired[fire.retired_count++ % FIRE_RETIRED];
    if (*place != NULL) {
        if (!fire_is_all((*place)->data, (*place)->size, FIRE_GARBAGE))
            fire_die((*place)->end, "memory was written to after its release");
        free((*place)->data);
        free(*place);
    }
    *place = o;
}

static void fire_act(fire_end *e);

static void fire_release(const void *data, size_t size, void *arg) {
    fire_owned *o = (fire_owned *)arg;
    fire_end *e = o->end;
    fire.actor.events++;
    if (o->released || data != o->data || size != o->size)
        fire_die(e, "a release of %lu bytes %s", (unsigned long)size,
                 o->released ? "comes twice" : "is of other memory");
    o->released = true;
    memset(o->data, FIRE_GARBAGE, o->size);
    e->lent--;
    fire.released_owned++;
    fire_note(&fire.actor, e, "release", (int64_t)size);
    fire_retire(o);
    if (fire.phase == FIRE_SCRIPT && e->transport != NULL && fire_pick(&fire.actor, 8) == 0)
        fire_act(e);
}

/* ---- ends ---- */

static fire_end *fire_end_new(fire_kind kind, bool is_unix) {
    fire_end *e = (fire_end *)fire_memory(sizeof(*e));
    size_t i;
    e->tag = FIRE_TAG_END;
    e->kind = kind;
    e->is_unix = is_unix;
    e->fd = -1;
    for (i = 0; i < FIRE_SELVES; i++)
        e->selves[i].end = e;
    if (fire.end_count == FIRE_ENDS - 1)
        fire_die(NULL, "too many connections in a round");
    e->id = fire.end_count + 1; /* under the lock if the thread runs */
    fire.ends[e->id] = e;
    fire.end_count++;
    return e;
}

/* As above, by the loop's thread. */
static fire_end *fire_end_make(fire_kind kind, bool is_unix) {
    fire_end *e;
    pthread_mutex_lock(&fire.lock);
    e = fire_end_new(kind, is_unix);
    pthread_mutex_unlock(&fire.lock);
    e->live_at = fire.live_count;
    fire.live[fire.live_count++] = e;
    fire.connections++;
    return e;
}

static void fire_end_over(fire_end *e, fire_stage stage) {
    e->stage = stage;
    e->closing = true;
    fire.live[e->live_at] = fire.live[--fire.live_count];
    fire.live[e->live_at]->live_at = e->live_at;
}

static bool fire_full(void) {
    return fire.end_count > FIRE_ENDS - 1000;
}

/* ---- plain sockets ---- */

static void fire_nonblocking(int fd) {
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        fire_die(NULL, "fcntl: %s", strerror(errno));
}

static struct sockaddr_in fire_inet(unsigned host, int port) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(0x7f000000u + host);
    return address;
}

static socklen_t fire_unix(struct sockaddr_un *address, const fire_server *s) {
    size_t size = strlen(s->path + 1) + 1; /* a name that leaves no file */
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, s->path, size);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
}

static int fire_socket(int family) {
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0)
        fire_die(NULL, "socket: %s", strerror(errno));
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        fire_die(NULL, "fcntl: %s", strerror(errno));
    return fd;
}

/* Connects to a server of ours, from an address of many. 0 or errno. */
static int fire_connect(fire_actor *a, int fd, const fire_server *s) {
    int n;
    if (s->is_unix) {
        struct sockaddr_un to;
        socklen_t size = fire_unix(&to, s);
        n = connect(fd, (const struct sockaddr *)(const void *)&to, size);
    } else {
        struct sockaddr_in from = fire_inet(2 + fire_pick(a, FIRE_ADDRESSES), 0);
        struct sockaddr_in to = fire_inet(1, s->port);
        n = bind(fd, (const struct sockaddr *)(const void *)&from, sizeof(from));
        if (n == 0)
            n = connect(fd, (const struct sockaddr *)(const void *)&to, sizeof(to));
    }
    return n == 0 ? 0 : errno;
}

static int fire_listen(int *port, int backlog) {
    struct sockaddr_in address = fire_inet(1, 0);
    socklen_t size = sizeof(address);
    int fd = fire_socket(AF_INET);
    if (bind(fd, (const struct sockaddr *)(const void *)&address, size) != 0 || listen(fd, backlog) != 0 ||
        getsockname(fd, (struct sockaddr *)(void *)&address, &size) != 0)
        fire_die(NULL, "listening: %s", strerror(errno));
    *port = ntohs(address.sin_port);
    return fd;
}

/* Two ends of a connection; now and then with small buffers. */
static void fire_pair(bool is_unix, int out[2]) {
    fire_actor *a = &fire.actor;
    int i;
    if (is_unix) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, out) != 0)
            fire_die(NULL, "socketpair: %s", strerror(errno));
    } else {
        fire_server s;
        int err;
        memset(&s, 0, sizeof(s));
        s.port = fire.pairing_port;
        out[0] = fire_socket(AF_INET);
        err = fire_connect(a, out[0], &s);
        if (err != 0 || (out[1] = accept(fire.pairing, NULL, NULL)) < 0)
            fire_die(NULL, "a pair: %s", strerror(err != 0 ? err : errno));
        if (fire_pick(a, 2) != 0) {
            i = out[0];
            out[0] = out[1];
            out[1] = i;
        }
    }
    for (i = 0; i < 2; i++) {
        int size = 1 << (12 + fire_pick(a, 6));
        fire_nonblocking(out[i]);
        if (fire_pick(a, 4) == 0)
            setsockopt(out[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    }
}

/* What is watched belongs to the loop's thread. */
static void fire_unwatch(fire_end *e) {
    if (e->reading && aioloop_remove_reader(fire.loop, e->fd) != 1)
        fire_die(e, "there was no reader");
    if (e->writing && aioloop_remove_writer(fire.loop, e->fd) != 1)
        fire_die(e, "there was no writer");
    e->reading = false;
    e->writing = false;
}

static void fire_raw_close(fire_actor *a, fire_end *e, bool reset) {
    fire_note(a, e, reset ? "raw reset" : "raw close", (int64_t)e->received);
    if (e->reading || e->writing)
        fire_unwatch(e);
    e->closing = true;
    if (reset) {
        struct linger linger;
        linger.l_onoff = 1;
        linger.l_linger = 0;
        setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
        e->unclean = true;
    }
    close(e->fd);
    e->fd = -1;
    if (e->kind == FIRE_RAW) {
        fire_end_over(e, FIRE_OVER);
        return;
    }
    e->stage = FIRE_OVER;
    fire.theirs[e->live_at] = fire.theirs[--fire.their_count];
    fire.theirs[e->live_at]->live_at = e->live_at;
}

static void fire_raw_broken(fire_actor *a, fire_end *e, int error, const char *what) {
    fire_note(a, e, what, error);
    if (error != ECONNRESET && error != EPIPE)
        fire_die(e, "%s: %s", what, strerror(error));
    e->error = -error;
    e->unclean = true;
    fire_raw_close(a, e, false);
}

/* Reads up to size bytes. True if there may be more; the end may be over afterwards. */
static bool fire_raw_read(fire_actor *a, fire_end *e, size_t size) {
    ssize_t n;
    if (e->eof)
        return false;
    n = recv(e->fd, a->scratch, size, 0);
    if (n > 0) {
        fire_note(a, e, "raw read", n);
        fire_check(a, e, a->scratch, (size_t)n);
        return true;
    }
    if (n == 0) {
        fire_note(a, e, "raw eof", (int64_t)e->received);
        e->eof = true;
        if (e->reading && aioloop_remove_reader(fire.loop, e->fd) == 1)
            e->reading = false;
    } else if (errno != EAGAIN && errno != EINTR) {
        fire_raw_broken(a, e, errno, "recv");
    }
    return false;
}

static void fire_raw_write(fire_actor *a, fire_end *e, size_t size) {
    ssize_t n;
    if (e->write_ended)
        return;
    fire_pattern(e->id, e->written, a->scratch, size);
    n = send(e->fd, a->scratch, size, FIRE_NOSIGNAL);
    if (n > 0) {
        e->written += (uint64_t)n;
        fire_note(a, e, "raw write", n);
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        fire_raw_broken(a, e, errno, "send");
    }
}

static void fire_raw_end_writing(fire_actor *a, fire_end *e) {
    if (e->write_ended)
        return;
    e->write_ended = true;
    fire_note(a, e, "raw shutdown", (int64_t)e->written);
    shutdown(e->fd, SHUT_WR); /* if the peer is gone, reading tells */
}

/* A random action of a plain socket. */
static void fire_raw_act(fire_actor *a, fire_end *e) {
    uint32_t what = fire_pick(a, 1000);
    a->events++;
    if (what < 480)
        fire_raw_read(a, e, fire_size(a, FIRE_WRITE));
    else if (what < 940)
        fire_raw_write(a, e, fire_size(a, FIRE_WRITE));
    else if (what < 970)
        fire_raw_end_writing(a, e);
    else if (what < 988 || e->eof)
        fire_raw_close(a, e, false);
    else
        fire_raw_close(a, e, true);
}

/* Everything in order: reads to the end, then closes. */
static void fire_raw_drain(fire_actor *a, fire_end *e) {
    int i;
    for (i = 0; i < 16 && e->stage == FIRE_OPEN && fire_raw_read(a, e, FIRE_WRITE); i++)
        ;
    if (e->stage != FIRE_OPEN)
        return;
    fire_raw_end_writing(a, e);
    if (e->eof)
        fire_raw_close(a, e, false);
}

static fire_end *fire_peer(const fire_end *e) {
    return e->pair != NULL ? e->pair : e->peer_id != 0 && e->peer_id <= fire.end_count ? fire.ends[e->peer_id] : NULL;
}

/* The other side is closed: this one shows it at once; or, if TCP still has bytes under way (whose window may be closed, so
 * that it has to probe), soon after the last one. */
static void fire_raw_expect_end(fire_actor *a, fire_end *e, const char *why) {
    int64_t since = fire_clock();
    int64_t took;
    for (;;) {
        const fire_end *peer = fire_peer(e);
        bool under_way = peer == NULL || e->received != peer->written;
        struct pollfd p;
        while (e->stage == FIRE_OPEN && fire_raw_read(a, e, FIRE_WRITE))
            since = fire_clock();
        took = fire_clock() - since;
        if (e->stage != FIRE_OPEN || e->eof) {
            if (!under_way && took > fire.slowest)
                fire.slowest = took;
            break;
        }
        if (took > (under_way ? INT64_C(5000000000) : 500000000))
            fire_die(e, "%s, but its peer sees no end", why);
        p.fd = e->fd;
        p.events = POLLIN;
        poll(&p, 1, 1);
    }
    fire.ends_seen++;
}

/* ---- plain sockets of the loop ---- */

static void fire_enter(void) {
    fire.actor.events++;
    fire_take_back(0);
}

static void fire_inline(fire_end *e);

static void fire_raw_readable(aioloop *loop, void *arg) {
    fire_end *e = (fire_end *)arg;
    (void)loop;
    fire_enter();
    if (!e->reading || e->stage != FIRE_OPEN)
        fire_die(e, "a reader runs that was removed");
    if (fire_pick(&fire.actor, 4) == 0)
        return; /* another time */
    fire_raw_read(&fire.actor, e, fire_size(&fire.actor, FIRE_WRITE));
    fire_inline(NULL);
}

static void fire_raw_writable(aioloop *loop, void *arg) {
    fire_end *e = (fire_end *)arg;
    fire_enter();
    if (!e->writing || e->stage != FIRE_OPEN)
        fire_die(e, "a writer runs that was removed");
    fire_raw_write(&fire.actor, e, fire_size(&fire.actor, FIRE_WRITE));
    if (e->stage != FIRE_OPEN || fire_pick(&fire.actor, 3) != 0)
        return;
    if (aioloop_remove_writer(loop, e->fd) != 1)
        fire_die(e, "there was no writer");
    e->writing = false;
}

static void fire_raw_watch(fire_end *e) {
    int err = 0;
    if (e->reading || e->writing) {
        fire_unwatch(e);
        return;
    }
    if (!e->eof && fire_pick(&fire.actor, 3) != 0) {
        err = aioloop_add_reader(fire.loop, e->fd, fire_raw_readable, e);
        e->reading = err == 0;
    }
    if (err == 0 && !e->write_ended && fire_pick(&fire.actor, 3) == 0) {
        err = aioloop_add_writer(fire.loop, e->fd, fire_raw_writable, e);
        e->writing = err == 0;
    }
    if (err < 0)
        fire_die(e, "watching: %s", aioloop_strerror(err));
}

/* ---- transports ---- */

static const aioloop_protocol fire_protocols[3]; /* plain, buffered, and one that ends with its peer */

static void fire_wrote(fire_end *e, size_t size, int err, const char *what) {
    if (err < 0)
        fire_die(e, "%s of %lu bytes: %s", what, (unsigned long)size, aioloop_strerror(err));
    fire_note(&fire.actor, e, what, (int64_t)size);
}

static void fire_write(fire_end *e, size_t size) {
    unsigned char *scratch = fire.actor.scratch;
    int err;
    fire_pattern(e->id, e->written, scratch, size);
    e->written += size; /* before: pause_writing may write more */
    err = aioloop_transport_write(e->transport, scratch, size);
    memset(scratch, FIRE_GARBAGE, size < 4096 ? size : 4096);
    fire_wrote(e, size, err, "write");
}

static void fire_writelines(fire_end *e, size_t size) {
    unsigned char *block = (unsigned char *)fire_memory(size);
    aioloop_buf pieces[40];
    size_t count = 0;
    size_t at = 0;
    int err;
    fire_pattern(e->id, e->written, block, size);
    while (at < size && count < 39) {
        size_t n = fire_size(&fire.actor, size - at);
        pieces[count].data = block + at;
        pieces[count++].size = n;
        at += n;
    }
    pieces[count].data = block + at;
    pieces[count++].size = size - at;
    e->written += size;
    err = aioloop_transport_writelines(e->transport, pieces, count);
    memset(block, FIRE_GARBAGE, size);
    free(block);
    fire_wrote(e, size, err, "writelines");
}

static void fire_write_owned(fire_end *e, size_t size) {
    fire_owned *o = (fire_owned *)fire_memory(sizeof(*o));
    int err;
    o->end = e;
    o->size = size;
    o->data = (unsigned char *)fire_memory(size);
    fire_pattern(e->id, e->written, o->data, size);
    e->written += size;
    e->lent++;
    fire.accepted_owned++;
    fire.owned++;
    err = aioloop_transport_write_owned(e->transport, o->data, size, fire_release, o);
    fire_wrote(e, size, err, "write_owned");
}

/* Calls on a transport that takes no more writes are harmless. */
static void fire_late(fire_end *e) {
    static int never;
    if (aioloop_transport_write_owned(e->transport, &never, sizeof(never), fire_release, &never) == 0)
        fire_die(e, "a closing transport takes memory");
    aioloop_transport_pause_reading(e->transport);
    aioloop_transport_resume_reading(e->transport);
    if (fire_pick(&fire.actor, 2) != 0)
        aioloop_transport_close(e->transport);
    if (aioloop_transport_write_eof(e->transport) < 0)
        fire_die(e, "write_eof of a closing transport fails");
}

static void fire_use_protocol(fire_end *e) {
    const aioloop_protocol *p = &fire_protocols[fire_pick(&fire.actor, 10) == 0 ? 2 : fire_pick(&fire.actor, 2)];
    int err;
    e->self = &e->selves[e->next_self++ % FIRE_SELVES];
    e->silent = p->eof_received == NULL;
    fire_note(&fire.actor, e, "set_protocol", p - fire_protocols);
    err = aioloop_transport_set_protocol(e->transport, p, e->self);
    if (err < 0)
        fire_die(e, "set_protocol: %s", aioloop_strerror(err));
}

static void fire_close(fire_end *e, bool in_order) {
    fire_note(&fire.actor, e, in_order ? "close" : "abort", (int64_t)e->written);
    e->closing = true;
    if (!in_order)
        e->unclean = true;
    if (in_order)
        aioloop_transport_close(e->transport);
    else
        aioloop_transport_abort(e->transport);
}

static void fire_end_writing(fire_end *e) {
    if (e->write_ended)
        return;
    e->write_ended = true;
    fire_note(&fire.actor, e, "write_eof", (int64_t)e->written);
    if (aioloop_transport_write_eof(e->transport) < 0)
        fire_die(e, "write_eof fails");
}

static void fire_pause(fire_end *e, bool pause) {
    fire_note(&fire.actor, e, pause ? "pause" : "resume", (int64_t)e->received);
    if (pause)
        aioloop_transport_pause_reading(e->transport);
    else
        aioloop_transport_resume_reading(e->transport);
    e->paused = pause;
    if (!e->closing && aioloop_transport_is_reading(e->transport) == pause &&
        !aioloop_transport_is_closing(e->transport))
        fire_die(e, "is_reading is wrong");
}

/* A random action of a transport that is open. */
static void fire_act(fire_end *e) {
    fire_actor *a = &fire.actor;
    uint32_t what = fire_pick(a, 1000);
    bool writable;
    int i;
    if (e->transport == NULL || fire.depth > 3)
        return;
    a->events++;
    if (aioloop_transport_is_closing(e->transport)) {
        if (what < 30)
            fire_late(e);
        else if (what < 50)
            fire_close(e, false);
        return;
    }
    fire.depth++;
    writable = !e->write_ended && aioloop_transport_get_write_buffer_size(e->transport) < FIRE_QUEUE;
    if (what < 200 && writable) {
        fire_write(e, fire_size(a, FIRE_WRITE));
    } else if (what < 300 && writable) {
        fire_writelines(e, fire_size(a, FIRE_WRITE));
    } else if (what < 450 && writable) {
        fire_write_owned(e, fire_size(a, FIRE_WRITE));
    } else if (what < 520) {
        for (i = 0; i < 4 && writable && e->transport != NULL && !e->write_ended &&
                    !aioloop_transport_is_closing(e->transport);
             i++)
            if (fire_pick(a, 2) != 0)
                fire_write(e, fire_size(a, 2000));
            else
                fire_write_owned(e, fire_size(a, 20000));
    } else if (what < 620) {
        fire_pause(e, true);
    } else if (what < 790) {
        fire_pause(e, false);
    } else if (what < 920) {
        fire_use_protocol(e);
    } else if (what < 940) {
        int64_t high = (int64_t)fire_size(a, 200000) - 1;
        if (aioloop_transport_set_write_buffer_limits(e->transport, high, fire_pick(a, 2) != 0 ? -1 : high / 2) < 0)
            fire_die(e, "limits are refused");
    } else if (what < 960) {
        fire_end_writing(e);
    } else if (what < 968) {
        fire_close(e, true);
    } else if (what < 973) {
        fire_close(e, false);
    }
    fire.depth--;
}

static void fire_world(void);

/* Inside a callback: often nothing, often something to this end, sometimes to others. */
static void fire_inline(fire_end *e) {
    uint32_t what = fire_pick(&fire.actor, 16);
    if (fire.phase != FIRE_SCRIPT || fire.depth != 0)
        return;
    if (what < 5 && e != NULL)
        fire_act(e);
    else if (what == 5)
        fire_world();
    else if (what == 6 && fire.live_count != 0) {
        fire_end *another = fire.live[fire_pick(&fire.actor, fire.live_count)];
        if (another->kind == FIRE_TRANSPORT && another->stage == FIRE_OPEN)
            fire_act(another);
    }
}

/* ---- the protocols ---- */

static fire_end *fire_called(aioloop_transport *t, void *self, const char *what, int64_t number) {
    fire_end *e = ((fire_self *)self)->end;
    fire.actor.events++;
    if (e == NULL || e->tag != FIRE_TAG_END)
        fire_die(NULL, "%s of no end", what);
    fire_note(&fire.actor, e, what, number);
    if (fire.lent != NULL && (strcmp(what, "buffer_updated") != 0 || fire.lent->end != e))
        fire_take_back(0);
    if (e->lost)
        fire_die(e, "%s after connection_lost", what);
    if (self != (void *)e->self)
        fire_die(e, "%s of a protocol that was replaced", what);
    if (t != e->transport && e->made)
        fire_die(e, "%s with another transport", what);
    return e;
}

static void fire_may_receive(const fire_end *e, const char *what) {
    if (!e->made || e->paused || e->closing || e->eof)
        fire_die(e, "%s when %s", what,
                 !e->made     ? "not made"
                 : e->paused  ? "paused"
                 : e->closing ? "closing"
                              : "ended");
}

static int fire_factory(void *self, void *arg) {
    fire_end *e = (fire_end *)arg;
    fire_server *s = (fire_server *)arg;
    fire.actor.events++;
    fire_take_back(0);
    if (s->tag == FIRE_TAG_SERVER) {
        if (s->server == NULL)
            fire_die(NULL, "a server that is closed accepts");
        if (fire_full() || (fire.phase == FIRE_SCRIPT && fire_pick(&fire.actor, 300) == 0)) {
            s->careless++;
            return AIOLOOP_EIO;
        }
        e = fire_end_make(FIRE_TRANSPORT, s->is_unix);
        e->server = s;
    }
    e->self = (fire_self *)self;
    e->self->end = e;
    fire_note(&fire.actor, e, "factory", s->tag == FIRE_TAG_SERVER);
    if (e->client && fire.phase == FIRE_SCRIPT && fire_pick(&fire.actor, 300) == 0) {
        e->unclean = true;
        return AIOLOOP_EIO;
    }
    return 0;
}

static void fire_made(aioloop_transport *t, void *self) {
    fire_end *e = fire_called(t, self, "connection_made", 0);
    if (e->made || e->stage != FIRE_WAITING || e->cancelled || e->refused)
        fire_die(e, "connection_made of one that is made, cancelled or refused");
    e->made = true;
    e->stage = FIRE_OPEN;
    e->transport = t;
    e->silent = aioloop_transport_get_protocol(t, NULL)->eof_received == NULL;
    if (fire_pick(&fire.actor, 8) != 0)
        fire_write(e, fire_size(&fire.actor, 1000));
    fire_inline(e);
}

static void fire_data(aioloop_transport *t, void *self, const void *data, size_t size) {
    fire_end *e = fire_called(t, self, "data_received", (int64_t)size);
    fire_may_receive(e, "data_received");
    if (size == 0)
        fire_die(e, "no bytes are received");
    fire_check(&fire.actor, e, (const unsigned char *)data, size);
    fire_inline(e);
}

static size_t fire_get_buffer(aioloop_transport *t, void *self, size_t hint, void **buffer) {
    fire_end *e = fire_called(t, self, "get_buffer", 0);
    (void)hint;
    fire_may_receive(e, "get_buffer");
    if (fire_pick(&fire.actor, 4) == 0)
        fire_inline(e);
    return fire_lend(e, buffer);
}

static void fire_updated(aioloop_transport *t, void *self, size_t size) {
    fire_end *e = fire_called(t, self, "buffer_updated", (int64_t)size);
    fire_may_receive(e, "buffer_updated");
    if (fire.lent == NULL || fire.lent->end != e || size == 0 || size > fire.lent->lent)
        fire_die(e, "buffer_updated(%lu) without such a buffer", (unsigned long)size);
    fire_check(&fire.actor, e, fire.lent->at, size);
    fire_take_back(size);
    fire_inline(e);
}

static bool fire_eof(aioloop_transport *t, void *self) {
    fire_end *e = fire_called(t, self, "eof_received", (int64_t)((fire_self *)self)->end->received);
    bool keep;
    fire_may_receive(e, "eof_received");
    e->eof = true;
    fire_inline(e);
    keep = fire.phase == FIRE_SCRIPT && fire_pick(&fire.actor, 4) != 0;
    if (!keep && !aioloop_transport_is_closing(t)) {
        e->closing = true;
        fire_note(&fire.actor, e, "eof closes", 0);
    }
    return keep;
}

static void fire_peer_ends(aioloop *loop, void *arg) {
    fire_end *e = (fire_end *)arg;
    (void)loop;
    fire_enter();
    if (e->stage == FIRE_OPEN && !e->eof)
        fire_raw_expect_end(&fire.actor, e, "a connection is lost");
}

static void fire_lost(aioloop_transport *t, void *self, int error) {
    fire_end *e = fire_called(t, self, "connection_lost", error);
    fire_end *peer = fire_peer(e);
    if (!e->made || e->lost)
        fire_die(e, "connection_lost of one that was never made, or again");
    e->lost = true;
    e->error = error;
    if (error == 0 && !e->closing) {
        if (!e->silent || e->paused)
            fire_die(e, "a connection is lost without a reason");
        e->eof = true; /* it had no eof_received to tell */
        e->closing = true;
    } else if (error != 0) {
        e->unclean = true;
        if (error != AIOLOOP_ECONNRESET && error != AIOLOOP_EPIPE)
            fire_die(e, "a connection is lost: %s", aioloop_strerror(error));
    }
    if (e->server != NULL && e->received < 8 && !e->eof)
        e->server->careless++;
    if (fire.phase == FIRE_SCRIPT && fire_pick(&fire.actor, 16) == 0)
        fire_late(e);
    e->transport = NULL;
    fire_end_over(e, FIRE_OVER);
    if (peer != NULL && peer->kind == FIRE_RAW && peer->stage == FIRE_OPEN) {
        aioloop_handle h = aioloop_call_soon(fire.loop, fire_peer_ends, peer);
        if (aioloop_handle_is_null(&h))
            fire_die(e, "no call_soon");
    }
}

static void fire_pause_writing(aioloop_transport *t, void *self) {
    fire_end *e = fire_called(t, self, "pause_writing", 0);
    if (e->write_paused)
        fire_die(e, "pause_writing twice");
    e->write_paused = true;
    if (fire_pick(&fire.actor, 8) == 0 && fire.phase == FIRE_SCRIPT)
        fire_act(e);
}

static void fire_resume_writing(aioloop_transport *t, void *self) {
    fire_end *e = fire_called(t, self, "resume_writing", 0);
    if (!e->write_paused)
        fire_die(e, "resume_writing twice");
    e->write_paused = false;
    if (fire.phase == FIRE_SCRIPT && fire_pick(&fire.actor, 4) == 0)
        fire_act(e);
}

static const aioloop_protocol fire_protocols[3] = {
    {sizeof(fire_self), fire_factory, fire_made, fire_data, fire_eof, fire_lost, fire_pause_writing,
     fire_resume_writing, NULL, NULL, NULL, NULL},
    {sizeof(fire_self), fire_factory, fire_made, NULL, fire_eof, fire_lost, fire_pause_writing, fire_resume_writing,
     fire_get_buffer, fire_updated, NULL, NULL},
    {sizeof(fire_self), fire_factory, fire_made, fire_data, NULL, fire_lost, fire_pause_writing, fire_resume_writing,
     NULL, NULL, NULL, NULL},
};

/* ---- servers ---- */

static const aioloop_protocol *fire_some_protocol(void) {
    return &fire_protocols[fire_pick(&fire.actor, 10) == 0 ? 2 : fire_pick(&fire.actor, 2)];
}

static void fire_server_open(void) {
    uint32_t place = fire_pick(&fire.actor, FIRE_SERVERS);
    fire_server *s;
    aioloop_future *f;
    int64_t n;
    if (fire.open_servers[place] != NULL || fire.server_count == FIRE_SERVERS_ALL)
        return;
    s = (fire_server *)fire_memory(sizeof(*s));
    s->tag = FIRE_TAG_SERVER;
#if defined(__linux__)
    s->is_unix = fire_pick(&fire.actor, 2) != 0;
#endif
    if (s->is_unix) {
        aioloop_unix_server_options o = AIOLOOP_ZERO;
        snprintf(s->path + 1, sizeof(s->path) - 1, "aioloop-fire-%ld-%lu", (long)getpid(), (unsigned long)fire.servers);
        o.path_size = strlen(s->path + 1) + 1;
        o.backlog = (int)fire_size(&fire.actor, 128);
        f = aioloop_create_unix_server(fire.loop, fire_some_protocol(), s, s->path, &o);
    } else {
        aioloop_server_options o = AIOLOOP_ZERO;
        o.backlog = (int)fire_size(&fire.actor, 128);
        f = aioloop_create_server(fire.loop, fire_some_protocol(), s, "127.0.0.1", 0, &o);
    }
    aioloop_future_ref(f);
    n = aioloop_future_result(f, &s->server);
    aioloop_future_unref(f);
    if (n < 0)
        fire_die(NULL, "listening: %s", aioloop_strerror((int)n));
    if (!s->is_unix) {
        aioloop_address address;
        if (aioloop_server_socket(s->server, 0, NULL, &address) < 0)
            fire_die(NULL, "a server has no socket");
        s->port = address.port;
    }
    fire.servers++;
    fire_note(&fire.actor, NULL, s->is_unix ? "Unix server" : "TCP server", s->port);
    fire.all_servers[fire.server_count++] = s;
    pthread_mutex_lock(&fire.lock);
    fire.open_servers[place] = s;
    pthread_mutex_unlock(&fire.lock);
}

/* Its address is free: nobody accepts there, and another one may. */
static void fire_expect_free(const fire_server *s) {
    int fd = fire_socket(s->is_unix ? AF_UNIX : AF_INET);
    struct timeval limit;
    int one = 1;
    int err;
    limit.tv_sec = 3;
    limit.tv_usec = 0;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    err = fire_connect(&fire.actor, fd, s);
    if (err == EINTR) { /* a ring that is freed does that to its thread */
        struct pollfd p;
        socklen_t size = sizeof(err);
        p.fd = fd;
        p.events = POLLOUT;
        if (poll(&p, 1, 3000) != 1 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) != 0)
            err = ETIMEDOUT;
    }
    if (err != ECONNREFUSED)
        fire_die(NULL, "connecting to a %s server that was closed: %s", s->is_unix ? "Unix" : "TCP",
                 err == 0 ? "connected" : strerror(err));
    close(fd);
    fd = fire_socket(s->is_unix ? AF_UNIX : AF_INET);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (s->is_unix) {
        struct sockaddr_un address;
        socklen_t size = fire_unix(&address, s);
        err = bind(fd, (const struct sockaddr *)(const void *)&address, size);
    } else {
        struct sockaddr_in address = fire_inet(1, s->port);
        err = bind(fd, (const struct sockaddr *)(const void *)&address, sizeof(address));
    }
    if (err != 0 || listen(fd, 1) != 0)
        fire_die(NULL, "the address of a %s server that was closed: %s", s->is_unix ? "Unix" : "TCP", strerror(errno));
    close(fd);
    fire.refusals++;
}

/* The thread does not connect meanwhile. */
static void fire_server_close(uint32_t place) {
    fire_server *s = fire.open_servers[place];
    if (s == NULL)
        return;
    pthread_mutex_lock(&fire.lock);
    fire.open_servers[place] = NULL;
    fire_note(&fire.actor, NULL, "server close", s->port);
    aioloop_server_close(s->server);
    fire_expect_free(s);
    aioloop_server_unref(s->server);
    s->server = NULL;
    pthread_mutex_unlock(&fire.lock);
}

/* ---- connecting ---- */

static void fire_connected(aioloop_future *future, void *arg) {
    fire_end *e = (fire_end *)arg;
    aioloop_transport *t = NULL;
    int64_t n = aioloop_future_result(future, &t);
    fire_enter();
    fire_note(&fire.actor, e, "connected", n);
    e->future = NULL;
    if (n >= 0) {
        if (!e->made || e->refused)
            fire_die(e, "connected, but not made");
        aioloop_transport_unref(t);
    } else if (!e->made || n != AIOLOOP_ECANCELED) {
        if (e->made)
            fire_die(e, "a connection that was made fails: %s", aioloop_strerror((int)n));
        if (e->cancelled != (n == AIOLOOP_ECANCELED) && !e->cancelled)
            fire_die(e, "cancelled by nobody");
        if (!e->cancelled && !e->unclean && n != AIOLOOP_EAGAIN && n != AIOLOOP_ETIMEDOUT && n != AIOLOOP_ECONNRESET &&
            !(n == AIOLOOP_ECONNREFUSED && (e->refused || (e->server != NULL && e->server->server == NULL))))
            fire_die(e, "connecting: %s", aioloop_error_message(aioloop_future_error(future)));
        e->unclean = true;
        e->error = (int)n;
        fire_end_over(e, FIRE_NEVER);
    }
    aioloop_future_unref(future);
}

static void fire_cancel(fire_end *e) {
    fire_note(&fire.actor, e, "cancel", 0);
    if (aioloop_future_cancel(e->future, NULL)) {
        e->cancelled = true;
        e->unclean = true;
        e->closing = true;
    }
}

static void fire_connecting(fire_end *e, aioloop_future *f) {
    int err;
    e->client = true;
    e->future = aioloop_future_ref(f);
    err = aioloop_future_add_done_callback(f, fire_connected, e);
    if (err < 0)
        fire_die(e, "connecting: %s", aioloop_strerror(err));
    if (fire_pick(&fire.actor, 10) == 0)
        fire_cancel(e);
}

static void fire_local(char *host, size_t size) {
    snprintf(host, size, "127.0.0.%u", 2 + (unsigned)fire_pick(&fire.actor, FIRE_ADDRESSES));
}

/* A transport connects to a server, to nobody, or to one that does not answer. */
static void fire_open_client(void) {
    fire_actor *a = &fire.actor;
    fire_server *s = fire.open_servers[fire_pick(a, FIRE_SERVERS)];
    bool nobody = fire_pick(a, 20) == 0;
    bool deaf = fire_pick(a, 20) == 0;
    fire_end *e;
    if (deaf || nobody || (s != NULL && !s->is_unix)) {
        aioloop_connection_options o = AIOLOOP_ZERO;
        char host[24];
        e = fire_end_make(deaf ? FIRE_DEAF : FIRE_TRANSPORT, false);
        e->refused = nobody && !deaf;
        e->server = deaf || nobody ? NULL : s;
        fire_local(host, sizeof(host));
        o.local_host = host;
        if (deaf)
            o.timeout = 1 + fire_pick(a, 20000000);
        fire_note(a, e, "create_connection", deaf ? 1 : nobody ? 2 : 0);
        /* nobody listens on port 1 */
        fire_connecting(e, aioloop_create_connection(fire.loop, fire_some_protocol(), e, "127.0.0.1",
                                                     deaf     ? fire.clog_port
                                                     : nobody ? 1
                                                              : s->port,
                                                     &o));
    } else if (s != NULL) {
        aioloop_unix_connection_options o = AIOLOOP_ZERO;
        o.path_size = strlen(s->path + 1) + 1;
        e = fire_end_make(FIRE_TRANSPORT, true);
        e->server = s;
        fire_note(a, e, "create_unix_connection", 0);
        fire_connecting(e, aioloop_create_unix_connection(fire.loop, fire_some_protocol(), e, s->path, &o));
    }
}

/* Under the lock if it is the thread's. False: not now. */
static bool fire_raw_connect(fire_actor *a, fire_end *e, fire_server *s) {
    struct pollfd p;
    int err;
    e->fd = fire_socket(s->is_unix ? AF_UNIX : AF_INET);
    e->server = s;
    e->client = true;
    fire_nonblocking(e->fd);
    err = fire_connect(a, e->fd, s);
    p.fd = e->fd;
    p.events = POLLOUT;
    p.revents = 0;
    if (err == EINPROGRESS)
        poll(&p, 1, 0);
    fire_note(a, e, "raw connect", err);
    if (err != 0 && err != EINPROGRESS && err != EAGAIN && err != EADDRINUSE)
        fire_die(e, "a plain socket connects: %s", strerror(err));
    if (err == 0 || (p.revents & (POLLOUT | POLLERR | POLLHUP)) == POLLOUT)
        return true;
    close(e->fd);
    e->fd = -1;
    e->unclean = true;
    return false;
}

static void fire_open_raw_client(void) {
    fire_server *s = fire.open_servers[fire_pick(&fire.actor, FIRE_SERVERS)];
    fire_end *e;
    if (s == NULL)
        return;
    e = fire_end_make(FIRE_RAW, s->is_unix);
    if (fire_raw_connect(&fire.actor, e, s))
        e->stage = FIRE_OPEN;
    else
        fire_end_over(e, FIRE_NEVER);
}

/* A pair: one end is a transport, the other one too, or a plain socket here or in the thread. */
static void fire_open_pair(void) {
    fire_actor *a = &fire.actor;
    bool is_unix = fire_pick(a, 2) != 0;
    uint32_t other = fire_pick(a, 5);
    fire_end *ends[2];
    int fds[2];
    int i;
    fire_pair(is_unix, fds);
    ends[0] = fire_end_make(FIRE_TRANSPORT, is_unix);
    if (other == 0) {
        pthread_mutex_lock(&fire.lock);
        ends[1] = fire_end_new(FIRE_THREAD, is_unix);
        ends[1]->stage = FIRE_OPEN;
        ends[1]->live_at = fire.their_count;
        fire.theirs[fire.their_count++] = ends[1];
        fire.connections++;
    } else {
        ends[1] = fire_end_make(other < 4 ? FIRE_RAW : FIRE_TRANSPORT, is_unix);
        ends[1]->stage = other < 4 ? FIRE_OPEN : FIRE_WAITING;
    }
    ends[0]->pair = ends[1];
    ends[1]->pair = ends[0];
    ends[1]->fd = other < 4 ? fds[1] : -1;
    if (other == 0)
        pthread_mutex_unlock(&fire.lock);
    for (i = 0; i < (other < 4 ? 1 : 2); i++) {
        aioloop_connection_options o = AIOLOOP_ZERO;
        aioloop_unix_connection_options u = AIOLOOP_ZERO;
        o.sock = &fds[i];
        u.sock = &fds[i];
        fire_note(a, ends[i], "a pair", other);
        if (fire_pick(a, 2) != 0)
            fire_connecting(ends[i],
                            aioloop_connect_accepted_socket(fire.loop, fire_some_protocol(), ends[i], fds[i], NULL));
        else if (is_unix)
            fire_connecting(ends[i],
                            aioloop_create_unix_connection(fire.loop, fire_some_protocol(), ends[i], NULL, &u));
        else
            fire_connecting(ends[i], aioloop_create_connection(fire.loop, fire_some_protocol(), ends[i], NULL, 0, &o));
    }
}

static void fire_open(void) {
    uint32_t what = fire_pick(&fire.actor, 10);
    if (fire_full() || fire.live_count + fire.their_count >= fire.wanted)
        return;
    if (what < 4)
        fire_open_client();
    else if (what < 6)
        fire_open_raw_client();
    else
        fire_open_pair();
}

/* ---- timers, callbacks and watched descriptors ---- */

static void fire_timer_runs(aioloop *loop, void *arg) {
    fire_timer *t = (fire_timer *)arg;
    fire_enter();
    if (!t->pending)
        fire_die(NULL, "a timer runs that was cancelled, or twice");
    if (aioloop_now(loop) < t->handle.when)
        fire_die(NULL, "a timer runs early");
    t->pending = false;
    fire_inline(NULL);
}

static void fire_timer_act(void) {
    fire_timer *t = &fire.timers[fire_pick(&fire.actor, FIRE_SLOTS)];
    aioloop_time delay = (aioloop_time)fire_size(&fire.actor, 4000000);
    if (!t->pending) {
        t->handle = aioloop_call_later(fire.loop, delay, fire_timer_runs, t);
        t->pending = true;
    } else if (fire_pick(&fire.actor, 2) != 0) {
        if (aioloop_timer_handle_reschedule(&t->handle, aioloop_now(fire.loop) + delay) < 0)
            fire_die(NULL, "a pending timer cannot be moved");
    } else {
        aioloop_timer_handle_cancel(&t->handle);
        t->pending = false;
    }
}

static void fire_soon_runs(aioloop *loop, void *arg) {
    (void)loop;
    fire_enter();
    if ((uintptr_t)arg != (uintptr_t)fire.soon_ran)
        fire_die(NULL, "call_soon %lu runs as number %lu", (unsigned long)(uintptr_t)arg, (unsigned long)fire.soon_ran);
    fire.soon_ran++;
    fire_inline(NULL);
}

static void fire_soon(void) {
    aioloop_handle h = aioloop_call_soon(fire.loop, fire_soon_runs, (void *)(uintptr_t)fire.soon_made++);
    if (aioloop_handle_is_null(&h))
        fire_die(NULL, "no call_soon");
}

static void fire_posted(aioloop *loop, void *arg) {
    (void)loop;
    fire_enter();
    if ((uintptr_t)arg != (uintptr_t)fire.post_ran)
        fire_die(NULL, "post %lu runs as number %lu", (unsigned long)(uintptr_t)arg, (unsigned long)fire.post_ran);
    fire.post_ran++;
    fire_inline(NULL);
}

/* Ends the run before what was found is handed out. */
static void fire_fatal(aioloop *loop, void *arg) {
    (void)arg;
    fire_enter();
    aioloop_raise(loop, AIOLOOP_EFATAL, "a break");
}

static void fire_watch_end(fire_watch *w) {
    struct pollfd p;
    if (w->reader && aioloop_remove_reader(fire.loop, w->fd) != 1)
        fire_die(NULL, "there was no reader");
    if (w->writer && aioloop_remove_writer(fire.loop, w->fd) != 1)
        fire_die(NULL, "there was no writer");
    w->reader = false;
    w->writer = false;
    close(w->fd);
    w->fd = -1;
    p.fd = w->peer;
    p.events = POLLIN;
#if defined(POLLRDHUP)
    p.events |= POLLRDHUP;
#endif
    if (poll(&p, 1, 100) != 1 || (p.revents & FIRE_HANGUP) == 0)
        fire_die(NULL, "a descriptor was closed that was watched before, but its peer sees no end");
    close(w->peer);
    fire.ends_seen++;
}

static void fire_watch_readable(aioloop *loop, void *arg) {
    fire_watch *w = (fire_watch *)arg;
    char bytes[64];
    (void)loop;
    fire_enter();
    if (w->fd == -1 || !w->reader)
        fire_die(NULL, "a reader runs that was removed");
    if (fire_pick(&fire.actor, 3) == 0 && recv(w->fd, bytes, sizeof(bytes), 0) <= 0)
        fire_die(NULL, "a reader has nothing to read");
    if (fire_pick(&fire.actor, 20) == 0)
        fire_watch_end(w);
    else
        fire_inline(NULL);
}

static void fire_watch_writable(aioloop *loop, void *arg) {
    fire_watch *w = (fire_watch *)arg;
    fire_enter();
    if (w->fd == -1 || !w->writer)
        fire_die(NULL, "a writer runs that was removed");
    if (fire_pick(&fire.actor, 4) == 0) {
        fire_watch_end(w);
    } else if (fire_pick(&fire.actor, 2) == 0) {
        if (aioloop_remove_writer(loop, w->fd) != 1)
            fire_die(NULL, "there was no writer");
        w->writer = false;
    }
}

static void fire_watch_act(void) {
    fire_watch *w = &fire.watches[fire_pick(&fire.actor, FIRE_SLOTS)];
    uint32_t what = fire_pick(&fire.actor, 8);
    int err = 0;
    if (w->fd == -1) {
        int fds[2];
        fire_pair(fire_pick(&fire.actor, 4) != 0, fds);
        w->fd = fds[0];
        w->peer = fds[1];
        what = 0;
    }
    if (what < 3) {
        err = aioloop_add_reader(fire.loop, w->fd, fire_watch_readable, w);
        w->reader = true;
    } else if (what == 3) {
        err = aioloop_add_writer(fire.loop, w->fd, fire_watch_writable, w);
        w->writer = true;
    } else if (what < 6) {
        if (send(w->peer, "fire", 4, FIRE_NOSIGNAL) != 4)
            fire_die(NULL, "a watched descriptor's peer cannot write");
    } else if (what == 6 && w->reader) {
        if (aioloop_remove_reader(fire.loop, w->fd) != 1)
            fire_die(NULL, "there was no reader");
        w->reader = false;
    } else {
        fire_watch_end(w);
    }
    if (err < 0)
        fire_die(NULL, "watching: %s", aioloop_strerror(err));
}

/* ---- the script ---- */

/* Many write at once, more than an engine has buffers for. */
static void fire_flood(void) {
    uint32_t i;
    fire_note(&fire.actor, NULL, "flood", fire.live_count);
    for (i = fire.live_count; i > 0; i--) {
        fire_end *e = fire.live[i - 1];
        if (e->kind != FIRE_RAW || e->stage != FIRE_OPEN)
            continue;
        fire.actor.events++;
        fire_raw_write(&fire.actor, e, 20000 + fire_size(&fire.actor, 100000));
        if (i > fire.live_count)
            i = fire.live_count + 1;
    }
}

static void fire_some_end(void) {
    fire_end *e;
    if (fire.live_count == 0)
        return;
    e = fire.live[fire_pick(&fire.actor, fire.live_count)];
    if (e->stage == FIRE_WAITING) {
        fire.actor.events++;
        if (e->future != NULL && fire_pick(&fire.actor, e->kind == FIRE_DEAF ? 4 : 10) == 0)
            fire_cancel(e);
    } else if (e->kind == FIRE_RAW) {
        if (fire_pick(&fire.actor, 20) == 0)
            fire_raw_watch(e);
        else
            fire_raw_act(&fire.actor, e);
    } else if (e->kind == FIRE_DEAF && fire_pick(&fire.actor, 10) == 0) {
        if (e->transport != NULL)
            fire_close(e, false);
    } else {
        fire_act(e);
    }
}

static void fire_world(void) {
    fire_actor *a = &fire.actor;
    uint32_t what = fire_pick(a, 1000);
    aioloop_handle h;
    a->events++;
    fire.depth++;
    if (what < 600)
        fire_some_end();
    else if (what < 820)
        fire_open();
    else if (what < 860)
        fire_timer_act();
    else if (what < 900)
        fire_soon();
    else if (what < 940)
        fire_watch_act();
    else if (what < 952)
        fire_server_open();
    else if (what < 956)
        fire_server_close(fire_pick(a, FIRE_SERVERS));
    else if (what < 962)
        fire_flood();
    else if (what < 966)
        fire.wanted = fire_pick(a, 4) == 0 ? 400 : 4 + fire_pick(a, 80);
    else if (what < 970)
        aioloop_verify(fire.loop);
    else if (what < 973)
        aioloop_stop(fire.loop);
    else if (what < 975) {
        h = aioloop_call_soon(fire.loop, fire_fatal, NULL);
        if (aioloop_handle_is_null(&h))
            fire_die(NULL, "no call_soon");
    }
    fire.depth--;
}

static void fire_drive(aioloop *loop, void *arg) {
    uint32_t n = 1 + fire_pick(&fire.actor, 12);
    (void)arg;
    fire_enter();
    fire.actor.events--;
    if (fire.actor.events + fire.other.events >= fire.until) {
        fire.over = true;
        aioloop_stop(loop);
        return;
    }
    while (n-- > 0)
        fire_world();
    if (fire_pick(&fire.actor, 4) == 0) {
        aioloop_timer_handle t =
            aioloop_call_later(loop, (aioloop_time)fire_size(&fire.actor, 1000000), fire_drive, NULL);
        if (aioloop_handle_is_null(&t.handle))
            fire_die(NULL, "no call_later");
    } else {
        aioloop_handle h = aioloop_call_soon(loop, fire_drive, NULL);
        if (aioloop_handle_is_null(&h))
            fire_die(NULL, "no call_soon");
    }
}

/* Nothing new; every connection ends in order. */
static void fire_drain(aioloop *loop, void *arg) {
    aioloop_timer_handle t;
    uint32_t theirs;
    uint32_t i;
    (void)arg;
    fire_enter();
    fire.actor.events--;
    for (i = fire.live_count; i > 0; i--) {
        fire_end *e = fire.live[i - 1];
        if (e->kind == FIRE_RAW && e->stage == FIRE_OPEN) {
            if (e->reading || e->writing)
                fire_unwatch(e);
            fire_raw_drain(&fire.actor, e);
        } else if (e->stage == FIRE_WAITING) {
            if (e->kind == FIRE_DEAF && e->future != NULL && !e->cancelled)
                fire_cancel(e);
        } else if (e->transport != NULL && e->kind == FIRE_DEAF) {
            fire_close(e, false);
        } else if (e->transport != NULL && !aioloop_transport_is_closing(e->transport)) {
            if (e->paused)
                fire_pause(e, false);
            fire_end_writing(e);
            if (e->eof && !e->closing)
                fire_close(e, true);
        } else if (e->transport != NULL && fire_clock() > fire.drain_until - 59 * INT64_C(1000000000)) {
            fire_close(e, false); /* two that closed wait for each other to read */
        }
        if (i > fire.live_count)
            i = fire.live_count + 1;
    }
    pthread_mutex_lock(&fire.lock);
    theirs = fire.their_count;
    pthread_mutex_unlock(&fire.lock);
    if (fire.live_count == 0 && theirs == 0) {
        fire.over = true;
        aioloop_stop(loop);
        return;
    }
    if (fire_clock() > fire.drain_until)
        fire_die(fire.live_count != 0 ? fire.live[0] : fire.theirs[0],
                 "%u connections do not end, and %u of the thread's", (unsigned)fire.live_count, (unsigned)theirs);
    t = aioloop_call_later(loop, 200000, fire_drain, NULL);
    if (aioloop_handle_is_null(&t.handle))
        fire_die(NULL, "no call_later");
}

/* ---- the thread ---- */

/* Under the lock. */
static void fire_thread_open(void) {
    fire_server *s = fire.open_servers[fire_pick(&fire.other, FIRE_SERVERS)];
    fire_end *e;
    if (s == NULL || fire_full() || fire.their_count > 40)
        return;
    e = fire_end_new(FIRE_THREAD, s->is_unix);
    fire.connections++;
    if (!fire_raw_connect(&fire.other, e, s)) {
        e->stage = FIRE_NEVER;
        return;
    }
    e->stage = FIRE_OPEN;
    e->live_at = fire.their_count;
    fire.theirs[fire.their_count++] = e;
}

static void fire_thread_turn(void) {
    fire_actor *a = &fire.other;
    uint32_t i;
    if (fire.thread_drains) {
        for (i = fire.their_count; i > 0; i--) {
            fire_raw_drain(a, fire.theirs[i - 1]);
            if (i > fire.their_count)
                i = fire.their_count + 1;
        }
        return;
    }
    for (i = 0; i < 6; i++)
        if (fire.their_count != 0)
            fire_raw_act(a, fire.theirs[fire_pick(a, fire.their_count)]);
    if (fire_pick(a, 3) == 0)
        fire_thread_open();
    if (fire.thread_posts && fire_pick(a, 8) == 0) {
        aioloop_handle h = aioloop_call_soon_threadsafe(fire.loop, fire_posted, (void *)(uintptr_t)fire.post_made++);
        if (aioloop_handle_is_null(&h))
            fire_die(NULL, "a post is refused");
        fire.posts++;
    }
}

static void *fire_thread(void *arg) {
    bool quit = false;
    (void)arg;
    while (!quit) {
        struct timespec pause;
        pthread_mutex_lock(&fire.lock);
        quit = fire.thread_quit;
        if (!quit)
            fire_thread_turn();
        pause.tv_sec = 0;
        pause.tv_nsec = (long)fire_size(&fire.other, 300000);
        pthread_mutex_unlock(&fire.lock);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void fire_thread_set(bool drains, bool posts) {
    pthread_mutex_lock(&fire.lock);
    fire.thread_drains = drains;
    fire.thread_posts = posts;
    pthread_mutex_unlock(&fire.lock);
}

/* ---- a round ---- */

static void fire_reported(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    (void)arg;
    fire.actor.events++;
    if (context->error != AIOLOOP_EIO) /* factories say that */
        fire_die(NULL, "%s: %s", context->message != NULL ? context->message : "an error",
                 aioloop_strerror(context->error));
}

static void fire_logged(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    (void)loop;
    (void)arg;
    if (level != AIOLOOP_LOG_WARNING || strstr(text, "writing to a transport that is closed") == NULL)
        fire_die(NULL, "the log says: %s", text);
}

static int fire_count_fds(void) {
    int count = 0;
    int fd;
    for (fd = 0; fd < FIRE_FDS; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

/* In another main loop. */
static void fire_foreign_turn(int fd) {
    aioloop_time deadline = aioloop_next_deadline(fire.loop);
    int64_t left = deadline == AIOLOOP_FOREVER ? 1000000000 : deadline - aioloop_now(fire.loop);
    struct timespec wait;
    struct pollfd p;
    int n;
    p.fd = fd;
    p.events = POLLIN;
    if (left < 0)
        left = 0;
    wait.tv_sec = (time_t)(left / 1000000000);
    wait.tv_nsec = (long)(left % 1000000000);
    n = ppoll(&p, 1, &wait, NULL);
    if (n < 0 && errno != EINTR)
        fire_die(NULL, "poll: %s", strerror(errno));
    n = aioloop_run_once(fire.loop, 0);
    if (n < 0 && n != AIOLOOP_EFATAL)
        fire_die(NULL, "run_once: %s", aioloop_strerror(n));
}

static void fire_run(unsigned how) {
    int fd = how == 2 ? aioloop_backend_fd(fire.loop) : -1;
    fire.over = false;
    while (!fire.over) {
        int err = 0;
        if (how == 2 && fd >= 0)
            fire_foreign_turn(fd);
        else if (how == 1)
            err = aioloop_run_once(fire.loop, (aioloop_time)fire_size(&fire.actor, 2000000) - 1);
        else
            err = aioloop_run_forever(fire.loop);
        if (err < 0 && err != AIOLOOP_EFATAL)
            fire_die(NULL, "the run ends: %s", aioloop_strerror(err));
    }
}

static void fire_begin(aioloop_callback fn) {
    aioloop_handle h = aioloop_call_soon(fire.loop, fn, NULL);
    if (aioloop_handle_is_null(&h))
        fire_die(NULL, "no call_soon");
}

/* What arrived is what was written. */
static void fire_check_streams(bool drained) {
    uint32_t i;
    for (i = 1; i <= fire.end_count; i++) {
        const fire_end *e = fire.ends[i];
        const fire_end *peer = fire_peer(e);
        if (e->lent != 0)
            fire_die(e, "%d pieces of memory were not given back", e->lent);
        if (drained && e->made && !e->lost)
            fire_die(e, "connection_lost did not come");
        if (e->error != 0 && e->stage == FIRE_OVER &&
            (peer != NULL ? !peer->closing && peer->stage != FIRE_NEVER : e->kind == FIRE_RAW && e->server == NULL))
            fire_die(e, "an error without a reason");
        if (peer == NULL)
            continue;
        if (peer->peer_id != 0 && peer->peer_id != e->id && e->peer_id != 0)
            fire_die(e, "its peer has another peer");
        if (e->received > peer->written)
            fire_die(e, "more arrived than was written");
        if (!e->eof)
            continue;
        if (!peer->closing && !peer->write_ended)
            fire_die(e, "an end of file that nobody sent");
        if (!peer->unclean && e->received != peer->written)
            fire_die(e, "an end of file before the last byte");
    }
    /* Those that ended in order and were not heard of can only have met an end that did not want to hear. */
    for (i = 1; i <= fire.end_count; i++) {
        const fire_end *e = fire.ends[i];
        if (e->client && e->server != NULL && !e->unclean && e->written >= 8 && e->pair == NULL)
            e->server->orphans++;
    }
    for (i = 1; i <= fire.end_count; i++) {
        const fire_end *e = fire.ends[i];
        const fire_end *peer = e->peer_id != 0 ? fire.ends[e->peer_id] : NULL;
        if (!e->client && peer != NULL && peer->client && peer->server != NULL && !peer->unclean &&
            peer->written >= 8 && peer->pair == NULL)
            peer->server->orphans--;
    }
    for (i = 0; i < fire.server_count && drained; i++) {
        const fire_server *s = fire.all_servers[i];
        if (s->server != NULL && s->orphans > s->careless)
            fire_die(NULL, "%u clients of a server ended in order, but were never heard of; it ended %u",
                     (unsigned)s->orphans, (unsigned)s->careless);
    }
}

static void fire_round_open(void) {
    static const aioloop_allocator allocator = {fire_allocate, NULL};
    aioloop_config config = AIOLOOP_ZERO;
    uint32_t i;
    fire.phase = FIRE_SCRIPT;
    fire.actor.random = fire.seed * UINT64_C(1000003) + fire.round;
    fire.other.random = ~fire.actor.random;
    fire.wanted = 60;
    fire.accepted_owned = fire.released_owned = 0;
    fire.soon_made = fire.soon_ran = 0;
    fire.post_made = fire.post_ran = 0;
    fire.depth = 0;
    fire.in_use = 0;
    for (i = 0; i < FIRE_SLOTS; i++) {
        fire.watches[i].fd = -1;
        fire.timers[i].pending = false;
    }
    config.backend = fire.backend;
    config.allocator = &allocator;
    fire.loop = aioloop_new_event_loop(&config);
    if (fire.loop == NULL)
        fire_die(NULL, "no loop: %s", aioloop_error_message(aioloop_last_error(NULL)));
    aioloop_set_exception_handler(fire.loop, fire_reported, NULL);
    aioloop_set_log(fire.loop, fire_logged, NULL);
    fire.thread_quit = false;
    fire_thread_set(false, true);
    if (pthread_create(&fire.thread, NULL, fire_thread, NULL) != 0)
        fire_die(NULL, "no thread");
}

static void fire_round_forget(void) {
    uint32_t i;
    for (i = 1; i <= fire.end_count; i++)
        free(fire.ends[i]);
    for (i = 0; i < fire.server_count; i++)
        free(fire.all_servers[i]);
    for (i = 0; i < FIRE_RETIRED; i++) {
        if (fire.retired[i] != NULL) {
            free(fire.retired[i]->data);
            free(fire.retired[i]);
        }
        fire.retired[i] = NULL;
    }
    fire.end_count = 0;
    fire.live_count = 0;
    fire.server_count = 0;
}

/* The loop goes with everything open: the other ends see it, the addresses are free, memory comes back. */
static void fire_round_drop(void) {
    uint32_t i;
    int err;
    pthread_mutex_lock(&fire.lock);
    for (i = 0; i < FIRE_SLOTS; i++)
        if (fire.watches[i].fd != -1 && fire_pick(&fire.actor, 2) != 0)
            fire_watch_end(&fire.watches[i]);
    for (i = 0; i < fire.live_count; i++) {
        fire_end *e = fire.live[i];
        if (e->kind == FIRE_RAW)
            e->reading = e->writing = false; /* that ends with the loop */
        else
            e->unclean = e->closing = true;
        if (e->future != NULL) {
            (void)aioloop_future_exception(e->future);
            aioloop_future_unref(e->future);
        }
    }
    fire.phase = FIRE_CLOSED;
    fire.thread_posts = false;
    err = fire_pick(&fire.actor, 2) != 0 ? aioloop_close(fire.loop) : 0;
    if (err < 0 || (err = aioloop_free(fire.loop)) < 0)
        fire_die(NULL, "freeing the loop: %s", aioloop_strerror(err));
    for (i = 0; i < FIRE_SERVERS; i++) {
        fire_server *s = fire.open_servers[i];
        fire.open_servers[i] = NULL;
        if (s != NULL)
            fire_expect_free(s);
    }
    for (i = 0; i < FIRE_SLOTS; i++) {
        fire.watches[i].reader = fire.watches[i].writer = false;
        if (fire.watches[i].fd != -1)
            fire_watch_end(&fire.watches[i]);
    }
    fire.thread_drains = true;
    pthread_mutex_unlock(&fire.lock);
    for (i = fire.live_count; i > 0; i--) {
        fire_end *e = fire.live[i - 1];
        if (e->kind != FIRE_RAW || e->stage != FIRE_OPEN)
            continue;
        if (!e->eof)
            fire_raw_expect_end(&fire.actor, e, "the loop is freed");
        if (e->stage == FIRE_OPEN)
            fire_raw_close(&fire.actor, e, false);
        if (i > fire.live_count)
            i = fire.live_count + 1;
    }
    for (i = 0; i < 20000; i++) {
        struct timespec pause = {0, 500000};
        uint32_t theirs;
        pthread_mutex_lock(&fire.lock);
        theirs = fire.their_count;
        pthread_mutex_unlock(&fire.lock);
        if (theirs == 0)
            return;
        nanosleep(&pause, NULL);
    }
    fire_die(fire.theirs[0], "the loop is freed, but the thread's ends see no end");
}

/* A last turn, and then one more. */
static void fire_settled(aioloop *loop, void *arg) {
    (void)arg;
    if (fire_pick(&fire.actor, 3) != 0) {
        fire_begin(fire_settled);
        return;
    }
    fire.over = true;
    aioloop_stop(loop);
}

static void fire_round_drain(unsigned how) {
    uint32_t i;
    int err;
    fire.phase = FIRE_DRAIN;
    fire_thread_set(true, false);
    fire.drain_until = fire_clock() + INT64_C(60000000000);
    if (fire_pick(&fire.actor, 2) != 0)
        fire_server_close(fire_pick(&fire.actor, FIRE_SERVERS));
    fire_begin(fire_drain);
    fire_run(how);
    fire_check_streams(true);
    fire.phase = FIRE_SETTLE;
    for (i = 0; i < FIRE_SERVERS; i++)
        fire_server_close(i);
    for (i = 0; i < FIRE_SLOTS; i++) {
        if (fire.watches[i].fd != -1)
            fire_watch_end(&fire.watches[i]);
        if (fire.timers[i].pending)
            aioloop_timer_handle_cancel(&fire.timers[i].handle);
    }
    fire_begin(fire_settled);
    fire_run(how);
    aioloop_verify(fire.loop);
    if (fire.soon_ran != fire.soon_made || fire.post_ran != fire.post_made)
        fire_die(NULL, "callbacks did not run");
    if (fire.accepted_owned != fire.released_owned)
        fire_die(NULL, "lent memory was not released");
    err = aioloop_free(fire.loop);
    if (err < 0)
        fire_die(NULL, "freeing the loop: %s", aioloop_strerror(err));
}

static void fire_play(uint64_t events) {
    int fds = fire_count_fds();
    unsigned how = fire.round % 4 == 3 ? 1 : fire.round % 4 == 2 ? 2 : 0;
    bool drop;
    uint32_t i;
    fire_round_open();
    fire.until = fire.actor.events + fire.other.events + events;
    for (i = 0; i < 3; i++)
        fire_server_open();
    fire_begin(fire_drive);
    fire_run(how);
    drop = fire.round % 4 == 1 && !fire.in_order;
    if (drop)
        fire_round_drop();
    else
        fire_round_drain(how);
    fire.loop = NULL;
    pthread_mutex_lock(&fire.lock);
    fire.thread_quit = true;
    pthread_mutex_unlock(&fire.lock);
    pthread_join(fire.thread, NULL);
    fire_pool_check();
    fire_check_streams(false);
    if (fire.accepted_owned != fire.released_owned)
        fire_die(NULL, "lent memory was not released");
    if (fire.in_use != 0)
        fire_die(NULL, "%ld bytes of memory are left", (long)fire.in_use);
    if (fire_count_fds() != fds)
        fire_die(NULL, "%d descriptors are left where %d were", fire_count_fds(), fds);
    fire_round_forget();
}

/* ---- main ---- */

static void fire_actor_open(fire_actor *a) {
    a->scratch = (unsigned char *)fire_memory(FIRE_WRITE + 1);
    a->trace = (fire_trace *)fire_memory(FIRE_TRACE * sizeof(a->trace[0]));
}

/* A listener whose queue is full: who connects waits. */
static void fire_clog(void) {
    size_t i;
    fire.clog = fire_listen(&fire.clog_port, 0);
    for (i = 0; i < sizeof(fire.clogs) / sizeof(fire.clogs[0]); i++) {
        struct sockaddr_in to = fire_inet(1, fire.clog_port);
        fire.clogs[i] = fire_socket(AF_INET);
        fire_nonblocking(fire.clogs[i]);
        (void)connect(fire.clogs[i], (const struct sockaddr *)(const void *)&to, sizeof(to));
    }
}

static void fire_on_alarm(int number) {
    static const char text[] = "fire: it hangs\n";
    ssize_t n = write(2, text, sizeof(text) - 1);
    (void)n;
    (void)number;
    abort();
}

int main(int argc, char **argv) {
    uint64_t events = 1000000;
    uint64_t played = 0;
    uint32_t only = UINT32_MAX;
    int64_t began = fire_clock();
    aioloop *loop;
    int k;
    fire.seed = (uint64_t)time(NULL);
    for (k = 1; k < argc; k++) {
        if (strcmp(argv[k], "-v") == 0) {
            fire.verbose = true;
        } else if (strcmp(argv[k], "--in-order") == 0) {
            fire.in_order = true;
        } else if (k + 1 < argc && strcmp(argv[k], "--events") == 0) {
            events = strtoull(argv[++k], NULL, 10);
        } else if (k + 1 < argc && strcmp(argv[k], "--seed") == 0) {
            fire.seed = strtoull(argv[++k], NULL, 10);
        } else if (k + 1 < argc && strcmp(argv[k], "--round") == 0) {
            only = (uint32_t)strtoul(argv[++k], NULL, 10);
        } else {
            fprintf(stderr, "usage: %s [--events N] [--seed S] [--round R] [--in-order] [-v]\n", argv[0]);
            return 2;
        }
    }
    signal(SIGALRM, fire_on_alarm);
    signal(SIGPIPE, SIG_IGN);
    pthread_mutex_init(&fire.lock, NULL);
    pthread_mutex_init(&fire.memory_lock, NULL);
    fire_actor_open(&fire.actor);
    fire_actor_open(&fire.other);
    fire.backend = getenv("AIOLOOP_BACKEND");
    if (fire.backend == NULL || fire.backend[0] == '\0')
        fire.backend = NULL;
    loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "fire: no loop: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    if (fire.backend == NULL)
        fire.backend = aioloop_backend_name(loop);
    aioloop_free(loop);
    printf("fire: %s: seed %lu, %lu events\n", fire.backend, (unsigned long)fire.seed, (unsigned long)events);
    fflush(stdout);
    fire.pairing = fire_listen(&fire.pairing_port, 64);
    fire_clog();
    fire_pool_open();
    fire.round = only != UINT32_MAX ? only : 0;
    while (played < events) {
        uint64_t left = events - played;
        alarm(300);
        fire_play(left < FIRE_ROUND ? left : FIRE_ROUND);
        played = fire.actor.events + fire.other.events;
        fire.round++;
        if (only != UINT32_MAX)
            break;
    }
    printf("fire: %s: seed %lu: %lu events in %u rounds, %.1f s: %lu connections, %lu servers, %.0f MB checked, %lu "
           "buffers lent to "
           "be filled, %lu to be sent, %lu posts; %lu addresses free at once, %lu ends seen at once (the slowest after "
           "%.1f ms)\n",
           fire.backend, (unsigned long)fire.seed, (unsigned long)played, (unsigned)fire.round,
           (double)(fire_clock() - began) / 1e9, (unsigned long)fire.connections, (unsigned long)fire.servers,
           (double)(fire.actor.bytes + fire.other.bytes) / 1e6, (unsigned long)fire.lendings, (unsigned long)fire.owned,
           (unsigned long)fire.posts, (unsigned long)fire.refusals, (unsigned long)fire.ends_seen,
           (double)fire.slowest / 1e6);
    return 0;
}
