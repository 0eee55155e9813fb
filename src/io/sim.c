/*
 * sim.c - the simulated engine: a virtual clock and a network in memory, to prove the contract of op.h.
 *
 * Two personalities. Readiness does what the reactor does. Delayed does all that a completion engine is allowed to do:
 * sends copy nothing until later and take a part, completions come iterations after the fact, bytes and connections are
 * taken from the network ahead of their delivery and also while a source is stopped, a cancel finds the work done.
 *
 *   a) The seed decides everything. Sockets are walked in the order of their making and never by address; a harvest is
 *      shuffled by the seed (whatever came at an earlier time was in an earlier harvest, so time order holds).
 *   b) A step moves what is due; steps repeat until nothing moves; only then may the clock jump. So time passes only
 *      when nobody has anything to do, which is what makes an hour's time-out cost microseconds.
 *   c) What a connection carries lies at the receiving socket, so a sender may go while its bytes are under way. Ends
 *      and resets are times in the receiver, not messages, so closing needs no memory.
 *   d) The stash is a count: the first bytes of a socket (or connections of a listener) are the engine's. Giving them
 *      back, which a cancel must do, is setting it to 0, and cannot fail.
 *   e) A socket made by open brings along the other end of the connection it may make, so connecting cannot fail for
 *      want of memory. Only a send allocates, and answers AIOLOOP_ENOBUFS as a system does.
 *   f) A cancelled operation that has not told its end is on a list of the engine and no more of its socket: the
 *      descriptor may be closed and its number in use again by then. Freed numbers are given out again at once, to
 *      provoke just that.
 *   g) Callbacks may close any socket, so after each of them a socket is looked up anew by number and serial.
 *
 * Long, because it is a kernel's network and two engines.
 */
#ifndef AIOL_IO_SIM_C
#define AIOL_IO_SIM_C

#include "api/resolve.h"
#include "base/atomic.h"
#include "base/list.h"
#include "io/op.h"

/* Work takes no time here, so that a test can count on exact times; but after so many iterations that did not wait each
 * one takes so many nanoseconds. */
#define AIOL_SIM_PATIENCE 10000
#define AIOL_SIM_TICK 1000

/* Another thread can end a wait only where there is something to wait with; elsewhere one without end fails at once. */
#define AIOL_SIM_BLOCKS (AIOLOOP_USE_THREADS && AIOL_HAVE_POLL)

#if AIOL_SIM_BLOCKS
#include "poll/wake.c"
#endif

#define AIOL_SIM_START AIOLOOP_MS(1000) /* what the clock shows at first: not 0, so that 0 is in the past */
#define AIOL_SIM_DEADLOCK 2000          /* real ms in which another thread has to wake a loop without events */
#define AIOL_SIM_NUMBERS (1 << 20)      /* the first descriptor: out of the way of the system's */
#define AIOL_SIM_BUFFER 65536u          /* the default of sim_set_buffer; what one done() of a RECV gets at most */
#define AIOL_SIM_SHARE 16384u           /* bytes a delayed RECV takes ahead */
#define AIOL_SIM_ACCEPT_SHARE 4u        /* connections a delayed ACCEPT takes ahead */
#define AIOL_SIM_DATAGRAM 65507u        /* the largest one of the internet */
#define AIOL_SIM_FIRST_PORT 32768
#define AIOL_SIM_LAST_PORT 60999

/* The places of a socket's operations, in the order in which they are served. */
typedef enum aiol_sim_place {
    AIOL_SIM_READER,     /* RECV, RECVFROM, ACCEPT */
    AIOL_SIM_WATCH_READ, /* POLL */
    AIOL_SIM_WRITER,     /* SEND, SENDFILE, SENDTO, CONNECT */
    AIOL_SIM_WATCH_WRITE,
    AIOL_SIM_PLACES
} aiol_sim_place;

/* engine_flags of a delayed SEND or SENDTO: it has happened, op->engine is its result. */
enum { AIOL_SIM_HAPPENED = 1 };

/* NEW -listen-> LISTENING. NEW -submit-> CONNECTING -> CONNECTED, or back to NEW. An accepted one is born CONNECTED. A
 * socket of datagrams is CONNECTED if it has been told a destination. */
typedef enum aiol_sim_stage {
    AIOL_SIM_NEW,
    AIOL_SIM_LISTENING,
    AIOL_SIM_CONNECTING,
    AIOL_SIM_CONNECTED
} aiol_sim_stage;

/* Bytes of one send; they follow the struct. */
typedef struct aiol_sim_piece {
    struct aiol_sim_piece *next;
    aioloop_time arrives;
    size_t start; /* the first byte still there */
    size_t size;  /* bytes still there */
    size_t block_size;
} aiol_sim_piece;

/* An address with room for its path. */
typedef struct aiol_sim_name {
    aioloop_address address;
    aiol_path_room room;
} aiol_sim_name;

/* The bytes follow the struct. */
typedef struct aiol_sim_datagram {
    struct aiol_sim_datagram *next;
    aioloop_time arrives;
    aiol_sim_name from;
    size_t size;
} aiol_sim_datagram;

/* The file of a Unix socket: stays until it is removed. */
typedef struct aiol_sim_file {
    struct aiol_sim_file *next;
    aiol_sim_name name;
    uint64_t inode;
} aiol_sim_file;

typedef struct aiol_sim_socket {
    aiol_link link;        /* sim->sockets */
    aioloop_socket number; /* AIOL_NO_SOCKET until accepted */
    uint32_t serial;       /* tells it from others that have or had its number */
    uint8_t family;
    uint8_t type; /* aioloop_socket_type: STREAM or DGRAM */
    uint8_t stage;
    bool bound;
    bool transport; /* attached by one */
    bool reuse_address;
    bool reuse_port;
    bool v6_only;
    bool pipe; /* one end of one: only the first of the two is written to */
    uint64_t inode; /* of the file it was bound to */
    aiol_sim_name local;
    aiol_sim_name remote;
    aiol_op *ops[AIOL_SIM_PLACES];

    /* a connection */
    struct aiol_sim_socket *peer;  /* NULL: closed, or this end is dead */
    struct aiol_sim_socket *spare; /* e) */
    bool write_shut;
    bool dead; /* reset or broken */
    bool connect_waits; /* for room in the backlog */
    bool connect_untold; /* no second connect has heard yet that it is made */
    aioloop_time connect_at;
    int connect_result;
    int read_error; /* to be told once */
    int write_error;

    /* what comes in, c) */
    aiol_sim_piece *head;
    aiol_sim_piece *tail;
    aiol_sim_piece *coming; /* the first that is under way */
    size_t size;            /* bytes in all pieces */
    size_t arrived;         /* bytes before coming */
    size_t stash;           /* d); of a listener: connections */
    aioloop_time last_arrival;
    aioloop_time end_at;
    aioloop_time reset_at;
    bool end_sent;
    bool end_arrived;
    bool reset_sent;
    bool offering; /* done() of its RECV runs */

    /* datagrams that come in, in order */
    aiol_sim_datagram *datagrams;
    size_t datagrams_size; /* of their bytes and one more for each */
    uint32_t destination;  /* the serial of the socket that a Unix socket is connected to, whatever is bound later */
    uint32_t blocked_on;   /* the serial of the socket that has no room for one, of this size; 0: none */
    size_t blocked_size;

    /* delayed: in which turn what is known is told */
    bool read_noticed;
    uint32_t read_due;
    uint32_t write_due;

    /* a listener, and a connection in its queue */
    struct aiol_sim_socket *queue;
    struct aiol_sim_socket *queue_next;
    size_t queue_count;
    size_t backlog;
} aiol_sim_socket;

typedef struct aiol_sim_slot {
    aiol_sim_socket *socket;
    size_t next_free; /* index + 1 */
} aiol_sim_slot;

/* Something to dispatch. */
typedef struct aiol_sim_ready {
    aioloop_socket number;
    uint32_t serial;
    unsigned places; /* bits */
} aiol_sim_ready;

typedef struct aiol_sim {
    aiol_engine engine;
    bool delayed;
    bool partition;
    bool no_sendfile; /* files have to be read and sent */
    uint64_t random;
    aioloop_time now;
    aioloop_time delay_min;
    aioloop_time delay_max;
    size_t buffer;
    unsigned lost; /* of 1,000 datagrams */
    bool reordered;
    int accept_error;
    unsigned accept_failures;
    uint16_t port;   /* the next to try */
    uint64_t inodes; /* given out */
    uint32_t serials;
    aiol_sim_file *files;

    aiol_link sockets;
    size_t sockets_total; /* with spare ones */
    aiol_sim_slot *slots; /* by number; room for sockets_total */
    size_t slots_used;
    size_t slots_free; /* the head of the list: index + 1 */
    size_t slots_capacity;

    uint32_t turn;        /* counts waits */
    uint32_t generation;  /* counts submissions */
    uint32_t harvested;   /* generation at the harvest */
    aiol_op *late;        /* CANCELLING, f) */
    aiol_sim_ready *ready; /* room for sockets_total */
    size_t ready_next;
    size_t ready_count;
    size_t ready_capacity;
    bool more; /* this dispatch left something */

    unsigned char *scratch; /* AIOL_SIM_BUFFER bytes: what a RECV without dest is shown */
    uint32_t woken;         /* atomic */
#if AIOL_SIM_BLOCKS
    aiol_wake wake;
#endif
    unsigned busy; /* iterations in a row that did not wait */
} aiol_sim;

static aiol_sim *aiol_sim_of(aiol_engine *e) {
    return AIOL_CONTAINER(e, aiol_sim, engine);
}

/* True once turn a is at or after turn b; counters may wrap. */
static bool aiol_sim_reached(uint32_t a, uint32_t b) {
    return (int32_t)(a - b) >= 0;
}

/* ---- chance ---- */

