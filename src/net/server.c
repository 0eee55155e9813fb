/*
 * server.c - listening.                              (asyncio: base_events.Server, selector_events._start_serving)
 *
 * A server has one LISTENER per socket. The loop holds a reference from the making until the server is closed, its
 * connections are lost, and the engine has given every listener's operation back. wait_closed futures wait in an array
 * with room reserved; completing them needs no memory.
 */
#ifndef AIOL_NET_SERVER_C
#define AIOL_NET_SERVER_C

#include "net/connect.c"

#define AIOL_ACCEPT_RETRY AIOLOOP_MS(1000)
#define AIOL_BACKLOG 100

typedef enum aiol_server_state { AIOL_SERVER_BOUND, AIOL_SERVER_SERVING, AIOL_SERVER_CLOSED } aiol_server_state;

typedef struct aiol_listener {
    aiol_op op; /* ACCEPT */
    aioloop_server *server;
    aioloop_address address;
    aioloop_timer_handle retry; /* after an accept that failed for want of something */
    bool attached;
    bool cleanup; /* remove the file, if it is still this one: */
    aiol_path_identity identity;
    char path[108];
} aiol_listener;

struct aioloop_server {
    aiol_resource resource;
    const aioloop_protocol *protocol;
    void *arg;
    aiol_ssl_plan ssl;
    aiol_server_state state;
    int backlog;
    aiol_link clients;
    aioloop_future *serving; /* serve_forever's; held */
    aioloop_future **waiters; /* wait_closed's; held */
    size_t waiter_count;
    size_t waiter_capacity;
    bool loop_holds; /* the loop's reference is there */
    size_t bound_count;       /* listeners in use */
    size_t listener_count;    /* listeners there is room for */
    aiol_listener *listeners; /* in the same block */
};

/* ---- ending ---- */

static size_t aiol_server_block_size(size_t listeners) {
    return aiol_align(sizeof(aioloop_server)) + listeners * sizeof(aiol_listener);
}

static void aiol_server_destroy(aioloop_server *server) {
    aioloop *loop = server->resource.loop;
    while (!aiol_list_empty(&server->clients)) { /* only when the loop is freed: they go by themselves */
        aioloop_transport *t = AIOL_CONTAINER(server->clients.next, aioloop_transport, siblings);
        aiol_list_remove(&t->siblings);
        t->server = NULL;
    }
    aiol_ssl_plan_end(loop, &server->ssl);
    aiol_resource_remove(&server->resource);
    aiol_free(&loop->allocator, server->waiters, server->waiter_capacity * sizeof(server->waiters[0]));
    aiol_free(&loop->allocator, server, aiol_server_block_size(server->listener_count));
}

AIOLOOP_API aioloop_server *aioloop_server_ref(aioloop_server *server) {
    if (server != NULL)
        server->resource.refs++;
    return server;
}

AIOLOOP_API void aioloop_server_unref(aioloop_server *server) {
    if (server == NULL)
        return;
    AIOL_ASSERT(server->resource.refs != 0);
    if (--server->resource.refs == 0)
        aiol_server_destroy(server);
}

static void aiol_server_dispose(void *pointer) {
    aioloop_server_unref((aioloop_server *)pointer);
}

/* Settles what waits for the end, and lets the loop's reference go, when it is time. The server may be gone after
 * this. */
static void aiol_server_check_over(aioloop_server *server) {
    size_t i;
    if (server->state != AIOL_SERVER_CLOSED || !aiol_list_empty(&server->clients))
        return;
    aioloop_server_ref(server);
    if (server->serving != NULL) {
        aioloop_future *f = server->serving;
        server->serving = NULL;
        if (f->state == AIOL_FUTURE_PENDING)
            aiol_future_end_cancelled(f, NULL);
        aiol_future_release(f);
    }
    for (i = 0; i < server->waiter_count; i++) { /* completing calls nobody, so the array stays as it is */
        aioloop_future *f = server->waiters[i];
        aiol_future_finish(f, 0, NULL, NULL);
        aiol_future_release(f);
    }
    server->waiter_count = 0;
    for (i = 0; i < server->listener_count; i++)
        if (server->listeners[i].op.state != AIOL_OP_IDLE)
            break;
    if (i == server->listener_count && server->loop_holds) {
        server->loop_holds = false;
        aioloop_server_unref(server);
    }
    aioloop_server_unref(server);
}

/* A connection is the server's client. */
AIOLOOP_INTERNAL void aiol_server_joined(aioloop_server *server, aioloop_transport *t) {
    aiol_list_append(&server->clients, &t->siblings);
}

#if AIOLOOP_USE_TLS
/* A connection of a server, if it is one, has a new transport, which takes its place. */
AIOLOOP_INTERNAL void aiol_server_upgraded(aioloop_transport *lower, aioloop_transport *t) {
    if (lower->server == NULL)
        return;
    aiol_list_append(&lower->siblings, &t->siblings); /* before it */
    aiol_list_remove(&lower->siblings);
    t->server = lower->server;
    lower->server = NULL;
}
#endif

