/*
 * net.h - what transports and servers look like inside.
 */
#ifndef AIOL_NET_NET_H
#define AIOL_NET_NET_H

#include "api/server.h"
#include "api/start_tls.h"
#include "core/core.h"

/* NEW -> OPEN -> CLOSING (sending what is buffered) -> ENDING (operations still at the engine) -> DOOMED
 * (connection_lost is queued) -> LOST. Every step may be left out, none is taken back. */
typedef enum aiol_transport_state {
    AIOL_TRANSPORT_NEW,
    AIOL_TRANSPORT_OPEN,
    AIOL_TRANSPORT_CLOSING,
    AIOL_TRANSPORT_ENDING,
    AIOL_TRANSPORT_DOOMED,
    AIOL_TRANSPORT_LOST
} aiol_transport_state;

enum {
    AIOL_TRANSPORT_READ_PAUSED = 1,
    AIOL_TRANSPORT_READ_ENDED = 2,   /* the peer's end was delivered */
    AIOL_TRANSPORT_WRITE_PAUSED = 4, /* the protocol was told to pause */
    AIOL_TRANSPORT_WRITE_ENDED = 8,  /* write_eof */
    AIOL_TRANSPORT_READ_HELD = 16,   /* a file is sent: reading is to be paused afterwards */
    AIOL_TRANSPORT_FLOW_HELD = 32,   /* the protocol was told the opposite of WRITE_PAUSED */
    AIOL_TRANSPORT_BELOW = 64,       /* TLS's own, which is above: users may look at it and end it, no more */
    AIOL_TRANSPORT_PIPE = 128,       /* pipe.c's: one way only */
    AIOL_TRANSPORT_RESTORE = 256     /* its descriptor was one that waits, and is to be so again */
};

#define AIOL_TLS_RECORD 16384u /* decrypted bytes of one at most */
struct aiol_sendfile;

/* One kind of transport: what the functions of transport.h call. */
typedef struct aiol_transport_calls {
    int (*write)(aioloop_transport *t, const void *data, size_t size);
    /* The same for pieces, at least one. release not NULL: the only one is lent. */
    int (*write_pieces)(aioloop_transport *t, const aioloop_buf *pieces, size_t count, aiol_release_fn release, void *arg);
    int (*write_eof)(aioloop_transport *t);
    bool can_write_eof;
    void (*close)(aioloop_transport *t);
    void (*abort)(aioloop_transport *t, int error);
    void (*pause_reading)(aioloop_transport *t);
    void (*resume_reading)(aioloop_transport *t);
    void (*protocol_changed)(aioloop_transport *t);
    /* Of those on whose descriptor the engine can send files; else NULL, and their bytes are written. True: all that
     * was written has gone; else aiol_sendfile_drained is called when it has. */
    bool (*send_file)(aioloop_transport *t);
    void (*file_ended)(aioloop_transport *t); /* an end of the transport that waited for it goes on */
    /* Each may be NULL. */
    size_t (*buffered)(const aioloop_transport *t);                        /* else what its writer has */
    void (*limits_changed)(aioloop_transport *t);                          /* high and low are set */
    const void *(*info)(const aioloop_transport *t, const char *name);     /* else of its socket alone */
    void (*gone)(aioloop_transport *t);                                    /* nobody refers to it any more */
} aiol_transport_calls;

/* What a transport needs while it has something to send; taken from a stock of the loop's, and given back. */
typedef struct aiol_writer {
    aiol_op op;
    aiol_link unsent; /* in a list of the loop's while it has a send to start */
    aioloop_transport *transport;
    aiol_bytes bytes;
    aioloop_buf pieces[16];
    union {
        aiol_chunk chunk;
        unsigned char bytes[AIOL_OWN_SIZE];
    } own;
} aiol_writer;

struct aioloop_transport {
    aiol_resource resource;
    const aiol_transport_calls *calls;
    const aioloop_protocol *protocol;
    void *self;
    aioloop_server *server; /* that accepted it, while it lives */
    aiol_link siblings;     /* in the server's clients */
    aiol_writer *writer;    /* NULL: nothing to send */
    struct aiol_sendfile *file; /* being sent; NULL: none */
    aiol_node doom;         /* runs connection_lost */
    uint32_t write_turn;    /* the callback in which it wrote last */
    int error;              /* what connection_lost will say */
    uint8_t state;
    uint8_t dropped; /* writes after the end */
    uint16_t flags;
    size_t high;
    size_t low;
    aiol_op recv;
    aioloop_address local;
    aioloop_address peer;
    size_t block_size;
};