/* splitmix64 */
static uint64_t aiol_sim_draw(aiol_sim *sim) {
    uint64_t z = sim->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint32_t aiol_sim_below(aiol_sim *sim, uint32_t bound) {
    return (uint32_t)((aiol_sim_draw(sim) >> 32) * bound >> 32);
}

static bool aiol_sim_coin(aiol_sim *sim) {
    return aiol_sim_below(sim, 2) == 0;
}

/* Something from 1 to size. */
static size_t aiol_sim_part(aiol_sim *sim, size_t size) {
    uint32_t bound = (uint32_t)aiol_min_size(size, UINT32_MAX);
    return bound == 0 ? 0 : 1 + (size_t)aiol_sim_below(sim, bound);
}

static aioloop_time aiol_sim_delay(aiol_sim *sim) {
    uint64_t span = (uint64_t)(sim->delay_max - sim->delay_min);
    if (span == 0)
        return sim->delay_min;
    return sim->delay_min + (aioloop_time)(aiol_sim_draw(sim) % (span + 1));
}

/* ---- names ---- */

static void aiol_sim_name_set(aiol_sim_name *name, const aioloop_address *address) {
    name->address = *address;
    if (address->family == AIOLOOP_UNIX) {
        size_t size = aiol_min_size(address->path_size, sizeof(name->room.bytes));
        if (size != 0)
            memcpy(name->room.bytes, address->u.path, size);
        name->address.path_size = (uint32_t)size;
        name->address.u.path = name->room.bytes;
    }
}

static void aiol_sim_name_tell(const aiol_sim_name *name, aioloop_address *address, aiol_path_room *room) {
    *address = name->address;
    if (address->family == AIOLOOP_UNIX) {
        memcpy(room->bytes, name->room.bytes, address->path_size);
        address->u.path = room->bytes;
    }
}

static size_t aiol_sim_ip_size(const aioloop_address *a) {
    return a->family == AIOLOOP_INET ? 4 : 16;
}

static bool aiol_sim_is_wildcard(const aioloop_address *a) {
    static const uint8_t zeros[16] = {0};
    return memcmp(a->u.ip, zeros, aiol_sim_ip_size(a)) == 0;
}

static bool aiol_sim_is_loopback(const aioloop_address *a) {
    static const uint8_t one[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    return a->family == AIOLOOP_INET ? a->u.ip[0] == 127 : memcmp(a->u.ip, one, sizeof(one)) == 0;
}

static void aiol_sim_set_loopback(aioloop_address *a) {
    memset(a->u.ip, 0, sizeof(a->u.ip));
    if (a->family == AIOLOOP_INET)
        a->u.ip[0] = 127;
    a->u.ip[a->family == AIOLOOP_INET ? 3 : 15] = 1;
}

/* An IPv4 address as an IPv6 socket sees it. */
static void aiol_sim_map_v4(aioloop_address *a) {
    uint8_t ip[4];
    memcpy(ip, a->u.ip, 4);
    a->family = AIOLOOP_INET6;
    memset(a->u.ip, 0, 10);
    memset(a->u.ip + 10, 0xff, 2);
    memcpy(a->u.ip + 12, ip, 4);
}

static bool aiol_sim_is_file(const aioloop_address *a) {
    return a->family == AIOLOOP_UNIX && a->path_size != 0 && a->u.path[0] != '\0';
}

/* Where the file of this name hangs, or the NULL at the list's end. */
static aiol_sim_file **aiol_sim_find_file(aiol_sim *sim, const char *path, size_t size) {
    aiol_sim_file **at;
    for (at = &sim->files; *at != NULL; at = &(*at)->next)
        if ((*at)->name.address.path_size == size && memcmp((*at)->name.room.bytes, path, size) == 0)
            break;
    return at;
}

static int aiol_sim_make_file(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *address) {
    aiol_sim_file **at = aiol_sim_find_file(sim, address->u.path, address->path_size);
    aiol_sim_file *file;
    if (*at != NULL)
        return AIOLOOP_EADDRINUSE;
    file = (aiol_sim_file *)aiol_alloc_zero(sim->engine.allocator, sizeof(*file));
    if (file == NULL)
        return AIOLOOP_ENOMEM;
    aiol_sim_name_set(&file->name, address);
    file->inode = ++sim->inodes;
    s->inode = file->inode;
    *at = file;
    return 0;
}

/* ---- sockets and their numbers ---- */

static aiol_sim_socket *aiol_sim_find(aiol_sim *sim, aioloop_socket number) {
    if (number < AIOL_SIM_NUMBERS || (size_t)(number - AIOL_SIM_NUMBERS) >= sim->slots_used)
        return NULL;
    return sim->slots[number - AIOL_SIM_NUMBERS].socket;
}

/* A new socket, in no list and without a number, for which there is room in every array. */
static aiol_sim_socket *aiol_sim_make(aiol_sim *sim, int family, int type) {
    const aioloop_allocator *a = sim->engine.allocator;
    size_t wanted = sim->sockets_total + 1;
    aiol_sim_socket *s;
    if (aiol_grow(a, &sim->slots, &sim->slots_capacity, sizeof(sim->slots[0]), wanted) < 0 ||
        aiol_grow(a, &sim->ready, &sim->ready_capacity, sizeof(sim->ready[0]), wanted) < 0)
        return NULL;
    s = (aiol_sim_socket *)aiol_alloc_zero(a, sizeof(*s));
    if (s == NULL)
        return NULL;
    sim->sockets_total++;
    s->number = AIOL_NO_SOCKET;
    s->family = (uint8_t)family;
    s->type = (uint8_t)type;
    s->local.address.family = (uint16_t)family;
    s->local.address.u.path = family == AIOLOOP_UNIX ? s->local.room.bytes : NULL;
    s->remote = s->local;
    return s;
}

/* The socket begins to exist for the network. */
static void aiol_sim_enter(aiol_sim *sim, aiol_sim_socket *s) {
    s->serial = ++sim->serials;
    s->last_arrival = sim->now;
    aiol_list_append(&sim->sockets, &s->link);
}

/* Gives it the number that was freed last. */
static void aiol_sim_number(aiol_sim *sim, aiol_sim_socket *s) {
    size_t i = sim->slots_free;
    AIOL_ASSERT(s->number == AIOL_NO_SOCKET);
    if (i != 0) {
        sim->slots_free = sim->slots[--i].next_free;
    } else {
        AIOL_ASSERT(sim->slots_used < sim->slots_capacity);
        i = sim->slots_used++;
    }
    sim->slots[i].socket = s;
    s->number = AIOL_SIM_NUMBERS + (aioloop_socket)i;
}

static void aiol_sim_free_pieces(aiol_sim *sim, aiol_sim_piece *piece) {
    while (piece != NULL) {
        aiol_sim_piece *next = piece->next;
        aiol_free(sim->engine.allocator, piece, piece->block_size);
        piece = next;
    }
}

static void aiol_sim_free_datagrams(aiol_sim *sim, aiol_sim_datagram *datagram) {
    while (datagram != NULL) {
        aiol_sim_datagram *next = datagram->next;
        aiol_free(sim->engine.allocator, datagram, sizeof(*datagram) + datagram->size);
        datagram = next;
    }
}

static void aiol_sim_free(aiol_sim *sim, aiol_sim_socket *s) {
    if (s == NULL)
        return;
    if (s->number != AIOL_NO_SOCKET) {
        size_t i = (size_t)(s->number - AIOL_SIM_NUMBERS);
        sim->slots[i].socket = NULL;
        sim->slots[i].next_free = sim->slots_free;
        sim->slots_free = i + 1;
    }
    aiol_list_remove(&s->link);
    aiol_sim_free_pieces(sim, s->head);
    aiol_sim_free_datagrams(sim, s->datagrams);
    aiol_sim_free(sim, s->spare);
    sim->sockets_total--;
    aiol_free(sim->engine.allocator, s, sizeof(*s));
}

/* Walks the sockets in the order of their making. */
#define AIOL_SIM_EACH(sim, link)                                                                   \
    for (link = (sim)->sockets.next; link != &(sim)->sockets; link = link->next)

static aiol_sim_socket *aiol_sim_at(aiol_link *link) {
    return AIOL_CONTAINER(link, aiol_sim_socket, link);
}

/* The socket of this serial, or NULL if it has gone. */
static aiol_sim_socket *aiol_sim_of_serial(aiol_sim *sim, uint32_t serial) {
    aiol_link *link;
    AIOL_SIM_EACH(sim, link) {
        aiol_sim_socket *s = aiol_sim_at(link);
        if (s->serial == serial)
            return s;
    }
    return NULL;
}

/* ---- what is under way ---- */

/* When something sent to s now arrives: never before what was sent earlier. */
static aioloop_time aiol_sim_arrival(aiol_sim *sim, aiol_sim_socket *s) {
    aioloop_time at = s->pipe ? sim->now : aiol_time_add(sim->now, aiol_sim_delay(sim)); /* that is no network */
    if (at > s->last_arrival)
        s->last_arrival = at;
    return s->last_arrival;
}

static void aiol_sim_append(aiol_sim *sim, aiol_sim_socket *s, aiol_sim_piece *piece) {
    piece->arrives = aiol_sim_arrival(sim, s);
    if (s->tail == NULL)
        s->head = piece;
    else
        s->tail->next = piece;
    s->tail = piece;
    if (s->coming == NULL)
        s->coming = piece;
    s->size += piece->size;
}

static void aiol_sim_send_end(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->end_sent || s->dead)
        return;
    s->end_sent = true;
    s->end_at = aiol_sim_arrival(sim, s);
}

static void aiol_sim_send_reset(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->reset_sent || s->dead)
        return;
    s->reset_sent = true;
    s->reset_at = aiol_sim_arrival(sim, s);
}

/* Copies the first bytes; they stay. */
static void aiol_sim_peek(const aiol_sim_socket *s, void *to, size_t size) {
    const aiol_sim_piece *piece = s->head;
    unsigned char *at = (unsigned char *)to;
    while (size != 0) {
        size_t n = aiol_min_size(size, piece->size);
        memcpy(at, (const unsigned char *)(piece + 1) + piece->start, n);
        at += n;
        size -= n;
        piece = piece->next;
    }
}

/* Drops the first bytes, which have arrived. */
static void aiol_sim_consume(aiol_sim *sim, aiol_sim_socket *s, size_t size) {
    size = aiol_min_size(size, s->arrived); /* a break may have dropped them */
    s->arrived -= size;
    s->size -= size;
    s->stash -= aiol_min_size(s->stash, size);
    if (s->stash == 0)
        s->read_noticed = false;
    while (size != 0) {
        aiol_sim_piece *piece = s->head;
        size_t n = aiol_min_size(size, piece->size);
        piece->start += n;
        piece->size -= n;
        size -= n;
        if (piece->size == 0) {
            s->head = piece->next;
            if (s->head == NULL)
                s->tail = NULL;
            aiol_free(sim->engine.allocator, piece, piece->block_size);
        }
    }
}

/* Loses all that the engine does not have already. */
static void aiol_sim_drop(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_sim_piece **at = &s->head;
    size_t left = s->stash;
    s->tail = NULL;
    while (left != 0) {
        s->tail = *at;
        s->tail->size = aiol_min_size(s->tail->size, left);
        left -= s->tail->size;
        at = &s->tail->next;
    }
    aiol_sim_free_pieces(sim, *at);
    *at = NULL;
    s->coming = NULL;
    s->size = s->stash;
    s->arrived = s->stash;
}

/* The connection is no more for this end, which is told once in each direction. */
static void aiol_sim_kill(aiol_sim *sim, aiol_sim_socket *s, int read_error, int write_error) {
    aiol_sim_drop(sim, s);
    s->dead = true;
    s->peer = NULL;
    s->end_sent = true;
    s->end_arrived = true;
    s->reset_sent = false;
    s->read_error = read_error;
    s->write_error = write_error;
}

/* As Linux: whoever has read to the end hears of a reset only when it writes. */
static void aiol_sim_reset_arrives(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->end_arrived && s->arrived == 0)
        aiol_sim_kill(sim, s, 0, AIOLOOP_EPIPE);
    else
        aiol_sim_kill(sim, s, AIOLOOP_ECONNRESET, AIOLOOP_ECONNRESET);
}

/* Lets arrive what is due at s. True if something did. */
static bool aiol_sim_arrive(aiol_sim *sim, aiol_sim_socket *s) {
    bool moved = false;
    if (sim->partition && !s->pipe)
        return false;
    for (; s->coming != NULL && s->coming->arrives <= sim->now; s->coming = s->coming->next) {
        s->arrived += s->coming->size;
        moved = true;
    }
    if (s->end_sent && !s->end_arrived && s->coming == NULL && s->end_at <= sim->now) {
        s->end_arrived = true;
        moved = true;
    }
    if (s->reset_sent && s->reset_at <= sim->now) {
        aiol_sim_reset_arrives(sim, s);
        moved = true;
    }
    return moved;
}

/* When the next thing happens to s by itself. */
static aioloop_time aiol_sim_next_at(const aiol_sim *sim, const aiol_sim_socket *s) {
    aioloop_time at = AIOLOOP_FOREVER;
    if (s->datagrams != NULL && s->datagrams->arrives > sim->now)
        at = s->datagrams->arrives;
    else if (s->coming != NULL)
        at = s->coming->arrives;
    else if (s->end_sent && !s->end_arrived)
        at = s->end_at;
    if (s->reset_sent && s->reset_at < at)
        at = s->reset_at;
    if (s->stage == AIOL_SIM_CONNECTING && !s->connect_waits && s->connect_at < at)
        at = s->connect_at;
    return at;
}

static aioloop_time aiol_sim_next_event(aiol_sim *sim) {
    aioloop_time next = AIOLOOP_FOREVER;
    aiol_link *link;
    if (sim->partition)
        return next;
    AIOL_SIM_EACH(sim, link) {
        aioloop_time at = aiol_sim_next_at(sim, aiol_sim_at(link));
        if (at < next)
            next = at;
    }
    return next;
}

/* The network is whole again: all that is under way to s sets out anew. */
static void aiol_sim_resume(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_sim_piece *piece;
    s->last_arrival = sim->now;
    for (piece = s->coming; piece != NULL; piece = piece->next)
        piece->arrives = aiol_sim_arrival(sim, s);
    if (s->end_sent && !s->end_arrived)
        s->end_at = aiol_sim_arrival(sim, s);
    if (s->reset_sent)
        s->reset_at = aiol_sim_arrival(sim, s);
    if (s->stage == AIOL_SIM_CONNECTING && !s->connect_waits)
        s->connect_at = aiol_time_add(sim->now, aiol_sim_delay(sim));
}

/* ---- sending ---- */

static size_t aiol_sim_total(const aiol_op *op) {
    size_t total = 0;
    int i;
    if (op->kind == AIOL_OP_SENDFILE)
        return op->u.sendfile.count;
    for (i = 0; i < op->u.send.count; i++)
        total += op->u.send.pieces[i].size;
    return total;
}

/* How many bytes fit on the way to s. What the engine has in its stash was received, as a kernel sees it. */
static size_t aiol_sim_room(const aiol_sim *sim, const aiol_sim_socket *s) {
    size_t held = s->size - s->stash;
    return held < sim->buffer ? sim->buffer - held : 0;
}

/* A closed or dead end takes everything: that is how a sender finds out. */
static bool aiol_sim_writable(const aiol_sim *sim, const aiol_sim_socket *s) {
    return s->stage == AIOL_SIM_CONNECTED && (s->peer == NULL || s->write_shut || aiol_sim_room(sim, s->peer) != 0);
}