/* A connection of the server is lost. */
AIOLOOP_INTERNAL void aiol_server_lost(aioloop_server *server, aioloop_transport *t) {
    aiol_list_remove(&t->siblings);
    t->server = NULL;
    aiol_server_check_over(server);
}

static void aiol_listener_remove_file(aiol_listener *l) {
    aiol_engine *e = l->server->resource.loop->engine;
    aiol_path_identity now;
    if (!l->cleanup || l->server->resource.loop->process != aiol_process_id())
        return;
    l->cleanup = false;
    if (e->sockets->path_identify(e, l->address.u.path, l->address.path_size, &now) == 0 && now.is_socket &&
        now.device == l->identity.device && now.inode == l->identity.inode)
        e->sockets->path_remove(e, l->address.u.path, l->address.path_size);
}

static void aiol_listener_close(aiol_listener *l) {
    aioloop *loop = l->server->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_socket s = l->op.fd;
    aioloop_timer_handle_cancel(&l->retry);
    if (s == AIOL_NO_SOCKET)
        return;
    l->op.fd = AIOL_NO_SOCKET;
    aiol_listener_remove_file(l);
    if (loop->process == aiol_process_id()) {
        l->op.fd = s; /* cancel looks it up */
        aiol_op_cancel(e, &l->op);
        if (l->attached)
            e->calls->quiesce(e, s);
        l->op.fd = AIOL_NO_SOCKET;
    }
    e->sockets->close(e, s);
}

AIOLOOP_API void aioloop_server_close(aioloop_server *server) {
    size_t i;
    if (server == NULL || server->state == AIOL_SERVER_CLOSED)
        return;
    server->state = AIOL_SERVER_CLOSED;
    for (i = 0; i < server->listener_count; i++)
        aiol_listener_close(&server->listeners[i]);
    aiol_server_check_over(server);
}

/* Each goes to the end of the list before it is ended: that may report a failure that nobody has waited for, to user
 * code, which may upgrade another one and so put a new transport in its place. */
static void aiol_server_end_clients(aioloop_server *server, void (*end)(aioloop_transport *)) {
    aiol_link *link;
    size_t left = 0;
    if (server == NULL)
        return;
    for (link = server->clients.next; link != &server->clients; link = link->next)
        left++;
    while (left-- != 0) {
        aioloop_transport *t = AIOL_CONTAINER(server->clients.next, aioloop_transport, siblings);
        aiol_list_remove(&t->siblings);
        aiol_list_append(&server->clients, &t->siblings);
        if (t->state != AIOL_TRANSPORT_NEW || aiol_secure_is(t)) /* one whose factory runs is no connection yet */
            end(t);
    }
}

AIOLOOP_API void aioloop_server_close_clients(aioloop_server *server) {
    aiol_server_end_clients(server, aioloop_transport_close);
}

AIOLOOP_API void aioloop_server_abort_clients(aioloop_server *server) {
    aiol_server_end_clients(server, aioloop_transport_abort);
}

/* ---- accepting ---- */

static void aiol_server_report(aioloop_server *server, int code, const char *message, const aioloop_socket *s) {
    aioloop_exception_context context;
    aiol_context_frame frame;
    memset(&context, 0, sizeof(context));
    context.message = message;
    context.server = server;
    context.protocol = server->protocol;
    context.socket = s;
    frame = aiol_context_enter(&server->resource.context);
    aiol_report(server->resource.loop, code, server->resource.site, &context);
    aiol_context_leave(&frame);
}

static void aiol_listener_accept_again(aioloop *loop, void *arg);

/* Starts accepting, or does so in a second if that fails. */
static void aiol_listener_submit(aiol_listener *l) {
    aioloop *loop = l->server->resource.loop;
    int64_t n = aiol_op_submit(loop->engine, &l->op);
    if (n != AIOL_PENDING)
        l->retry = (aioloop_call_later)(loop, AIOL_ACCEPT_RETRY, aiol_listener_accept_again, l);
}

static void aiol_listener_accept_again(aioloop *loop, void *arg) {
    aiol_listener *l = (aiol_listener *)arg;
    (void)loop;
    if (l->server->state == AIOL_SERVER_SERVING && l->op.state == AIOL_OP_IDLE)
        aiol_listener_submit(l);
}

/* Accepting failed for want of descriptors or memory: trying at once would fail again and again. */
static void aiol_listener_failed(aiol_listener *l, int code) {
    aioloop_server *server = l->server;
    aioloop_server_ref(server);
    aiol_error_clear(&server->resource.loop->error); /* the engine's codes have no message */
    aiol_server_report(server, code, "Error in accept: out of system resource", &l->op.fd);
    if (server->state == AIOL_SERVER_SERVING) {
        l->retry = (aioloop_call_later)(server->resource.loop, AIOL_ACCEPT_RETRY, aiol_listener_accept_again, l);
        if (aioloop_handle_is_null(&l->retry.handle)) /* no memory for a pause either */
            aiol_listener_submit(l);
    }
    aioloop_server_unref(server);
}

