/*
 * simulate.c - random scripts on the simulated back end, checked against a model of what a transport may do.
 *
 *     simulate [--delayed|--readiness|--both] [--faults] [-v] FIRST COUNT
 *
 * Each seed from FIRST on makes a loop on the simulated network and plays a script of its own: connections of all
 * kinds are opened, written to, paused, half closed, broken, cancelled and handed to other protocols, from outside
 * and from inside every callback, while the model watches (TRN, BUF and FLOW rows of the conformance table): the
 * order of the protocol's calls; every byte that arrives (byte p of a stream is a function of p and of who wrote it);
 * that an end of file comes only after all of an orderly writer's bytes; that nothing is delivered while paused or
 * closing; that an error has a reason; that flow control alternates and agrees with the marks; that lent memory comes
 * back once and is not read afterwards; that every future settles. Then the network is healed: everything must
 * arrive, everything closes, and every byte of memory must be back.
 *
 * With --faults each run is repeated with one of its allocations failing. Every 100th seed is played twice, and both
 * runs must leave the same trace. -v prints the script. A violation prints the seed and the command that replays it,
 * and ends with 1.
 *
 * Not part of the test program: it has a main of its own and needs no runner. Long, because it is a model, a script
 * and their operations, which all look at each other.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIM_ENDS 250 /* in one run; an end's id is the first byte it sends */
#define SIM_SERVERS 12
#define SIM_FUTURES 160
#define SIM_TIMERS 160
#define SIM_RAISES 64
#define SIM_RAISE_FIRST (-41000) /* the codes that callbacks raise count down from here */
#define SIM_INSTANCES 4
#define SIM_PLACE 4096 /* what buffered protocols offer at most */

#if defined(__GNUC__) || defined(__clang__)
#define SIM_NORETURN __attribute__((noreturn))
#define SIM_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define SIM_NORETURN
#define SIM_PRINTF(text, first)
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(SIM_ASAN)
#define SIM_ASAN 1
#endif
#ifndef SIM_ASAN
#define SIM_ASAN 0
#endif

/* ---- the model ---- */

typedef enum sim_kind { SIM_TCP, SIM_UNIX, SIM_PAIR } sim_kind;

/* RAW: a socket of a pair that no transport has yet. WAITING: its connection is being made. NEVER: it never will be. */
typedef enum sim_stage { SIM_RAW, SIM_WAITING, SIM_OPEN, SIM_LOST, SIM_NEVER } sim_stage;

struct sim_end;
struct sim_server;
struct sim_future;

/* What protocols get as self. Another one with each set_protocol, so a call that goes to an old one is seen. */
typedef struct sim_instance {
    struct sim_end *end;
} sim_instance;

/* One end of a connection. */
typedef struct sim_end {
    int id;
    sim_kind kind;
    sim_stage stage;
    bool client;
    aioloop_socket socket;        /* RAW */
    aioloop_transport *transport; /* while it is safe to use */
    int refs;                     /* ours */
    struct sim_end *peer;         /* NULL: not known, or there is none */
    struct sim_server *server;    /* that accepted it */
    struct sim_future *future;    /* of its making */
    aioloop_address local;        /* TCP */
    aioloop_address remote;

    sim_instance instances[SIM_INSTANCES];
    void *self; /* the current one */
    const aioloop_protocol *protocol;

    uint64_t written; /* bytes that write accepted, the first being the id */
    uint64_t received;
    bool read_paused;
    bool write_paused; /* the protocol was told */
    bool write_ended;
    bool eof;
    bool closing; /* is_closing was true once */
    bool ended;   /* it was closed or aborted here: losing it without an error has a reason */
    bool unclean; /* what it wrote may be lost */
    bool silent;  /* it had a protocol without eof_received at some time */
    bool strict;  /* connection_lost must say strict_error */
    int strict_error;
    bool raised; /* a callback failed, with raised_code */
    int raised_code;
    bool broken;
    bool buffer_refused; /* get_buffer gave nothing */
    bool gave_up;        /* the connection was cancelled while its factory or connection_made ran */
    bool in_factory;
    bool in_lost;
    bool last; /* its peer closes first */
    int lent;  /* pieces of memory that the library has */
    size_t high;
    size_t low;
    void *place; /* get_buffer's answer, until buffer_updated */
    size_t place_size;
} sim_end;

typedef struct sim_server {
    aioloop_server *server;
    sim_kind kind;
    bool closed;
    bool serving;
    bool forever; /* serve_forever is pending */
    int port;
    char path[24];
} sim_server;

typedef enum sim_future_kind { SIM_CONNECT, SIM_WAIT_CLOSED, SIM_SERVE } sim_future_kind;

/* How a future was used. */
typedef enum sim_use {
    SIM_THEN,
    SIM_CLAIM,          /* and asked now and then */
    SIM_CLAIM_CALLBACK, /* and add_done_callback */
    SIM_DROP,
    SIM_USES
} sim_use;

typedef struct sim_future {
    aioloop_future *future;
    sim_future_kind kind;
    sim_use use;
    sim_end *end;
    sim_server *server;
    bool over;      /* its result was seen, or is nobody's any more */
    bool held;      /* we have a claim */
    bool timed;     /* with a time-out */
    bool bound;     /* with a local address */
    bool cancelled; /* by us */
    int factory_code;
} sim_future;

typedef struct sim_timer {
    aioloop_timer_handle handle;
    bool soon;
    bool ran;
    bool cancelled;
    uint64_t order;
} sim_timer;

typedef struct sim_lent {
    struct sim_lent *next;
    sim_end *end;
    unsigned char *data;
    size_t size;
    bool released;
    bool refused;
} sim_lent;

typedef enum sim_phase {
    SIM_SCRIPT,  /* anything goes */
    SIM_HEALED,  /* no more operations; everything arrives */
    SIM_ORDERLY, /* connections are closed */
    SIM_FREEING  /* the loop is closed: nobody is called */
} sim_phase;

static struct {
    const char *program;
    bool verbose;
    bool faults;
    uint64_t operations; /* of all runs, and what the callbacks were told */
    uint64_t callbacks;
    uint64_t bytes;
} sim_total;

typedef struct sim_world {
    uint64_t seed;
    bool delayed;
    uint64_t random;
    uint64_t hash;
    aioloop *loop;
    sim_phase phase;
    int depth;         /* of operations inside callbacks */
    int in_call;       /* inside a call that may call nobody but pause_writing and handlers */
    int operations;    /* left */
    uint32_t enabled;  /* which operations this run knows */
    uint32_t raise_in; /* one callback in this many fails; 0: none */
    uint32_t size_limit;
    bool partition;
    bool accepts_fail;
    bool fatal; /* a callback raised AIOLOOP_EFATAL in this iteration */
    bool broke[3];

    sim_end ends[SIM_ENDS];
    int end_count;
    sim_server servers[SIM_SERVERS];
    int server_count;
    sim_future futures[SIM_FUTURES];
    int future_count;
    sim_timer timers[SIM_TIMERS];
    int timer_count;
    uint64_t soon_order;
    uint64_t soon_last;
    bool raise_reported[SIM_RAISES];
    int raise_count;
    sim_lent *lent;
    size_t lent_count;

    uint64_t allocations;
    uint64_t fault_at; /* the allocation that fails; 0: none */
    bool fault_fired;
    size_t blocks;
    size_t bytes;
    unsigned char place[SIM_PLACE + 16];
} sim_world;

static sim_world sim;

static const int sim_break_codes[3] = {AIOLOOP_ECONNRESET, AIOLOOP_ETIMEDOUT, AIOLOOP_EHOSTUNREACH};

/* ---- telling ---- */

static const char *sim_personality(void) {
    return sim.delayed ? "--delayed" : "--readiness";
}

static void sim_print_replay(void) {
    fprintf(stderr, "replay: %s %s%s -v %llu 1\n", sim_total.program, sim_personality(),
            sim_total.faults ? " --faults" : "", (unsigned long long)sim.seed);
}

static SIM_NORETURN void sim_fail(int line, const char *format, ...) SIM_PRINTF(2, 3);

static SIM_NORETURN void sim_fail(int line, const char *format, ...) {
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "simulate.c:%d: seed %llu, %s: ", line, (unsigned long long)sim.seed,
            sim.delayed ? "delayed" : "readiness");
    if (sim.fault_at != 0)
        fprintf(stderr, "allocation %llu failing: ", (unsigned long long)sim.fault_at);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    sim_print_replay();
    exit(1);
}

#define SIM_CHECK(condition, ...)                                                                                      \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            sim_fail(__LINE__, __VA_ARGS__);                                                                           \
    } while (0)

static void sim_mix(uint64_t value) {
    sim.hash = (sim.hash ^ value) * UINT64_C(0x100000001b3);
    sim.hash ^= sim.hash >> 29;
}

/* Everything that happens goes through here: into the trace, and with -v to the reader. */
static void sim_trace(const char *what, int who, int64_t a, int64_t b) {
    aioloop_time now = sim.loop == NULL ? 0 : aioloop_now(sim.loop);
    const char *c;
    for (c = what; *c != '\0'; c++)
        sim_mix((unsigned char)*c);
    sim_mix((uint64_t)now);
    sim_mix((uint64_t)who);
    sim_mix((uint64_t)a);
    sim_mix((uint64_t)b);
    if (sim_total.verbose)
        printf("%12.6f %*s%-18s #%-3d %lld %lld\n", (double)now / 1e9, 2 * sim.depth, "", what, who, (long long)a,
               (long long)b);
}

static void sim_on_signal(int number) {
    static const char text[] = "simulate: crashed or hung\n";
    ssize_t n = write(2, text, sizeof(text) - 1);
    (void)n;
    fflush(stdout);
    sim_print_replay(); /* not safe in a handler, but the process is lost anyway */
    _exit(128 + number);
}

#if SIM_ASAN
#ifdef __cplusplus
extern "C"
#endif
    void
    __asan_on_error(void);
void __asan_on_error(void) {
    sim_print_replay();
}
#endif

/* ---- chance ---- */

/* splitmix64 */
static uint64_t sim_draw(void) {
    uint64_t z = sim.random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint32_t sim_below(uint32_t bound) {
    return (uint32_t)((sim_draw() >> 32) * bound >> 32);
}

static bool sim_one_in(uint32_t n) {
    return sim_below(n) == 0;
}

/* Times are few and round, so that things fall together. */
static aioloop_time sim_time(void) {
    static const int ms[] = {0, 0, 1, 1, 2, 3, 5, 10, 20};
    return AIOLOOP_MS(ms[sim_below(9)]);
}

static size_t sim_size(void) {
    if (sim_one_in(12))
        return 0;
    return 1 + sim_below(sim_one_in(3) ? sim.size_limit : 1 + sim.size_limit / 16);
}

/* ---- memory ---- */

typedef struct sim_block {
    size_t size;
    size_t mark;
} sim_block;

#define SIM_MARK ((size_t)0x51b10c51)

static void *sim_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    sim_block *old = pointer == NULL ? NULL : (sim_block *)pointer - 1;
    sim_block *block = NULL;
    (void)context;
    if (old != NULL) {
        SIM_CHECK(old->mark == SIM_MARK, "a block is freed that is none");
        SIM_CHECK(old->size == old_size, "a block of %lu bytes is freed as %lu", (unsigned long)old->size,
                  (unsigned long)old_size);
    }
    if (new_size != 0) {
        if (++sim.allocations == sim.fault_at) {
            sim.fault_fired = true;
            sim_trace("FAULT", 0, (int64_t)new_size, 0);
            return NULL;
        }
        block = (sim_block *)malloc(sizeof(*block) + new_size);
        SIM_CHECK(block != NULL, "the machine is out of memory");
        block->size = new_size;
        block->mark = SIM_MARK;
        memset(block + 1, 0xa5, new_size);
        if (old != NULL)
            memcpy(block + 1, old + 1, old_size < new_size ? old_size : new_size);
        sim.blocks++;
        sim.bytes += new_size;
    }
    if (old != NULL) {
        sim.blocks--;
        sim.bytes -= old_size;
        memset(old, 0xdd, sizeof(*old) + old_size);
        free(old);
    }
    return block == NULL ? NULL : block + 1;
}

