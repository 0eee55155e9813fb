/*
 * connect.c - opening connections.                    (asyncio: base_events.create_connection)
 *
 * A connector tries one address after the other, with one CONNECT operation, until one answers, and then becomes a
 * transport. Its future may be cancelled at any time, also from the protocol's own methods: `over` says that the future
 * is settled; the connector goes when its operation is the engine's no more and it is not queued.
 */
#ifndef AIOL_NET_CONNECT_C
#define AIOL_NET_CONNECT_C

#include "net/socket.c"

typedef struct aiol_connector {
    aiol_resource resource;
    aioloop_future *future;
    const aioloop_protocol *protocol;
    void *arg;
    aiol_op op; /* CONNECT; its fd is the socket in use, or AIOL_NO_SOCKET */
    aiol_node node;
    aioloop_timer_handle timer;
    aioloop_address addresses[2];
    int address_count;
    int next;
    aioloop_address bind_to[2];
    int bind_count;
    bool all_errors;
    bool over;
    bool queued;
    bool attached;
    int failure; /* the code of the first attempt that failed; 0: none did */
    int error_count;
    struct aioloop_error *errors[2];
    char path[108];
} aiol_connector;

static void aiol_connector_close_socket(aiol_connector *c) {
    aiol_engine *e = c->resource.loop->engine;
    if (c->op.fd == AIOL_NO_SOCKET)
        return;
    if (c->attached)
        e->calls->quiesce(e, c->op.fd);
    e->sockets->close(e, c->op.fd);
    c->op.fd = AIOL_NO_SOCKET;
    c->attached = false;
}

static void aiol_connector_free(aiol_connector *c) {
    aioloop *loop = c->resource.loop;
    int i;
    for (i = 0; i < c->error_count; i++)
        aiol_error_free(&loop->allocator, c->errors[i]);
    aiol_resource_remove(&c->resource);
    aiol_free(&loop->allocator, c, sizeof(*c));
}

static void aiol_connector_free_if_over(aiol_connector *c) {
    if (c->over && !c->queued && c->op.state == AIOL_OP_IDLE)
        aiol_connector_free(c);
}

/* The future is settled; whatever is under way is given up. */
static void aiol_connector_settle(aiol_connector *c) {
    aioloop_future *f = c->future;
    c->over = true;
    c->future = NULL;
    aioloop_timer_handle_cancel(&c->timer); /* now: the operation may keep the connector for a while */
    aiol_op_cancel(c->resource.loop->engine, &c->op);
    aiol_connector_close_socket(c);
    if (f->state == AIOL_FUTURE_PENDING)
        f->of.owner = NULL;
    aiol_future_release(f);
    aiol_connector_free_if_over(c);
}

static bool aiol_connector_cancel(aioloop_future *future, void *owner) {
    (void)future;
    if (owner != NULL)
        aiol_connector_settle((aiol_connector *)owner);
    return true;
}

static void aiol_connector_timed_out(aioloop *loop, void *arg) {
    aiol_connector *c = (aiol_connector *)arg;
    (void)loop;
    if (c->next != 0) {
        char text[AIOL_ERROR_TEXT_SIZE];
        char name[AIOL_ADDRESS_TEXT];
        aioloop_address_format(&c->addresses[c->next - 1], name, sizeof(name));
        snprintf(text, sizeof(text), "connect to %s: %s", name, aioloop_strerror(AIOLOOP_ETIMEDOUT));
        aiol_future_fail(c->future, AIOLOOP_ETIMEDOUT, text);
    } else {
        aiol_future_fail(c->future, AIOLOOP_ETIMEDOUT, NULL);
    }
    aiol_connector_settle(c);
}

/* ---- errors ---- */

/* Remembers why an address failed; what: "connect to", "bind to". */
static void aiol_connector_failed(aiol_connector *c, int code, const char *what, const aioloop_address *address) {
    char text[AIOL_ERROR_TEXT_SIZE];
    char name[AIOL_ADDRESS_TEXT];
    aioloop_address_format(address, name, sizeof(name));
    snprintf(text, sizeof(text), "%s %s: %s", what, name, aioloop_strerror(code));
    if (c->failure == 0)
        c->failure = code;
    c->errors[c->error_count] = aiol_error_new(&c->resource.loop->allocator, code, text, 0);
    if (c->errors[c->error_count] != NULL)
        c->error_count++;
}

/* Every address failed: one error, or all of them in one; the code of the first, also when there was no memory for
 * texts. */
