/*
 * op.h - the waist: operations, and what an engine does with them.
 *
 * Everything above (transports, servers, watchers) is written against this file alone; everything below (the reactor
 * over any poller, io_uring, the simulated engine, a firmware's port) implements it. Nothing above may ask which engine
 * runs.
 *
 * An operation is a small struct inside its owner, used in the loop's thread only; the owner may go only while the
 * operation is IDLE. One-shots (SEND, SENDFILE, SENDTO, CONNECT) are submitted and complete exactly once, or finish at
 * once. Sources (RECV, RECVFROM, ACCEPT, POLL) deliver many times until cancelled; they become IDLE by themselves on an
 * end of file or an error only, and RECVFROM only if its descriptor is of no use any more.
 *
 *     IDLE -submit-> ACTIVE -done-> IDLE          ACTIVE|STOPPED -cancel-> IDLE, or CANCELLING -done-> IDLE
 *     ACTIVE <-stop/start-> STOPPED
 *
 * The kernel is never given memory of the user to read into. A SEND lends memory until it is done.
 */
#ifndef AIOL_IO_OP_H
#define AIOL_IO_OP_H

#include "sys/sys.h"

/* Not a result: done() will come. Out of the way of counts and codes. */
#define AIOL_PENDING INT32_MIN

typedef enum aiol_op_kind {
    AIOL_OP_SEND,
    AIOL_OP_SENDFILE,
    AIOL_OP_SENDTO,
    AIOL_OP_CONNECT,
    AIOL_OP_RECV,
    AIOL_OP_RECVFROM,
    AIOL_OP_ACCEPT,
    AIOL_OP_POLL
} aiol_op_kind;

typedef enum aiol_op_state {
    AIOL_OP_IDLE,      /* the owner's */
    AIOL_OP_ACTIVE,    /* the engine's; done() will come */
    AIOL_OP_STOPPED,   /* a source: no done(); what still arrives is kept, in order */
    AIOL_OP_CANCELLING /* done() will come exactly once more, whatever it says */
} aiol_op_state;

enum { AIOL_POLL_READABLE = 1, AIOL_POLL_WRITABLE = 2 };

/* What a RECVFROM has received. */
typedef struct aiol_arrival {
    const void *data;
    const aioloop_address *from;
} aiol_arrival;

typedef struct aiol_op {
    uint8_t kind;
    uint8_t state;
    uint8_t flags; /* the owner's */
    uint8_t engine_flags;
    uint32_t generation; /* the engine's: events found before the submission miss */
    aioloop_socket fd;
    struct aiol_op *link; /* the engine's */
    /* n: a count (SEND, SENDFILE, RECV: bytes; 0 of RECV is the end of the stream, of SENDFILE the end of the file; ACCEPT: the new socket, with data the peer's
     * const aioloop_address *; POLL: the events; CONNECT: 0; SENDTO: datagrams, at least one; RECVFROM: a datagram's size,
     * with data an aiol_arrival *) or a code. data of RECV and RECVFROM is valid during the call. Returns
     * how many bytes of a RECV it took (others 0); the rest is kept and offered again in the next iteration or after
     * start. Called only from aiol_io_dispatch. May submit, stop or cancel any operation, and end its owner if that is
     * IDLE. A CANCELLING one gets AIOLOOP_ECANCELED, or what had happened already: bytes sent, a socket accepted (which
     * its owner must then close). */
    size_t (*done)(struct aiol_op *op, int64_t n, const void *data);
    union {
        struct {
            const aioloop_buf *pieces; /* AIOL_IOV_MAX at most; they and what they name stay as they are until done */
            int count;
        } send;
        struct {
            int64_t offset;
            size_t count;
            aioloop_file file; /* AIOLOOP_ENOTAVAILABLE: it has to be read and sent */
            bool later;        /* done() comes, be it that it could be sent at once: others shall have their turn */
        } sendfile;
        struct {
            const aiol_datagram *first; /* of a list; they stay as they are until done. A code is that of the first. */
        } sendto;
        struct {
            const aioloop_address *address; /* read by submit alone */
        } connect;
        struct {
            /* NULL: the engine's buffer. Else asked when bytes ARE there: stores where they go and returns how many
             * fit, and done() follows with data in that place; 0: none now. May do what done() may. */
            size_t (*dest)(struct aiol_op *op, void **buffer);
            bool internet;  /* a socket of the internet; false: of another kind, or nobody knows */
            bool pipe;      /* attached as AIOL_OWNER_PIPE or AIOL_OWNER_DEVICE */
            bool multishot; /* the engine's: how bytes were asked for, */
            int end;        /* and what comes behind those that it keeps */
        } recv;
        struct {
            bool internet; /* else one datagram may be larger than AIOL_DATAGRAM_MAX */
            uint8_t alone; /* the engine's: how often there was but one */
        } recvfrom;
        struct {
            int budget;    /* connections in one iteration */
            int taken;     /* the engine's: in this one, */
            uint32_t turn; /* of this number */
        } accept;
        struct {
            unsigned events; /* one of AIOL_POLL_...: done() in every iteration while it is so */
        } poll;
    } u;
    void *engine; /* the engine's: what it keeps for this operation */
} aiol_op;

