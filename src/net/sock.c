/*
 * sock.c - sockets used directly.                             (asyncio: selector_events.sock_recv and its kin)
 *
 * An attempt by a direct call; if it would block, a POLL, and at each of its events another attempt. Only then is there
 * an operation, a small resource of the loop. If the engine still owes the POLL a last call when the future is done or
 * cancelled, the operation lives until that has come.
 */
#ifndef AIOL_NET_SOCK_C
#define AIOL_NET_SOCK_C

#include "api/sock.h"
#include "net/socket.c"

/* Up to ACCEPT they receive. */
typedef enum aiol_sock_kind {
    AIOL_SOCK_RECV,
    AIOL_SOCK_RECV_INTO,
    AIOL_SOCK_RECVFROM,
    AIOL_SOCK_RECVFROM_INTO,
    AIOL_SOCK_ACCEPT,
    AIOL_SOCK_SENDALL,
    AIOL_SOCK_SENDTO,
    AIOL_SOCK_CONNECT
} aiol_sock_kind;

/* What is asked for. */
typedef struct aiol_sock_call {
    aiol_sock_kind kind;
    bool begun; /* CONNECT: the system is about it */
    aioloop_socket socket;
    void *buffer;
    const void *data;
    size_t size;
    aioloop_peer *sender;    /* where it goes; NULL: nowhere */
    const aioloop_address *to; /* SENDTO, CONNECT */
} aiol_sock_call;

/* A call that waits. The path of `to` follows the struct. */
typedef struct aiol_sock {
    aiol_resource resource;
    aioloop_future *future; /* NULL: it is done or cancelled */
    aiol_op op;             /* POLL */
    aiol_sock_call call;
    aioloop_address to;
    size_t block_size;
} aiol_sock;

/* ---- blocks of received bytes ---- */

typedef struct aiol_sock_block {
    aioloop_allocator allocator;
    size_t size; /* with this; what is given away follows */
} aiol_sock_block;

static void *aiol_sock_block_new(aioloop *loop, size_t size) {
    aiol_sock_block *block;
    if (size > SIZE_MAX / 2)
        return NULL;
    size += sizeof(*block);
    block = (aiol_sock_block *)aiol_alloc(&loop->allocator, size);
    if (block == NULL)
        return NULL;
    block->allocator = loop->allocator;
    block->size = size;
    return block + 1;
}

/* Gives back what is not needed, if it is much. The block may move. */
static void *aiol_sock_block_shrink(void *p, size_t size) {
    aiol_sock_block *block = (aiol_sock_block *)p - 1;
    aioloop_allocator a = block->allocator;
    size_t wanted = sizeof(*block) + size;
    aiol_sock_block *smaller;
    if (wanted > block->size / 2)
        return p;
    smaller = (aiol_sock_block *)a.allocate(a.context, block, block->size, wanted);
    if (smaller == NULL)
        return p;
    smaller->size = wanted;
    return smaller + 1;
}

AIOLOOP_API void aioloop_sock_free(void *block) {
    aiol_sock_block *b;
    aioloop_allocator a;
    if (block == NULL)
        return;
    b = (aiol_sock_block *)block - 1;
    a = b->allocator;
    aiol_free(&a, b, b->size);
}

/* ---- addresses ---- */

/* Stores an address, whose path goes to `path`. Who has no name has no address: systems differ in what they say then. */
static void aiol_sock_address_set(aioloop_address *to, char *path, const aioloop_address *address) {
    if (address->family == AIOLOOP_UNIX && address->path_size == 0) {
        memset(to, 0, sizeof(*to));
        return;
    }
    *to = *address;
    if (address->family == AIOLOOP_UNIX) {
        memcpy(path, address->u.path, address->path_size);
        to->u.path = path;
    }
}

static void aiol_peer_set(aioloop_peer *to, const aioloop_address *address) {
    if (to != NULL)
        aiol_sock_address_set(&to->address, to->path, address);
}