static void aiol_sim_gather(const aiol_op *op, unsigned char *to, size_t size) {
    int i;
    for (i = 0; size != 0; i++) {
        const aioloop_buf *from = &op->u.send.pieces[i];
        size_t n = aiol_min_size(size, from->size);
        if (n != 0)
            memcpy(to, from->data, n);
        to += n;
        size -= n;
    }
}

/* Stores the first bytes of a SEND, or reads those of a SENDFILE: how many, or a code. */
static int64_t aiol_sim_fill(const aiol_op *op, unsigned char *to, size_t size) {
    int64_t n;
    if (op->kind == AIOL_OP_SENDFILE) {
        n = aiol_file_pread(op->u.sendfile.file, to, size, op->u.sendfile.offset);
        return n == AIOLOOP_ESPIPE || n == AIOLOOP_EISDIR ? (int64_t)AIOLOOP_ENOTAVAILABLE : n;
    }
    aiol_sim_gather(op, to, size);
    return (int64_t)size;
}

/* Puts at most limit bytes of a SEND on their way: how many, a code, or AIOL_PENDING if there is no room. The same for
 * those of a SENDFILE. */
static int64_t aiol_sim_transfer(aiol_sim *sim, aiol_sim_socket *s, const aiol_op *op, size_t limit) {
    size_t total = aiol_min_size(aiol_sim_total(op), limit);
    aiol_sim_piece *piece;
    unsigned char byte;
    int64_t n;
    if (op->kind == AIOL_OP_SENDFILE && sim->no_sendfile)
        return AIOLOOP_ENOTAVAILABLE;
    if (s->write_error != 0) {
        int error = s->write_error;
        s->write_error = 0;
        return error;
    }
    if (s->stage != AIOL_SIM_CONNECTED)
        return AIOLOOP_ENOTCONN;
    if (s->dead || s->write_shut || (s->pipe && s->peer == NULL))
        return AIOLOOP_EPIPE;
    if (total == 0)
        return 0;
    total = aiol_min_size(total, s->peer != NULL ? aiol_sim_room(sim, s->peer) : sim->buffer);
    if (total == 0)
        return op->kind == AIOL_OP_SENDFILE && aiol_sim_fill(op, &byte, 1) == 0 ? 0 : AIOL_PENDING;
    piece = (aiol_sim_piece *)aiol_alloc(sim->engine.allocator, sizeof(*piece) + total);
    if (piece == NULL)
        return AIOLOOP_ENOBUFS;
    memset(piece, 0, sizeof(*piece));
    piece->block_size = sizeof(*piece) + total;
    n = aiol_sim_fill(op, (unsigned char *)(piece + 1), total);
    piece->size = n > 0 ? (size_t)n : 0;
    if (n > 0 && s->peer != NULL) {
        aiol_sim_append(sim, s->peer, piece);
        return n;
    }
    aiol_free(sim->engine.allocator, piece, piece->block_size);
    if (n > 0) /* goes to a closed socket, which answers by a reset */
        aiol_sim_send_reset(sim, s);
    return n;
}

/* What a delayed SEND takes at most: often only a part. */
static size_t aiol_sim_limit(aiol_sim *sim, const aiol_op *op) {
    return aiol_sim_coin(sim) ? SIZE_MAX : aiol_sim_part(sim, aiol_sim_total(op));
}

/* ---- binding and connecting ---- */

/* True if two Internet addresses name a common place. */
static bool aiol_sim_overlap(const aiol_sim_socket *s, const aioloop_address *a, const aiol_sim_socket *t) {
    const aioloop_address *b = &t->local.address;
    if (a->port != b->port)
        return false;
    if (a->family == b->family)
        return aiol_sim_is_wildcard(a) || aiol_sim_is_wildcard(b) || memcmp(a->u.ip, b->u.ip, aiol_sim_ip_size(a)) == 0;
    if (a->family == AIOLOOP_INET6)
        return aiol_sim_is_wildcard(a) && !s->v6_only;
    return aiol_sim_is_wildcard(b) && !t->v6_only;
}

/* True if another socket is in the way of s at this address; listening: only listeners are. */
static bool aiol_sim_conflict(aiol_sim *sim, const aiol_sim_socket *s, const aioloop_address *a, bool listening) {
    aiol_link *link;
    AIOL_SIM_EACH(sim, link) {
        const aiol_sim_socket *t = aiol_sim_at(link);
        if (t == s || !t->bound || t->type != s->type || (t->family == AIOLOOP_UNIX) != (a->family == AIOLOOP_UNIX))
            continue;
        if (a->family == AIOLOOP_UNIX) {
            if (!aiol_sim_is_file(a) && aioloop_address_equal(a, &t->local.address))
                return true;
            continue;
        }
        if (!aiol_sim_overlap(s, a, t) || (s->reuse_port && t->reuse_port))
            continue;
        if (t->stage == AIOL_SIM_LISTENING || !(listening || (s->reuse_address && t->reuse_address)))
            return true;
    }
    return false;
}

static bool aiol_sim_port_used(aiol_sim *sim, uint16_t port) {
    aiol_link *link;
    AIOL_SIM_EACH(sim, link) {
        const aioloop_address *a = &aiol_sim_at(link)->local.address;
        if (a->family != AIOLOOP_UNIX && a->port == port)
            return true;
    }
    return false;
}

/* A port nobody has, or 0. */
static uint16_t aiol_sim_free_port(aiol_sim *sim) {
    int tries;
    for (tries = AIOL_SIM_FIRST_PORT; tries <= AIOL_SIM_LAST_PORT; tries++) {
        uint16_t port = sim->port;
        sim->port = port == AIOL_SIM_LAST_PORT ? AIOL_SIM_FIRST_PORT : (uint16_t)(port + 1);
        if (!aiol_sim_port_used(sim, port))
            return port;
    }
    return 0;
}

/* How well a listener fits a destination, or for datagrams whoever takes them from `from`; 0: not at all. */
static int aiol_sim_fit(const aiol_sim_socket *s, const aioloop_address *to, uint64_t inode,
                        const aioloop_address *from) {
    const aioloop_address *a = &s->local.address;
    if (from == NULL ? s->stage != AIOL_SIM_LISTENING : s->type != AIOLOOP_SOCK_DGRAM || !s->bound)
        return 0;
    if (to->family == AIOLOOP_UNIX)
        return inode != 0 ? s->inode == inode : aioloop_address_equal(a, to);
    if (from != NULL && s->stage == AIOL_SIM_CONNECTED && !aioloop_address_equal(&s->remote.address, from))
        return 0;
    if (a->family == AIOLOOP_UNIX || a->port != to->port)
        return 0;
    if (a->family != to->family)
        return a->family == AIOLOOP_INET6 && !s->v6_only && aiol_sim_is_wildcard(a) ? 1 : 0;
    if (memcmp(a->u.ip, to->u.ip, aiol_sim_ip_size(a)) == 0)
        return 3;
    return aiol_sim_is_wildcard(a) ? 2 : 0;
}

/* Who listens at an address, or takes datagrams there that come from `from`; among equals (REUSE_PORT) the seed
 * chooses. */
static int aiol_sim_listener(aiol_sim *sim, const aioloop_address *to, const aioloop_address *from,
                             aiol_sim_socket **out) {
    aiol_sim_socket *best = NULL;
    int best_fit = 0;
    uint32_t equals = 0;
    uint64_t inode = 0;
    aiol_link *link;
    if (aiol_sim_is_file(to)) {
        const aiol_sim_file *file = *aiol_sim_find_file(sim, to->u.path, to->path_size);
        if (file == NULL)
            return AIOLOOP_ENOENT;
        inode = file->inode;
    }
    AIOL_SIM_EACH(sim, link) {
        aiol_sim_socket *s = aiol_sim_at(link);
        int fit = aiol_sim_fit(s, to, inode, from);
        if (fit == 0 || fit < best_fit)
            continue;
        equals = fit == best_fit ? equals + 1 : 1;
        if (equals == 1 || aiol_sim_below(sim, equals) == 0)
            best = s;
        best_fit = fit;
    }
    *out = best;
    return best == NULL ? AIOLOOP_ECONNREFUSED : 0;
}

/* The spare end of s becomes the other end of its connection and waits to be accepted. */
static void aiol_sim_join(aiol_sim *sim, aiol_sim_socket *s, aiol_sim_socket *listener) {
    aiol_sim_socket *t = s->spare;
    aiol_sim_socket **at;
    s->spare = NULL;
    aiol_sim_enter(sim, t);
    t->family = listener->family;
    aiol_sim_name_set(&t->local, &s->remote.address);
    aiol_sim_name_set(&t->remote, &s->local.address);
    if (t->family != s->family) {
        aiol_sim_map_v4(&t->local.address);
        aiol_sim_map_v4(&t->remote.address);
    }
    s->stage = AIOL_SIM_CONNECTED;
    t->stage = AIOL_SIM_CONNECTED;
    s->peer = t;
    t->peer = s;
    for (at = &listener->queue; *at != NULL; at = &(*at)->queue_next)
        ;
    *at = t;
    listener->queue_count++;
}

/* The connect of s has reached its destination. False if it goes on waiting there. */
static bool aiol_sim_connect_arrives(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_sim_socket *listener = NULL;
    int err = aiol_sim_listener(sim, &s->remote.address, NULL, &listener);
    if (err == 0 && listener->queue_count - listener->stash >= listener->backlog) {
        if (s->family != AIOLOOP_UNIX) {
            s->connect_waits = true;
            return false;
        }
        err = AIOLOOP_EAGAIN;
    }
    s->connect_waits = false;
    s->connect_result = err;
    s->write_due = sim->turn + aiol_sim_below(sim, 4);
    if (err < 0)
        s->stage = AIOL_SIM_NEW;
    else
        aiol_sim_join(sim, s, listener);
    return true;
}

/* A client without a name gets one. */
static int aiol_sim_name_client(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->family == AIOLOOP_UNIX)
        return 0;
    if (s->local.address.port == 0) {
        s->local.address.port = aiol_sim_free_port(sim);
        if (s->local.address.port == 0)
            return AIOLOOP_EADDRNOTAVAIL;
        s->bound = true;
    }
    if (aiol_sim_is_wildcard(&s->local.address))
        aiol_sim_set_loopback(&s->local.address);
    return 0;
}

/* Sets out. 0, or what is wrong with it. */
static int aiol_sim_connect(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *to) {
    int err;
    switch ((aiol_sim_stage)s->stage) {
    case AIOL_SIM_LISTENING:
    case AIOL_SIM_CONNECTED:
        return AIOLOOP_EISCONN;
    case AIOL_SIM_CONNECTING:
        return AIOLOOP_EALREADY;
    case AIOL_SIM_NEW:
        break;
    }
    if (to->family != s->family)
        return AIOLOOP_EAFNOSUPPORT;
    err = aiol_sim_name_client(sim, s);
    if (err < 0)
        return err;
    aiol_sim_name_set(&s->remote, to);
    if (to->family != AIOLOOP_UNIX && aiol_sim_is_wildcard(to))
        aiol_sim_set_loopback(&s->remote.address);
    s->stage = AIOL_SIM_CONNECTING;
    s->connect_waits = false;
    s->connect_untold = false;
    s->connect_result = 0;
    s->connect_at = aiol_time_add(sim->now, aiol_sim_delay(sim));
    return 0;
}

/* ---- datagrams ---- */

static bool aiol_sim_has_datagram(const aiol_sim *sim, const aiol_sim_socket *s) {
    return s->read_error != 0 || (s->datagrams != NULL && s->datagrams->arrives <= sim->now);
}

/* Whether the queue of s has room; one fits always. */
static bool aiol_sim_has_place(const aiol_sim *sim, const aiol_sim_socket *s, size_t size) {
    return s->datagrams == NULL || s->datagrams_size + size + 1 <= sim->buffer;
}

/* As Linux, but that it tells when a peer has room again. */
static bool aiol_sim_can_send_datagram(aiol_sim *sim, const aiol_sim_socket *s) {
    const aiol_sim_socket *t = s->blocked_on == 0 ? NULL : aiol_sim_of_serial(sim, s->blocked_on);
    return t == NULL || aiol_sim_has_place(sim, t, s->blocked_size); /* if it has gone, who sends hears of that */
}

/* Puts a datagram on its way. */
static int64_t aiol_sim_post_datagram(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *from, const void *data,
                                      size_t size) {
    aiol_sim_datagram *d = (aiol_sim_datagram *)aiol_alloc(sim->engine.allocator, sizeof(*d) + size);
    aiol_sim_datagram **at;
    if (d == NULL)
        return AIOLOOP_ENOBUFS;
    memset(d, 0, sizeof(*d));
    aiol_sim_name_set(&d->from, from);
    if (from->family != s->family)
        aiol_sim_map_v4(&d->from.address);
    d->arrives = sim->reordered ? aiol_time_add(sim->now, aiol_sim_delay(sim)) : aiol_sim_arrival(sim, s);
    d->size = size;
    if (size != 0)
        memcpy(d + 1, data, size);
    for (at = &s->datagrams; *at != NULL && (*at)->arrives <= d->arrives; at = &(*at)->next)
        ;
    d->next = *at;
    *at = d;
    s->datagrams_size += size + 1;
    return (int64_t)size;
}