/* The codes that running out of memory may cause anywhere. */
static bool sim_is_fault(int64_t code) {
    return sim.fault_fired && (code == AIOLOOP_ENOMEM || code == AIOLOOP_ENOBUFS);
}

/* ---- streams ---- */

static unsigned char sim_byte(int id, uint64_t position) {
    uint64_t x = (position + ((uint64_t)id << 40)) * UINT64_C(0x9e3779b97f4a7c15);
    if (position == 0)
        return (unsigned char)id;
    return (unsigned char)((x ^ x >> 31) >> 16);
}

static void sim_fill(const sim_end *e, uint64_t position, unsigned char *data, size_t size) {
    size_t i;
    for (i = 0; i < size; i++)
        data[i] = sim_byte(e->id, position + i);
}

static sim_end *sim_new_end(sim_kind kind, bool client) {
    sim_end *e;
    int i;
    SIM_CHECK(sim.end_count < SIM_ENDS - 1, "too many ends");
    e = &sim.ends[++sim.end_count]; /* 0 is nobody */
    memset(e, 0, sizeof(*e));
    e->id = sim.end_count;
    e->kind = kind;
    e->stage = SIM_WAITING;
    e->client = client;
    e->high = 65536;
    e->low = 16384;
    for (i = 0; i < SIM_INSTANCES; i++)
        e->instances[i].end = e;
    return e;
}

static void sim_join(sim_end *a, sim_end *b) {
    a->peer = b;
    b->peer = a;
    if (a->broken || b->broken)
        a->broken = b->broken = true;
}

/* True if an end will never send anything more, or cannot any more. */
static bool sim_is_gone(const sim_end *e) {
    if (e == NULL || e->stage == SIM_LOST || e->stage == SIM_NEVER)
        return true;
    if (e->stage == SIM_WAITING) /* its making may have failed, and nobody has looked yet */
        return sim.fault_fired;
    return e->stage == SIM_OPEN && aioloop_transport_is_closing(e->transport);
}

/* What must be so of an end at any time. */
static void sim_check_end(sim_end *e) {
    size_t low = 0;
    size_t high = 0;
    size_t size;
    bool closing;
    if (e->transport == NULL)
        return;
    closing = aioloop_transport_is_closing(e->transport);
    SIM_CHECK(closing || !e->closing, "end %d was closing and is not", e->id);
    SIM_CHECK(closing || e->stage == SIM_OPEN, "end %d is lost but not closing", e->id);
    if (closing && !e->closing)
        sim_trace("closing", e->id, 0, 0);
    e->closing = closing;
    SIM_CHECK(aioloop_transport_is_reading(e->transport) == (!closing && !e->read_paused),
              "end %d: is_reading is wrong", e->id);
    aioloop_transport_get_write_buffer_limits(e->transport, &low, &high);
    SIM_CHECK(low == e->low && high == e->high, "end %d: the marks are %lu and %lu", e->id, (unsigned long)low,
              (unsigned long)high);
    size = aioloop_transport_get_write_buffer_size(e->transport);
    SIM_CHECK(closing || e->write_paused || size <= high, "end %d: %lu bytes are buffered and it is not paused", e->id,
              (unsigned long)size);
    SIM_CHECK(size <= e->written, "end %d: more is buffered than was written", e->id);
    SIM_CHECK(e->stage != SIM_LOST || e->in_lost || size == 0, "end %d is lost and has %lu bytes", e->id,
              (unsigned long)size);
    if (!sim.delayed && e->peer != NULL)
        SIM_CHECK(size + e->peer->received <= e->written, "end %d: bytes that have arrived count as buffered", e->id);
}

/* ---- what callbacks have in common ---- */

static void sim_play(sim_end *e);

static sim_end *sim_entered(aioloop_transport *transport, void *self, const char *what, int64_t n) {
    sim_end *e = ((sim_instance *)self)->end;
    sim_total.callbacks++;
    sim_trace(what, e->id, n, 0);
    SIM_CHECK(sim.phase != SIM_FREEING, "end %d: %s after the loop was closed", e->id, what);
    SIM_CHECK(e->self == self, "end %d: %s of a protocol that was replaced", e->id, what);
    SIM_CHECK(e->stage == SIM_OPEN, "end %d: %s in stage %d", e->id, what, (int)e->stage);
    SIM_CHECK(e->transport == transport, "end %d: %s of another transport", e->id, what);
    sim_check_end(e);
    return e;
}

/* Nobody is called from inside a call. */
static void sim_from_loop(const sim_end *e, const char *what) {
    SIM_CHECK(sim.in_call == 0, "end %d: %s from inside a call", e->id, what);
    SIM_CHECK(aioloop_is_running(sim.loop), "end %d: %s outside of a run", e->id, what);
}

/* Whether a callback is to fail, and with which code; 0: not. */
static int sim_raise(const char *where, int who) {
    int code;
    if (sim.phase != SIM_SCRIPT || sim.raise_in == 0 || !sim_one_in(sim.raise_in) || sim.raise_count == SIM_RAISES)
        return 0;
    if (sim_one_in(10)) {
        sim_trace("raise fatal", who, 0, 0);
        sim.fatal = aioloop_is_running(sim.loop); /* outside of a run there is none to end */
        return aioloop_raise(sim.loop, AIOLOOP_EFATAL, NULL);
    }
    code = SIM_RAISE_FIRST - sim.raise_count;
    sim.raise_reported[sim.raise_count++] = false;
    sim_trace("raise", who, code, 0);
    return aioloop_raise(sim.loop, code, sim_one_in(2) ? NULL : "raised in %s", where);
}

/* A raise whose error ends the connection. */
static int sim_raise_ending(sim_end *e, const char *where) {
    int code = sim_raise(where, e->id);
    if (code == 0)
        return 0;
    e->raised = true;
    e->raised_code = code;
    e->unclean = true;
    if (!aioloop_transport_is_closing(e->transport)) {
        e->strict = true;
        e->strict_error = code;
    }
    return code;
}

/* ---- the protocol ---- */

static void sim_pair_tcp(sim_end *e) {
    int i;
    const void *local = aioloop_transport_get_extra_info(e->transport, "sockname", NULL);
    const void *remote = aioloop_transport_get_extra_info(e->transport, "peername", NULL);
    /* Neither has a name if the network broke the connection before it was looked at. */
    if (local == NULL || remote == NULL)
        return;
    e->local = *(const aioloop_address *)local;
    e->remote = *(const aioloop_address *)remote;
    for (i = 1; i <= sim.end_count; i++) {
        sim_end *other = &sim.ends[i];
        if (other != e && other->kind == SIM_TCP && other->client != e->client && other->peer == NULL &&
            (other->stage == SIM_OPEN || other->stage == SIM_LOST) && other->local.family != AIOLOOP_UNSPEC &&
            aioloop_address_equal(&other->local, &e->remote) && aioloop_address_equal(&other->remote, &e->local))
            sim_join(e, other);
    }
}

static void sim_made(aioloop_transport *transport, void *self) {
    sim_end *e = ((sim_instance *)self)->end;
    sim_total.callbacks++;
    sim_trace("connection_made", e->id, 0, 0);
    SIM_CHECK(sim.phase != SIM_FREEING, "end %d: connection_made after the loop was closed", e->id);
    SIM_CHECK(e->stage == SIM_WAITING, "end %d: connection_made in stage %d", e->id, (int)e->stage);
    SIM_CHECK(e->self == self, "end %d: connection_made has a wrong self", e->id);
    sim_from_loop(e, "connection_made");
    e->stage = SIM_OPEN;
    e->transport = transport;
    SIM_CHECK(!aioloop_transport_is_closing(transport), "end %d is made and closing", e->id);
    if (e->future != NULL && e->future->use == SIM_DROP)
        e->future->over = true;
    if (e->kind == SIM_TCP)
        sim_pair_tcp(e);
    if (sim_one_in(2)) {
        aioloop_transport_ref(transport);
        e->refs++;
    }
    sim_check_end(e);
    sim_play(e);
    sim_raise("connection_made", e->id);
}

static void sim_receive(sim_end *e, const unsigned char *data, size_t size) {
    size_t i;
    sim_from_loop(e, "data");
    SIM_CHECK(size != 0, "end %d received nothing", e->id);
    SIM_CHECK(!e->eof, "end %d received data after the end", e->id);
    SIM_CHECK(!e->read_paused, "end %d received data while paused", e->id);
    SIM_CHECK(!e->closing, "end %d received data while closing", e->id);
    if (e->received == 0) {
        sim_end *from = data[0] == 0 || data[0] > sim.end_count ? NULL : &sim.ends[data[0]];
        SIM_CHECK(from != NULL && from->kind == e->kind, "end %d received what nobody wrote", e->id);
        if (e->peer == NULL && from->peer == NULL && e->kind == SIM_UNIX) {
            SIM_CHECK(from->client != e->client, "end %d received from the wrong side", e->id);
            sim_join(e, from);
        }
        SIM_CHECK(e->peer == from, "end %d received what was for another", e->id);
    }
    SIM_CHECK(e->received + size <= e->peer->written, "end %d received more than was written", e->id);
    for (i = 0; i < size; i++)
        SIM_CHECK(data[i] == sim_byte(e->peer->id, e->received + i), "end %d: byte %llu is wrong", e->id,
                  (unsigned long long)(e->received + i));
    e->received += size;
    sim_total.bytes += size;
}

static void sim_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    sim_end *e = sim_entered(transport, self, "data_received", (int64_t)size);
    SIM_CHECK(e->protocol->get_buffer == NULL, "end %d: data_received of a buffered protocol", e->id);
    sim_receive(e, (const unsigned char *)data, size);
    sim_play(e);
    sim_raise_ending(e, "data_received");
}

static size_t sim_get_buffer(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    sim_end *e = sim_entered(transport, self, "get_buffer", (int64_t)hint);
    size_t size = sim_one_in(2) ? 1 + sim_below(16) : 1 + sim_below(SIM_PLACE);
    SIM_CHECK(e->protocol->get_buffer != NULL, "end %d: get_buffer of a plain protocol", e->id);
    sim_from_loop(e, "get_buffer");
    SIM_CHECK(!e->eof && !e->read_paused && !e->closing, "end %d is asked for a buffer that it does not want", e->id);
    sim_play(e);
    if (sim.phase == SIM_SCRIPT && sim.raise_in != 0 && sim_one_in(4 * sim.raise_in)) {
        sim_trace("no buffer", e->id, 0, 0);
        e->buffer_refused = true;
        e->unclean = true;
        return 0;
    }
    sim_raise_ending(e, "get_buffer");
    memset(sim.place, 0xee, sizeof(sim.place));
    e->place = sim.place;
    e->place_size = size;
    *buffer = sim.place;
    return size;
}