/* Where a connection comes from, and whose it will be. */
typedef struct aiol_stream_setup {
    aioloop *loop;
    const aioloop_protocol *protocol;
    void *arg;
    aiol_map *context; /* borrowed */
    aioloop_server *server;
    aioloop_socket socket;
    const aioloop_address *local;
    const aioloop_address *peer;
    uint32_t site;
    aiol_owner owner; /* as which it is to be attached */
    bool attached;    /* the engine knows the socket already */
} aiol_stream_setup;

/* What a connection in the making knows of TLS; no context: there is none. */
typedef struct aiol_ssl_plan {
    aioloop_ssl_context *context;
    aioloop_ssl_session *session;
    const char *hostname;           /* NULL: none */
    aioloop_time handshake_timeout; /* 0: the default */
    aioloop_time shutdown_timeout;
    bool server_side;
    bool in_executor; /* shakes hands in the default one */
} aiol_ssl_plan;

/* What a TLS transport is made of. */
typedef struct aiol_secure_setup {
    aioloop *loop;
    const aioloop_protocol *protocol;
    void *arg;         /* the factory's; or what a protocol without instance is called with */
    aiol_map *context; /* borrowed */
    aioloop_server *server;
    uint32_t site;
    const aiol_ssl_plan *ssl;
    /* Called once: the handshake is done and connection_made has returned (0), or it will not be (a code, with its
     * message stored); unless the transport was given up before. May be NULL. */
    void (*settled)(void *owner, aioloop_transport *t, int err);
    void *owner;
    bool upgrades; /* arg is the protocol's self, which has had its connection_made */
} aiol_secure_setup;

/* transport.c. Pausing and resuming also of what TLS has below. */
AIOLOOP_INTERNAL int aiol_transport_call_factory(aioloop_transport *t, void *arg);
AIOLOOP_INTERNAL void aiol_transport_call_made(aioloop_transport *t);
AIOLOOP_INTERNAL size_t aiol_transport_buffered(const aioloop_transport *t);
AIOLOOP_INTERNAL void aiol_transport_report(aioloop_transport *t, int code, const char *message);
AIOLOOP_INTERNAL void aiol_transport_pause_reading(aioloop_transport *t);
AIOLOOP_INTERNAL void aiol_transport_resume_reading(aioloop_transport *t);
AIOLOOP_INTERNAL void aiol_transport_maybe_pause(aioloop_transport *t);
AIOLOOP_INTERNAL void aiol_transport_maybe_resume(aioloop_transport *t);
AIOLOOP_INTERNAL aiol_writer *aiol_writer_get(aioloop_transport *t);
AIOLOOP_INTERNAL void aiol_writer_put(aioloop_transport *t);

/* stream.c */
AIOLOOP_INTERNAL int aiol_stream_new(const aiol_stream_setup *setup, aioloop_transport **out);
AIOLOOP_INTERNAL int aiol_stream_begin(aioloop_transport *t, void *arg);

/* tls.c */
AIOLOOP_INTERNAL int aiol_secure_connect(const aiol_secure_setup *tls, const aiol_stream_setup *lower, aioloop_transport **out);
AIOLOOP_INTERNAL void aiol_secure_give_up(aioloop_transport *t);
AIOLOOP_INTERNAL int aiol_secure_timed_out(const aioloop_transport *t, int code, aioloop_time timeout);
AIOLOOP_INTERNAL bool aiol_secure_is(const aioloop_transport *t);
/* sendfile.c. The transport is ending: the file goes no further. Before its connection_lost. May call user code: the exception
 * handler, when nobody holds the future. */
AIOLOOP_INTERNAL void aiol_sendfile_give_up(aioloop_transport *t, int error);
AIOLOOP_INTERNAL void aiol_sendfile_drained(struct aiol_sendfile *s);
AIOLOOP_INTERNAL void aiol_sendfile_flow(struct aiol_sendfile *s);
AIOLOOP_INTERNAL void aiol_sendfile_loop_closed(struct aiol_sendfile *s);

/* datagram.c. True: it carries datagrams, and no bytes. */
AIOLOOP_INTERNAL bool aiol_endpoint_is(const aioloop_transport *t);

/* server.c */
AIOLOOP_INTERNAL void aiol_server_joined(aioloop_server *server, aioloop_transport *t);
#if AIOLOOP_USE_TLS
AIOLOOP_INTERNAL void aiol_server_upgraded(aioloop_transport *lower, aioloop_transport *t);
#endif
AIOLOOP_INTERNAL void aiol_server_lost(aioloop_server *server, aioloop_transport *t);

#endif