/* A sender without a name gets a port. */
static int aiol_sim_name_sender(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->family == AIOLOOP_UNIX || s->bound)
        return 0;
    s->local.address.port = aiol_sim_free_port(sim);
    if (s->local.address.port == 0)
        return AIOLOOP_EAGAIN;
    s->bound = true;
    return 0;
}

/* Finds who takes Unix datagrams of s; one that is connected takes those of its own peer only. */
static int aiol_sim_unix_receiver(aiol_sim *sim, const aiol_sim_socket *s, const aioloop_address *to,
                                  aiol_sim_socket **receiver) {
    int err = aiol_sim_listener(sim, to, &s->local.address, receiver);
    if (err == 0 && (*receiver)->stage == AIOL_SIM_CONNECTED && (*receiver)->destination != s->serial)
        err = AIOLOOP_EPERM;
    return err;
}

/* Waits for room, or hears that nobody is there: then it is no more connected. */
static int64_t aiol_sim_send_unix(aiol_sim *sim, aiol_sim_socket *s, const void *data, size_t size,
                                  const aioloop_address *to) {
    aiol_sim_socket *receiver = NULL;
    int err = 0;
    if (to == NULL && s->stage != AIOL_SIM_CONNECTED)
        return AIOLOOP_ENOTCONN;
    if (to != NULL && to->family != AIOLOOP_UNIX)
        return AIOLOOP_EINVAL;
    if (size > sim->buffer)
        return AIOLOOP_EMSGSIZE;
    if (to != NULL)
        err = aiol_sim_unix_receiver(sim, s, to, &receiver);
    else
        receiver = aiol_sim_of_serial(sim, s->destination);
    if (sim->partition)
        return (int64_t)size;
    if (err < 0)
        return err;
    if (receiver == NULL) {
        s->stage = AIOL_SIM_NEW;
        return AIOLOOP_ECONNREFUSED;
    }
    if (aiol_sim_has_place(sim, receiver, size))
        return aiol_sim_post_datagram(sim, receiver, &s->local.address, data, size);
    s->blocked_on = receiver->serial;
    s->blocked_size = size;
    return AIOLOOP_EAGAIN;
}

/* What has no room, no receiver or no way is lost; a connected socket hears of a receiver that is not there, once and
 * with its next call. */
static int64_t aiol_sim_send_internet(aiol_sim *sim, aiol_sim_socket *s, const void *data, size_t size,
                                      const aioloop_address *to) {
    aiol_sim_socket *receiver = NULL;
    aioloop_address from;
    aioloop_address there;
    int err;
    if (to == NULL && s->stage != AIOL_SIM_CONNECTED)
        return AIOLOOP_EDESTADDRREQ;
    there = to != NULL ? *to : s->remote.address;
    if (there.family != s->family)
        return AIOLOOP_EAFNOSUPPORT;
    if (to != NULL && to->port == 0)
        return AIOLOOP_EINVAL;
    if (size > AIOL_SIM_DATAGRAM)
        return AIOLOOP_EMSGSIZE;
    err = s->read_error;
    s->read_error = 0;
    if (err == 0)
        err = aiol_sim_name_sender(sim, s);
    if (err < 0)
        return err;
    from = s->local.address;
    if (aiol_sim_is_wildcard(&from))
        aiol_sim_set_loopback(&from);
    if (aiol_sim_is_wildcard(&there))
        aiol_sim_set_loopback(&there);
    err = aiol_sim_listener(sim, &there, &from, &receiver);
    if (sim->partition)
        return (int64_t)size;
    if (err < 0 && s->stage == AIOL_SIM_CONNECTED && aioloop_address_equal(&there, &s->remote.address))
        s->read_error = AIOLOOP_ECONNREFUSED;
    if (err == 0 && aiol_sim_has_place(sim, receiver, size) && (sim->lost == 0 || aiol_sim_below(sim, 1000) >= sim->lost))
        return aiol_sim_post_datagram(sim, receiver, &from, data, size);
    return (int64_t)size;
}

static int64_t aiol_sim_send_datagram(aiol_sim *sim, aiol_sim_socket *s, const void *data, size_t size,
                                      const aioloop_address *to) {
    s->blocked_on = 0;
    if (s->family == AIOLOOP_UNIX)
        return aiol_sim_send_unix(sim, s, data, size, to);
    return aiol_sim_send_internet(sim, s, data, size, to);
}

/* Sends the first of a list, limit at most: how many, AIOL_PENDING, or what is said of the first. */
static int64_t aiol_sim_send_datagrams(aiol_sim *sim, aiol_sim_socket *s, const aiol_datagram *d, int64_t limit) {
    int64_t count = 0;
    if (s->type != AIOLOOP_SOCK_DGRAM)
        return AIOLOOP_EOPNOTSUPP;
    for (; d != NULL && count < limit; d = d->next, count++) {
        int64_t n = aiol_sim_send_datagram(sim, s, d->data, d->size, d->to);
        if (n < 0 && count == 0)
            return n == AIOLOOP_EAGAIN ? (int64_t)AIOL_PENDING : n;
        if (n < 0)
            break; /* as a system: told by the next try, if it is so then */
    }
    return count;
}

/* What a delayed SENDTO takes at most. */
static int64_t aiol_sim_datagram_limit(aiol_sim *sim) {
    return aiol_sim_coin(sim) ? INT64_MAX : 1 + (int64_t)aiol_sim_below(sim, 3);
}

/* Takes the first that has arrived; the caller frees it. */
static aiol_sim_datagram *aiol_sim_take_datagram(aiol_sim_socket *s) {
    aiol_sim_datagram *d = s->datagrams;
    s->datagrams = d->next;
    s->datagrams_size -= d->size + 1;
    d->next = NULL;
    return d;
}

static int64_t aiol_sim_recv_datagram(aiol_sim *sim, aiol_sim_socket *s, void *buffer, size_t size,
                                      aioloop_address *from, aiol_path_room *room) {
    aiol_sim_datagram *d = s->datagrams;
    int error = s->read_error;
    s->read_error = 0;
    if (error != 0)
        return error;
    if (d == NULL || d->arrives > sim->now)
        return AIOLOOP_EAGAIN;
    size = aiol_min_size(size, d->size);
    if (size != 0)
        memcpy(buffer, d + 1, size);
    if (from != NULL)
        aiol_sim_name_tell(&d->from, from, room);
    aiol_sim_free_datagrams(sim, aiol_sim_take_datagram(s));
    return (int64_t)size;
}

static int aiol_sim_connect_datagrams(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *to) {
    aiol_sim_socket *receiver = NULL;
    int err = AIOLOOP_EAFNOSUPPORT;
    if (to->family == s->family)
        err = s->family == AIOLOOP_UNIX ? aiol_sim_unix_receiver(sim, s, to, &receiver)
                                        : aiol_sim_name_client(sim, s);
    if (err < 0)
        return err;
    s->destination = receiver != NULL ? receiver->serial : 0;
    aiol_sim_name_set(&s->remote, to);
    if (to->family != AIOLOOP_UNIX && aiol_sim_is_wildcard(to))
        aiol_sim_set_loopback(&s->remote.address);
    s->stage = AIOL_SIM_CONNECTED;
    return 0;
}

/* A partition begins: what is under way is lost. */
static void aiol_sim_lose_datagrams(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_sim_datagram **at = &s->datagrams;
    const aiol_sim_datagram *d;
    while (*at != NULL && (*at)->arrives <= sim->now)
        at = &(*at)->next;
    for (d = *at; d != NULL; d = d->next)
        s->datagrams_size -= d->size + 1;
    aiol_sim_free_datagrams(sim, *at);
    *at = NULL;
}

/* ---- closing ---- */

/* Takes the first connection out of a listener's queue. */
static aiol_sim_socket *aiol_sim_dequeue(aiol_sim_socket *listener) {
    aiol_sim_socket *s = listener->queue;
    listener->queue = s->queue_next;
    s->queue_next = NULL;
    listener->queue_count--;
    if (listener->stash != 0 && --listener->stash == 0)
        listener->read_noticed = false;
    return s;
}

/* Says good-bye to the other end: in order, or by a reset if something was sent that nobody will read. */
static void aiol_sim_hang_up(aiol_sim *sim, aiol_sim_socket *s, bool reset) {
    aiol_sim_socket *peer = s->peer;
    if (peer == NULL)
        return;
    s->peer = NULL;
    peer->peer = NULL;
    if (s->pipe && s->write_shut) { /* the end that reads */
        aiol_sim_kill(sim, peer, 0, 0);
        return;
    }
    if (reset || s->arrived != 0) {
        aiol_sim_send_reset(sim, peer);
        return;
    }
    aiol_sim_send_end(sim, peer);
    if (s->size != 0) { /* under way: answered by a reset when it comes */
        if (s->tail->arrives > peer->last_arrival)
            peer->last_arrival = s->tail->arrives;
        aiol_sim_send_reset(sim, peer);
    }
}

static void aiol_sim_destroy(aiol_sim *sim, aiol_sim_socket *s, bool reset) {
    while (s->queue != NULL)
        aiol_sim_destroy(sim, aiol_sim_dequeue(s), true);
    aiol_sim_hang_up(sim, s, reset);
    aiol_sim_free(sim, s);
}

/* ---- operations ---- */

static aiol_sim_place aiol_sim_place_of(const aiol_op *op) {
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_SEND:
    case AIOL_OP_SENDFILE:
    case AIOL_OP_SENDTO:
    case AIOL_OP_CONNECT:
        return AIOL_SIM_WRITER;
    case AIOL_OP_POLL:
        return op->u.poll.events == AIOL_POLL_READABLE ? AIOL_SIM_WATCH_READ : AIOL_SIM_WATCH_WRITE;
    case AIOL_OP_RECV:
    case AIOL_OP_RECVFROM:
    case AIOL_OP_ACCEPT:
        break;
    }
    return AIOL_SIM_READER;
}

/* The socket lets go of an operation, and what was taken ahead for it is the socket's again. */
static void aiol_sim_detach(aiol_sim_socket *s, aiol_sim_place place) {
    s->ops[place]->state = AIOL_OP_IDLE;
    s->ops[place] = NULL;
    if (place == AIOL_SIM_READER) {
        s->stash = 0;
        s->read_noticed = false;
    }
}

static int64_t aiol_sim_arm(aiol_sim *sim, aiol_sim_socket *s, aiol_op *op) {
    aiol_sim_place place = aiol_sim_place_of(op);
    AIOL_ASSERT(s->ops[place] == NULL);
    s->ops[place] = op;
    op->state = AIOL_OP_ACTIVE;
    op->generation = ++sim->generation;
    op->engine_flags = 0;
    op->engine = NULL;
    op->link = NULL;
    return AIOL_PENDING;
}

/* As the system's connect: also a second one is told once that the connection is made. */
static int aiol_sim_connect_now(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *to) {
    bool made = s->stage == AIOL_SIM_CONNECTED && s->connect_untold;
    int err = made ? 0 : aiol_sim_connect(sim, s, to);
    if (made)
        s->connect_untold = false;
    if (made || err < 0)
        return err;
    /* Nothing is between the ends of a Unix socket: the answer is there at once, as the system's. */
    if (!sim->delayed && s->family == AIOLOOP_UNIX && !sim->partition && s->connect_at <= sim->now) {
        aiol_sim_connect_arrives(sim, s);
        return s->connect_result;
    }
    s->connect_untold = true;
    return AIOLOOP_EINPROGRESS;
}

static int64_t aiol_sim_submit_connect(aiol_sim *sim, aiol_sim_socket *s, aiol_op *op) {
    int err = aiol_sim_connect_now(sim, s, op->u.connect.address);
    return err == AIOLOOP_EINPROGRESS ? aiol_sim_arm(sim, s, op) : err;
}