static void sim_updated(aioloop_transport *transport, void *self, size_t size) {
    sim_end *e = sim_entered(transport, self, "buffer_updated", (int64_t)size);
    size_t i;
    SIM_CHECK(e->protocol->get_buffer != NULL, "end %d: buffer_updated of a plain protocol", e->id);
    SIM_CHECK(e->place != NULL, "end %d: buffer_updated without get_buffer", e->id);
    SIM_CHECK(size <= e->place_size, "end %d: %lu bytes in a buffer of %lu", e->id, (unsigned long)size,
              (unsigned long)e->place_size);
    for (i = e->place_size; i < e->place_size + 16; i++)
        SIM_CHECK(sim.place[i] == 0xee, "end %d: its buffer overran", e->id);
    e->place = NULL;
    sim_receive(e, sim.place, size);
    sim_play(e);
    sim_raise_ending(e, "buffer_updated");
}

/* The end of what the peer writes: it has a reason, and comes after everything an orderly peer wrote. */
static void sim_check_eof(sim_end *e) {
    sim_end *peer = e->peer;
    if (peer == NULL)
        return;
    SIM_CHECK(sim_is_gone(peer) || peer->write_ended, "end %d: an end of file for no reason", e->id);
    SIM_CHECK(peer->unclean || e->received == peer->written, "end %d: an end of file after %llu bytes of %llu", e->id,
              (unsigned long long)e->received, (unsigned long long)peer->written);
}

static bool sim_eof(aioloop_transport *transport, void *self) {
    sim_end *e = sim_entered(transport, self, "eof_received", 0);
    bool keep = sim.phase != SIM_ORDERLY && sim_one_in(2);
    sim_from_loop(e, "eof_received");
    SIM_CHECK(!e->eof, "end %d: a second end of file", e->id);
    SIM_CHECK(!e->read_paused && !e->closing, "end %d: an end of file while paused or closing", e->id);
    e->eof = true;
    sim_check_eof(e);
    sim_play(e);
    if (sim_raise_ending(e, "eof_received") == 0 && !keep)
        e->ended = true;
    return keep;
}

/* Whether there is a reason for connection_lost to say this. */
static bool sim_has_reason(const sim_end *e, int error) {
    int i;
    if (sim_is_fault(error) || (e->raised && error == e->raised_code) || (e->buffer_refused && error == AIOLOOP_EINVAL))
        return true;
    if ((error == AIOLOOP_ECONNRESET || error == AIOLOOP_EPIPE) && (e->broken || sim_is_gone(e->peer)))
        return true;
    for (i = 0; i < 3; i++)
        if (error == sim_break_codes[i] && sim.broke[i] && (e->broken || e->peer == NULL))
            return true;
    return error == 0 && e->ended;
}

static void sim_lost(aioloop_transport *transport, void *self, int error) {
    sim_end *e = sim_entered(transport, self, "connection_lost", error);
    sim_from_loop(e, "connection_lost");
    SIM_CHECK(e->closing, "end %d is lost and was not closing", e->id);
    if (error == 0 && !e->ended && e->silent && !e->eof) {
        e->eof = true;
        e->ended = true;
        sim_check_eof(e);
    }
    SIM_CHECK(!e->strict || error == e->strict_error, "end %d is lost with %s instead of %d", e->id,
              aioloop_error_name(error), e->strict_error);
    SIM_CHECK(sim_has_reason(e, error), "end %d is lost with %s (%d) for no reason", e->id, aioloop_error_name(error),
              error);
    if (error != 0)
        e->unclean = true;
    e->stage = SIM_LOST;
    e->in_lost = true;
    if (e->kind == SIM_TCP && e->local.family != AIOLOOP_UNSPEC) {
        const void *peer = aioloop_transport_get_extra_info(transport, "peername", NULL);
        SIM_CHECK(peer != NULL && aioloop_address_equal((const aioloop_address *)peer, &e->remote),
                  "end %d lost its name", e->id);
    }
    sim_play(e);
    sim_raise("connection_lost", e->id);
    e->in_lost = false;
    if (e->refs == 0)
        e->transport = NULL;
}

static void sim_pause(aioloop_transport *transport, void *self) {
    sim_end *e = ((sim_instance *)self)->end;
    size_t size = aioloop_transport_get_write_buffer_size(transport);
    sim_total.callbacks++;
    sim_trace("pause_writing", e->id, (int64_t)size, 0);
    SIM_CHECK(e->stage == SIM_OPEN && e->self == self, "end %d: pause_writing at a wrong time", e->id);
    SIM_CHECK(sim.in_call != 0, "end %d: pause_writing outside of a write", e->id);
    SIM_CHECK(!e->write_paused, "end %d: pause_writing twice", e->id);
    SIM_CHECK(size > e->high, "end %d: pause_writing with %lu bytes", e->id, (unsigned long)size);
    e->write_paused = true;
    sim_play(e);
    sim_raise("pause_writing", e->id);
}

static void sim_resume(aioloop_transport *transport, void *self) {
    size_t size = aioloop_transport_get_write_buffer_size(transport);
    sim_end *e = ((sim_instance *)self)->end;
    SIM_CHECK(e->write_paused, "end %d: resume_writing without a pause", e->id);
    SIM_CHECK(size <= e->low, "end %d: resume_writing with %lu bytes", e->id, (unsigned long)size);
    e->write_paused = false;
    sim_entered(transport, self, "resume_writing", (int64_t)size);
    sim_from_loop(e, "resume_writing");
    sim_play(e);
    sim_raise("resume_writing", e->id);
}

static void sim_wrong_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)transport;
    (void)data;
    sim_fail(__LINE__, "end %d: data_received of a buffered protocol, %lu bytes", ((sim_instance *)self)->end->id,
             (unsigned long)size);
}

/* For servers: self is in the transport's memory. */
static int sim_accept_factory(void *self, void *arg) {
    sim_server *server = (sim_server *)arg;
    sim_instance *instance = (sim_instance *)self;
    sim_end *e = sim_new_end(server->kind, false);
    int code;
    sim_trace("factory", e->id, (int64_t)(server - sim.servers), 0);
    SIM_CHECK(sim.in_call == 0, "a factory is called from inside a call");
    SIM_CHECK(instance->end == NULL, "the memory of an instance is not zero");
    SIM_CHECK(server->serving && !server->closed, "a connection of a server that does not serve");
    instance->end = e;
    e->server = server;
    e->self = self;
    e->protocol = NULL; /* known when it is made */
    sim_play(NULL);
    code = sim_raise("factory", e->id);
    if (code < 0)
        e->stage = SIM_NEVER;
    return code;
}

static void sim_accepted(aioloop_transport *transport, void *self) {
    sim_end *e = ((sim_instance *)self)->end;
    e->protocol = aioloop_transport_get_protocol(transport, NULL);
    sim_made(transport, self);
}

/* For clients. */
static int sim_client_factory(void *self, void *arg) {
    sim_end *e = ((sim_instance *)arg)->end;
    int code = 0;
    (void)self;
    sim_trace("factory", e->id, 0, 0);
    SIM_CHECK(sim.in_call == 0, "a factory is called from inside a call");
    SIM_CHECK(e->stage == SIM_WAITING && !e->in_factory, "end %d: a factory at a wrong time", e->id);
    e->in_factory = true;
    sim_play(NULL);
    e->in_factory = false;
    if (sim.phase == SIM_SCRIPT && sim.raise_in != 0 && sim_one_in(sim.raise_in)) {
        code = AIOLOOP_EDOM;
        sim_trace("factory fails", e->id, code, 0);
        if (e->future != NULL)
            e->future->factory_code = code;
        e->stage = SIM_NEVER;
    }
    return code;
}

static const aioloop_protocol sim_plain = {0,        sim_client_factory, sim_made,   sim_data, sim_eof,
                                           sim_lost, sim_pause,          sim_resume, NULL,     NULL, NULL, NULL};
static const aioloop_protocol sim_buffered = {0,        sim_client_factory, sim_made,   sim_wrong_data, sim_eof,
                                              sim_lost, sim_pause,          sim_resume, sim_get_buffer, sim_updated,
                                              NULL, NULL};
static const aioloop_protocol sim_silent = {0,        NULL,      sim_made,   sim_data, NULL,
                                            sim_lost, sim_pause, sim_resume, NULL,     NULL, NULL, NULL};
static const aioloop_protocol sim_accept_plain = {sizeof(sim_instance),
                                                  sim_accept_factory,
                                                  sim_accepted,
                                                  sim_data,
                                                  sim_eof,
                                                  sim_lost,
                                                  sim_pause,
                                                  sim_resume,
                                                  NULL,
                                                  NULL, NULL, NULL};
static const aioloop_protocol sim_accept_buffered = {
    sizeof(sim_instance), sim_accept_factory, sim_accepted, sim_wrong_data, sim_eof, sim_lost, sim_pause,
    sim_resume,           sim_get_buffer,     sim_updated, NULL, NULL};

/* Gives an end one of the protocols and a fresh instance. */
static void sim_dress(sim_end *e) {
    static const aioloop_protocol *const choice[] = {&sim_plain, &sim_plain, &sim_buffered, &sim_buffered, &sim_silent};
    sim_instance *instance = &e->instances[sim_below(SIM_INSTANCES)];
    if (instance == e->self)
        instance = instance == e->instances ? &e->instances[1] : e->instances;
    e->self = instance;
    e->protocol = choice[sim_below(5)];
    if (e->protocol->eof_received == NULL)
        e->silent = true;
}

/* ---- futures ---- */

static bool sim_server_is_over(const sim_server *s) {
    int i;
    if (!s->closed)
        return false;
    for (i = 1; i <= sim.end_count; i++)
        if (sim.ends[i].server == s && sim.ends[i].stage == SIM_OPEN)
            return false;
    return true;
}

static bool sim_is_connect_error(const sim_future *sf, int64_t code) {
    if (sim_is_fault(code) || (sf->factory_code != 0 && code == sf->factory_code))
        return true;
    switch ((int)code) {
    case AIOLOOP_ECONNREFUSED:
        return sf->end->kind != SIM_PAIR;
    case AIOLOOP_ENOENT:
    case AIOLOOP_EAGAIN:
        return sf->end->kind == SIM_UNIX;
    case AIOLOOP_ETIMEDOUT:
        return sf->timed;
    case AIOLOOP_EAFNOSUPPORT:
        return sf->bound;
    case AIOLOOP_ECANCELED:
        return sf->cancelled;
    default:
        return false;
    }
}

/* The attempt to make a connection failed. */
static void sim_connect_failed(sim_future *sf, int64_t code) {
    sim_end *e = sf->end;
    SIM_CHECK(sim_is_connect_error(sf, code), "end %d: connecting fails with %s (%lld) for no reason", e->id,
              aioloop_error_name((int)code), (long long)code);
    if (e->stage == SIM_WAITING && !e->in_factory) /* a factory that cancels has its connection made, and aborted */
        e->stage = SIM_NEVER;
    SIM_CHECK(e->stage == SIM_NEVER || e->gave_up, "end %d: its connecting failed and it was made", e->id);
}