/* An idle connection pays for one. */
AIOL_STATIC_ASSERT(sizeof(void *) != 8 || sizeof(aiol_op) <= 64, op_is_small);

#define AIOL_DATAGRAMS 64 /* that a source brings in one iteration */

typedef struct aiol_budget {
    size_t bytes;     /* per source and iteration */
    const bool *halt; /* set by a callback: dispatch no more, keep the rest */
} aiol_budget;

/* Who attaches a descriptor. */
typedef enum aiol_owner {
    AIOL_OWNER_TRANSPORT, /* of a socket */
    AIOL_OWNER_PIPE,      /* a transport of what is read and written, not received and sent: a pipe, a FIFO */
    AIOL_OWNER_DEVICE,    /* likewise, a terminal or another character device */
    AIOL_OWNER_WATCHER
} aiol_owner;

struct aiol_engine;

/* Sockets as the engine has them: the system's, or simulated ones. As the functions of sys.h. */
typedef struct aiol_socket_calls {
    int (*open)(struct aiol_engine *e, int family, int type, int protocol, aioloop_socket *out);
    int (*close)(struct aiol_engine *e, aioloop_socket s); /* e may be NULL: of an engine that has gone */
    int (*bind)(struct aiol_engine *e, aioloop_socket s, const aioloop_address *address);
    int (*listen)(struct aiol_engine *e, aioloop_socket s, int backlog);
    int (*shutdown)(struct aiol_engine *e, aioloop_socket s); /* no more is sent */
    int (*set)(struct aiol_engine *e, aioloop_socket s, aiol_socket_option option, int value);
    int (*inspect)(struct aiol_engine *e, aioloop_socket s, int type, int *family);
    int (*adopt)(struct aiol_engine *e, aioloop_socket s);
    int (*name)(struct aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room);
    int (*peer)(struct aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room);
    int (*path_identify)(struct aiol_engine *e, const char *path, size_t size, aiol_path_identity *identity);
    int (*path_remove)(struct aiol_engine *e, const char *path, size_t size);

    /* Of sockets used directly; they do not wait. from (with its room) and to may be NULL. */
    int64_t (*recv)(struct aiol_engine *e, aioloop_socket s, void *buffer, size_t size, aioloop_address *from,
                    aiol_path_room *room);
    int64_t (*send)(struct aiol_engine *e, aioloop_socket s, const void *data, size_t size, const aioloop_address *to);
    int64_t (*sendfile)(struct aiol_engine *e, aioloop_socket s, aioloop_file file, int64_t offset, size_t count);
    int (*accept)(struct aiol_engine *e, aioloop_socket s, aioloop_socket *out, aioloop_address *peer,
                  aiol_path_room *room);
    int (*connect)(struct aiol_engine *e, aioloop_socket s, const aioloop_address *address);
    int (*connected)(struct aiol_engine *e, aioloop_socket s);
    int (*blocks)(struct aiol_engine *e, aioloop_socket s); /* 1: a call that does not say otherwise would wait */

    /* Of what connect_read_pipe and connect_write_pipe are given. */
    int (*pipe_inspect)(struct aiol_engine *e, aioloop_socket s, bool writes, aiol_pipe_kind *kind);
    int (*pipe_adopt)(struct aiol_engine *e, aioloop_socket s, bool *restore);
    void (*pipe_restore)(struct aiol_engine *e, aioloop_socket s);

    int (*spawn)(struct aiol_engine *e, aiol_spawn *s); /* where its descriptors are the system's */
} aiol_socket_calls;