/* 0, or why nothing can be sent or connected to it. */
static int aiol_sock_address_check(aioloop *loop, const aioloop_address *a) {
    if (a == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "an address is needed, not NULL");
    if (a->family == AIOLOOP_INET || a->family == AIOLOOP_INET6)
        return 0;
    if (a->family != AIOLOOP_UNIX || a->path_size == 0 || a->u.path == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "an address without a family, or without a path");
    if (a->path_size > aiol_address_path_max(a->u.path))
        return aiol_fail(loop, AIOLOOP_ENAMETOOLONG, "a path of %lu bytes", (unsigned long)a->path_size);
    return 0;
}

/* ---- attempts ----
 *
 * Each answers its result, a code, or AIOL_PENDING: it would block. */

static int64_t aiol_sock_recv_block(aioloop *loop, const aiol_sock_call *call, void **pointer) {
    aiol_engine *e = loop->engine;
    int64_t n = 0;
    char *bytes = (char *)aiol_sock_block_new(loop, call->size + (call->size != SIZE_MAX));
    if (bytes == NULL)
        return AIOLOOP_ENOMEM;
    if (call->size != 0)
        n = e->sockets->recv(e, call->socket, bytes, call->size, NULL, NULL);
    if (n <= 0) { /* nothing to give away */
        aioloop_sock_free(bytes);
        return n;
    }
    bytes = (char *)aiol_sock_block_shrink(bytes, (size_t)n + 1);
    bytes[n] = '\0';
    *pointer = bytes;
    return n;
}

/* The block: the datagram, its sender's path, its bytes. */
static int64_t aiol_sock_recv_datagram(aioloop *loop, const aiol_sock_call *call, void **pointer) {
    const size_t head = sizeof(aioloop_datagram) + sizeof(aiol_path_room);
    aiol_engine *e = loop->engine;
    aioloop_address from;
    aiol_path_room room;
    aioloop_datagram *d;
    char *block = call->size > SIZE_MAX / 4 ? NULL : (char *)aiol_sock_block_new(loop, head + call->size + 1);
    int64_t n;
    if (block == NULL)
        return AIOLOOP_ENOMEM;
    n = e->sockets->recv(e, call->socket, block + head, call->size, &from, &room);
    if (n < 0) {
        aioloop_sock_free(block);
        return n;
    }
    block = (char *)aiol_sock_block_shrink(block, head + (size_t)n + 1);
    block[head + (size_t)n] = '\0';
    d = (aioloop_datagram *)(void *)block;
    d->data = block + head;
    d->size = (size_t)n;
    aiol_sock_address_set(&d->from, (char *)(d + 1), &from);
    *pointer = d;
    return n;
}

static int64_t aiol_sock_recv_there(aioloop *loop, const aiol_sock_call *call) {
    aiol_engine *e = loop->engine;
    bool named = call->kind == AIOL_SOCK_RECVFROM_INTO && call->sender != NULL;
    aioloop_address from;
    aiol_path_room room;
    int64_t n;
    if (call->kind == AIOL_SOCK_RECV_INTO && call->size == 0)
        return 0;
    n = e->sockets->recv(e, call->socket, call->buffer, call->size, named ? &from : NULL, named ? &room : NULL);
    if (n >= 0 && named)
        aiol_peer_set(call->sender, &from);
    return n;
}

/* One call of the system's at a time: a peer that takes everything must not have the loop to itself. */
static int64_t aiol_sock_send_some(aioloop *loop, aiol_sock_call *call) {
    aiol_engine *e = loop->engine;
    int64_t n = e->sockets->send(e, call->socket, call->data, call->size, call->to);
    if (n < 0 || call->kind == AIOL_SOCK_SENDTO)
        return n;
    call->data = (const char *)call->data + n;
    call->size -= (size_t)n;
    return call->size == 0 ? 0 : AIOL_PENDING;
}

static int64_t aiol_sock_accept_one(aioloop *loop, const aiol_sock_call *call) {
    aiol_engine *e = loop->engine;
    aioloop_socket accepted = AIOL_NO_SOCKET;
    aioloop_address peer;
    aiol_path_room room;
    int err = e->sockets->accept(e, call->socket, &accepted, &peer, &room);
    if (err < 0)
        return err;
    aiol_peer_set(call->sender, &peer);
    return accepted;
}