/* The local name of a connection accepted: the listener's own, unless that is a wildcard. */
static const aioloop_address *aiol_listener_local(const aiol_listener *l, aioloop_socket s, aioloop_address *address,
                                                  aiol_path_room *room) {
    static const uint8_t any[16] = {0};
    aiol_engine *e = l->server->resource.loop->engine;
    size_t size = l->address.family == AIOLOOP_INET ? 4 : 16;
    if (l->address.family == AIOLOOP_UNIX || memcmp(l->address.u.ip, any, size) != 0)
        return &l->address;
    return e->sockets->name(e, s, address, room) == 0 ? address : NULL;
}

/* A handshake has ended. Those that fail are nobody's business, and many on the internet: in debug mode they are told. */
static void aiol_listener_secured(void *owner, aioloop_transport *t, int err) {
    aioloop *loop = t->resource.loop;
    char name[AIOL_ADDRESS_TEXT];
    const aioloop_address *peer = (const aioloop_address *)aioloop_transport_get_extra_info(t, "peername", NULL);
    (void)owner;
    if (err >= 0 || err == AIOLOOP_ECANCELED || !loop->debug)
        return;
    name[0] = '\0';
    if (peer != NULL)
        aioloop_address_format(peer, name, sizeof(name));
    aiol_warn(loop, t->resource.site, "a connection from %s was not accepted: %s", name, aioloop_message(loop, err));
}

/* A connection with TLS on it: whoever does not finish its handshake was never there. */
static int aiol_listener_secure(aioloop_server *server, const aiol_stream_setup *lower) {
    aioloop_transport *t = NULL;
    aiol_secure_setup setup;
    memset(&setup, 0, sizeof(setup));
    setup.ssl = &server->ssl;
    setup.loop = lower->loop;
    setup.protocol = lower->protocol;
    setup.arg = lower->arg;
    setup.context = lower->context;
    setup.server = server;
    setup.site = lower->site;
    setup.settled = aiol_listener_secured;
    return aiol_secure_connect(&setup, lower, &t);
}

/* The operation's done(). */
static size_t aiol_listener_accepted(aiol_op *op, int64_t n, const void *data) {
    aiol_listener *l = AIOL_CONTAINER(op, aiol_listener, op);
    aioloop_server *server = l->server;
    aioloop *loop = server->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_address local;
    aiol_path_room room;
    aiol_stream_setup setup;
    aioloop_transport *t = NULL;
    aioloop_socket s = (aioloop_socket)n;
    int err;
    if (n >= 0 && server->state != AIOL_SERVER_SERVING) { /* accepted as the server closed */
        e->sockets->close(e, s);
        n = AIOLOOP_ECANCELED;
    }
    if (n < 0) {
        if (server->state == AIOL_SERVER_SERVING)
            aiol_listener_failed(l, (int)n);
        else
            aiol_server_check_over(server);
        return 0;
    }
    memset(&setup, 0, sizeof(setup));
    setup.loop = loop;
    setup.protocol = server->protocol;
    setup.arg = server->arg;
    setup.context = server->resource.context;
    setup.server = server;
    setup.socket = s;
    setup.peer = (const aioloop_address *)data;
    setup.local = aiol_listener_local(l, s, &local, &room);
    setup.site = server->resource.site;
    err = server->ssl.context != NULL ? aiol_listener_secure(server, &setup) : aiol_stream_new(&setup, &t);
    if (err < 0) {
        aiol_error_clear(&loop->error);
        aiol_server_report(server, err, "Error on transport creation for incoming connection", &s);
        e->sockets->close(e, s);
        return 0;
    }
    if (t == NULL) { /* it shakes hands first */
        aiol_callback_end(loop);
        return 0;
    }
    aiol_server_joined(server, t);
    aioloop_server_ref(server); /* the factory may close it */
    err = aiol_stream_begin(t, server->arg);
    if (err < 0 && err != AIOLOOP_EFATAL)
        aiol_server_report(server, err, "Error in factory for incoming connection", NULL);
    aioloop_server_unref(server);
    aiol_callback_end(loop);
    return 0;
}

/* ---- serving ---- */

AIOLOOP_API int aioloop_server_start_serving(aioloop_server *server) {
    aioloop *loop;
    aiol_engine *e;
    size_t i;
    int err;
    if (server == NULL)
        return AIOLOOP_EINVAL;
    loop = server->resource.loop;
    if (server->state == AIOL_SERVER_CLOSED)
        return loop->closed ? AIOLOOP_ECLOSED : aiol_fail(loop, AIOLOOP_EMISUSE, "the server is closed");
    if (server->state == AIOL_SERVER_SERVING)
        return 0;
    e = loop->engine;
    for (i = 0; i < server->bound_count; i++) {
        err = e->sockets->listen(e, server->listeners[i].op.fd, server->backlog);
        if (err < 0) {
            char name[AIOL_ADDRESS_TEXT];
            aioloop_address_format(&server->listeners[i].address, name, sizeof(name));
            if (i != 0) /* those before it listen, and only closing them ends that; the server may be gone after this */
                aioloop_server_close(server);
            return aiol_fail(loop, err, "listen on %s: %s", name, aioloop_strerror(err));
        }
    }
    server->state = AIOL_SERVER_SERVING;
    for (i = 0; i < server->bound_count; i++)
        aiol_listener_submit(&server->listeners[i]);
    return 0;
}