static void aiol_connector_give_up(aiol_connector *c) {
    const aioloop_allocator *a = &c->resource.loop->allocator;
    struct aioloop_error *error = NULL;
    int count = c->error_count;
    int code = c->failure;
    bool same = count < 2 || strcmp(c->errors[0]->text, c->errors[1]->text) == 0;
    int i;
    if (count != 0 && same && !c->all_errors) {
        error = c->errors[0];
        c->errors[0] = c->errors[--c->error_count];
    } else if (count != 0) {
        char text[2 * AIOL_ERROR_TEXT_SIZE];
        snprintf(text, sizeof(text), count == 1 ? "%s" : "%s, %s", c->errors[0]->text, count == 1 ? "" : c->errors[1]->text);
        error = aiol_error_new(a, code, text, c->all_errors ? (unsigned)count : 0);
        if (error != NULL && c->all_errors) {
            for (i = 0; i < count; i++)
                error->list[i] = c->errors[i];
            error->count = (unsigned)count;
            c->error_count = 0;
        }
    }
    aiol_future_fail_with(c->future, code, error);
    aiol_connector_settle(c);
}

/* ---- attempts ---- */

/* Binds to the first local address of the family that can be bound. */
static int aiol_connector_bind(aiol_connector *c, const aioloop_address *to) {
    aiol_engine *e = c->resource.loop->engine;
    int err = AIOLOOP_EAFNOSUPPORT;
    int tried = -1;
    int i;
    for (i = 0; i < c->bind_count; i++) {
        if (c->bind_to[i].family != to->family)
            continue;
        tried = i;
        err = e->sockets->bind(e, c->op.fd, &c->bind_to[i]);
        if (err == 0)
            return 0;
    }
    if (tried >= 0)
        aiol_connector_failed(c, err, "bind to", &c->bind_to[tried]);
    else
        aiol_connector_failed(c, err, "no local address has the family of", to);
    return err;
}

/* Starts with one address. 0: connected; AIOL_PENDING; or its error, remembered. */
static int64_t aiol_connector_attempt(aiol_connector *c, const aioloop_address *to) {
    aiol_engine *e = c->resource.loop->engine;
    int64_t n = e->sockets->open(e, to->family, &c->op.fd);
    if (n < 0) {
        c->op.fd = AIOL_NO_SOCKET;
        aiol_connector_failed(c, (int)n, "socket for", to);
        return n;
    }
    if (c->bind_count != 0) {
        n = aiol_connector_bind(c, to);
        if (n < 0)
            return n;
    }
    n = e->calls->attach(e, c->op.fd, AIOL_OWNER_TRANSPORT);
    if (n == 0) {
        c->attached = true;
        c->op.u.connect.address = to;
        n = aiol_op_submit(e, &c->op);
    }
    if (n < 0 && n != AIOL_PENDING)
        aiol_connector_failed(c, (int)n, "connect to", to);
    return n;
}

/* Goes on with the next address, until one is pending or connected. Calls no user code. */
static void aiol_connector_advance(aiol_connector *c) {
    while (c->next < c->address_count) {
        int64_t n;
        aiol_connector_close_socket(c);
        n = aiol_connector_attempt(c, &c->addresses[c->next++]);
        if (n == AIOL_PENDING)
            return;
        if (n == 0) { /* not from inside the call: the protocol is told by the loop */
            c->queued = true;
            aiol_queue_push(&c->resource.loop->ready, &c->node);
            return;
        }
    }
    aiol_connector_give_up(c);
}

/* The socket is connected: it becomes a transport. */
static void aiol_connector_made(aiol_connector *c) {
    aioloop *loop = c->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_address local;
    aioloop_address peer;
    aiol_path_room local_room;
    aiol_path_room peer_room;
    aiol_stream_setup setup;
    aioloop_transport *t = NULL;
    aioloop_future *f = c->future;
    int err;
    memset(&setup, 0, sizeof(setup));
    setup.loop = loop;
    setup.protocol = c->protocol;
    setup.arg = c->arg;
    setup.context = c->resource.context;
    setup.socket = c->op.fd;
    setup.site = c->resource.site;
    if (e->sockets->name(e, c->op.fd, &local, &local_room) == 0)
        setup.local = &local;
    if (e->sockets->peer(e, c->op.fd, &peer, &peer_room) == 0)
        setup.peer = &peer;
    if (setup.peer != NULL && peer.family != AIOLOOP_UNIX)
        e->sockets->set(e, c->op.fd, AIOL_OPTION_NO_DELAY, 1);
    setup.attached = c->attached;
    err = aiol_stream_new(&setup, &t);
    if (err < 0) {
        aiol_future_fail(f, err, NULL);
        aiol_connector_settle(c);
        return;
    }
    c->op.fd = AIOL_NO_SOCKET; /* the transport's now */
    c->attached = false;
    aiol_future_hold(f);
    aioloop_transport_ref(t);
    c->queued = true; /* keeps the connector while user code runs that may cancel the future */
    err = aiol_stream_begin(t, c->arg);
    c->queued = false;
    if (err < 0 && !c->over)
        aiol_future_fail(f, err, aiol_detail(loop, err));
    if (err == 0 && !c->over)
        aiol_future_finish(f, 0, t, aiol_transport_dispose); /* with the reference taken above */
    else
        aioloop_transport_unref(t);
    if (err == 0 && c->over)
        aioloop_transport_abort(t);
    if (!c->over)
        aiol_connector_settle(c);
    else
        aiol_connector_free_if_over(c);
    aiol_future_release(f);
    aiol_callback_end(loop);
}