/* EAGAIN is an error here: of a Unix socket whose listener has too many to accept. */
static int64_t aiol_sock_connect_on(aioloop *loop, aiol_sock_call *call) {
    aiol_engine *e = loop->engine;
    int err = call->begun ? e->sockets->connected(e, call->socket) : e->sockets->connect(e, call->socket, call->to);
    call->begun = true;
    return err == AIOLOOP_EINPROGRESS || err == AIOLOOP_EALREADY ? AIOL_PENDING : err;
}

static int64_t aiol_sock_try(aioloop *loop, aiol_sock_call *call, void **pointer) {
    int64_t n = 0;
    switch (call->kind) {
    case AIOL_SOCK_RECV:
        n = aiol_sock_recv_block(loop, call, pointer);
        break;
    case AIOL_SOCK_RECVFROM:
        n = aiol_sock_recv_datagram(loop, call, pointer);
        break;
    case AIOL_SOCK_RECV_INTO:
    case AIOL_SOCK_RECVFROM_INTO:
        n = aiol_sock_recv_there(loop, call);
        break;
    case AIOL_SOCK_ACCEPT:
        n = aiol_sock_accept_one(loop, call);
        break;
    case AIOL_SOCK_SENDALL:
    case AIOL_SOCK_SENDTO:
        n = aiol_sock_send_some(loop, call);
        break;
    case AIOL_SOCK_CONNECT:
        return aiol_sock_connect_on(loop, call);
    }
    return n == AIOLOOP_EAGAIN ? AIOL_PENDING : n;
}

/* ---- the end ---- */

/* A socket that was accepted goes with its future, if nobody has read it. The object is the table of socket calls, for
 * the loop may be closed by now. */
static void aiol_sock_unaccepted(aiol_waiter *w, bool unread) {
    const aiol_socket_calls *sockets = (const aiol_socket_calls *)w->object;
    if (unread)
        sockets->close(w->future.loop->engine, (aioloop_socket)w->mark);
}

static void aiol_sock_accepted(aioloop_future *f, int64_t n) {
    aiol_waiter *w = (aiol_waiter *)(void *)f;
    w->object = (void *)(uintptr_t)f->loop->engine->sockets;
    w->mark = (uint64_t)n;
    w->gone = aiol_sock_unaccepted;
    f->flags |= AIOL_FUTURE_GRANT;
}

/* What failed. */
static const char *aiol_sock_error(char text[AIOL_ERROR_TEXT_SIZE], const aiol_sock_call *call, int code) {
    static const char *const words[] = {"receive from", "receive from", "receive from", "receive from",
                                        "accept on",    "send to",      "send to",      "connect to"};
    char name[AIOL_ADDRESS_TEXT];
    if (call->to != NULL)
        aioloop_address_format(call->to, name, sizeof(name));
    else
        snprintf(name, sizeof(name), "socket %ld", (long)call->socket);
    snprintf(text, AIOL_ERROR_TEXT_SIZE, "%s %s: %s", words[call->kind], name, aioloop_strerror(code));
    return text;
}

/* Completes a future of the call. What happened cannot be undone, so it is told before a cancellation. */
static void aiol_sock_complete(aioloop_future *f, const aiol_sock_call *call, int64_t n, void *pointer) {
    char text[AIOL_ERROR_TEXT_SIZE];
    if (n < 0) {
        aiol_future_fail(f, (int)n, aiol_sock_error(text, call, (int)n));
        return;
    }
    if (call->kind == AIOL_SOCK_ACCEPT)
        aiol_sock_accepted(f, n);
    aiol_future_finish_first(f, n, pointer, pointer != NULL ? aioloop_sock_free : NULL);
}

static void aiol_sock_destroy(aiol_resource *resource) {
    aiol_sock *s = AIOL_CONTAINER(resource, aiol_sock, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, s, s->block_size);
}

/* The watch ends. Returns the future, with the operation's reference. */
static aioloop_future *aiol_sock_settle(aiol_sock *s) {
    aioloop_future *f = s->future;
    s->future = NULL;
    f->of.owner = NULL;
    aiol_op_cancel(s->resource.loop->engine, &s->op);
    return f;
}

static void aiol_sock_free_if_over(aiol_sock *s) {
    if (s->future == NULL && s->op.state == AIOL_OP_IDLE)
        aiol_sock_destroy(&s->resource);
}