/* A future is done: its result is looked at or taken. */
static void sim_take_result(sim_future *sf, aioloop_future *f) {
    void *pointer = NULL;
    bool take = sim_one_in(2);
    int64_t n = aioloop_future_result(f, take ? &pointer : NULL);
    sf->over = true;
    sim_trace("result", sf->end != NULL ? sf->end->id : 0, n, (int64_t)sf->kind);
    SIM_CHECK(aioloop_future_cancelled(f) == (n == AIOLOOP_ECANCELED),
              "a future does not know whether it was cancelled");
    SIM_CHECK((n < 0) == (aioloop_future_error(f) != NULL), "a future's error and its result differ");
    if (sf->kind == SIM_CONNECT && n == 0) {
        sim_end *e = sf->end;
        SIM_CHECK(e->stage == SIM_OPEN || e->stage == SIM_LOST, "end %d: connected in stage %d", e->id, (int)e->stage);
        SIM_CHECK(!sf->cancelled, "end %d: cancelled and connected", e->id);
        if (take) {
            SIM_CHECK(pointer != NULL && (e->transport == NULL || e->transport == pointer), "end %d: a wrong transport",
                      e->id);
            e->transport = (aioloop_transport *)pointer;
            e->refs++;
            sim_check_end(e);
        }
    } else if (sf->kind == SIM_CONNECT) {
        sim_connect_failed(sf, n);
    } else if (sf->kind == SIM_WAIT_CLOSED && n == 0) {
        SIM_CHECK(sim_server_is_over(sf->server), "wait_closed ended early");
    } else if (sf->kind == SIM_WAIT_CLOSED) {
        SIM_CHECK(n == AIOLOOP_ECANCELED && sf->cancelled, "wait_closed fails with %s", aioloop_error_name((int)n));
    } else {
        sf->server->forever = false;
        SIM_CHECK(n == AIOLOOP_ECANCELED, "serve_forever ends with %lld", (long long)n);
        SIM_CHECK(sim_server_is_over(sf->server), "serve_forever ended early");
    }
}

static void sim_settled(aioloop_future *future, void *arg) {
    sim_future *sf = (sim_future *)arg;
    sim_total.callbacks++;
    SIM_CHECK(sim.phase != SIM_FREEING && sim.in_call == 0, "a done-callback at a wrong time");
    SIM_CHECK(sf->future == future && !sf->over, "a done-callback of a future that was settled");
    sim_take_result(sf, future);
    sim_play(sf->end);
    sim_raise("done-callback", sf->end != NULL ? sf->end->id : 0);
    if (!sf->held)
        sf->future = NULL;
}

static bool sim_has_future_slot(void) {
    return sim.future_count < SIM_FUTURES;
}

static sim_future *sim_new_future(sim_future_kind kind, sim_end *e, sim_server *s) {
    sim_future *sf = &sim.futures[sim.future_count++];
    memset(sf, 0, sizeof(*sf));
    sf->kind = kind;
    sf->end = e;
    sf->server = s;
    if (e != NULL)
        e->future = sf;
    return sf;
}

/* Uses the future in some way. */
static void sim_use_future(sim_future *sf, aioloop_future *f) {
    int err = 0;
    sf->future = f;
    sf->use = (sim_use)sim_below(SIM_USES);
    sim_trace("future", sf->end != NULL ? sf->end->id : 0, (int64_t)sf->kind, (int64_t)sf->use);
    if (aioloop_future_get_loop(f) == NULL) { /* one of the static ones */
        SIM_CHECK(sim_is_fault(aioloop_future_exception(f)), "a call fails with %s",
                  aioloop_error_name(aioloop_future_exception(f)));
        sf->over = true;
        sf->future = NULL;
        if (sf->end != NULL)
            sf->end->stage = SIM_NEVER;
        return;
    }
    sim.in_call++;
    switch (sf->use) {
    case SIM_THEN:
        err = aioloop_future_then(f, sim_settled, sf);
        if (err < 0)
            sf->use = SIM_DROP;
        break;
    case SIM_CLAIM_CALLBACK:
        aioloop_future_ref(f);
        sf->held = true;
        err = aioloop_future_add_done_callback(f, sim_settled, sf);
        if (err < 0)
            sf->use = SIM_CLAIM;
        break;
    case SIM_CLAIM:
        aioloop_future_ref(f);
        sf->held = true;
        break;
    default:
        aioloop_future_unref(f);
        break;
    }
    sim.in_call--;
    SIM_CHECK(err == 0 || sim_is_fault(err), "a future cannot be used: %s", aioloop_error_name(err));
    if (sf->use == SIM_DROP && sf->kind != SIM_CONNECT)
        sf->over = true; /* it cannot fail */
}

/* Looks at the futures that were only claimed. */
static void sim_poll_futures(void) {
    int i;
    for (i = 0; i < sim.future_count; i++) {
        sim_future *sf = &sim.futures[i];
        if (sf->use == SIM_CLAIM && sf->held && !sf->over && aioloop_future_done(sf->future))
            sim_take_result(sf, sf->future);
    }
}

static void sim_cancel_future(sim_future *sf) {
    bool done = aioloop_future_done(sf->future);
    bool cancelled;
    sim_trace("cancel", sf->end != NULL ? sf->end->id : 0, (int64_t)sf->kind, done);
    sim.in_call++;
    cancelled = aioloop_future_cancel(sf->future, sim_one_in(2) ? NULL : "because");
    sim.in_call--;
    SIM_CHECK(cancelled == !done, "cancelling a future answers %d", cancelled);
    if (done) { /* its error will not be reported any more */
        if (sf->use == SIM_CLAIM)
            sim_take_result(sf, sf->future);
        return;
    }
    sf->cancelled = true;
    if (sf->kind == SIM_SERVE) {
        sf->server->closed = true;
        return;
    }
    SIM_CHECK(aioloop_future_cancelled(sf->future), "a cancelled future is not");
    if (sf->kind == SIM_CONNECT) {
        sim_end *e = sf->end;
        if (e->stage == SIM_OPEN || e->in_factory) { /* its own connection_made or factory did this */
            e->gave_up = true;
            e->ended = true;
            e->unclean = true;
        } else {
            SIM_CHECK(e->stage == SIM_WAITING, "end %d: a pending future in stage %d", e->id, (int)e->stage);
            e->stage = SIM_NEVER;
        }
    }
}

/* ---- reports ---- */

static void sim_on_error(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    const char *message = context->message != NULL ? context->message : "";
    int i;
    (void)loop;
    (void)arg;
    sim_trace("report", 0, context->error, 0);
    if (sim_total.verbose)
        printf("%14s%s\n", "", message);
    if (context->error <= SIM_RAISE_FIRST && context->error > SIM_RAISE_FIRST - sim.raise_count) {
        i = SIM_RAISE_FIRST - context->error;
        SIM_CHECK(!sim.raise_reported[i], "an error is reported twice: %s", message);
        sim.raise_reported[i] = true;
    } else if (strcmp(message, "Future error was never retrieved") == 0 && sim.phase != SIM_FREEING) {
        for (i = 0; i < sim.future_count; i++) {
            sim_future *sf = &sim.futures[i];
            if (sf->use == SIM_DROP && sf->kind == SIM_CONNECT && !sf->over && sf->future == context->future) {
                sf->over = true;
                sim_connect_failed(sf, context->error);
                break;
            }
        }
        SIM_CHECK(i < sim.future_count, "the error of a future that was looked at is reported");
    } else if (strcmp(message, "Error in accept: out of system resource") == 0) {
        SIM_CHECK(sim.accepts_fail || sim_is_fault(context->error), "accepting fails for no reason");
    } else if (context->error == AIOLOOP_EINVAL && strcmp(message, "Error in get_buffer") == 0) {
        SIM_CHECK(context->transport != NULL, "a report without its transport");
    } else if (sim.phase != SIM_FREEING) { /* when the loop closes, nobody can look at a result any more */
        SIM_CHECK(sim_is_fault(context->error), "%s: %s is reported for no reason", message,
                  aioloop_error_name(context->error));
    }
    if (sim_one_in(4))
        sim_play(NULL);
}

static void sim_on_log(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    (void)loop;
    (void)level;
    (void)arg;
    sim_trace("log", 0, text[0], 0);
}

/* ---- operations: writing ---- */

static void sim_release(const void *data, size_t size, void *arg) {
    sim_lent *l = (sim_lent *)arg;
    sim_trace("release", l->end->id, (int64_t)size, 0);
    SIM_CHECK(l->data == data && l->size == size, "end %d: other memory is released than was lent", l->end->id);
    SIM_CHECK(!l->released, "end %d: memory is released twice", l->end->id);
    SIM_CHECK(!l->refused, "end %d: memory is released that was refused", l->end->id);
    SIM_CHECK(sim.in_call == 0 || sim.phase == SIM_FREEING, "end %d: memory is released from inside a call",
              l->end->id);
    l->released = true;
    l->end->lent--;
    memset(l->data, 0xdd, l->size); /* whoever reads it now sends wrong bytes */
    sim_play(l->end);
}

static int sim_write_owned(sim_end *e, uint64_t position, size_t size) {
    sim_lent *l = (sim_lent *)malloc(sizeof(*l));
    int err;
    SIM_CHECK(l != NULL, "the machine is out of memory");
    memset(l, 0, sizeof(*l));
    l->end = e;
    l->size = size;
    l->data = (unsigned char *)malloc(size + 1);
    SIM_CHECK(l->data != NULL, "the machine is out of memory");
    sim_fill(e, position, l->data, size);
    l->next = sim.lent;
    sim.lent = l;
    e->lent++;
    err = aioloop_transport_write_owned(e->transport, l->data, size, sim_release, l);
    if (err < 0) {
        SIM_CHECK(!l->released, "end %d: memory is released that was refused", e->id);
        l->refused = true;
        e->lent--;
        memset(l->data, 0xdd, size);
    }
    return err;
}

static int sim_write_lines(sim_end *e, const unsigned char *data, size_t size) {
    aioloop_buf pieces[40];
    size_t count = sim_one_in(4) ? sim_below(40) : sim_below(5);
    size_t at = 0;
    size_t i;
    if (count == 0 && size != 0)
        count = 1;
    for (i = 0; i < count; i++) {
        size_t n = i + 1 == count ? size - at : sim_below((uint32_t)(size - at) + 1);
        if (sim_one_in(4) && i + 1 != count)
            n = 0;
        pieces[i].data = n == 0 ? NULL : data + at;
        pieces[i].size = n;
        at += n;
    }
    return aioloop_transport_writelines(e->transport, pieces, count);
}

static void sim_write_size(sim_end *e, size_t size) {
    bool closing = aioloop_transport_is_closing(e->transport);
    bool counts = !closing && !e->write_ended;
    bool ended = e->write_ended;
    uint64_t position = e->written;
    uint32_t way = sim_below(4);
    unsigned char *data = (unsigned char *)malloc(size + 1);
    int err;
    SIM_CHECK(data != NULL, "the machine is out of memory");
    sim_trace(way == 0 ? "writelines" : way == 1 ? "write_owned" : "write", e->id, (int64_t)size, (int64_t)position);
    sim_fill(e, position, data, size);
    if (counts)
        e->written += size; /* before: pause_writing may write more */
    sim.in_call++;
    if (way == 0)
        err = sim_write_lines(e, data, size);
    else if (way == 1)
        err = sim_write_owned(e, position, size);
    else
        err = aioloop_transport_write(e->transport, data, size);
    sim.in_call--;
    memset(data, 0xdd, size);
    free(data);
    if (!closing && aioloop_transport_is_closing(e->transport))
        e->strict = false; /* the write may have found an error, before that of a callback that is being reported */
    if (err < 0 && counts) {
        SIM_CHECK(sim_is_fault(err), "end %d: a write fails with %s", e->id, aioloop_error_name(err));
        SIM_CHECK(e->written == position + size, "end %d: a write failed after it had paused", e->id);
        e->written = position;
    } else if (closing) {
        SIM_CHECK(err == (way == 1 ? AIOLOOP_ENOTCONN : 0), "end %d: a late write answers %s", e->id,
                  aioloop_error_name(err));
    } else if (ended && (size != 0 || way == 1)) {
        SIM_CHECK(err == AIOLOOP_EMISUSE, "end %d: a write after write_eof answers %d", e->id, err);
    }
    sim_check_end(e);
}