typedef struct aiol_engine_calls {
    void (*close)(struct aiol_engine *e);

    /* >= 0 or a code: finished now, IDLE, done() will not come. AIOL_PENDING: ACTIVE. Needs no memory beyond what
     * attach reserved. At most one of SEND, SENDFILE, SENDTO and CONNECT, and one RECV, RECVFROM or ACCEPT, is active per
     * descriptor. For POLL what the system says of the descriptor (AIOLOOP_EPERM, ...) is the result. */
    int64_t (*submit)(struct aiol_engine *e, aiol_op *op);
    /* A send that does not wait: what the system takes at once, or a code; AIOL_PENDING: nothing, queue it and submit.
     * While no SEND is active on fd. The memory is the caller's again on return. now: even if it would be cheaper with
     * the next wait. */
    int64_t (*attempt)(struct aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now);
    /* The same for datagrams, each of which is sent whole: how many of the list, at least one. */
    int64_t (*attempt_to)(struct aiol_engine *e, aioloop_socket fd, const aiol_datagram *first);
    /* 0: IDLE now, done() will not come (also if it was IDLE). AIOL_PENDING: CANCELLING. */
    int (*cancel)(struct aiol_engine *e, aiol_op *op);
    void (*stop)(struct aiol_engine *e, aiol_op *op);  /* after this no done() until start */
    void (*start)(struct aiol_engine *e, aiol_op *op); /* what was kept first, in the next dispatch */
    size_t (*take)(struct aiol_engine *e, aiol_op *op, void *to, size_t size); /* STOPPED: empties what was kept */
    aiol_op *(*watching)(struct aiol_engine *e, aioloop_socket fd, unsigned event); /* the active POLL, or NULL */
    bool (*owned)(struct aiol_engine *e, aioloop_socket fd); /* attached by a transport */

    /* Before any operation on fd; reserves. A transport's descriptor is nobody else's: AIOLOOP_EMISUSE. */
    int (*attach)(struct aiol_engine *e, aioloop_socket fd, aiol_owner owner);
    /* Before fd is closed: the system lets go of it. Operations may still be CANCELLING. */
    void (*quiesce)(struct aiol_engine *e, aioloop_socket fd);

    /* Flush, wait (not if deadline is past), harvest; calls nobody. Above 0: there is something to dispatch; 0: not; or
     * a code. */
    int (*wait)(struct aiol_engine *e, aioloop_time deadline);
    int (*dispatch)(struct aiol_engine *e, const aiol_budget *budget); /* done() for the harvest; 1: more is kept */
    /* Tells the system everything: before a foreign main loop sleeps. Below 0: there is something to dispatch at
     * once. */
    int (*flush)(struct aiol_engine *e);
    int (*descriptor)(struct aiol_engine *e);
    void (*wake)(struct aiol_engine *e);   /* any thread, signal handlers */
    void (*forget)(struct aiol_engine *e); /* instead of close, in a forked child: touches nothing shared */
    aioloop_time (*now)(struct aiol_engine *e);
    void (*verify)(struct aiol_engine *e);
} aiol_engine_calls;

typedef struct aiol_engine {
    const char *name;
    const aiol_engine_calls *calls;
    const aiol_socket_calls *sockets;
    const aioloop_allocator *allocator;
    unsigned without; /* AIOL_WITHOUT_... */
} aiol_engine;

AIOL_INLINE int64_t aiol_op_submit(aiol_engine *e, aiol_op *op) {
    AIOL_ASSERT(op->state == AIOL_OP_IDLE);
    return e->calls->submit(e, op);
}

AIOL_INLINE int aiol_op_cancel(aiol_engine *e, aiol_op *op) {
    if (op->state == AIOL_OP_IDLE)
        return 0;
    if (op->state == AIOL_OP_CANCELLING)
        return AIOL_PENDING;
    return e->calls->cancel(e, op);
}

/* How an engine is made. */
typedef struct aiol_engine_setup {
    const aioloop_allocator *allocator;
    unsigned without; /* AIOL_WITHOUT_... */
    bool named;       /* the engine was asked for */
    bool simulated;   /* an option of the simulated engine was given */
    bool delayed;     /* sim */
    uint64_t seed;    /* sim */
} aiol_engine_setup;

#endif