static int64_t aiol_sim_submit(aiol_engine *e, aiol_op *op) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, op->fd);
    int64_t n = AIOL_PENDING;
    if (s == NULL)
        return AIOLOOP_EBADF;
    AIOL_ASSERT(s->ops[aiol_sim_place_of(op)] == NULL);
    AIOL_ASSERT(s->transport || op->kind == AIOL_OP_POLL);
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_CONNECT:
        return aiol_sim_submit_connect(sim, s, op);
    case AIOL_OP_SEND:
    case AIOL_OP_SENDFILE:
        if (!sim->delayed && (op->kind == AIOL_OP_SEND || !op->u.sendfile.later))
            n = aiol_sim_transfer(sim, s, op, SIZE_MAX);
        else if (s->stage != AIOL_SIM_CONNECTED)
            n = AIOLOOP_ENOTCONN;
        break;
    case AIOL_OP_SENDTO:
        if (!sim->delayed)
            n = aiol_sim_send_datagrams(sim, s, op->u.sendto.first, INT64_MAX);
        break;
    case AIOL_OP_RECVFROM:
        if (s->type != AIOLOOP_SOCK_DGRAM)
            n = AIOLOOP_EINVAL;
        break;
    case AIOL_OP_RECV:
        if (s->stage != AIOL_SIM_CONNECTED)
            n = AIOLOOP_ENOTCONN;
        break;
    case AIOL_OP_ACCEPT:
        if (s->stage != AIOL_SIM_LISTENING)
            n = AIOLOOP_EINVAL;
        break;
    case AIOL_OP_POLL:
        break;
    }
    return n != AIOL_PENDING ? n : aiol_sim_arm(sim, s, op);
}

static int64_t aiol_sim_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now) {
    (void)now;
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, fd);
    aiol_op op;
    if (s == NULL)
        return AIOLOOP_EBADF;
    AIOL_ASSERT(s->ops[AIOL_SIM_WRITER] == NULL);
    memset(&op, 0, sizeof(op));
    op.kind = AIOL_OP_SEND;
    op.fd = fd;
    op.u.send.pieces = pieces;
    op.u.send.count = count;
    if (!sim->delayed)
        return aiol_sim_transfer(sim, s, &op, SIZE_MAX);
    return aiol_sim_coin(sim) ? AIOL_PENDING : aiol_sim_transfer(sim, s, &op, aiol_sim_limit(sim, &op));
}

static int64_t aiol_sim_attempt_to(aiol_engine *e, aioloop_socket fd, const aiol_datagram *first) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, fd);
    if (s == NULL)
        return AIOLOOP_EBADF;
    AIOL_ASSERT(s->ops[AIOL_SIM_WRITER] == NULL);
    if (!sim->delayed)
        return aiol_sim_send_datagrams(sim, s, first, INT64_MAX);
    return aiol_sim_coin(sim) ? AIOL_PENDING : aiol_sim_send_datagrams(sim, s, first, aiol_sim_datagram_limit(sim));
}

static void aiol_sim_set_result(aiol_op *op, int64_t n) {
    op->engine = (void *)(intptr_t)n;
}

static int64_t aiol_sim_result(const aiol_op *op) {
    return (int64_t)(intptr_t)op->engine;
}

/* What a cancel of a delayed operation finds to have happened, or AIOLOOP_ECANCELED. A SEND may happen at the last
 * moment. */
static int64_t aiol_sim_overtaken(aiol_sim *sim, aiol_sim_socket *s, aiol_op *op) {
    int64_t n = AIOLOOP_ECANCELED;
    if (op->kind == AIOL_OP_SEND || op->kind == AIOL_OP_SENDFILE) {
        if ((op->engine_flags & AIOL_SIM_HAPPENED) != 0)
            return aiol_sim_result(op);
        if (aiol_sim_coin(sim))
            n = aiol_sim_transfer(sim, s, op, aiol_sim_limit(sim, op));
        if (n == AIOL_PENDING)
            n = AIOLOOP_ECANCELED;
    } else if (op->kind == AIOL_OP_SENDTO) {
        if ((op->engine_flags & AIOL_SIM_HAPPENED) != 0)
            return aiol_sim_result(op);
        if (aiol_sim_coin(sim))
            n = aiol_sim_send_datagrams(sim, s, op->u.sendto.first, aiol_sim_datagram_limit(sim));
        if (n == AIOL_PENDING)
            n = AIOLOOP_ECANCELED;
    } else if (op->kind == AIOL_OP_ACCEPT && s->stash != 0) {
        aiol_sim_socket *taken = aiol_sim_dequeue(s);
        aiol_sim_number(sim, taken);
        n = taken->number;
    }
    return n;
}

static void aiol_sim_add_late(aiol_sim *sim, aiol_op *op, int64_t n) {
    aiol_op **at;
    op->state = AIOL_OP_CANCELLING;
    op->generation = sim->turn + 1 + aiol_sim_below(sim, 3); /* the turn it is told in */
    op->link = NULL;
    aiol_sim_set_result(op, n);
    for (at = &sim->late; *at != NULL; at = &(*at)->link)
        ;
    *at = op;
}

static int aiol_sim_cancel(aiol_engine *e, aiol_op *op) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, op->fd);
    aiol_sim_place place = aiol_sim_place_of(op);
    bool happened = (op->engine_flags & AIOL_SIM_HAPPENED) != 0;
    int64_t n = 0;
    bool late;
    if (s == NULL || s->ops[place] != op) { /* a user closed what is watched */
        op->state = AIOL_OP_IDLE;
        return 0;
    }
    late = sim->delayed && (happened || aiol_sim_coin(sim)); /* a count must be told */
    if (late)
        n = aiol_sim_overtaken(sim, s, op);
    if (op->kind == AIOL_OP_CONNECT && s->stage == AIOL_SIM_CONNECTING)
        s->stage = AIOL_SIM_NEW;
    aiol_sim_detach(s, place);
    if (!late)
        return 0;
    aiol_sim_add_late(sim, op, n);
    return AIOL_PENDING;
}

static void aiol_sim_stop(aiol_engine *e, aiol_op *op) {
    (void)e;
    if (op->state == AIOL_OP_ACTIVE)
        op->state = AIOL_OP_STOPPED;
}

static void aiol_sim_start(aiol_engine *e, aiol_op *op) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, op->fd);
    if (op->state != AIOL_OP_STOPPED)
        return;
    op->state = AIOL_OP_ACTIVE;
    op->generation = ++sim->generation; /* nothing of this harvest */
    if (s != NULL && aiol_sim_place_of(op) == AIOL_SIM_READER)
        s->read_due = sim->turn;
}

/* While done() runs it is being asked about these very bytes, so there is nothing else to take. */
static size_t aiol_sim_take(aiol_engine *e, aiol_op *op, void *to, size_t size) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, op->fd);
    if (s == NULL || s->ops[AIOL_SIM_READER] != op || op->kind != AIOL_OP_RECV || s->offering)
        return 0;
    size = aiol_min_size(size, s->stash);
    aiol_sim_peek(s, to, size);
    aiol_sim_consume(sim, s, size);
    return size;
}

static aiol_op *aiol_sim_watching(aiol_engine *e, aioloop_socket fd, unsigned event) {
    aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), fd);
    if (s == NULL)
        return NULL;
    return s->ops[event == AIOL_POLL_READABLE ? AIOL_SIM_WATCH_READ : AIOL_SIM_WATCH_WRITE];
}

static bool aiol_sim_owned(aiol_engine *e, aioloop_socket fd) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), fd);
    return s != NULL && s->transport;
}

static bool aiol_sim_in_use(const aiol_sim_socket *s) {
    int i;
    for (i = 0; i < AIOL_SIM_PLACES; i++)
        if (s->ops[i] != NULL)
            return true;
    return false;
}

/* There is nothing to reserve: making the socket did. */
static int aiol_sim_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), fd);
    if (s == NULL)
        return fd < 0 ? AIOLOOP_EINVAL : AIOLOOP_EBADF;
    if (s->transport || (owner != AIOL_OWNER_WATCHER && aiol_sim_in_use(s)))
        return AIOLOOP_EMISUSE;
    s->transport = owner != AIOL_OWNER_WATCHER;
    return 0;
}

static void aiol_sim_quiesce(aiol_engine *e, aioloop_socket fd) {
    aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), fd);
    if (s == NULL)
        return;
    AIOL_ASSERT(!aiol_sim_in_use(s));
    s->transport = false;
}

/* ---- a step: all that happens without the clock ---- */

/* True if there is something for a reader: bytes, an end, an error, a connection, a datagram. */
static bool aiol_sim_readable(const aiol_sim *sim, const aiol_sim_socket *s) {
    if (s->type == AIOLOOP_SOCK_DGRAM)
        return aiol_sim_has_datagram(sim, s);
    if (s->stage == AIOL_SIM_LISTENING)
        return s->queue_count != 0;
    return s->stage == AIOL_SIM_CONNECTED && (s->arrived != 0 || s->end_arrived || s->read_error != 0);
}

/* Delayed: the engine takes ahead what its reader will be told later, also while that is stopped. */
static bool aiol_sim_prefetch(aiol_sim *sim, aiol_sim_socket *s) {
    bool listening = s->stage == AIOL_SIM_LISTENING;
    size_t share = listening ? AIOL_SIM_ACCEPT_SHARE : AIOL_SIM_SHARE;
    size_t stash = aiol_min_size(listening ? s->queue_count : s->arrived, share);
    bool moved = false;
    if (s->ops[AIOL_SIM_READER] == NULL)
        return false;
    if (stash > s->stash) {
        s->stash = stash;
        moved = true;
    }
    if (!s->read_noticed && aiol_sim_readable(sim, s)) {
        s->read_noticed = true;
        s->read_due = sim->turn + aiol_sim_below(sim, 4);
        moved = true;
    }
    return moved;
}

/* Delayed: a SEND happens, and is told later. */
static bool aiol_sim_send_happens(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_op *op = s->ops[AIOL_SIM_WRITER];
    int64_t n;
    if (op == NULL || op->kind == AIOL_OP_CONNECT || (op->engine_flags & AIOL_SIM_HAPPENED) != 0)
        return false;
    if (op->kind == AIOL_OP_SENDTO)
        n = aiol_sim_send_datagrams(sim, s, op->u.sendto.first, aiol_sim_datagram_limit(sim));
    else
        n = aiol_sim_transfer(sim, s, op, aiol_sim_limit(sim, op));
    if (n == AIOL_PENDING)
        return false;
    op->engine_flags |= AIOL_SIM_HAPPENED;
    aiol_sim_set_result(op, n);
    s->write_due = sim->turn + aiol_sim_below(sim, 4);
    return true;
}

static bool aiol_sim_connect_happens(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->stage != AIOL_SIM_CONNECTING || sim->partition || s->connect_at > sim->now)
        return false;
    return aiol_sim_connect_arrives(sim, s);
}

static bool aiol_sim_step(aiol_sim *sim) {
    bool moved = false;
    aiol_link *link;
    AIOL_SIM_EACH(sim, link) {
        aiol_sim_socket *s = aiol_sim_at(link);
        moved |= aiol_sim_arrive(sim, s);
        moved |= aiol_sim_connect_happens(sim, s); /* a new socket goes to the end: this pass meets it */
        if (sim->delayed) {
            moved |= aiol_sim_prefetch(sim, s);
            moved |= aiol_sim_send_happens(sim, s);
        }
    }
    return moved;
}

/* ---- the harvest ---- */

/* True if this place's operation has something to be told, be it later. */
static bool aiol_sim_pending(aiol_sim *sim, const aiol_sim_socket *s, aiol_sim_place place) {
    const aiol_op *op = s->ops[place];
    if (op == NULL || op->state != AIOL_OP_ACTIVE)
        return false;
    switch (place) {
    case AIOL_SIM_READER:
        return sim->delayed ? s->read_noticed : aiol_sim_readable(sim, s);
    case AIOL_SIM_WATCH_READ:
        return aiol_sim_readable(sim, s);
    case AIOL_SIM_WRITER:
        if (op->kind == AIOL_OP_CONNECT)
            return s->stage != AIOL_SIM_CONNECTING;
        if (sim->delayed)
            return (op->engine_flags & AIOL_SIM_HAPPENED) != 0;
        return op->kind == AIOL_OP_SENDTO ? aiol_sim_can_send_datagram(sim, s) : aiol_sim_writable(sim, s);
    case AIOL_SIM_WATCH_WRITE:
        if (s->type == AIOLOOP_SOCK_DGRAM)
            return aiol_sim_can_send_datagram(sim, s);
        return s->stage == AIOL_SIM_NEW || aiol_sim_writable(sim, s); /* NEW: perhaps after a connect in vain */
    case AIOL_SIM_PLACES:
        break;
    }
    return false;
}

/* ... and now. */
static bool aiol_sim_due(const aiol_sim *sim, const aiol_sim_socket *s, aiol_sim_place place) {
    if (!sim->delayed || place == AIOL_SIM_WATCH_READ || place == AIOL_SIM_WATCH_WRITE)
        return true;
    return aiol_sim_reached(sim->turn, place == AIOL_SIM_READER ? s->read_due : s->write_due);
}

static void aiol_sim_shuffle(aiol_sim *sim) {
    size_t i;
    for (i = sim->ready_count; i > 1; i--) {
        size_t j = aiol_sim_below(sim, (uint32_t)i);
        aiol_sim_ready swap = sim->ready[i - 1];
        sim->ready[i - 1] = sim->ready[j];
        sim->ready[j] = swap;
    }
}