static void sim_op_write(sim_end *e) {
    int n = sim_one_in(3) ? 1 + (int)sim_below(4) : 1;
    while (n-- > 0 && e->transport != NULL)
        sim_write_size(e, sim_size());
}

static void sim_op_write_eof(sim_end *e) {
    bool closing = aioloop_transport_is_closing(e->transport);
    int err;
    sim_trace("write_eof", e->id, 0, 0);
    sim.in_call++;
    err = aioloop_transport_write_eof(e->transport);
    if (sim_one_in(4))
        err |= aioloop_transport_write_eof(e->transport);
    sim.in_call--;
    SIM_CHECK(err == 0, "end %d: write_eof answers %d", e->id, err);
    if (!closing)
        e->write_ended = true;
    sim_check_end(e);
}

static void sim_op_limits(sim_end *e) {
    static const int64_t marks[] = {-2, -1, -1, 0, 0, 1, 10, 100, 1000, 5000, 65536};
    int64_t high = marks[sim_below(11)];
    int64_t low = marks[sim_below(11)];
    int64_t h = high;
    int64_t l = low;
    bool valid = high >= -1 && low >= -1;
    int err;
    sim_trace("limits", e->id, high, low);
    if (h == -1)
        h = l == -1 ? 65536 : 4 * l;
    if (l == -1)
        l = h / 4;
    valid = valid && l <= h;
    if (valid) { /* before: pause_writing looks at them */
        e->high = (size_t)h;
        e->low = (size_t)l;
    }
    sim.in_call++;
    err = aioloop_transport_set_write_buffer_limits(e->transport, high, low);
    sim.in_call--;
    SIM_CHECK(err == (valid ? 0 : AIOLOOP_EINVAL), "end %d: setting the marks answers %d", e->id, err);
    sim_check_end(e);
}

/* ---- operations: the rest on a transport ---- */

static void sim_op_pause(sim_end *e) {
    bool pause = sim_one_in(2);
    bool closing = aioloop_transport_is_closing(e->transport);
    int times = sim_one_in(4) ? 2 : 1;
    sim_trace(pause ? "pause_reading" : "resume_reading", e->id, times, 0);
    sim.in_call++;
    while (times-- > 0) {
        if (pause)
            aioloop_transport_pause_reading(e->transport);
        else
            aioloop_transport_resume_reading(e->transport);
    }
    sim.in_call--;
    if (!closing && !aioloop_transport_is_closing(e->transport))
        e->read_paused = pause;
    else if (!closing) /* resuming found it broken */
        e->read_paused = false;
    sim_check_end(e);
}

/* The transport is closed (or aborted) by somebody, who has not done so yet. */
static void sim_ending(sim_end *e, bool abort) {
    if (e->stage != SIM_OPEN)
        return;
    e->ended = true;
    if (abort)
        e->unclean = true;
    if (aioloop_transport_is_closing(e->transport))
        return;
    if (abort || aioloop_transport_get_write_buffer_size(e->transport) == 0) {
        e->strict = true;
        e->strict_error = 0;
    }
}

static void sim_end_it(sim_end *e, bool abort) {
    sim_trace(abort ? "abort" : "close", e->id, 0, 0);
    sim_ending(e, abort);
    sim.in_call++;
    if (abort)
        aioloop_transport_abort(e->transport);
    else
        aioloop_transport_close(e->transport);
    sim.in_call--;
    SIM_CHECK(aioloop_transport_is_closing(e->transport), "end %d is closed and not closing", e->id);
    sim_check_end(e);
}

static void sim_op_close(sim_end *e) {
    sim_end_it(e, false);
}

static void sim_op_abort(sim_end *e) {
    sim_end_it(e, true);
}

static void sim_op_protocol(sim_end *e) {
    void *self = NULL;
    int err;
    sim_dress(e);
    sim_trace("set_protocol", e->id, e->protocol->get_buffer != NULL, e->protocol->eof_received != NULL);
    sim.in_call++;
    err = aioloop_transport_set_protocol(e->transport, e->protocol, e->self);
    sim.in_call--;
    SIM_CHECK(err == 0, "end %d: set_protocol answers %d", e->id, err);
    SIM_CHECK(aioloop_transport_get_protocol(e->transport, &self) == e->protocol && self == e->self,
              "end %d: get_protocol is wrong", e->id);
    sim_check_end(e);
}

static void sim_op_break(sim_end *e) {
    uint32_t which = sim_below(3);
    int err;
    sim_trace("break", e->id, sim_break_codes[which], 0);
    sim.in_call++;
    err = aioloop_sim_break(e->transport, sim_break_codes[which]);
    sim.in_call--;
    SIM_CHECK(err == 0 || err == AIOLOOP_EINVAL, "end %d: breaking answers %d", e->id, err);
    if (err < 0)
        return;
    sim.broke[which] = true;
    e->broken = true;
    e->unclean = true;
    if (e->peer != NULL) {
        e->peer->broken = true;
        e->peer->unclean = true;
    }
    sim_check_end(e);
}

static void sim_op_ref(sim_end *e) {
    if (sim_one_in(3)) {
        aioloop_transport_ref(e->transport);
        e->refs++;
        return;
    }
    if (e->refs == 0)
        return;
    sim_trace("unref", e->id, e->refs, 0);
    e->refs--;
    sim.in_call++;
    aioloop_transport_unref(e->transport);
    sim.in_call--;
    if (e->refs == 0 && e->stage == SIM_LOST && !e->in_lost)
        e->transport = NULL;
}

/* ---- operations: making connections ---- */

static void sim_fill_server(sim_server *s, const aioloop_server *server) {
    aioloop_address address;
    int err = aioloop_server_socket(server, 0, NULL, &address);
    SIM_CHECK(err == 0, "a server without sockets");
    s->port = address.port;
}

static void sim_op_listen(sim_end *e) {
    static const int backlogs[] = {0, 0, 1, 2, 5};
    bool buffered = sim_one_in(2);
    const aioloop_protocol *protocol = buffered ? &sim_accept_buffered : &sim_accept_plain;
    aioloop_server *server = NULL;
    aioloop_future *f;
    sim_server *s;
    int64_t n;
    (void)e;
    if (sim.server_count == SIM_SERVERS)
        return;
    s = &sim.servers[sim.server_count];
    memset(s, 0, sizeof(*s));
    s->kind = sim_one_in(3) ? SIM_UNIX : SIM_TCP;
    snprintf(s->path, sizeof(s->path), "/sim/%d", sim.server_count);
    sim.in_call++;
    if (s->kind == SIM_UNIX) {
        aioloop_unix_server_options o = AIOLOOP_ZERO;
        o.backlog = backlogs[sim_below(5)];
        o.defer_serving = sim_one_in(4);
        s->serving = !o.defer_serving;
        f = aioloop_create_unix_server(sim.loop, protocol, s, s->path, &o);
    } else {
        aioloop_server_options o = AIOLOOP_ZERO;
        o.backlog = backlogs[sim_below(5)];
        o.defer_serving = sim_one_in(4);
        s->serving = !o.defer_serving;
        f = aioloop_create_server(sim.loop, protocol, s, sim_one_in(4) ? NULL : "127.0.0.1", 0, &o);
    }
    aioloop_future_ref(f);
    n = aioloop_future_result(f, &server);
    aioloop_future_unref(f);
    sim.in_call--;
    sim_trace("listen", sim.server_count, n, s->kind);
    if (n < 0) {
        SIM_CHECK(sim_is_fault(n), "listening fails with %s", aioloop_error_name((int)n));
        return;
    }
    s->server = server;
    sim.server_count++;
    if (s->kind == SIM_TCP)
        sim_fill_server(s, server);
}

static bool sim_has_room(void) {
    return sim.end_count < SIM_ENDS - 90 && sim_has_future_slot();
}

static sim_server *sim_pick_server(void) {
    return sim.server_count == 0 ? NULL : &sim.servers[sim_below((uint32_t)sim.server_count)];
}

/* Starts to connect; the caller uses the future. */
static aioloop_future *sim_start_connect(sim_future **out) {
    sim_server *s = sim_pick_server();
    sim_end *e;
    sim_future *sf;
    aioloop_future *f;
    aioloop_time timeout = sim_one_in(3) ? sim_time() : 0;
    if (s == NULL)
        return NULL;
    e = sim_new_end(s->kind, true);
    sim_dress(e);
    sf = sim_new_future(SIM_CONNECT, e, NULL);
    sf->timed = timeout != 0;
    sim_trace("connect", e->id, s->port, timeout);
    sim.in_call++;
    if (s->kind == SIM_UNIX) {
        aioloop_unix_connection_options o = AIOLOOP_ZERO;
        o.timeout = timeout;
        f = aioloop_create_unix_connection(sim.loop, e->protocol, e->self, s->path, &o);
    } else {
        aioloop_connection_options o = AIOLOOP_ZERO;
        o.timeout = timeout;
        o.all_errors = sim_one_in(4);
        o.local_host = sim_one_in(6) ? "127.0.0.2" : NULL;
        sf->bound = o.local_host != NULL;
        f = aioloop_create_connection(sim.loop, e->protocol, e->self, sim_one_in(4) ? "localhost" : "127.0.0.1",
                                      s->port, &o);
    }
    sim.in_call--;
    *out = sf;
    return f;
}

static void sim_op_connect(sim_end *e) {
    sim_future *sf;
    aioloop_future *f;
    (void)e;
    if (!sim_has_room())
        return;
    f = sim_start_connect(&sf);
    if (f != NULL)
        sim_use_future(sf, f);
}

/* Gives a socket of a pair to a transport. */
static void sim_adopt(sim_end *e) {
    sim_future *sf;
    aioloop_future *f;
    aioloop_time timeout = sim_one_in(6) ? AIOLOOP_MS(5) : 0;
    uint32_t way = sim_below(3);
    if (!sim_has_future_slot())
        return;
    sf = sim_new_future(SIM_CONNECT, e, NULL);
    sf->timed = timeout != 0;
    e->stage = SIM_WAITING;
    sim_dress(e);
    sim_trace("adopt", e->id, way, timeout);
    sim.in_call++;
    if (way == 0) {
        aioloop_connection_options o = AIOLOOP_ZERO;
        o.sock = &e->socket;
        o.timeout = timeout;
        f = aioloop_create_connection(sim.loop, e->protocol, e->self, NULL, 0, &o);
    } else if (way == 1) {
        aioloop_unix_connection_options o = AIOLOOP_ZERO;
        o.sock = &e->socket;
        o.timeout = timeout;
        f = aioloop_create_unix_connection(sim.loop, e->protocol, e->self, NULL, &o);
    } else {
        aioloop_accepted_socket_options o = AIOLOOP_ZERO;
        o.timeout = timeout;
        f = aioloop_connect_accepted_socket(sim.loop, e->protocol, e->self, e->socket, &o);
    }
    sim.in_call--;
    sim_use_future(sf, f);
}

static void sim_close_raw(sim_end *e) {
    int err;
    sim_trace("close raw", e->id, 0, 0);
    err = aioloop_sim_close(sim.loop, e->socket);
    SIM_CHECK(err == 0, "end %d: closing its socket answers %d", e->id, err);
    e->stage = SIM_NEVER;
}

static void sim_op_pair(sim_end *e) {
    aioloop_socket sockets[2];
    int err;
    int i;
    (void)e;
    if (!sim_has_room() || sim.future_count + 2 > SIM_FUTURES)
        return;
    err = aioloop_sim_socketpair(sim.loop, sockets);
    if (err < 0) {
        SIM_CHECK(sim_is_fault(err), "socketpair answers %d", err);
        return;
    }
    sim_join(sim_new_end(SIM_PAIR, false), sim_new_end(SIM_PAIR, true));
    sim_trace("socketpair", sim.end_count, 0, 0);
    for (i = 0; i < 2; i++) {
        sim_end *half = &sim.ends[sim.end_count - 1 + i];
        half->socket = sockets[i];
        half->stage = SIM_RAW;
    }
    for (i = 0; i < 2; i++)
        if (!sim_one_in(8))
            sim_adopt(&sim.ends[sim.end_count - 1 + i]);
}