static bool aiol_server_serving_cancelled(aioloop_future *future, void *owner) {
    aioloop_server *server = (aioloop_server *)owner;
    (void)future;
    if (server == NULL)
        return true;
    aioloop_server_close(server);
    return false; /* it was, or will be, when the connections are lost */
}

AIOLOOP_API aioloop_future *aioloop_server_serve_forever(aioloop_server *server) {
    aioloop *loop;
    aioloop_future *f;
    int err;
    if (server == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = server->resource.loop;
    if (loop->closed)
        return aiol_future_failed(AIOLOOP_ECLOSED);
    if (server->serving != NULL)
        return aiol_future_failed_now(loop, aiol_fail(loop, AIOLOOP_EMISUSE, "the server is serving forever already"));
    err = aioloop_server_start_serving(server);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    f = aiol_future_new(loop, aiol_server_serving_cancelled, server);
    if (f == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    server->serving = f;
    return f;
}

static bool aiol_server_wait_cancelled(aioloop_future *future, void *owner) {
    aioloop_server *server = (aioloop_server *)owner;
    size_t i;
    if (server == NULL)
        return true;
    for (i = 0; server->waiters[i] != future; i++)
        ;
    for (server->waiter_count--; i < server->waiter_count; i++)
        server->waiters[i] = server->waiters[i + 1];
    future->of.owner = NULL;
    aiol_future_release(future);
    return true;
}

AIOLOOP_API aioloop_future *aioloop_server_wait_closed(aioloop_server *server) {
    aioloop *loop;
    aioloop_future *f;
    if (server == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = server->resource.loop;
    if (loop->closed)
        return aiol_future_failed(AIOLOOP_ECLOSED);
    if (aiol_grow(&loop->allocator, &server->waiters, &server->waiter_capacity, sizeof(server->waiters[0]),
                  server->waiter_count + 1) < 0)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    f = aiol_future_new(loop, aiol_server_wait_cancelled, server);
    if (f == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    server->waiters[server->waiter_count++] = f;
    aiol_server_check_over(server);
    return f;
}

/* ---- asking ---- */

AIOLOOP_API bool aioloop_server_is_serving(const aioloop_server *server) {
    return server != NULL && server->state == AIOL_SERVER_SERVING;
}

AIOLOOP_API aioloop *aioloop_server_get_loop(const aioloop_server *server) {
    return server == NULL ? NULL : server->resource.loop;
}

AIOLOOP_API size_t aioloop_server_socket_count(const aioloop_server *server) {
    return server == NULL || server->state == AIOL_SERVER_CLOSED ? 0 : server->bound_count;
}

AIOLOOP_API int aioloop_server_socket(const aioloop_server *server, size_t i, aioloop_socket *sock, aioloop_address *address) {
    if (i >= aioloop_server_socket_count(server))
        return AIOLOOP_EINVAL;
    if (sock != NULL)
        *sock = server->listeners[i].op.fd;
    if (address != NULL)
        *address = server->listeners[i].address;
    return 0;
}

/* ---- with the loop ---- */

static void aiol_server_loop_closed(aiol_resource *resource) {
    aioloop_server *server = AIOL_CONTAINER(resource, aioloop_server, resource);
    size_t i;
    for (i = 0; i < server->listener_count; i++) {
        aiol_listener_close(&server->listeners[i]);
        server->listeners[i].op.state = AIOL_OP_IDLE;
    }
    server->state = AIOL_SERVER_CLOSED;
    if (server->serving != NULL)
        server->serving->of.owner = NULL; /* they stay pending */
    for (i = 0; i < server->waiter_count; i++)
        server->waiters[i]->of.owner = NULL;
}

static void aiol_server_destroy_resource(aiol_resource *resource) {
    aiol_server_destroy(AIOL_CONTAINER(resource, aioloop_server, resource));
}

static bool aiol_server_is_open(const aiol_resource *resource) {
    return AIOL_CONTAINER(resource, const aioloop_server, resource)->state != AIOL_SERVER_CLOSED;
}

static const aiol_resource_calls aiol_server_resource = {"server", aiol_server_loop_closed, aiol_server_destroy_resource,
                                                         aiol_server_is_open};

/* ---- making ---- */

/* A server without listeners, with room for count; NULL when there is no memory. */
static aioloop_server *aiol_server_new(aioloop *loop, const aioloop_protocol *protocol, void *arg, size_t count, int backlog,
                                       const aiol_ssl_plan *ssl, uint32_t site) {
    size_t size = aiol_server_block_size(count);
    aioloop_server *server = (aioloop_server *)aiol_alloc_zero(&loop->allocator, size);
    size_t i;
    if (server == NULL)
        return NULL;
    server->protocol = protocol;
    server->arg = arg;
    server->resource.context = aiol_map_ref(aiol_thread.map);
    server->backlog = backlog == 0 ? AIOL_BACKLOG : backlog;
    server->ssl = *ssl;
    aioloop_ssl_context_ref(ssl->context);
    server->listeners = (aiol_listener *)(void *)((char *)server + aiol_align(sizeof(aioloop_server)));
    server->listener_count = count;
    for (i = 0; i < count; i++) {
        aiol_listener *l = &server->listeners[i];
        l->server = server;
        l->op.kind = AIOL_OP_ACCEPT;
        l->op.fd = AIOL_NO_SOCKET;
        l->op.done = aiol_listener_accepted;
        l->op.u.accept.budget = server->backlog;
    }
    aiol_list_init(&server->clients);
    server->resource.refs = 1;
    server->resource.site = site;
    aiol_resource_add(loop, &server->resource, &aiol_server_resource);
    return server;
}

/* Takes over a bound socket. On failure it is still the caller's. given: it is attached already. */
static int aiol_listener_take(aiol_listener *l, aioloop_socket s, bool cleanup, bool given) {
    aioloop *loop = l->server->resource.loop;
    aiol_engine *e = loop->engine;
    aiol_path_room room;
    int err = e->sockets->name(e, s, &l->address, &room);
    if (err == 0 && !given)
        err = e->calls->attach(e, s, AIOL_OWNER_TRANSPORT);
    if (err < 0)
        return err;
    l->attached = true;
    l->op.fd = s;
    if (l->address.family == AIOLOOP_UNIX) {
        memcpy(l->path, room.bytes, aiol_min_size(l->address.path_size, sizeof(l->path)));
        l->address.u.path = l->path;
        if (cleanup && l->address.path_size != 0 && l->path[0] != '\0')
            l->cleanup = e->sockets->path_identify(e, l->path, l->address.path_size, &l->identity) == 0;
    }
    return 0;
}

/* Binds a new socket to an address. AIOLOOP_EADDRNOTAVAIL and AIOLOOP_EAFNOSUPPORT: this host has no such thing;
 * AIOLOOP_ENOTAVAILABLE: it cannot share ports. */
static int aiol_listener_bind(aiol_listener *l, const aioloop_address *address, const aioloop_server_options *o) {
    aioloop *loop = l->server->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_socket s = AIOL_NO_SOCKET;
    int err = e->sockets->open(e, address->family, AIOLOOP_SOCK_STREAM, 0, &s);
    if (err < 0)
        return err;
    if (!o->no_reuse_address)
        err = e->sockets->set(e, s, AIOL_OPTION_REUSE_ADDRESS, 1);
    if (err == 0 && o->reuse_port) {
        err = e->sockets->set(e, s, AIOL_OPTION_REUSE_PORT, 1);
        if (err == AIOLOOP_ENOPROTOOPT)
            err = AIOLOOP_ENOTAVAILABLE;
    }
    if (err == 0 && o->keep_alive)
        err = e->sockets->set(e, s, AIOL_OPTION_KEEP_ALIVE, 1);
    if (err == 0 && address->family == AIOLOOP_INET6)
        err = e->sockets->set(e, s, AIOL_OPTION_V6_ONLY, 1);
    if (err == 0)
        e->sockets->set(e, s, AIOL_OPTION_NO_DELAY, 1); /* connections inherit it */
    if (err == 0)
        err = e->sockets->bind(e, s, address);
    if (err == 0)
        err = aiol_listener_take(l, s, false, false);
    if (err < 0)
        e->sockets->close(e, s);
    return err;
}

/* Gives up a server in the making: it goes when its operations are idle. */
static void aiol_server_abandon(aioloop_server *server) {
    size_t i;
    server->state = AIOL_SERVER_CLOSED;
    for (i = 0; i < server->listener_count; i++)
        aiol_listener_close(&server->listeners[i]);
    server->loop_holds = true;
    aiol_server_check_over(server);
}

/* The server is bound: starts it unless that is deferred, and gives it to a future that waits for it; or fails that
 * with the server's error, whose message is stored. */
static void aiol_server_ready(aioloop_server *server, int err, bool defer_serving, aioloop_future *f) {
    aioloop *loop = server->resource.loop;
    if (err == 0 && !defer_serving)
        err = aioloop_server_start_serving(server);
    if (err < 0) {
        aiol_future_fail(f, err, aiol_detail(loop, err));
        aiol_server_abandon(server);
        return;
    }
    server->loop_holds = true;
    aioloop_server_ref(server);
    aiol_future_finish(f, (int64_t)server->bound_count, server, aiol_server_dispose);
}

/* Binds every address that this host has. 0, or an error with its message stored. */
static int aiol_server_bind(aioloop_server *server, const aioloop_address *addresses, const aioloop_server_options *o) {
    aioloop *loop = server->resource.loop;
    char names[AIOL_ERROR_TEXT_SIZE - 64];
    size_t length = 0;
    size_t bound = 0;
    size_t i;
    int last = 0;
    names[0] = '\0';
    for (i = 0; i < server->listener_count; i++) {
        char name[AIOL_ADDRESS_TEXT];
        int err = aiol_listener_bind(&server->listeners[bound], &addresses[i], o);
        if (err == 0) {
            bound++;
            continue;
        }
        aioloop_address_format(&addresses[i], name, sizeof(name));
        if (err != AIOLOOP_EADDRNOTAVAIL && err != AIOLOOP_EAFNOSUPPORT) {
            if (err == AIOLOOP_ENOTAVAILABLE)
                return aiol_fail(loop, AIOLOOP_EINVAL, "reuse_port is not supported here");
            return aiol_fail(loop, err, "bind to %s: %s", name, aioloop_strerror(err));
        }
        last = err;
        if (length < sizeof(names))
            length += (size_t)snprintf(names + length, sizeof(names) - length, "%s%s", length == 0 ? "" : ", ", name);
    }
    if (bound == 0)
        return aiol_fail(loop, last, "could not bind to any of %s: %s", names, aioloop_strerror(last));
    server->bound_count = bound;
    return 0;
}

/* ---- looking up where to listen ---- */

/* A server that is to be: it looks up its hosts. */
typedef struct aiol_starting {
    aiol_resource resource;
    aioloop_future *future;
    const aioloop_protocol *protocol;
    void *arg;
    aioloop_server_options options; /* but the hosts */
    aiol_ssl_plan ssl;
    aioloop_timer_handle timer;
    bool over;
    size_t pending; /* look-ups */
    size_t count;
    aiol_host hosts[1];
} aiol_starting;

static size_t aiol_starting_size(size_t hosts) {
    return sizeof(aiol_starting) + (hosts - 1) * sizeof(aiol_host);
}

static void aiol_starting_free(aiol_starting *s) {
    const aioloop_allocator *a = &s->resource.loop->allocator;
    size_t i;
    for (i = 0; i < s->count; i++)
        aioloop_freeaddrinfo(s->hosts[i].list);
    aiol_ssl_plan_end(s->resource.loop, &s->ssl);
    aiol_resource_remove(&s->resource);
    aiol_free(a, s, aiol_starting_size(s->count));
}

static void aiol_starting_free_if_over(aiol_starting *s) {
    size_t i;
    if (!s->over)
        return;
    for (i = 0; i < s->count; i++)
        if (s->hosts[i].future != NULL)
            return;
    aiol_starting_free(s);
}

/* The future is settled. */
static void aiol_starting_settle(aiol_starting *s) {
    aioloop_future *f = s->future;
    size_t i;
    s->over = true;
    s->future = NULL;
    if (f->state == AIOL_FUTURE_PENDING)
        f->of.owner = NULL; /* what a resolver's cancel runs may cancel again */
    aioloop_timer_handle_cancel(&s->timer);
    for (i = 0; i < s->count; i++)
        aiol_host_cancel(&s->hosts[i]);
    aiol_future_release(f);
    aiol_starting_free_if_over(s);
}

static bool aiol_starting_cancel(aioloop_future *future, void *owner) {
    (void)future;
    if (owner != NULL)
        aiol_starting_settle((aiol_starting *)owner);
    return true;
}

/* With the message stored. */
static void aiol_starting_fail(aiol_starting *s, int code) {
    if (code == AIOLOOP_ECANCELED)
        aiol_future_end_cancelled(s->future, NULL);
    else
        aiol_future_fail(s->future, code, aiol_detail(s->resource.loop, code));
    aiol_starting_settle(s);
}

static void aiol_starting_timed_out(aioloop *loop, void *arg) {
    aiol_fail(loop, AIOLOOP_ETIMEDOUT, "looking up the host: the time-out passed");
    aiol_starting_fail((aiol_starting *)arg, AIOLOOP_ETIMEDOUT);
}

/* The addresses of all hosts, each once, in the order of the hosts. NULL when there is no memory; *capacity is for
 * freeing. */
static aioloop_address *aiol_starting_addresses(const aiol_starting *s, size_t *count, size_t *capacity) {
    aioloop_address *addresses;
    size_t h;
    size_t i;
    *capacity = 0;
    *count = 0;
    for (h = 0; h < s->count; h++)
        *capacity += s->hosts[h].count;
    addresses = (aioloop_address *)aiol_alloc(&s->resource.loop->allocator, *capacity * sizeof(*addresses));
    if (addresses == NULL)
        return NULL;
    for (h = 0; h < s->count; h++) {
        for (i = 0; i < s->hosts[h].count; i++) {
            const aioloop_address *address = aiol_host_at(&s->hosts[h], i);
            size_t k = 0;
            while (k < *count && !aioloop_address_equal(&addresses[k], address))
                k++;
            if (k == *count)
                addresses[(*count)++] = *address;
        }
    }
    return addresses;
}

/* All addresses are known: binds and listens. */
static void aiol_starting_finish(aiol_starting *s) {
    aioloop *loop = s->resource.loop;
    aioloop_server *server = NULL;
    size_t count;
    size_t capacity;
    aioloop_address *addresses = aiol_starting_addresses(s, &count, &capacity);
    if (addresses != NULL)
        server = aiol_server_new(loop, s->protocol, s->arg, count, s->options.backlog, &s->ssl, s->resource.site);
    if (server == NULL)
        aiol_future_fail(s->future, aiol_fail(loop, AIOLOOP_ENOMEM, NULL), NULL);
    else
        aiol_server_ready(server, aiol_server_bind(server, addresses, &s->options), s->options.defer_serving, s->future);
    aiol_free(&loop->allocator, addresses, capacity * sizeof(*addresses));
    aiol_starting_settle(s);
}

static void aiol_starting_looked_up(aiol_host *l, int err) {
    aiol_starting *s = (aiol_starting *)l->owner;
    s->pending--;
    if (s->over)
        aiol_starting_free_if_over(s);
    else if (err < 0)
        aiol_starting_fail(s, err);
    else if (s->pending == 0)
        aiol_starting_finish(s);
}

static void aiol_starting_loop_closed(aiol_resource *resource) {
    aiol_starting *s = AIOL_CONTAINER(resource, aiol_starting, resource);
    if (s->future != NULL)
        s->future->of.owner = NULL; /* it stays pending */
}

static void aiol_starting_destroy(aiol_resource *resource) {
    aiol_starting_free(AIOL_CONTAINER(resource, aiol_starting, resource));
}

static bool aiol_starting_is_open(const aiol_resource *resource) {
    return !AIOL_CONTAINER(resource, const aiol_starting, resource)->over;
}

static const aiol_resource_calls aiol_starting_resource = {"server that looks up its hosts", aiol_starting_loop_closed,
                                                           aiol_starting_destroy, aiol_starting_is_open};

/* With its future; NULL when there is no memory. */
static aiol_starting *aiol_starting_new(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                        const aioloop_server_options *o, const aiol_ssl_plan *ssl) {
    size_t hosts = o->hosts != NULL ? o->host_count : 1;
    aiol_starting *s = (aiol_starting *)aiol_alloc_zero(&loop->allocator, aiol_starting_size(hosts));
    size_t i;
    if (s == NULL)
        return NULL;
    s->future = aiol_future_new(loop, aiol_starting_cancel, s);
    if (s->future == NULL) {
        aiol_free(&loop->allocator, s, aiol_starting_size(hosts));
        return NULL;
    }
    s->protocol = protocol;
    s->arg = arg;
    s->options = *o;
    s->ssl = *ssl;
    aioloop_ssl_context_ref(ssl->context);
    s->count = hosts;
    for (i = 0; i < hosts; i++) {
        s->hosts[i].done = aiol_starting_looked_up;
        s->hosts[i].owner = s;
    }
    s->resource.site = s->future->site;
    aiol_resource_add(loop, &s->resource, &aiol_starting_resource);
    if (o->timeout > 0) {
        s->timer = (aioloop_call_later)(loop, o->timeout, aiol_starting_timed_out, s);
        if (aioloop_handle_is_null(&s->timer.handle)) {
            aioloop_future *f = s->future;
            aiol_starting_settle(s);
            f->end.cancel = NULL;
            aioloop_future_unref(f);
            return NULL;
        }
    }
    return s;
}

static void aiol_starting_look_up(aiol_starting *s, const char *host, int port) {
    aioloop *loop = s->resource.loop;
    aioloop_getaddrinfo_options hints;
    int err = 0;
    size_t i;
    memset(&hints, 0, sizeof(hints));
    hints.family = s->options.family;
    hints.type = AIOLOOP_SOCK_STREAM;
    hints.flags = s->options.flags | AIOLOOP_AI_PASSIVE;
    for (i = 0; i < s->count && (err == 0 || err == AIOL_PENDING); i++) {
        const char *each = s->options.hosts != NULL ? s->options.hosts[i] : host;
        err = aiol_host_look_up(loop, &s->hosts[i], each, s->options.service, port, &hints, true);
        s->pending += err == AIOL_PENDING;
    }
    s->options.hosts = NULL; /* the caller's */
    s->options.service = NULL;
    if (err < 0 && err != AIOL_PENDING)
        aiol_starting_fail(s, err);
    else if (s->pending == 0)
        aiol_starting_finish(s);
}

/* ---- the calls ---- */

static int aiol_server_check(aioloop *loop, const char *host, int port, const aioloop_server_options *o) {
    size_t i;
    if (o->timeout < 0 || o->backlog < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "backlog and time-out must not be negative");
    if (o->sock != NULL && (host != NULL || port != 0 || o->hosts != NULL || o->service != NULL))
        return aiol_fail(loop, AIOLOOP_EINVAL, "host and port exclude a socket");
    if (o->sock != NULL && (o->family != AIOLOOP_UNSPEC || o->flags != 0 || o->no_reuse_address || o->reuse_port || o->keep_alive))
        return aiol_fail(loop, AIOLOOP_EINVAL, "family, flags, no_reuse_address, reuse_port and keep_alive exclude a socket");
    if (o->hosts != NULL && (host != NULL || o->host_count == 0))
        return aiol_fail(loop, AIOLOOP_EINVAL, host != NULL ? "host excludes hosts" : "hosts is empty");
    for (i = 0; i < o->host_count && o->hosts != NULL; i++)
        if (o->hosts[i] == NULL)
            return aiol_fail(loop, AIOLOOP_EINVAL, "hosts has a NULL in it; \"\" means every interface");
    if (o->hosts == NULL && o->host_count != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "host_count without hosts");
    if (o->service != NULL && port != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a service excludes a port");
    return 0;
}

/* A server on a given socket, which is the loop's from here on. */
static aioloop_future *aiol_server_of_socket(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket sock,
                                             const aiol_ssl_plan *ssl, int backlog, bool defer_serving, bool cleanup, bool unix_only) {
    aioloop_future *f;
    aioloop_server *server;
    int err = aiol_given_socket(loop, sock, AIOLOOP_SOCK_STREAM, unix_only);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    f = aiol_future_new(loop, NULL, NULL);
    server = f == NULL ? NULL : aiol_server_new(loop, protocol, arg, 1, backlog, ssl, f->site);
    if (server == NULL) {
        aiol_given_socket_close(loop, sock);
        if (f != NULL)
            aiol_future_release(f);
        aioloop_future_unref(f);
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    err = aiol_listener_take(&server->listeners[0], sock, cleanup, true);
    if (err < 0) {
        aiol_given_socket_close(loop, sock);
        aiol_fail(loop, err, "socket %ld: %s", (long)sock, aioloop_strerror(err));
    }
    server->bound_count = err == 0;
    aiol_server_ready(server, err, defer_serving, f);
    aiol_future_release(f);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_create_server)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                    const char *host, int port, const aioloop_server_options *options) {
    static const aioloop_server_options defaults = AIOLOOP_ZERO;
    const aioloop_server_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aiol_ssl_plan ssl = aiol_ssl_plan_of(true, o->ssl, o->ssl_handshake_timeout, o->ssl_shutdown_timeout,
                                         o->ssl_handshake_in_executor);
    aioloop_future *f;
    aiol_starting *s;
    int err;
    if (refused != NULL)
        return refused;
    err = aiol_ssl_plan_check(loop, &ssl);
    if (err == 0)
        err = aiol_server_check(loop, host, port, o);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    if (o->sock != NULL)
        return aiol_server_of_socket(loop, protocol, arg, *o->sock, &ssl, o->backlog, o->defer_serving, false, false);
    s = aiol_starting_new(loop, protocol, arg, o, &ssl);
    if (s == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    f = s->future; /* it may be gone after this */
    aiol_starting_look_up(s, host, port);
    return f;
}

/* Binds a new Unix socket to a path, where a socket file may stand in the way. */
static int aiol_listener_bind_path(aiol_listener *l, const aioloop_address *address, bool cleanup) {
    aioloop *loop = l->server->resource.loop;
    aiol_engine *e = loop->engine;
    char name[AIOL_ADDRESS_TEXT];
    aioloop_socket s = AIOL_NO_SOCKET;
    int err;
    err = e->sockets->open(e, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM, 0, &s);
    if (err < 0)
        return aiol_fail(loop, err, NULL);
    aiol_path_clear(e, address);
    err = e->sockets->bind(e, s, address);
    if (err == 0) {
        err = aiol_listener_take(l, s, cleanup, false);
        if (err == 0)
            return 0;
        if (address->u.path[0] != '\0')
            e->sockets->path_remove(e, address->u.path, address->path_size);
    }
    e->sockets->close(e, s);
    aioloop_address_format(address, name, sizeof(name));
    return aiol_fail(loop, err, "bind to %s: %s", name, aioloop_strerror(err));
}

AIOLOOP_API aioloop_future *(aioloop_create_unix_server)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                         const char *path, const aioloop_unix_server_options *options) {
    static const aioloop_unix_server_options defaults = AIOLOOP_ZERO;
    const aioloop_unix_server_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aiol_ssl_plan ssl = aiol_ssl_plan_of(true, o->ssl, o->ssl_handshake_timeout, o->ssl_shutdown_timeout,
                                         o->ssl_handshake_in_executor);
    aioloop_address address;
    aioloop_server *server;
    aioloop_future *f;
    int err;
    if (refused != NULL)
        return refused;
    memset(&address, 0, sizeof(address));
    err = aiol_ssl_plan_check(loop, &ssl);
    if (err == 0 && (o->timeout < 0 || o->backlog < 0))
        err = aiol_fail(loop, AIOLOOP_EINVAL, "backlog and time-out must not be negative");
    if (err == 0 && o->sock != NULL && (path != NULL || o->path_size != 0))
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path excludes a socket");
    if (err == 0 && o->sock == NULL && path == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path or a socket is needed");
    if (err == 0 && o->sock == NULL && (err = aioloop_address_unix(&address, path, o->path_size)) < 0)
        aiol_fail(loop, err, "not a path of a Unix socket");
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    if (o->sock != NULL)
        return aiol_server_of_socket(loop, protocol, arg, *o->sock, &ssl, o->backlog, o->defer_serving, !o->no_cleanup_socket, true);
    f = aiol_future_new(loop, NULL, NULL);
    server = f == NULL ? NULL : aiol_server_new(loop, protocol, arg, 1, o->backlog, &ssl, f->site);
    if (server == NULL) {
        if (f != NULL)
            aiol_future_release(f);
        aioloop_future_unref(f);
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    err = aiol_listener_bind_path(&server->listeners[0], &address, !o->no_cleanup_socket);
    server->bound_count = err == 0;
    aiol_server_ready(server, err, o->defer_serving, f);
    aiol_future_release(f);
    return f;
}

#endif