/* Finds what is to be dispatched. True if there is something, or will be without any time passing. */
static bool aiol_sim_harvest(aiol_sim *sim) {
    bool busy = sim->late != NULL;
    aiol_link *link;
    sim->ready_next = 0;
    sim->ready_count = 0;
    sim->harvested = sim->generation;
    AIOL_SIM_EACH(sim, link) {
        const aiol_sim_socket *s = aiol_sim_at(link);
        unsigned places = 0;
        int i;
        for (i = 0; i < AIOL_SIM_PLACES; i++) {
            aiol_sim_place place = (aiol_sim_place)i;
            if (!aiol_sim_pending(sim, s, place))
                continue;
            busy = true;
            if (aiol_sim_due(sim, s, place))
                places |= 1u << i;
        }
        if (places != 0) {
            aiol_sim_ready *ready = &sim->ready[sim->ready_count++];
            ready->number = s->number;
            ready->serial = s->serial;
            ready->places = places;
        }
    }
    aiol_sim_shuffle(sim);
    return busy;
}

/* ---- waiting ---- */

#if AIOL_SIM_BLOCKS
/* Waits in real time for another thread, the only one that can still do something. */
static int aiol_sim_block(aiol_sim *sim) {
    int n;
    do {
        struct pollfd waker;
        waker.fd = sim->wake.reader;
        waker.events = POLLIN;
        waker.revents = 0;
        n = AIOL_SYS(poll, poll(&waker, 1, AIOL_SIM_DEADLOCK));
        if (n == -1 && errno != EINTR)
            return aiol_error_from_errno(errno);
        if (n > 0)
            aiol_wake_drain(&sim->wake);
        if (aiol_exchange_u32(&sim->woken, 0) != 0)
            return 0;
    } while (n != 0); /* a late signal of an earlier wake-up, or an interruption */
    return AIOLOOP_EDEADLK;
}

static int aiol_sim_open_wake(aiol_sim *sim, unsigned without) {
    return aiol_wake_open(&sim->wake, without);
}

static void aiol_sim_close_wake(aiol_sim *sim) {
    aiol_wake_close(&sim->wake);
}

static void aiol_sim_wake(aiol_engine *e) {
    aiol_sim *sim = aiol_sim_of(e);
    if (aiol_exchange_u32(&sim->woken, 1) == 0)
        aiol_wake_signal(&sim->wake);
}
#else
static int aiol_sim_block(aiol_sim *sim) {
    (void)sim;
    return AIOLOOP_EDEADLK;
}

static int aiol_sim_open_wake(aiol_sim *sim, unsigned without) {
    (void)sim;
    (void)without;
    return 0;
}

static void aiol_sim_close_wake(aiol_sim *sim) {
    (void)sim;
}

static void aiol_sim_wake(aiol_engine *e) {
    aiol_exchange_u32(&aiol_sim_of(e)->woken, 1);
}
#endif

/* AIOLOOP_EDEADLK: nothing can ever happen. A real loop would hang. */
static int aiol_sim_wait(aiol_engine *e, aioloop_time deadline) {
    aiol_sim *sim = aiol_sim_of(e);
    bool woken;
    if (sim->ready_next < sim->ready_count) /* a halted dispatch left them */
        return 1;
    sim->turn++;
    if (deadline > sim->now)
        sim->busy = 0;
    else if (++sim->busy > AIOL_SIM_PATIENCE) /* a loop that never sleeps must not hold up its timers for ever */
        sim->now += AIOL_SIM_TICK;
    woken = aiol_exchange_u32(&sim->woken, 0) != 0;
    for (;;) {
        aioloop_time next;
        while (aiol_sim_step(sim))
            ;
        if (aiol_sim_harvest(sim) || woken || deadline <= sim->now)
            return 1; /* also with nothing: a dispatch is a step of the delayed personality */
        next = aiol_sim_next_event(sim);
        if (deadline < next)
            next = deadline;
        if (next == AIOLOOP_FOREVER)
            return aiol_sim_block(sim);
        AIOL_ASSERT(next > sim->now);
        sim->now = next;
    }
}

/* ---- dispatching ---- */

static bool aiol_sim_halted(const aiol_budget *budget) {
    return budget->halt != NULL && *budget->halt;
}

/* The socket an event was found for, if it is still there. */
static aiol_sim_socket *aiol_sim_again(aiol_sim *sim, const aiol_sim_ready *ready) {
    aiol_sim_socket *s = aiol_sim_find(sim, ready->number);
    return s != NULL && s->serial == ready->serial ? s : NULL;
}

/* The same, if its reader is still that submission and active. */
static aiol_sim_socket *aiol_sim_still(aiol_sim *sim, const aiol_sim_ready *ready, uint32_t generation) {
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    aiol_op *op = s == NULL ? NULL : s->ops[AIOL_SIM_READER];
    return op != NULL && op->state == AIOL_OP_ACTIVE && op->generation == generation ? s : NULL;
}

/* The operation ends. */
static void aiol_sim_finish(aiol_sim_socket *s, aiol_sim_place place, int64_t n) {
    aiol_op *op = s->ops[place];
    aiol_sim_detach(s, place);
    op->done(op, n, NULL);
}

/* All bytes are told: the error, once, or the end. */
static void aiol_sim_deliver_end(aiol_sim_socket *s) {
    int error = s->read_error;
    s->read_noticed = false;
    if (error == 0 && !s->end_arrived)
        return;
    s->read_error = 0;
    aiol_sim_finish(s, AIOL_SIM_READER, error);
}

/* Calls done() with the first size bytes. What it leaves is the engine's until it takes it. */
static size_t aiol_sim_offer(aiol_sim *sim, const aiol_sim_ready *ready, aiol_op *op, void *buffer, size_t size) {
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    size_t taken;
    aiol_sim_peek(s, buffer, size);
    s->offering = true;
    taken = aiol_min_size(op->done(op, (int64_t)size, buffer), size);
    s = aiol_sim_again(sim, ready);
    if (s == NULL)
        return 0;
    s->offering = false;
    aiol_sim_consume(sim, s, taken);
    if (taken < size && s->stash < size - taken && s->ops[AIOL_SIM_READER] != NULL)
        s->stash = aiol_min_size(size - taken, s->arrived);
    return taken;
}

/* How many bytes a RECV is offered next. */
static size_t aiol_sim_offer_size(aiol_sim *sim, const aiol_sim_socket *s, size_t limit) {
    size_t size = sim->delayed ? s->stash : s->arrived;
    size = aiol_min_size(aiol_min_size(size, limit), AIOL_SIM_BUFFER);
    return sim->delayed && aiol_sim_below(sim, 4) == 0 ? aiol_sim_part(sim, size) : size;
}

static void aiol_sim_deliver_recv(aiol_sim *sim, const aiol_sim_ready *ready, aiol_op *op, const aiol_budget *budget) {
    uint32_t generation = op->generation;
    size_t left = budget->bytes;
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    if (s->arrived == 0) {
        aiol_sim_deliver_end(s);
        return;
    }
    while (s != NULL && !aiol_sim_halted(budget)) {
        size_t size = aiol_sim_offer_size(sim, s, left);
        void *buffer = sim->scratch;
        if (size == 0)
            break;
        if (op->u.recv.dest != NULL) {
            size_t room = op->u.recv.dest(op, &buffer);
            s = aiol_sim_still(sim, ready, generation);
            if (room == 0 || s == NULL || aiol_sim_halted(budget))
                break;
            size = aiol_min_size(aiol_min_size(size, room), sim->delayed ? s->stash : s->arrived);
            if (size == 0) /* broken in there */
                break;
        }
        if (aiol_sim_offer(sim, ready, op, buffer, size) < size)
            break;
        left -= size;
        s = aiol_sim_still(sim, ready, generation);
    }
    s = aiol_sim_still(sim, ready, generation);
    if (s != NULL && aiol_sim_readable(sim, s))
        sim->more = true;
}

static void aiol_sim_deliver_datagrams(aiol_sim *sim, const aiol_sim_ready *ready, aiol_op *op, const aiol_budget *budget) {
    uint32_t generation = op->generation;
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    int left = sim->delayed ? 1 + (int)aiol_sim_below(sim, AIOL_DATAGRAMS) : AIOL_DATAGRAMS;
    s->read_noticed = false;
    while (s != NULL && left-- > 0 && !aiol_sim_halted(budget) && aiol_sim_has_datagram(sim, s)) {
        int error = s->read_error;
        s->read_error = 0;
        if (error != 0) {
            op->done(op, error, NULL);
        } else {
            aiol_sim_datagram *d = aiol_sim_take_datagram(s);
            aiol_arrival arrival;
            arrival.data = d + 1;
            arrival.from = &d->from.address;
            op->done(op, (int64_t)d->size, &arrival);
            aiol_sim_free_datagrams(sim, d);
        }
        s = aiol_sim_still(sim, ready, generation);
    }
    if (s != NULL && aiol_sim_has_datagram(sim, s))
        sim->more = true;
}

static void aiol_sim_deliver_accept(aiol_sim *sim, const aiol_sim_ready *ready, aiol_op *op, const aiol_budget *budget) {
    uint32_t generation = op->generation;
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    int left;
    for (left = op->u.accept.budget; s != NULL; left--) {
        aiol_sim_name peer;
        aiol_sim_socket *taken;
        if ((sim->delayed ? s->stash : s->queue_count) == 0)
            return;
        if (left <= 0 || aiol_sim_halted(budget)) {
            sim->more = true;
            return;
        }
        if (sim->accept_failures != 0) {
            sim->accept_failures--;
            aiol_sim_finish(s, AIOL_SIM_READER, sim->accept_error);
            return;
        }
        taken = aiol_sim_dequeue(s);
        aiol_sim_number(sim, taken);
        aiol_sim_name_set(&peer, &taken->remote.address); /* its socket may be closed in there */
        op->done(op, taken->number, &peer.address);
        s = aiol_sim_still(sim, ready, generation);
    }
}

static void aiol_sim_deliver_write(aiol_sim *sim, aiol_sim_socket *s, const aiol_op *op) {
    int64_t n;
    if (op->kind == AIOL_OP_CONNECT)
        n = s->connect_result;
    else if (sim->delayed)
        n = aiol_sim_result(op);
    else if (op->kind == AIOL_OP_SENDTO)
        n = aiol_sim_send_datagrams(sim, s, op->u.sendto.first, INT64_MAX);
    else
        n = aiol_sim_transfer(sim, s, op, SIZE_MAX);
    if (n != AIOL_PENDING)
        aiol_sim_finish(s, AIOL_SIM_WRITER, n);
}

/* Serves one operation, unless what was found for it is no longer so. */
static void aiol_sim_deliver(aiol_sim *sim, const aiol_sim_ready *ready, aiol_sim_place place,
                             const aiol_budget *budget) {
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    aiol_op *op;
    if (s == NULL || !aiol_sim_pending(sim, s, place))
        return;
    op = s->ops[place];
    if (!aiol_sim_reached(sim->harvested, op->generation)) /* submitted or started after the harvest */
        return;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_RECV:
        aiol_sim_deliver_recv(sim, ready, op, budget);
        break;
    case AIOL_OP_RECVFROM:
        aiol_sim_deliver_datagrams(sim, ready, op, budget);
        break;
    case AIOL_OP_ACCEPT:
        aiol_sim_deliver_accept(sim, ready, op, budget);
        break;
    case AIOL_OP_SEND:
    case AIOL_OP_SENDFILE:
    case AIOL_OP_SENDTO:
    case AIOL_OP_CONNECT:
        aiol_sim_deliver_write(sim, s, op);
        break;
    case AIOL_OP_POLL:
        op->done(op, (int64_t)op->u.poll.events, NULL);
        break;
    }
}

/* Tells a cancelled operation its end. */
static void aiol_sim_deliver_late(aiol_sim *sim, aiol_op *op) {
    int64_t n = aiol_sim_result(op);
    aiol_sim_socket *taken = op->kind == AIOL_OP_ACCEPT && n >= 0 ? aiol_sim_find(sim, (aioloop_socket)n) : NULL;
    aiol_sim_name peer;
    op->state = AIOL_OP_IDLE;
    op->link = NULL;
    if (taken != NULL)
        aiol_sim_name_set(&peer, &taken->remote.address);
    op->done(op, n, taken != NULL ? &peer.address : NULL);
}

/* The first cancelled operation whose turn has come, taken off the list; NULL if none. */
static aiol_op *aiol_sim_next_late(aiol_sim *sim) {
    aiol_op **at;
    for (at = &sim->late; *at != NULL; at = &(*at)->link) {
        aiol_op *op = *at;
        if (aiol_sim_reached(sim->turn, op->generation)) {
            *at = op->link;
            return op;
        }
    }
    return NULL;
}