static bool aiol_sock_cancel(aioloop_future *future, void *owner) {
    aiol_sock *s = (aiol_sock *)owner;
    (void)future;
    if (s == NULL)
        return true; /* the loop is closed */
    aiol_future_release(aiol_sock_settle(s));
    aiol_sock_free_if_over(s);
    return true;
}

/* n below 0: the engine gave up; the attempt finds out why. */
static size_t aiol_sock_ready(aiol_op *op, int64_t n, const void *data) {
    aiol_sock *s = AIOL_CONTAINER(op, aiol_sock, op);
    void *pointer = NULL;
    (void)data;
    if (s->future != NULL) {
        int64_t result = aiol_sock_try(s->resource.loop, &s->call, &pointer);
        if (result == AIOL_PENDING && n < 0)
            result = n;
        if (result != AIOL_PENDING) {
            aioloop_future *f = aiol_sock_settle(s);
            aiol_sock_complete(f, &s->call, result, pointer);
            aiol_future_release(f);
        }
    }
    aiol_sock_free_if_over(s);
    return 0;
}

static void aiol_sock_loop_closed(aiol_resource *resource) {
    aiol_sock *s = AIOL_CONTAINER(resource, aiol_sock, resource);
    s->op.state = AIOL_OP_IDLE; /* the engine goes as a whole */
    if (s->future != NULL)
        s->future->of.owner = NULL; /* it stays pending */
}

static const aiol_resource_calls aiol_sock_resource = {"socket operation", aiol_sock_loop_closed, aiol_sock_destroy,
                                                       aiol_combine_is_open};

/* ---- the beginning ---- */

static unsigned aiol_sock_event(const aiol_sock_call *call) {
    return call->kind <= AIOL_SOCK_ACCEPT ? AIOL_POLL_READABLE : AIOL_POLL_WRITABLE;
}

static size_t aiol_sendfile_writable(aiol_op *op, int64_t n, const void *data);

/* Whether the socket may be used. 0, or a code with its message stored. */
static int aiol_sock_check(aioloop *loop, const aiol_sock_call *call) {
    aiol_engine *e = loop->engine;
    long number = (long)call->socket;
    const aiol_op *other;
    if (AIOL_UNLIKELY(loop->debug)) {
        int blocks = e->sockets->blocks(e, call->socket);
        if (blocks < 0)
            return aiol_fail(loop, blocks, "socket %ld: %s", number, aioloop_strerror(blocks));
        if (blocks != 0)
            return aiol_fail(loop, AIOLOOP_EINVAL, "socket %ld is blocking, and a non-blocking one is needed", number);
    }
    if (e->calls->owned(e, call->socket))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "socket %ld belongs to a transport", number);
    other = e->calls->watching(e, call->socket, aiol_sock_event(call));
    if (other == NULL)
        return 0;
    if (other->done != aiol_sock_ready && other->done != aiol_sendfile_writable)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "socket %ld is watched", number);
    return aiol_fail(loop, AIOLOOP_EMISUSE, "a %s is pending on socket %ld",
                     call->kind <= AIOL_SOCK_ACCEPT ? "receive" : "send", number);
}

/* The first attempt. As those, but a code has its message stored. */
static int64_t aiol_sock_first(aioloop *loop, aiol_sock_call *call, void **pointer) {
    char text[AIOL_ERROR_TEXT_SIZE];
    int64_t n = aiol_sock_check(loop, call);
    if (n < 0)
        return n;
    n = aiol_sock_try(loop, call, pointer);
    return n >= 0 || n == AIOL_PENDING ? n : aiol_fail(loop, (int)n, "%s", aiol_sock_error(text, call, (int)n));
}