/* Sockets of pairs that nobody has. */
static void sim_op_raw(sim_end *e) {
    int i;
    (void)e;
    for (i = 1; i <= sim.end_count; i++) {
        if (sim.ends[i].stage != SIM_RAW || sim_one_in(2))
            continue;
        if (sim_one_in(3))
            sim_close_raw(&sim.ends[i]);
        else
            sim_adopt(&sim.ends[i]);
        return;
    }
}

static void sim_op_cancel(sim_end *e) {
    int i;
    (void)e;
    for (i = 0; i < sim.future_count; i++) {
        sim_future *sf = &sim.futures[i];
        if (!sf->over && sf->use != SIM_DROP && sf->future != NULL && sim_one_in(2)) {
            sim_cancel_future(sf);
            return;
        }
    }
}

/* Lets go of a claim, whether the future is done or not. */
static void sim_op_unclaim(sim_end *e) {
    int i;
    (void)e;
    for (i = 0; i < sim.future_count; i++) {
        sim_future *sf = &sim.futures[i];
        aioloop_future *f = sf->future;
        if (!sf->held || !sim_one_in(2))
            continue;
        sim_trace("unclaim", sf->end != NULL ? sf->end->id : 0, sf->over, sf->use);
        sf->held = false;
        if (sf->over)
            sf->future = NULL;
        else if (sf->use == SIM_CLAIM)
            sf->use = SIM_DROP;
        if (sf->kind != SIM_CONNECT && sf->use == SIM_DROP)
            sf->over = true;
        if (sf->kind == SIM_CONNECT && sf->use == SIM_DROP && sf->cancelled)
            sf->over = true; /* cancelled ones are not reported */
        if (sf->kind == SIM_CONNECT && sf->use == SIM_DROP && sf->end->stage != SIM_WAITING &&
            sf->end->stage != SIM_NEVER)
            sf->over = true; /* it succeeded, or is about to */
        sim.in_call++;
        aioloop_future_unref(f);
        sim.in_call--;
        return;
    }
}

/* ---- operations: servers ---- */

static void sim_op_server_close(sim_end *e) {
    sim_server *s = sim_pick_server();
    (void)e;
    if (s == NULL || s->server == NULL)
        return;
    sim_trace("server close", (int)(s - sim.servers), 0, 0);
    s->closed = true;
    sim.in_call++;
    aioloop_server_close(s->server);
    sim.in_call--;
    SIM_CHECK(!aioloop_server_is_serving(s->server), "a closed server serves");
    SIM_CHECK(aioloop_server_socket_count(s->server) == 0, "a closed server has sockets");
}

static void sim_op_server_clients(sim_end *e) {
    sim_server *s = sim_pick_server();
    bool abort = sim_one_in(2);
    int i;
    (void)e;
    if (s == NULL || s->server == NULL)
        return;
    sim_trace(abort ? "abort clients" : "close clients", (int)(s - sim.servers), 0, 0);
    for (i = 1; i <= sim.end_count; i++)
        if (sim.ends[i].server == s)
            sim_ending(&sim.ends[i], abort);
    sim.in_call++;
    if (abort)
        aioloop_server_abort_clients(s->server);
    else
        aioloop_server_close_clients(s->server);
    sim.in_call--;
    for (i = 1; i <= sim.end_count; i++)
        SIM_CHECK(sim.ends[i].server != s || sim.ends[i].stage != SIM_OPEN ||
                      aioloop_transport_is_closing(sim.ends[i].transport),
                  "end %d survived the end of its server's clients", i);
}

static void sim_op_server_start(sim_end *e) {
    sim_server *s = sim_pick_server();
    int err;
    (void)e;
    if (s == NULL || s->server == NULL)
        return;
    sim.in_call++;
    err = aioloop_server_start_serving(s->server);
    sim.in_call--;
    sim_trace("start serving", (int)(s - sim.servers), err, 0);
    SIM_CHECK(err == (s->closed ? AIOLOOP_EMISUSE : 0), "start_serving answers %d", err);
    if (err == 0)
        s->serving = true;
}

static void sim_op_server_future(sim_end *e) {
    sim_server *s = sim_pick_server();
    sim_future *sf;
    aioloop_future *f;
    (void)e;
    if (s == NULL || s->server == NULL || !sim_has_future_slot())
        return;
    if (sim_one_in(2) && !s->forever && !s->closed) {
        sim_trace("serve_forever", (int)(s - sim.servers), 0, 0);
        sf = sim_new_future(SIM_SERVE, NULL, s);
        sim.in_call++;
        f = aioloop_server_serve_forever(s->server);
        sim.in_call--;
        s->serving = aioloop_server_is_serving(s->server);
        s->forever = aioloop_future_get_loop(f) != NULL;
    } else {
        sim_trace("wait_closed", (int)(s - sim.servers), 0, 0);
        sf = sim_new_future(SIM_WAIT_CLOSED, NULL, s);
        sim.in_call++;
        f = aioloop_server_wait_closed(s->server);
        sim.in_call--;
    }
    sim_use_future(sf, f);
}

static void sim_op_server_unref(sim_end *e) {
    sim_server *s = sim_pick_server();
    (void)e;
    if (s == NULL || s->server == NULL || !sim_one_in(4))
        return;
    sim_trace("server unref", (int)(s - sim.servers), 0, 0);
    sim.in_call++;
    if (!s->closed && sim_one_in(2)) { /* also the one who stops it may let go first */
        s->closed = true;
        aioloop_server_close(s->server);
    }
    aioloop_server_unref(s->server);
    sim.in_call--;
    s->server = NULL;
}

/* ---- operations: the loop and the network ---- */

static void sim_op_network(sim_end *e) {
    static const size_t buffers[] = {1, 3, 16, 100, 1000, 65536};
    int err = 0;
    (void)e;
    switch (sim_below(3)) {
    case 0:
        sim.partition = !sim.partition;
        sim_trace("partition", 0, sim.partition, 0);
        err = aioloop_sim_set_partition(sim.loop, sim.partition);
        break;
    case 1: {
        aioloop_time a = sim_time();
        aioloop_time b = a + sim_time();
        sim_trace("delay", 0, a, b);
        err = aioloop_sim_set_delay(sim.loop, a, b);
        break;
    }
    default: {
        size_t size = buffers[sim_below(6)];
        if (size * 64 < sim.size_limit)
            break;
        sim_trace("buffer", 0, (int64_t)size, 0);
        err = aioloop_sim_set_buffer(sim.loop, size);
        break;
    }
    }
    SIM_CHECK(err == 0, "the network answers %d", err);
}

static void sim_op_fail_accepts(sim_end *e) {
    int err;
    (void)e;
    sim.accepts_fail = true;
    sim_trace("fail accepts", 0, 0, 0);
    err = aioloop_sim_fail_accepts(sim.loop, AIOLOOP_EMFILE, 1 + sim_below(3));
    SIM_CHECK(err == 0, "fail_accepts answers %d", err);
}

static void sim_called(aioloop *loop, void *arg) {
    sim_timer *t = (sim_timer *)arg;
    sim_total.callbacks++;
    sim_trace(t->soon ? "called soon" : "timer", (int)(t - sim.timers), 0, 0);
    SIM_CHECK(sim.phase != SIM_FREEING && sim.in_call == 0, "a callback at a wrong time");
    SIM_CHECK(!t->ran && !t->cancelled, "a callback runs that ran already or was cancelled");
    t->ran = true;
    if (t->soon) {
        SIM_CHECK(t->order > sim.soon_last, "callbacks overtake each other");
        sim.soon_last = t->order;
    } else {
        SIM_CHECK(aioloop_now(loop) >= t->handle.when, "a timer is early");
    }
    sim_play(NULL);
    sim_raise("callback", 0);
}

static void sim_op_call(sim_end *e) {
    sim_timer *t;
    (void)e;
    if (sim.timer_count == SIM_TIMERS)
        return;
    t = &sim.timers[sim.timer_count++];
    memset(t, 0, sizeof(*t));
    t->soon = sim_one_in(3);
    t->order = ++sim.soon_order;
    sim_trace("call", sim.timer_count - 1, t->soon, 0);
    if (t->soon)
        t->handle.handle = aioloop_call_soon(sim.loop, sim_called, t);
    else
        t->handle = aioloop_call_later(sim.loop, sim_time(), sim_called, t);
    if (aioloop_handle_is_null(&t->handle.handle)) {
        SIM_CHECK(sim.fault_fired, "a callback is refused");
        t->cancelled = true;
    }
}

static void sim_op_uncall(sim_end *e) {
    int i;
    (void)e;
    for (i = 0; i < sim.timer_count; i++) {
        sim_timer *t = &sim.timers[i];
        if (t->ran || t->cancelled || !sim_one_in(3))
            continue;
        if (!t->soon && sim_one_in(2)) {
            aioloop_time when = aioloop_now(sim.loop) + sim_time();
            aioloop_time before = t->handle.when;
            int err = aioloop_timer_handle_reschedule(&t->handle, when);
            sim_trace("reschedule", i, err, when);
            SIM_CHECK(err == 0 ? t->handle.when == when : err == AIOLOOP_EINVALIDSTATE && t->handle.when == before,
                      "reschedule answers %d", err);
        } else {
            sim_trace("uncall", i, 0, 0);
            t->cancelled = true;
            aioloop_timer_handle_cancel(&t->handle);
            SIM_CHECK(aioloop_handle_cancelled(&t->handle.handle), "a cancelled callback is not");
        }
        return;
    }
}

static void sim_op_stop(sim_end *e) {
    (void)e;
    sim_trace("stop", 0, 0, 0);
    aioloop_stop(sim.loop);
}

/* ---- the script ---- */

typedef struct sim_operation {
    void (*run)(sim_end *e);
    uint32_t weight;
    bool on_end;
} sim_operation;

static const sim_operation sim_operations[] = {
    {sim_op_connect, 16, false},
    {sim_op_pair, 5, false},
    {sim_op_listen, 2, false},
    {sim_op_raw, 2, false},
    {sim_op_write, 40, true},
    {sim_op_write_eof, 5, true},
    {sim_op_limits, 8, true},
    {sim_op_pause, 14, true},
    {sim_op_close, 5, true},
    {sim_op_abort, 4, true},
    {sim_op_protocol, 10, true},
    {sim_op_break, 2, true},
    {sim_op_ref, 8, true},
    {sim_op_cancel, 5, false},
    {sim_op_unclaim, 4, false},
    {sim_op_server_close, 1, false},
    {sim_op_server_clients, 1, false},
    {sim_op_server_start, 2, false},
    {sim_op_server_future, 3, false},
    {sim_op_server_unref, 2, false},
    {sim_op_network, 5, false},
    {sim_op_fail_accepts, 1, false},
    {sim_op_call, 10, false},
    {sim_op_uncall, 4, false},
    {sim_op_stop, 1, false},
};

#define SIM_OPERATIONS (sizeof(sim_operations) / sizeof(sim_operations[0]))