static void aiol_sim_dispatch_late(aiol_sim *sim, const aiol_budget *budget) {
    while (!aiol_sim_halted(budget)) {
        aiol_op *op = aiol_sim_next_late(sim);
        if (op == NULL)
            return;
        aiol_sim_deliver_late(sim, op);
    }
}

static int aiol_sim_dispatch(aiol_engine *e, const aiol_budget *budget) {
    aiol_sim *sim = aiol_sim_of(e);
    sim->more = false;
    if (sim->late != NULL && aiol_sim_coin(sim)) /* before the rest or after it */
        aiol_sim_dispatch_late(sim, budget);
    while (sim->ready_next < sim->ready_count && !aiol_sim_halted(budget)) {
        aiol_sim_ready *ready = &sim->ready[sim->ready_next];
        aiol_sim_ready copy = *ready; /* callbacks that open sockets move the array */
        int place = 0;
        if (ready->places == 0) {
            sim->ready_next++;
            continue;
        }
        while ((ready->places & 1u << place) == 0)
            place++;
        ready->places &= ~(1u << place);
        aiol_sim_deliver(sim, &copy, (aiol_sim_place)place, budget);
    }
    aiol_sim_dispatch_late(sim, budget);
    return sim->more || aiol_sim_halted(budget) ? 1 : 0;
}

/* ---- sockets: the calls ---- */

AIOLOOP_INTERNAL int aiol_sim_socket_make(aiol_engine *e, int family, int type, aioloop_socket *out) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s;
    if (family != AIOLOOP_INET && family != AIOLOOP_INET6 && family != AIOLOOP_UNIX)
        return AIOLOOP_EAFNOSUPPORT;
    if (type != AIOLOOP_SOCK_STREAM && type != AIOLOOP_SOCK_DGRAM)
        return AIOLOOP_EINVAL;
    s = aiol_sim_make(sim, family, type);
    if (s == NULL)
        return AIOLOOP_ENOMEM;
    s->spare = type == AIOLOOP_SOCK_STREAM ? aiol_sim_make(sim, family, type) : NULL;
    if (s->spare == NULL && type == AIOLOOP_SOCK_STREAM) {
        aiol_sim_free(sim, s);
        return AIOLOOP_ENOMEM;
    }
    aiol_sim_enter(sim, s);
    aiol_sim_number(sim, s);
    *out = s->number;
    return 0;
}

static int aiol_sim_socket_open(aiol_engine *e, int family, int type, int protocol, aioloop_socket *out) {
    (void)protocol;
    return aiol_sim_socket_make(e, family, type, out);
}

static int aiol_sim_socket_close(aiol_engine *e, aioloop_socket number) {
    aiol_sim *sim;
    aiol_sim_socket *s;
    if (e == NULL)
        return 0; /* it went with its engine */
    sim = aiol_sim_of(e);
    s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    AIOL_ASSERT(!s->transport); /* quiesce first */
    aiol_sim_destroy(sim, s, false);
    return 0;
}

static int aiol_sim_bind_inet(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *address) {
    aioloop_address a = *address;
    if (!aiol_sim_is_wildcard(&a) && !aiol_sim_is_loopback(&a))
        return AIOLOOP_EADDRNOTAVAIL;
    if (a.port == 0) {
        a.port = aiol_sim_free_port(sim);
        if (a.port == 0)
            return AIOLOOP_EADDRINUSE;
    } else if (aiol_sim_conflict(sim, s, &a, false)) {
        return AIOLOOP_EADDRINUSE;
    }
    aiol_sim_name_set(&s->local, &a);
    return 0;
}

static int aiol_sim_bind_unix(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *address) {
    int err;
    if (address->path_size == 0)
        return AIOLOOP_EINVAL;
    if (aiol_sim_conflict(sim, s, address, false))
        return AIOLOOP_EADDRINUSE;
    err = aiol_sim_is_file(address) ? aiol_sim_make_file(sim, s, address) : 0;
    if (err == 0)
        aiol_sim_name_set(&s->local, address);
    return err;
}

static int aiol_sim_bind(aiol_engine *e, aioloop_socket number, const aioloop_address *address) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    int err;
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->bound || s->stage != AIOL_SIM_NEW)
        return AIOLOOP_EINVAL;
    if (address->family != s->family)
        return AIOLOOP_EAFNOSUPPORT;
    err = s->family == AIOLOOP_UNIX ? aiol_sim_bind_unix(sim, s, address) : aiol_sim_bind_inet(sim, s, address);
    if (err == 0)
        s->bound = true;
    return err;
}

static int aiol_sim_listen(aiol_engine *e, aioloop_socket number, int backlog) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->type != AIOLOOP_SOCK_STREAM)
        return AIOLOOP_EOPNOTSUPP;
    if ((s->stage != AIOL_SIM_NEW && s->stage != AIOL_SIM_LISTENING) || (s->family == AIOLOOP_UNIX && !s->bound))
        return AIOLOOP_EINVAL;
    if (!s->bound) {
        int err = aiol_sim_bind_inet(sim, s, &s->local.address);
        if (err < 0)
            return err;
        s->bound = true;
    }
    if (aiol_sim_conflict(sim, s, &s->local.address, true))
        return AIOLOOP_EADDRINUSE;
    s->stage = AIOL_SIM_LISTENING;
    s->backlog = backlog < 1 ? 1 : (size_t)backlog;
    return 0;
}

static int aiol_sim_shutdown(aiol_engine *e, aioloop_socket number) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->stage != AIOL_SIM_CONNECTED || s->dead)
        return AIOLOOP_ENOTCONN;
    s->write_shut = true;
    if (s->peer != NULL)
        aiol_sim_send_end(sim, s->peer);
    return 0;
}

static int aiol_sim_set(aiol_engine *e, aioloop_socket number, aiol_socket_option option, int value) {
    aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    switch (option) {
    case AIOL_OPTION_REUSE_ADDRESS:
        s->reuse_address = value != 0;
        break;
    case AIOL_OPTION_REUSE_PORT:
        s->reuse_port = value != 0;
        break;
    case AIOL_OPTION_V6_ONLY:
        s->v6_only = value != 0;
        break;
    case AIOL_OPTION_KEEP_ALIVE:
    case AIOL_OPTION_NO_DELAY:
    case AIOL_OPTION_BROADCAST: /* every address that there is, is one host's */
        break;
    }
    return 0;
}

static int aiol_sim_inspect(aiol_engine *e, aioloop_socket number, int type, int *family) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->pipe)
        return AIOLOOP_ENOTSOCK;
    if (s->type != type)
        return AIOLOOP_EINVAL;
    *family = s->family;
    return 0;
}

static int aiol_sim_pipe_inspect(aiol_engine *e, aioloop_socket number, bool writes, aiol_pipe_kind *kind) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL || (s->pipe && s->write_shut == writes))
        return AIOLOOP_EBADF;
    if (s->type != AIOLOOP_SOCK_STREAM)
        return AIOLOOP_EINVAL;
    kind->socket = !s->pipe;
    kind->one_way = s->pipe;
    return 0;
}

static int aiol_sim_pipe_adopt(aiol_engine *e, aioloop_socket number, bool *restore) {
    *restore = false;
    return aiol_sim_find(aiol_sim_of(e), number) == NULL ? AIOLOOP_EBADF : 0;
}

static void aiol_sim_pipe_restore(aiol_engine *e, aioloop_socket number) {
    (void)e;
    (void)number;
}

static int aiol_sim_adopt(aiol_engine *e, aioloop_socket number) {
    return aiol_sim_find(aiol_sim_of(e), number) == NULL ? AIOLOOP_EBADF : 0;
}

static int aiol_sim_name_of(aiol_engine *e, aioloop_socket number, aioloop_address *address, aiol_path_room *room) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    aiol_sim_name_tell(&s->local, address, room);
    return 0;
}

static int aiol_sim_peer_of(aiol_engine *e, aioloop_socket number, aioloop_address *address, aiol_path_room *room) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->stage != AIOL_SIM_CONNECTED || s->dead)
        return AIOLOOP_ENOTCONN;
    aiol_sim_name_tell(&s->remote, address, room);
    return 0;
}

static int aiol_sim_path_identify(aiol_engine *e, const char *path, size_t size, aiol_path_identity *identity) {
    const aiol_sim_file *file = *aiol_sim_find_file(aiol_sim_of(e), path, size);
    if (file == NULL)
        return AIOLOOP_ENOENT;
    identity->device = 0;
    identity->inode = file->inode;
    identity->is_socket = true;
    return 0;
}

static int aiol_sim_path_remove(aiol_engine *e, const char *path, size_t size) {
    aiol_sim_file **at = aiol_sim_find_file(aiol_sim_of(e), path, size);
    aiol_sim_file *file = *at;
    if (file == NULL)
        return AIOLOOP_ENOENT;
    *at = file->next;
    aiol_free(e->allocator, file, sizeof(*file));
    return 0;
}

/* ---- sockets used directly ----
 *
 * As a system's calls are allowed to be, the delayed ones find for no reason that there is nothing yet, and take and
 * give a part. */

static bool aiol_sim_hesitates(aiol_sim *sim) {
    return sim->delayed && aiol_sim_below(sim, 4) == 0;
}

static size_t aiol_sim_some(aiol_sim *sim, size_t size) {
    return sim->delayed && aiol_sim_coin(sim) ? aiol_sim_part(sim, size) : size;
}

static int64_t aiol_sim_recv(aiol_engine *e, aioloop_socket number, void *buffer, size_t size, aioloop_address *from,
                             aiol_path_room *room) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    int error;
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (aiol_sim_hesitates(sim))
        return AIOLOOP_EAGAIN;
    if (s->type == AIOLOOP_SOCK_DGRAM)
        return aiol_sim_recv_datagram(sim, s, buffer, size, from, room);
    if (from != NULL) /* the sender of bytes is told by Unix sockets alone */
        memset(from, 0, sizeof(*from));
    if (s->stage == AIOL_SIM_CONNECTING)
        return AIOLOOP_EAGAIN;
    if (s->stage != AIOL_SIM_CONNECTED)
        return s->family == AIOLOOP_UNIX ? AIOLOOP_EINVAL : AIOLOOP_ENOTCONN;
    if (s->arrived != 0) {
        size = aiol_sim_some(sim, aiol_min_size(size, s->arrived));
        aiol_sim_peek(s, buffer, size);
        aiol_sim_consume(sim, s, size);
        if (from != NULL && s->family == AIOLOOP_UNIX)
            aiol_sim_name_tell(&s->remote, from, room);
        return (int64_t)size;
    }
    if (s->read_error == 0 && !s->end_arrived)
        return AIOLOOP_EAGAIN;
    error = s->read_error; /* told once; then it is an end */
    s->read_error = 0;
    return error;
}

static int64_t aiol_sim_send(aiol_engine *e, aioloop_socket number, const void *data, size_t size,
                             const aioloop_address *to) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    aioloop_buf piece;
    aiol_op op;
    int64_t n;
    if (s == NULL)
        return AIOLOOP_EBADF;
    s->blocked_on = 0;
    if (aiol_sim_hesitates(sim))
        return AIOLOOP_EAGAIN;
    if (s->type == AIOLOOP_SOCK_DGRAM)
        return aiol_sim_send_datagram(sim, s, data, size, to);
    if (s->stage == AIOL_SIM_CONNECTING)
        return AIOLOOP_EAGAIN;
    if (s->family == AIOLOOP_UNIX && to != NULL) /* on the internet a connection goes where it goes */
        return s->stage == AIOL_SIM_CONNECTED ? AIOLOOP_EISCONN : AIOLOOP_EOPNOTSUPP;
    if (s->stage != AIOL_SIM_CONNECTED)
        return s->family == AIOLOOP_UNIX ? AIOLOOP_ENOTCONN : AIOLOOP_EPIPE;
    memset(&op, 0, sizeof(op));
    piece.data = data;
    piece.size = size;
    op.kind = AIOL_OP_SEND;
    op.u.send.pieces = &piece;
    op.u.send.count = 1;
    n = aiol_sim_transfer(sim, s, &op, aiol_sim_some(sim, size));
    return n == AIOL_PENDING ? (int64_t)AIOLOOP_EAGAIN : n;
}

static int64_t aiol_sim_sendfile(aiol_engine *e, aioloop_socket number, aioloop_file file, int64_t offset, size_t count) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    aiol_op op;
    int64_t n;
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (aiol_sim_hesitates(sim))
        return AIOLOOP_EAGAIN;
    memset(&op, 0, sizeof(op));
    op.kind = AIOL_OP_SENDFILE;
    op.u.sendfile.file = file;
    op.u.sendfile.offset = offset;
    op.u.sendfile.count = count;
    n = aiol_sim_transfer(sim, s, &op, aiol_sim_some(sim, count));
    return n == AIOL_PENDING ? (int64_t)AIOLOOP_EAGAIN : n;
}