/* Waits: AIOL_PENDING, or why not. */
static int64_t aiol_sock_wait(aioloop *loop, aioloop_future *f, const aiol_sock_call *call) {
    aiol_engine *e = loop->engine;
    size_t path_size = call->to != NULL && call->to->family == AIOLOOP_UNIX ? call->to->path_size : 0;
    aiol_sock *s;
    int64_t n = e->calls->attach(e, call->socket, AIOL_OWNER_WATCHER);
    if (n < 0)
        return aiol_fail(loop, (int)n, "socket %ld: %s", (long)call->socket, aioloop_strerror((int)n));
    s = (aiol_sock *)aiol_alloc_zero(&loop->allocator, sizeof(*s) + path_size);
    if (s == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    s->block_size = sizeof(*s) + path_size;
    s->call = *call;
    if (call->to != NULL) {
        s->to = *call->to;
        s->call.to = &s->to;
    }
    if (path_size != 0) {
        memcpy(s + 1, call->to->u.path, path_size);
        s->to.u.path = (const char *)(s + 1);
    }
    s->op.kind = AIOL_OP_POLL;
    s->op.fd = call->socket;
    s->op.done = aiol_sock_ready;
    s->op.u.poll.events = aiol_sock_event(call);
    aiol_resource_add(loop, &s->resource, &aiol_sock_resource);
    n = aiol_op_submit(e, &s->op);
    if (n != AIOL_PENDING) {
        aiol_sock_destroy(&s->resource);
        return aiol_fail(loop, (int)n, "socket %ld cannot be watched", (long)call->socket);
    }
    s->future = f;
    f->end.cancel = aiol_sock_cancel;
    f->of.owner = s;
    return AIOL_PENDING;
}

/* Goes on after the first attempt, which answered n, with the future of an operation: waits, or completes it and lets
 * go of it. */
static void aiol_sock_go_on(aioloop *loop, aioloop_future *f, const aiol_sock_call *call, int64_t n, void *pointer) {
    if (n == AIOL_PENDING)
        n = aiol_sock_wait(loop, f, call);
    if (n == AIOL_PENDING)
        return;
    if (n < 0)
        aiol_future_fail(f, (int)n, aiol_detail(loop, (int)n));
    else
        aiol_sock_complete(f, call, n, pointer);
    aiol_future_release(f);
}

/* A connect for a future of aiol_future_new that is pending; it may have waited for something else till now, such as the
 * address, which has been checked. From here on it is this call's. */
static void aiol_sock_connect(aioloop *loop, aioloop_future *f, aioloop_socket sock, const aioloop_address *to) {
    aiol_sock_call call;
    void *pointer = NULL;
    int64_t n;
    memset(&call, 0, sizeof(call));
    call.kind = AIOL_SOCK_CONNECT;
    call.socket = sock;
    call.to = to;
    n = aiol_sock_first(loop, &call, &pointer);
    aiol_sock_go_on(loop, f, &call, n, pointer);
}

/* Before its arguments are looked at: 0, or the code of a static future. */
static int aiol_sock_refuse(aioloop *loop) {
    int err = loop == NULL ? AIOLOOP_EINVAL : loop->careful ? aiol_check(loop) : 0;
    if (err == 0)
        aiol_error_clear(&loop->error);
    return err;
}

/* A cancel means something when it waits. */
static aioloop_future *aiol_sock_future(aioloop *loop, const aiol_sock_call *call) {
    if (call->kind == AIOL_SOCK_ACCEPT) {
        aiol_waiter *w = aiol_waiter_new(loop, NULL, NULL);
        return w == NULL ? NULL : &w->future;
    }
    return aiol_future_new(loop, NULL, NULL);
}

/* The future comes first where there is something to lose. */
static aioloop_future *aiol_sock_start(aioloop *loop, aiol_sock_call *call) {
    bool gives = call->kind != AIOL_SOCK_SENDALL;
    aioloop_future *f = gives ? aiol_sock_future(loop, call) : NULL;
    void *pointer = NULL;
    int64_t n;
    if (gives && f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    n = aiol_sock_first(loop, call, &pointer);
    if (!gives && n == 0)
        return aiol_future_nothing(loop);
    if (!gives)
        f = aiol_sock_future(loop, call);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    aiol_sock_go_on(loop, f, call, n, pointer);
    return f;
}

/* ---- the calls ---- */

static aioloop_future *aiol_sock_receive(aioloop *loop, aiol_sock_kind kind, aioloop_socket sock, void *buffer,
                                         size_t size, aioloop_peer *sender) {
    aiol_sock_call call;
    int err = aiol_sock_refuse(loop);
    if (err < 0)
        return aiol_future_failed(err);
    if ((kind == AIOL_SOCK_RECV_INTO || kind == AIOL_SOCK_RECVFROM_INTO) && buffer == NULL && size != 0)
        return aiol_future_failed_now(loop, aiol_fail(loop, AIOLOOP_EINVAL, "a buffer is needed, not NULL"));
    memset(&call, 0, sizeof(call));
    call.kind = kind;
    call.socket = sock;
    call.buffer = buffer;
    call.size = size;
    call.sender = sender;
    return aiol_sock_start(loop, &call);
}

static aioloop_future *aiol_sock_send(aioloop *loop, aiol_sock_kind kind, aioloop_socket sock, const void *data,
                                      size_t size, const aioloop_address *to) {
    aiol_sock_call call;
    int err = aiol_sock_refuse(loop);
    if (err < 0)
        return aiol_future_failed(err);
    if (data == NULL && size != 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "data is needed, not NULL");
    else if (kind == AIOL_SOCK_SENDTO)
        err = aiol_sock_address_check(loop, to);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    memset(&call, 0, sizeof(call));
    call.kind = kind;
    call.socket = sock;
    call.data = data;
    call.size = size;
    call.to = to;
    return aiol_sock_start(loop, &call);
}

AIOLOOP_API aioloop_future *(aioloop_sock_recv)(aioloop *loop, aioloop_socket sock, size_t size) {
    return aiol_sock_receive(loop, AIOL_SOCK_RECV, sock, NULL, size, NULL);
}

AIOLOOP_API aioloop_future *(aioloop_sock_recv_into)(aioloop *loop, aioloop_socket sock, void *buffer, size_t size) {
    return aiol_sock_receive(loop, AIOL_SOCK_RECV_INTO, sock, buffer, size, NULL);
}

AIOLOOP_API aioloop_future *(aioloop_sock_recvfrom)(aioloop *loop, aioloop_socket sock, size_t size) {
    return aiol_sock_receive(loop, AIOL_SOCK_RECVFROM, sock, NULL, size, NULL);
}

AIOLOOP_API aioloop_future *(aioloop_sock_recvfrom_into)(aioloop *loop, aioloop_socket sock, void *buffer, size_t size,
                                                         aioloop_peer *from) {
    return aiol_sock_receive(loop, AIOL_SOCK_RECVFROM_INTO, sock, buffer, size, from);
}

AIOLOOP_API aioloop_future *(aioloop_sock_accept)(aioloop *loop, aioloop_socket sock, aioloop_peer *peer) {
    return aiol_sock_receive(loop, AIOL_SOCK_ACCEPT, sock, NULL, 0, peer);
}

AIOLOOP_API aioloop_future *(aioloop_sock_sendall)(aioloop *loop, aioloop_socket sock, const void *data, size_t size) {
    return aiol_sock_send(loop, AIOL_SOCK_SENDALL, sock, data, size, NULL);
}

AIOLOOP_API aioloop_future *(aioloop_sock_sendto)(aioloop *loop, aioloop_socket sock, const void *data, size_t size,
                                                  const aioloop_address *to) {
    return aiol_sock_send(loop, AIOL_SOCK_SENDTO, sock, data, size, to);
}

AIOLOOP_API aioloop_future *(aioloop_sock_connect_address)(aioloop *loop, aioloop_socket sock,
                                                           const aioloop_address *address) {
    aioloop_future *f;
    int err = aiol_sock_refuse(loop);
    if (err < 0)
        return aiol_future_failed(err);
    err = aiol_sock_address_check(loop, address);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    aiol_sock_connect(loop, f, sock, address);
    return f;
}

/* ---- connecting by name ---- */

/* A look-up, for a connect that follows. */
typedef struct aiol_sock_named {
    aiol_resource resource;
    aioloop_future *future; /* NULL: cancelled, or the connect's */
    aioloop_socket socket;
    aiol_host host;
} aiol_sock_named;

static void aiol_sock_named_destroy(aiol_resource *resource) {
    aiol_sock_named *s = AIOL_CONTAINER(resource, aiol_sock_named, resource);
    aioloop_freeaddrinfo(s->host.list);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, s, sizeof(*s));
}

static void aiol_sock_named_closed(aiol_resource *resource) {
    aiol_sock_named *s = AIOL_CONTAINER(resource, aiol_sock_named, resource);
    if (s->future != NULL)
        s->future->of.owner = NULL; /* it stays pending */
}

static const aiol_resource_calls aiol_sock_named_resource = {"socket look-up", aiol_sock_named_closed, aiol_sock_named_destroy,
                                                             aiol_combine_is_open};

static bool aiol_sock_named_cancel(aioloop_future *future, void *owner) {
    aiol_sock_named *s = (aiol_sock_named *)owner;
    if (s == NULL)
        return true; /* of a closed loop */
    s->future = NULL;
    future->of.owner = NULL; /* what the resolver's cancel runs may cancel again */
    aiol_host_cancel(&s->host);
    if (s->host.future == NULL)
        aiol_sock_named_destroy(&s->resource);
    aiol_future_release(future);
    return true;
}

/* The first of the addresses is connected to, as asyncio does it. */
static void aiol_sock_named_found(aiol_host *host, int err) {
    aiol_sock_named *s = (aiol_sock_named *)host->owner;
    aioloop *loop = s->resource.loop;
    aioloop_future *f = s->future;
    aioloop_socket sock = s->socket;
    aioloop_address address;
    if (f == NULL || err < 0) {
        aiol_sock_named_destroy(&s->resource);
        if (f == NULL)
            return;
        f->of.owner = NULL;
        if (err == AIOLOOP_ECANCELED)
            aiol_future_end_cancelled(f, NULL);
        else
            aiol_future_fail(f, err, aiol_detail(loop, err));
        aiol_future_release(f);
        return;
    }
    address = *aiol_host_at(host, 0);
    f->of.owner = NULL;
    aiol_sock_named_destroy(&s->resource);
    aiol_sock_connect(loop, f, sock, &address);
}

/* What is looked for: addresses of the socket's own family. */
static int aiol_sock_hints(aioloop *loop, aioloop_socket sock, aioloop_getaddrinfo_options *hints) {
    aiol_engine *e = loop->engine;
    aioloop_address own;
    aiol_path_room room;
    int err = e->sockets->name(e, sock, &own, &room);
    memset(hints, 0, sizeof(*hints));
    if (err < 0)
        return aiol_fail(loop, err, "connect socket %ld: %s", (long)sock, aioloop_strerror(err));
    if (own.family == AIOLOOP_UNIX)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a Unix socket is connected by aioloop_sock_connect_address");
    hints->family = own.family;
    hints->type = AIOLOOP_SOCK_STREAM; /* one entry per address; it is the same for datagrams */
    return 0;
}

AIOLOOP_API aioloop_future *(aioloop_sock_connect)(aioloop *loop, aioloop_socket sock, const char *host, int port) {
    aioloop_getaddrinfo_options hints;
    aiol_sock_call call;
    aiol_sock_named *s;
    aioloop_future *f;
    int err = aiol_sock_refuse(loop);
    if (err < 0)
        return aiol_future_failed(err);
    memset(&call, 0, sizeof(call));
    call.kind = AIOL_SOCK_CONNECT;
    call.socket = sock;
    err = host == NULL ? aiol_fail(loop, AIOLOOP_EINVAL, "a host is needed, not NULL") : aiol_sock_check(loop, &call);
    if (err == 0)
        err = aiol_sock_hints(loop, sock, &hints);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    s = (aiol_sock_named *)aiol_alloc_zero(&loop->allocator, sizeof(*s));
    f = s == NULL ? NULL : aiol_future_new(loop, aiol_sock_named_cancel, s);
    if (f == NULL) {
        aiol_free(&loop->allocator, s, sizeof(*s));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    s->future = f;
    s->socket = sock;
    s->host.done = aiol_sock_named_found;
    s->host.owner = s;
    aiol_resource_add(loop, &s->resource, &aiol_sock_named_resource);
    err = aiol_host_look_up(loop, &s->host, host, NULL, port, &hints, false);
    if (err != AIOL_PENDING)
        aiol_sock_named_found(&s->host, err);
    return f;
}

#endif