/* Any end with a transport; a live one rather than a lost one. */
static sim_end *sim_pick_end(void) {
    sim_end *picked = NULL;
    uint32_t seen = 0;
    int tries;
    for (tries = 0; tries < 2 && picked == NULL; tries++) {
        int i;
        for (i = 1; i <= sim.end_count; i++) {
            sim_end *e = &sim.ends[i];
            if (e->transport != NULL && (e->stage == SIM_OPEN || tries == 1 || sim_one_in(8)) && sim_one_in(++seen))
                picked = e;
        }
    }
    return picked;
}

/* One operation of this run's choice, on e if it may be. */
static void sim_operate(sim_end *e) {
    uint32_t total = 0;
    uint32_t at;
    size_t i;
    for (i = 0; i < SIM_OPERATIONS; i++)
        if ((sim.enabled >> i & 1) != 0)
            total += sim_operations[i].weight;
    at = sim_below(total);
    for (i = 0; i < SIM_OPERATIONS; i++) {
        if ((sim.enabled >> i & 1) == 0)
            continue;
        if (at < sim_operations[i].weight)
            break;
        at -= sim_operations[i].weight;
    }
    if (sim_operations[i].on_end && (e == NULL || e->transport == NULL || sim_one_in(4)))
        e = sim_pick_end();
    if (sim_operations[i].on_end && e == NULL)
        return;
    sim_total.operations++;
    sim_operations[i].run(e);
}

/* Operations from inside a callback, about e (or nobody). */
static void sim_play(sim_end *e) {
    int n;
    if (sim.phase != SIM_SCRIPT || sim.depth >= 3 || !sim_one_in(3))
        return;
    sim.depth++;
    for (n = 1 + (int)sim_below(3); n > 0 && sim.operations > 0; n--) {
        sim.operations--;
        sim_operate(e);
    }
    sim.depth--;
}

/* ---- running ---- */

/* What must be so between two iterations. */
static void sim_check_all(void) {
    int i;
    for (i = 1; i <= sim.end_count; i++) {
        sim_end *e = &sim.ends[i];
        if (e->stage != SIM_OPEN && e->stage != SIM_LOST)
            continue;
        SIM_CHECK(e->stage != SIM_LOST || e->lent == 0, "end %d is lost and %d pieces were not released", e->id,
                  e->lent);
        e->place = NULL;
        if (e->stage != SIM_OPEN)
            continue;
        sim_check_end(e);
        SIM_CHECK(!e->gave_up || e->closing, "end %d: its connection was cancelled and lives", e->id);
        SIM_CHECK(e->closing || !e->write_paused || aioloop_transport_get_write_buffer_size(e->transport) != 0,
                  "end %d has nothing to write and is paused", e->id);
    }
    for (i = 0; i < sim.raise_count; i++)
        SIM_CHECK(sim.raise_reported[i], "what was raised with %d was not reported", SIM_RAISE_FIRST - i);
    sim_poll_futures();
}

static void sim_ran(int64_t rc) {
    SIM_CHECK(rc >= 0 || (rc == AIOLOOP_EFATAL && sim.fatal), "a run ends with %s", aioloop_error_name((int)rc));
    SIM_CHECK(rc == AIOLOOP_EFATAL || !sim.fatal, "a fatal error did not end the run");
    SIM_CHECK(!aioloop_is_running(sim.loop), "the loop still runs");
    sim.fatal = false;
    sim_check_all();
    aioloop_verify(sim.loop);
}

static void sim_iterate(aioloop_time max_wait) {
    sim_trace("run_once", 0, max_wait, 0);
    sim_ran(aioloop_run_once(sim.loop, max_wait));
}

static void sim_stop_now(aioloop *loop, void *arg) {
    (void)arg;
    aioloop_stop(loop);
}

/* A run that a timer stops at the latest: it may be stopped before. */
static bool sim_will_stop(void) {
    aioloop_timer_handle h = aioloop_call_later(sim.loop, sim_time(), sim_stop_now, NULL);
    return !aioloop_handle_is_null(&h.handle);
}

static void sim_run_for_a_future(void) {
    sim_future *sf;
    aioloop_future *f;
    void *pointer = NULL;
    int64_t n;
    if (!sim_has_room() || !sim_will_stop())
        return;
    f = sim_start_connect(&sf);
    if (f == NULL)
        return;
    if (aioloop_future_get_loop(f) == NULL) {
        sim_use_future(sf, f);
        return;
    }
    sf->use = SIM_DROP; /* as which it ends if the run ends first */
    sf->future = f;
    n = aioloop_run_until_complete(sim.loop, f, &pointer);
    sim_trace("run_until_complete", sf->end->id, n, 0);
    if (n == 0) {
        sim_end *e = sf->end;
        SIM_CHECK(pointer != NULL && (e->stage == SIM_OPEN || e->stage == SIM_LOST), "end %d: connected in stage %d",
                  e->id, (int)e->stage);
        SIM_CHECK(e->transport == NULL || e->transport == pointer, "end %d: a wrong transport", e->id);
        sf->over = true;
        e->transport = (aioloop_transport *)pointer;
        e->refs++;
    } else if (n != AIOLOOP_EMISUSE && n != AIOLOOP_EFATAL && !sf->over) {
        sf->over = true;
        sim_connect_failed(sf, n);
        n = 0;
    }
    sim_ran(n == AIOLOOP_EFATAL ? n : 0);
}

static void sim_step(void) {
    switch (sim_below(12)) {
    case 0:
    case 1:
    case 2:
        sim_iterate(AIOLOOP_MS(1 + sim_below(20)));
        break;
    case 3:
        if (sim_will_stop()) {
            sim_trace("run_forever", 0, 0, 0);
            sim_ran(aioloop_run_forever(sim.loop));
        }
        break;
    case 4:
        sim_run_for_a_future();
        break;
    default:
        sim_iterate(0);
        break;
    }
}

/* ---- the end ---- */

/* Something that only grows while things happen. */
static uint64_t sim_progress(void) {
    uint64_t sum = 0;
    int i;
    for (i = 1; i <= sim.end_count; i++)
        sum += sim.ends[i].received + (uint64_t)sim.ends[i].stage + sim.ends[i].eof + sim.ends[i].closing;
    for (i = 0; i < sim.future_count; i++)
        sum += sim.futures[i].over;
    return sum + (uint64_t)sim.end_count;
}

/* Two ends that were closed while each had something to send that the other will not read: only an abort helps them. */
static bool sim_is_stuck(const sim_end *e) {
    const sim_end *peer = e->peer;
    if (e->stage != SIM_OPEN || !e->closing || aioloop_transport_get_write_buffer_size(e->transport) == 0)
        return false;
    if (peer == NULL) /* Unix: the other may be any */
        return e->kind == SIM_UNIX;
    return peer->stage == SIM_OPEN && peer->closing;
}

/* What e still waits for; NULL: nothing. */
static const char *sim_awaits(const sim_end *e) {
    const sim_end *peer = e->peer;
    if (e->stage == SIM_WAITING)
        return "to be made";
    if (e->stage != SIM_OPEN)
        return NULL;
    if (sim_is_stuck(e))
        return NULL;
    if (e->closing)
        return "to be lost";
    if (e->eof && sim_is_gone(peer))
        return NULL; /* it finds out when it writes */
    if (peer == NULL)
        return e->written != 0 ? "for somebody to read" : NULL;
    if (sim_is_gone(peer))
        return "to hear that its peer is gone";
    if (peer->stage == SIM_OPEN && peer->received != e->written)
        return "for its bytes to arrive";
    if (aioloop_transport_get_write_buffer_size(e->transport) != 0)
        return "to know that its bytes are sent";
    if (e->write_paused)
        return "for resume_writing";
    if (peer->stage == SIM_OPEN && peer->write_ended && !e->eof)
        return "for the end of file";
    return NULL;
}

static void sim_describe(int id) {
    const sim_end *e = &sim.ends[id];
    const sim_end *peer = e->peer;
    fprintf(stderr,
            "end %d: %s, stage %d, wrote %llu, received %llu, peer %d in stage %d that received %llu and wrote %llu\n",
            id, e->client ? "client" : "accepted", (int)e->stage, (unsigned long long)e->written,
            (unsigned long long)e->received, peer != NULL ? peer->id : 0, peer != NULL ? (int)peer->stage : 0,
            (unsigned long long)(peer != NULL ? peer->received : 0),
            (unsigned long long)(peer != NULL ? peer->written : 0));
}

/* Runs until nobody waits for anything. */
static void sim_settle(const char *what) {
    uint64_t last = sim_progress();
    int idle = 0;
    for (;;) {
        aioloop_time end = aioloop_now(sim.loop) + AIOLOOP_MS(500);
        const char *awaited = NULL;
        int who = 0;
        int i;
        sim_iterate(0);
        while (aioloop_now(sim.loop) < end)
            sim_iterate(end - aioloop_now(sim.loop));
        for (i = 1; i <= sim.end_count && awaited == NULL; i++) {
            who = i;
            awaited = sim_awaits(&sim.ends[i]);
        }
        if (awaited == NULL)
            return;
        idle = sim_progress() == last ? idle + 1 : 0;
        last = sim_progress();
        if (idle == 8)
            sim_describe(who);
        SIM_CHECK(idle < 8, "%s: end %d waits in vain %s", what, who, awaited);
    }
}

/* The network works again, and everybody reads. */
static void sim_heal(void) {
    int err;
    int i;
    sim.phase = SIM_HEALED;
    sim_trace("heal", 0, 0, 0);
    err = aioloop_sim_set_partition(sim.loop, false);
    if (err == 0)
        err = aioloop_sim_fail_accepts(sim.loop, AIOLOOP_EMFILE, 0);
    if (err == 0)
        err = aioloop_sim_set_buffer(sim.loop, 4096);
    SIM_CHECK(err == 0, "healing answers %d", err);
    for (i = 1; i <= sim.end_count; i++) {
        sim_end *e = &sim.ends[i];
        if (e->stage == SIM_RAW)
            sim_close_raw(e);
        if (e->stage != SIM_OPEN)
            continue;
        aioloop_transport_resume_reading(e->transport);
        if (!aioloop_transport_is_closing(e->transport) || !e->closing)
            e->read_paused = false;
        sim_check_end(e);
    }
}

/* Everybody who is connected to somebody writes a last word and closes: it must arrive, and nobody sees an error. */
static void sim_close_orderly(void) {
    int i;
    sim.phase = SIM_ORDERLY;
    sim_trace("orderly", 0, 0, 0);
    for (i = 1; i <= sim.end_count; i++) {
        sim_end *e = &sim.ends[i];
        sim_end *peer = e->peer;
        if (sim_is_stuck(e))
            sim_end_it(e, true);
        if (e->stage != SIM_OPEN || e->closing || e->last)
            continue;
        if (peer != NULL && peer->stage == SIM_OPEN && !peer->closing && !peer->eof && !e->broken && !e->write_ended) {
            peer->last = true;                                   /* it closes when it has read everything */
            peer->strict = sim.fault_at == 0 || sim.fault_fired; /* unless an allocation is still to fail */
            sim_write_size(e, 1 + sim_below(20000));
            peer->strict_error = 0;
            e->strict = peer->strict;
            e->strict_error = 0;
        }
        if (!aioloop_transport_is_closing(e->transport))
            sim_end_it(e, false);
    }
    sim_settle("closing");
}

static void sim_check_finished(void) {
    int i;
    for (i = 1; i <= sim.end_count; i++) {
        const sim_end *e = &sim.ends[i];
        SIM_CHECK(e->stage == SIM_LOST || e->stage == SIM_NEVER, "end %d is left in stage %d", i, (int)e->stage);
        SIM_CHECK(e->lent == 0, "end %d: lent memory was not released", i);
    }
    for (i = 0; i < sim.future_count; i++)
        SIM_CHECK(sim.futures[i].over, "a future of kind %d never settled (end %d)", (int)sim.futures[i].kind,
                  sim.futures[i].end != NULL ? sim.futures[i].end->id : 0);
    for (i = 0; i < sim.timer_count; i++)
        SIM_CHECK(sim.timers[i].ran || sim.timers[i].cancelled, "callback %d never ran", i);
}