static int aiol_sim_accept(aiol_engine *e, aioloop_socket number, aioloop_socket *out, aioloop_address *peer,
                           aiol_path_room *room) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    aiol_sim_socket *taken;
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->type != AIOLOOP_SOCK_STREAM)
        return AIOLOOP_EOPNOTSUPP;
    if (s->stage != AIOL_SIM_LISTENING)
        return AIOLOOP_EINVAL;
    if (s->queue == NULL || aiol_sim_hesitates(sim))
        return AIOLOOP_EAGAIN;
    if (sim->accept_failures != 0) {
        sim->accept_failures--;
        return sim->accept_error;
    }
    taken = aiol_sim_dequeue(s);
    aiol_sim_number(sim, taken);
    aiol_sim_name_tell(&taken->remote, peer, room);
    *out = taken->number;
    return 0;
}

static int aiol_sim_connect_directly(aiol_engine *e, aioloop_socket number, const aioloop_address *address) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->type == AIOLOOP_SOCK_DGRAM)
        return aiol_sim_connect_datagrams(sim, s, address);
    return aiol_sim_connect_now(sim, s, address);
}

static int aiol_sim_connected(aiol_engine *e, aioloop_socket number) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    int result;
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->stage == AIOL_SIM_CONNECTING || aiol_sim_hesitates(sim))
        return AIOLOOP_EINPROGRESS;
    result = s->connect_result;
    s->connect_result = 0; /* told once, as the system's */
    return result;
}

static int aiol_sim_blocks(aiol_engine *e, aioloop_socket number) {
    return aiol_sim_find(aiol_sim_of(e), number) == NULL ? AIOLOOP_EBADF : 0;
}

/* ---- the engine: the rest of its calls ---- */

static void aiol_sim_close(aiol_engine *e) {
    aiol_sim *sim = aiol_sim_of(e);
    const aioloop_allocator *a = e->allocator;
    while (!aiol_list_empty(&sim->sockets))
        aiol_sim_free(sim, aiol_sim_at(sim->sockets.next));
    while (sim->files != NULL) {
        aiol_sim_file *file = sim->files;
        sim->files = file->next;
        aiol_free(a, file, sizeof(*file));
    }
    aiol_sim_close_wake(sim);
    aiol_free(a, sim->slots, sim->slots_capacity * sizeof(sim->slots[0]));
    aiol_free(a, sim->ready, sim->ready_capacity * sizeof(sim->ready[0]));
    aiol_free(a, sim->scratch, AIOL_SIM_BUFFER);
    aiol_free(a, sim, sizeof(*sim));
}

static int aiol_sim_flush(aiol_engine *e) {
    (void)e;
    return 0;
}

static int aiol_sim_descriptor(aiol_engine *e) {
    (void)e;
    return AIOLOOP_ENOTAVAILABLE;
}

static aioloop_time aiol_sim_now(aiol_engine *e) {
    return aiol_sim_of(e)->now;
}

static void aiol_sim_verify_ops(const aiol_sim_socket *s) {
    int i;
    for (i = 0; i < AIOL_SIM_PLACES; i++) {
        const aiol_op *op = s->ops[i];
        if (op == NULL)
            continue;
        AIOL_VERIFY(op->fd == s->number && (int)aiol_sim_place_of(op) == i);
        AIOL_VERIFY(op->state == AIOL_OP_ACTIVE || op->state == AIOL_OP_STOPPED);
        AIOL_VERIFY(s->transport || op->kind == AIOL_OP_POLL);
    }
}

static void aiol_sim_verify_bytes(const aiol_sim_socket *s) {
    const aiol_sim_piece *piece;
    aioloop_time last = 0;
    size_t size = 0;
    bool coming = false;
    for (piece = s->head; piece != NULL; piece = piece->next) {
        if (piece == s->coming) {
            AIOL_VERIFY(size == s->arrived);
            coming = true;
        }
        AIOL_VERIFY(piece->size != 0 && piece->arrives >= last);
        AIOL_VERIFY(piece->next != NULL || piece == s->tail);
        size += piece->size;
        last = piece->arrives;
    }
    AIOL_VERIFY(size == s->size && coming == (s->coming != NULL));
    AIOL_VERIFY(s->coming != NULL || s->arrived == size);
    AIOL_VERIFY(s->stash <= (s->stage == AIOL_SIM_LISTENING ? s->queue_count : s->arrived));
    AIOL_VERIFY(s->stash == 0 || s->ops[AIOL_SIM_READER] != NULL);
    AIOL_VERIFY(!s->dead || (s->peer == NULL && s->arrived == s->size));
}

static void aiol_sim_verify(aiol_engine *e) {
    aiol_sim *sim = aiol_sim_of(e);
    const aiol_op *op;
    aiol_link *link;
    size_t total = 0;
    AIOL_SIM_EACH(sim, link) {
        const aiol_sim_socket *s = aiol_sim_at(link);
        const aiol_sim_socket *queued;
        size_t count = 0;
        AIOL_VERIFY(s->number == AIOL_NO_SOCKET || aiol_sim_find(sim, s->number) == s);
        AIOL_VERIFY(s->peer == NULL || (s->peer->peer == s && s->stage == AIOL_SIM_CONNECTED));
        for (queued = s->queue; queued != NULL; queued = queued->queue_next, count++)
            AIOL_VERIFY(queued->number == AIOL_NO_SOCKET);
        AIOL_VERIFY(s->datagrams == NULL || s->type == AIOLOOP_SOCK_DGRAM);
        AIOL_VERIFY((s->datagrams == NULL) == (s->datagrams_size == 0));
        AIOL_VERIFY(count == s->queue_count && (count == 0 || s->stage == AIOL_SIM_LISTENING));
        aiol_sim_verify_ops(s);
        aiol_sim_verify_bytes(s);
        total += s->spare != NULL ? 2 : 1;
    }
    AIOL_VERIFY(total == sim->sockets_total && total <= sim->slots_capacity && total <= sim->ready_capacity);
    for (op = sim->late; op != NULL; op = op->link)
        AIOL_VERIFY(op->state == AIOL_OP_CANCELLING);
}

/* No other process can use what is in this one's memory. */
static int aiol_sim_spawn(aiol_engine *e, aiol_spawn *s) {
    (void)e;
    (void)s;
    return AIOLOOP_ENOTAVAILABLE;
}

static const aiol_socket_calls aiol_sim_socket_calls = {
    aiol_sim_socket_open, aiol_sim_socket_close, aiol_sim_bind,          aiol_sim_listen,
    aiol_sim_shutdown,    aiol_sim_set,          aiol_sim_inspect,       aiol_sim_adopt,
    aiol_sim_name_of,     aiol_sim_peer_of,      aiol_sim_path_identify, aiol_sim_path_remove,
    aiol_sim_recv,        aiol_sim_send,         aiol_sim_sendfile,      aiol_sim_accept,
    aiol_sim_connect_directly, aiol_sim_connected, aiol_sim_blocks,
    aiol_sim_pipe_inspect, aiol_sim_pipe_adopt,  aiol_sim_pipe_restore,
    aiol_sim_spawn,
};

static const aiol_engine_calls aiol_sim_calls = {
    aiol_sim_close,   aiol_sim_submit, aiol_sim_attempt,  aiol_sim_attempt_to, aiol_sim_cancel, aiol_sim_stop,
    aiol_sim_start,   aiol_sim_take,   aiol_sim_watching, aiol_sim_owned,  aiol_sim_attach,
    aiol_sim_quiesce, aiol_sim_wait,   aiol_sim_dispatch, aiol_sim_flush,  aiol_sim_descriptor,
    aiol_sim_wake,    aiol_sim_close,  aiol_sim_now,      aiol_sim_verify,
};

AIOLOOP_INTERNAL int aiol_sim_open(const aiol_engine_setup *setup, aiol_engine **out) {
    const aioloop_allocator *a = setup->allocator;
    aiol_sim *sim = (aiol_sim *)aiol_alloc_zero(a, sizeof(*sim));
    int err = AIOLOOP_ENOMEM;
    if (sim == NULL)
        return err;
    sim->scratch = (unsigned char *)aiol_alloc(a, AIOL_SIM_BUFFER);
    if (sim->scratch == NULL)
        goto free_sim;
    err = aiol_sim_open_wake(sim, setup->without);
    if (err < 0)
        goto free_scratch;
    sim->engine.name = "sim";
    sim->engine.calls = &aiol_sim_calls;
    sim->engine.sockets = &aiol_sim_socket_calls;
    sim->engine.allocator = a;
    sim->delayed = setup->delayed;
    sim->no_sendfile = (setup->without & AIOL_WITHOUT_SENDFILE) != 0;
    sim->random = setup->seed;
    sim->now = AIOL_SIM_START;
    sim->buffer = AIOL_SIM_BUFFER;
    sim->port = AIOL_SIM_FIRST_PORT;
    aiol_list_init(&sim->sockets);
    *out = &sim->engine;
    return 0;
free_scratch:
    aiol_free(a, sim->scratch, AIOL_SIM_BUFFER);
free_sim:
    aiol_free(a, sim, sizeof(*sim));
    return err;
}

/* ---- what a test can do to the world ---- */

AIOLOOP_INTERNAL bool aiol_sim_is(const aiol_engine *e) {
    return e->calls == &aiol_sim_calls;
}

AIOLOOP_INTERNAL int aiol_sim_pair(aiol_engine *e, aioloop_socket sockets[2]) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *a = aiol_sim_make(sim, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM);
    aiol_sim_socket *b = a == NULL ? NULL : aiol_sim_make(sim, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM);
    if (b == NULL) {
        aiol_sim_free(sim, a);
        return AIOLOOP_ENOMEM;
    }
    a->stage = AIOL_SIM_CONNECTED;
    b->stage = AIOL_SIM_CONNECTED;
    a->peer = b;
    b->peer = a;
    aiol_sim_enter(sim, a);
    aiol_sim_enter(sim, b);
    aiol_sim_number(sim, a);
    aiol_sim_number(sim, b);
    sockets[0] = a->number;
    sockets[1] = b->number;
    return 0;
}

/* A pair of which one end is written to, and the other, the first, is read. */
AIOLOOP_INTERNAL int aiol_sim_pipe(aiol_engine *e, aioloop_socket ends[2]) {
    aiol_sim *sim = aiol_sim_of(e);
    int err = aiol_sim_pair(e, ends);
    if (err < 0)
        return err;
    aiol_sim_find(sim, ends[0])->pipe = true;
    aiol_sim_find(sim, ends[0])->write_shut = true;
    aiol_sim_find(sim, ends[1])->pipe = true;
    return 0;
}

/* The path is the socket's. */
AIOLOOP_INTERNAL int aiol_sim_name_at(aiol_engine *e, aioloop_socket number, aioloop_address *address) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    *address = s->local.address;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_set_delay(aiol_engine *e, aioloop_time minimum, aioloop_time maximum) {
    aiol_sim *sim = aiol_sim_of(e);
    if (minimum < 0 || maximum < minimum)
        return AIOLOOP_EINVAL;
    sim->delay_min = minimum;
    sim->delay_max = maximum;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_set_buffer(aiol_engine *e, size_t bytes) {
    if (bytes == 0)
        return AIOLOOP_EINVAL;
    aiol_sim_of(e)->buffer = bytes;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_set_datagrams(aiol_engine *e, unsigned lost, bool reordered) {
    if (lost > 1000)
        return AIOLOOP_EINVAL;
    aiol_sim_of(e)->lost = lost;
    aiol_sim_of(e)->reordered = reordered;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_set_partition(aiol_engine *e, bool on) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_link *link;
    AIOL_SIM_EACH(sim, link) {
        if (sim->partition && !on)
            aiol_sim_resume(sim, aiol_sim_at(link));
        else if (on)
            aiol_sim_lose_datagrams(sim, aiol_sim_at(link));
    }
    sim->partition = on;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_break(aiol_engine *e, aioloop_socket number, int error) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (error >= 0 || s->type != AIOLOOP_SOCK_STREAM || s->stage != AIOL_SIM_CONNECTED || s->dead)
        return AIOLOOP_EINVAL;
    if (s->peer != NULL)
        aiol_sim_kill(sim, s->peer, error, error);
    aiol_sim_kill(sim, s, error, error);
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_fail_accepts(aiol_engine *e, int error, unsigned count) {
    aiol_sim *sim = aiol_sim_of(e);
    if (error >= 0)
        return AIOLOOP_EINVAL;
    sim->accept_error = error;
    sim->accept_failures = count;
    return 0;
}

AIOLOOP_INTERNAL uint32_t aiol_sim_random(aiol_engine *e, uint32_t bound) {
    return aiol_sim_below(aiol_sim_of(e), bound);
}

#endif