static size_t aiol_connector_done(aiol_op *op, int64_t n, const void *data) {
    aiol_connector *c = AIOL_CONTAINER(op, aiol_connector, op);
    (void)data;
    if (c->over) {
        aiol_connector_free_if_over(c);
    } else if (n == 0) {
        aiol_connector_made(c);
    } else {
        aiol_connector_failed(c, (int)n, "connect to", &c->addresses[c->next - 1]);
        aiol_connector_advance(c);
    }
    return 0;
}

static void aiol_connector_run(aioloop *loop, aiol_node *node) {
    aiol_connector *c = AIOL_CONTAINER(node, aiol_connector, node);
    (void)loop;
    c->queued = false;
    if (c->over)
        aiol_connector_free_if_over(c);
    else
        aiol_connector_made(c);
}

/* ---- with the loop ---- */

static void aiol_connector_loop_closed(aiol_resource *resource) {
    aiol_connector *c = AIOL_CONTAINER(resource, aiol_connector, resource);
    aiol_engine *e = resource->loop->engine;
    c->over = true;
    c->queued = false;
    if (c->op.fd != AIOL_NO_SOCKET && resource->loop->process == aiol_process_id()) {
        aiol_op_cancel(e, &c->op);
        aiol_connector_close_socket(c);
    } else if (c->op.fd != AIOL_NO_SOCKET) {
        e->sockets->close(e, c->op.fd);
        c->op.fd = AIOL_NO_SOCKET;
    }
    c->op.state = AIOL_OP_IDLE;
    if (c->future != NULL)
        c->future->of.owner = NULL; /* it stays pending */
}

static void aiol_connector_destroy(aiol_resource *resource) {
    aiol_connector_free(AIOL_CONTAINER(resource, aiol_connector, resource));
}

static bool aiol_connector_is_open(const aiol_resource *resource) {
    return !AIOL_CONTAINER(resource, const aiol_connector, resource)->over;
}

static const aiol_resource_calls aiol_connector_resource = {"connection attempt", aiol_connector_loop_closed,
                                                            aiol_connector_destroy, aiol_connector_is_open};