static void sim_close_servers(void) {
    int quiet;
    int i;
    for (i = 0; i < sim.server_count; i++) {
        sim_server *s = &sim.servers[i];
        if (s->server == NULL)
            continue;
        s->closed = true;
        aioloop_server_close(s->server);
    }
    for (i = 0; i < sim.future_count; i++) { /* of servers that were let go of and serve on */
        sim_future *sf = &sim.futures[i];
        if (sf->over || sf->kind == SIM_CONNECT || sf->server->server != NULL || sf->server->closed)
            continue;
        if (sf->use == SIM_DROP)
            sf->over = true;
        else
            sim_cancel_future(sf);
    }
    /* Servers that were let go of still accept clients that have long gone. */
    for (quiet = 0; quiet < 10; quiet++) {
        sim_iterate(AIOLOOP_MS(100));
        for (i = 1; i <= sim.end_count; i++) {
            if (sim.ends[i].stage != SIM_OPEN)
                continue;
            quiet = 0;
            if (!sim.ends[i].closing)
                sim_end_it(&sim.ends[i], true);
        }
    }
}

/* Gives up everything that is ours, or leaves some of it to aioloop_free. */
static void sim_let_go(bool all) {
    int i;
    for (i = 1; i <= sim.end_count; i++)
        for (; sim.ends[i].refs > 0 && (all || sim_one_in(2)); sim.ends[i].refs--)
            aioloop_transport_unref(sim.ends[i].transport);
    for (i = 0; i < sim.server_count; i++) {
        if (sim.servers[i].server != NULL && (all || sim_one_in(2)))
            aioloop_server_unref(sim.servers[i].server);
    }
    for (i = 0; i < sim.future_count; i++) {
        if (!sim.futures[i].held || !(all || sim_one_in(2)))
            continue;
        if (!sim.futures[i].over)
            sim.futures[i].use = SIM_DROP;
        sim.futures[i].held = false;
        aioloop_future_unref(sim.futures[i].future);
    }
}

/* Nothing is left but servers that were let go of while they served. A look inside: freeing the loop hides a leak. */
static void sim_check_empty(void) {
    const aiol_link *link;
    int left = 0;
    int i;
    for (i = 0; i < sim.server_count; i++)
        left += !sim.servers[i].closed;
    for (link = sim.loop->resources.next; link != &sim.loop->resources; link = link->next) {
        const aiol_resource *resource = AIOL_CONTAINER(link, const aiol_resource, link);
        SIM_CHECK(strcmp(resource->calls->name, "server") == 0 && left-- > 0, "a %s is left that nobody holds",
                  resource->calls->name);
    }
    SIM_CHECK(left == 0, "a server that serves is gone");
    for (i = 0; i < sim.future_count; i++) /* of those servers, dropped by us */
        left += sim.futures[i].server != NULL && !sim.futures[i].server->closed;
    for (link = sim.loop->futures.next; link != &sim.loop->futures; link = link->next)
        left--;
    SIM_CHECK(left >= 0, "a future is left that nobody holds");
}

/* A closed loop's objects are still there and answer. */
static void sim_poke_closed(void) {
    int i;
    int err = aioloop_close(sim.loop);
    SIM_CHECK(err == 0, "close answers %d", err);
    for (i = 1; i <= sim.end_count; i++) {
        sim_end *e = &sim.ends[i];
        SIM_CHECK(e->lent == 0, "end %d: closing the loop did not release its memory", i);
        if (e->refs == 0)
            continue;
        SIM_CHECK(aioloop_transport_is_closing(e->transport), "end %d is open on a closed loop", i);
        err = aioloop_transport_write(e->transport, "x", 1);
        SIM_CHECK(err <= 0, "end %d: writing on a closed loop answers %d", i, err);
        aioloop_transport_close(e->transport);
        aioloop_transport_abort(e->transport);
        aioloop_transport_pause_reading(e->transport);
        aioloop_transport_resume_reading(e->transport);
        err = aioloop_transport_write_eof(e->transport);
        SIM_CHECK(err <= 0, "end %d: write_eof on a closed loop answers %d", i, err);
        aioloop_transport_set_write_buffer_limits(e->transport, 0, 0);
    }
}

static void sim_free_lent(void) {
    while (sim.lent != NULL) {
        sim_lent *l = sim.lent;
        size_t i;
        SIM_CHECK(l->released || l->refused, "end %d: lent memory never came back", l->end->id);
        for (i = 0; i < l->size; i++)
            SIM_CHECK(l->data[i] == 0xdd, "released memory was written to");
        sim.lent = l->next;
        free(l->data);
        free(l);
    }
}

/* ---- a run ---- */

/* What this run is like: which operations it knows, how often callbacks fail, how big writes are. */
static void sim_choose_profile(void) {
    static const size_t buffers[] = {1, 7, 64, 500, 4096, 65536, 65536, 65536};
    static const uint32_t limits[] = {40, 200, 1000, 5000, 20000};
    size_t buffer = buffers[sim_below(8)];
    aioloop_time delay = sim_one_in(3) ? 0 : sim_time();
    size_t i;
    int err;
    sim.size_limit = limits[sim_below(buffer < 64 ? 3 : 5)];
    sim.raise_in = sim_one_in(2) ? 0 : 10 + sim_below(100);
    sim.operations = 40 + (int)sim_below(sim_one_in(4) ? 600 : 160);
    sim.enabled = 0;
    for (i = 0; i < SIM_OPERATIONS; i++)
        if (i < 3 || sim_below(4) != 0)
            sim.enabled |= (uint32_t)1 << i;
    err = aioloop_sim_set_buffer(sim.loop, buffer);
    if (err == 0)
        err = aioloop_sim_set_delay(sim.loop, delay, delay + sim_time());
    SIM_CHECK(err == 0, "the network answers %d", err);
    sim_trace("profile", 0, (int64_t)buffer, sim.size_limit);
}

static void sim_script(void) {
    int steps = sim.operations / 2 + (int)sim_below(80);
    sim_op_listen(NULL);
    if (sim_one_in(2))
        sim_op_listen(NULL);
    while (steps-- > 0) {
        int n = (int)sim_below(4);
        while (n-- > 0 && sim.operations > 0) {
            sim.operations--;
            sim_operate(NULL);
        }
        sim_step();
    }
}

/* Plays a seed; its trace is sim.hash. */
static void sim_run(uint64_t seed, bool delayed, uint64_t fault_at) {
    static const aioloop_allocator allocator = {sim_allocate, NULL};
    aioloop_config config = AIOLOOP_ZERO;
    char backend[64];
    bool abandon;
    int err;
    memset(&sim, 0, offsetof(sim_world, place));
    sim.seed = seed;
    sim.delayed = delayed;
    sim.random = seed * 2 + delayed;
    sim.hash = UINT64_C(0xcbf29ce484222325);
    sim.fault_at = fault_at;
    snprintf(backend, sizeof(backend), "sim%s,seed=%llu", delayed ? ",delayed" : "", (unsigned long long)seed);
    config.backend = backend;
    config.allocator = &allocator;
    config.debug = sim_one_in(8) ? 1 : -1;
    sim.loop = aioloop_new_event_loop(&config);
    if (sim.loop == NULL) {
        SIM_CHECK(sim.fault_fired && sim.blocks == 0, "no loop: %s", aioloop_error_message(aioloop_last_error(NULL)));
        return;
    }
    aioloop_set_exception_handler(sim.loop, sim_on_error, NULL);
    aioloop_set_log(sim.loop, sim_on_log, NULL);
    sim_choose_profile();
    sim_script();
    abandon = sim_one_in(8);
    if (!abandon) {
        sim_heal();
        sim_settle("healed");
        sim_close_orderly();
        sim_close_servers();
        sim_check_finished();
        sim_let_go(true);
        sim_iterate(0);
        sim_check_empty();
    } else {
        sim.phase = SIM_FREEING;
        sim_let_go(false);
        if (sim_one_in(2))
            sim_poke_closed();
    }
    sim.phase = SIM_FREEING;
    sim.in_call++;
    err = aioloop_free(sim.loop);
    sim.in_call--;
    sim.loop = NULL;
    SIM_CHECK(err == 0, "freeing the loop answers %d", err);
    SIM_CHECK(sim.blocks == 0 && sim.bytes == 0, "%lu blocks of %lu bytes are left", (unsigned long)sim.blocks,
              (unsigned long)sim.bytes);
    sim_free_lent();
}

static void sim_run_seed(uint64_t seed, bool delayed) {
    uint64_t hash;
    if (sim_total.verbose)
        printf("---- seed %llu, %s\n", (unsigned long long)seed, delayed ? "delayed" : "readiness");
    alarm(60);
    sim_run(seed, delayed, 0);
    hash = sim.hash;
    if (seed % 100 == 0) {
        sim_run(seed, delayed, 0);
        SIM_CHECK(sim.hash == hash, "the same seed left another trace");
    }
    if (sim_total.faults) {
        uint64_t n = sim.allocations;
        sim.random = ~seed;
        n = 1 + (((sim_draw() >> 32) * n) >> 32);
        if (sim_total.verbose)
            printf("---- allocation %llu fails\n", (unsigned long long)n);
        sim_run(seed, delayed, n);
    }
}

static int sim_usage(void) {
    fprintf(stderr, "usage: %s [--delayed|--readiness|--both] [--faults] [-v] FIRST COUNT\n", sim_total.program);
    return 2;
}

int main(int argc, char **argv) {
    bool readiness = true;
    bool delayed = true;
    uint64_t numbers[2];
    int count = 0;
    int i;
    uint64_t seed;
    sim_total.program = argv[0];
    for (i = 1; i < argc; i++) {
        char *end = argv[i];
        if (strcmp(argv[i], "-v") == 0) {
            sim_total.verbose = true;
        } else if (strcmp(argv[i], "--faults") == 0) {
            sim_total.faults = true;
        } else if (strcmp(argv[i], "--delayed") == 0 || strcmp(argv[i], "--readiness") == 0 ||
                   strcmp(argv[i], "--both") == 0) {
            readiness = argv[i][2] != 'd';
            delayed = argv[i][2] != 'r';
        } else {
            if (count == 2)
                return sim_usage();
            numbers[count++] = strtoull(argv[i], &end, 10);
            if (*argv[i] == '\0' || *end != '\0')
                return sim_usage();
        }
    }
    if (count != 2)
        return sim_usage();
    signal(SIGALRM, sim_on_signal);
    signal(SIGABRT, sim_on_signal);
#if !SIM_ASAN
    signal(SIGSEGV, sim_on_signal);
    signal(SIGBUS, sim_on_signal);
    signal(SIGFPE, sim_on_signal);
#endif
    for (seed = numbers[0]; seed - numbers[0] < numbers[1]; seed++) {
        if (readiness)
            sim_run_seed(seed, false);
        if (delayed)
            sim_run_seed(seed, true);
    }
    printf("%llu seeds%s%s%s: %llu operations, %llu callbacks, %llu bytes: no violation\n",
           (unsigned long long)numbers[1], readiness ? ", readiness" : "", delayed ? ", delayed" : "",
           sim_total.faults ? ", faults" : "", (unsigned long long)sim_total.operations,
           (unsigned long long)sim_total.callbacks, (unsigned long long)sim_total.bytes);
    return 0;
}