/* A connector with its future; NULL when there is no memory. */
static aiol_connector *aiol_connector_new(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_time timeout) {
    aiol_connector *c = (aiol_connector *)aiol_alloc_zero(&loop->allocator, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->future = aiol_future_new(loop, aiol_connector_cancel, c);
    if (c->future == NULL) {
        aiol_free(&loop->allocator, c, sizeof(*c));
        return NULL;
    }
    c->protocol = protocol;
    c->arg = arg;
    c->resource.context = aiol_map_ref(aiol_thread.map);
    c->op.kind = AIOL_OP_CONNECT;
    c->op.fd = AIOL_NO_SOCKET;
    c->op.done = aiol_connector_done;
    c->node.run = aiol_connector_run;
    c->resource.site = c->future->site;
    aiol_resource_add(loop, &c->resource, &aiol_connector_resource);
    if (timeout > 0) {
        c->timer = (aioloop_call_later)(loop, timeout, aiol_connector_timed_out, c);
        if (aioloop_handle_is_null(&c->timer.handle)) {
            aioloop_future *f = c->future;
            aiol_connector_settle(c);
            f->end.cancel = NULL;
            aioloop_future_unref(f);
            return NULL;
        }
    }
    return c;
}

/* ---- the calls ---- */

/* Makes a connection of a socket that is connected already. */
static aioloop_future *aiol_connect_given(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket s,
                                          aioloop_time timeout, bool unix_only) {
    aiol_connector *c;
    int err = aiol_given_socket(loop, s, unix_only);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    c = aiol_connector_new(loop, protocol, arg, timeout);
    if (c == NULL) {
        aiol_given_socket_close(loop, s); /* it was taken over */
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    c->op.fd = s;
    c->attached = true;
    c->queued = true;
    aiol_queue_push(&loop->ready, &c->node);
    return c->future;
}

AIOLOOP_API aioloop_future *(aioloop_create_connection)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                        const char *host, int port,
                                                        const aioloop_connection_options *options) {
    static const aioloop_connection_options defaults = AIOLOOP_ZERO;
    const aioloop_connection_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aioloop_address addresses[2];
    aioloop_address bind_to[2];
    aioloop_future *f;
    aiol_connector *c;
    int bind_count = 0;
    int n;
    if (refused != NULL)
        return refused;
    n = aiol_ssl_options_check(loop, o->ssl, o->server_hostname, o->ssl_handshake_timeout, o->ssl_shutdown_timeout);
    if (n == 0 && o->timeout < 0)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (n == 0 && o->sock != NULL && (host != NULL || port != 0 || o->local_host != NULL || o->local_port != 0))
        n = aiol_fail(loop, AIOLOOP_EINVAL, "host, port and local address exclude a socket");
    if (n == 0 && o->sock != NULL && o->family != AIOLOOP_UNSPEC)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "family excludes a socket");
    if (n == 0 && o->sock == NULL && host == NULL)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "host and port, or a socket, are needed");
    if (n < 0)
        return aiol_future_failed_now(loop, n);
    if (o->sock != NULL)
        return aiol_connect_given(loop, protocol, arg, *o->sock, o->timeout, false);
    if (o->local_host != NULL || o->local_port != 0) /* a port alone: of every address, in the family that is needed */
        bind_count = aiol_host_addresses(loop, o->local_host, o->local_port, AIOLOOP_UNSPEC, o->local_host == NULL,
                                         bind_to);
    if (bind_count < 0)
        return aiol_future_failed_now(loop, bind_count);
    n = aiol_host_addresses(loop, host, port, o->family, false, addresses);
    if (n < 0)
        return aiol_future_failed_now(loop, n);
    c = aiol_connector_new(loop, protocol, arg, o->timeout);
    if (c == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    c->address_count = n;
    memcpy(c->addresses, addresses, (size_t)n * sizeof(addresses[0]));
    c->bind_count = bind_count;
    memcpy(c->bind_to, bind_to, (size_t)bind_count * sizeof(bind_to[0]));
    c->all_errors = o->all_errors;
    f = c->future; /* the connector may be gone after this */
    aiol_connector_advance(c);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_create_unix_connection)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                             const char *path,
                                                             const aioloop_unix_connection_options *options) {
    static const aioloop_unix_connection_options defaults = AIOLOOP_ZERO;
    const aioloop_unix_connection_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aioloop_address address;
    aioloop_future *f;
    aiol_connector *c;
    int err;
    if (refused != NULL)
        return refused;
    memset(&address, 0, sizeof(address));
    err = aiol_ssl_options_check(loop, o->ssl, o->server_hostname, o->ssl_handshake_timeout, o->ssl_shutdown_timeout);
    if (err == 0 && o->timeout < 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (err == 0 && o->sock != NULL && (path != NULL || o->path_size != 0))
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path excludes a socket");
    if (err == 0 && o->sock == NULL && path == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path or a socket is needed");
    if (err == 0 && o->sock == NULL && (err = aioloop_address_unix(&address, path, o->path_size)) < 0)
        aiol_fail(loop, err, "not a path of a Unix socket");
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    if (o->sock != NULL)
        return aiol_connect_given(loop, protocol, arg, *o->sock, o->timeout, true);
    c = aiol_connector_new(loop, protocol, arg, o->timeout);
    if (c == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    memcpy(c->path, address.u.path, address.path_size);
    address.u.path = c->path;
    c->addresses[0] = address;
    c->address_count = 1;
    f = c->future;
    aiol_connector_advance(c);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_connect_accepted_socket)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                              aioloop_socket sock,
                                                              const aioloop_accepted_socket_options *options) {
    static const aioloop_accepted_socket_options defaults = AIOLOOP_ZERO;
    const aioloop_accepted_socket_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    int err;
    if (refused != NULL)
        return refused;
    err = aiol_ssl_options_check(loop, o->ssl, NULL, o->ssl_handshake_timeout, o->ssl_shutdown_timeout);
    if (err == 0 && o->timeout < 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    return aiol_connect_given(loop, protocol, arg, sock, o->timeout, false);
}

#endif
