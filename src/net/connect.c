/*
 * connect.c - opening connections.              (asyncio: base_events.create_connection, staggered.staggered_race)
 *
 * A connector looks for the addresses, makes an attempt for each, one after the other or, with a delay between them,
 * side by side (RFC 8305), until one answers, and then becomes a transport. Its future may be cancelled at any time,
 * also from the protocol's own methods: `over` says that the future is settled; the connector goes when its operations
 * are the engine's no more, the resolver owes it nothing, and it is not queued.
 */
#ifndef AIOL_NET_CONNECT_C
#define AIOL_NET_CONNECT_C

#include "net/tls.c"

typedef struct aiol_attempt {
    struct aiol_connector *connector;
    aiol_op op; /* CONNECT; its fd is the socket, or AIOL_NO_SOCKET */
    aioloop_address address;
    int failure; /* 0: it has not failed */
    struct aioloop_error *error;
    bool attached;
} aiol_attempt;

typedef struct aiol_connector {
    aiol_resource resource;
    aioloop_future *future;
    const aioloop_protocol *protocol;
    void *arg;
    aiol_node node;
    aioloop_timer_handle timer;   /* of the whole */
    aioloop_timer_handle stagger; /* starts the next attempt */
    aioloop_time delay;           /* from one attempt to the next; below 0: when it has failed */
    aiol_host remote;
    aiol_host local;     /* what to bind to; no addresses: nothing */
    int lookups;           /* that have not answered */
    int first_count;       /* of the first family, before they alternate; 0: in the resolver's order */
    aiol_attempt *attempts;
    size_t count;
    size_t next;   /* not begun yet */
    size_t failed; /* attempts */
    aiol_attempt *winner;
    bool all_errors;
    bool over;
    bool queued;
    aiol_ssl_plan ssl;
    aioloop_transport *tls; /* that shakes hands; held */
    aioloop_time timeout;
    char path[108];
} aiol_connector;

/* ---- ending ---- */

static void aiol_attempt_close(aiol_attempt *a) {
    aiol_engine *e = a->connector->resource.loop->engine;
    if (a->op.fd == AIOL_NO_SOCKET)
        return;
    if (a->attached)
        e->calls->quiesce(e, a->op.fd);
    e->sockets->close(e, a->op.fd);
    a->op.fd = AIOL_NO_SOCKET;
    a->attached = false;
}

/* Gives up what is under way, but for one. */
static void aiol_connector_end_attempts(aiol_connector *c, const aiol_attempt *but) {
    size_t i;
    aioloop_timer_handle_cancel(&c->stagger);
    for (i = 0; i < c->next; i++) {
        aiol_attempt *a = &c->attempts[i];
        if (a == but)
            continue;
        aiol_op_cancel(c->resource.loop->engine, &a->op);
        aiol_attempt_close(a);
    }
}

static void aiol_connector_free(aiol_connector *c) {
    const aioloop_allocator *a = &c->resource.loop->allocator;
    size_t i;
    for (i = 0; i < c->count; i++)
        aiol_error_free(a, c->attempts[i].error);
    aioloop_freeaddrinfo(c->remote.list);
    aioloop_freeaddrinfo(c->local.list);
    aiol_ssl_plan_end(c->resource.loop, &c->ssl);
    aiol_resource_remove(&c->resource);
    aiol_free(a, c->attempts, c->count * sizeof(c->attempts[0]));
    aiol_free(a, c, sizeof(*c));
}

static void aiol_connector_free_if_over(aiol_connector *c) {
    size_t i;
    if (!c->over || c->queued || c->remote.future != NULL || c->local.future != NULL)
        return;
    for (i = 0; i < c->next; i++)
        if (c->attempts[i].op.state != AIOL_OP_IDLE)
            return;
    aiol_connector_free(c);
}

/* The future is settled; whatever is under way is given up. */
static void aiol_connector_settle(aiol_connector *c) {
    aioloop_future *f = c->future;
    c->over = true;
    c->future = NULL;
    if (f->state == AIOL_FUTURE_PENDING)
        f->of.owner = NULL; /* what a resolver's cancel runs may cancel again */
    aioloop_timer_handle_cancel(&c->timer); /* now: what is owed may keep the connector for a while */
    aiol_connector_end_attempts(c, NULL);
    aiol_host_cancel(&c->remote);
    aiol_host_cancel(&c->local);
    if (c->tls != NULL) {
        aioloop_transport *t = c->tls;
        c->tls = NULL;
        aiol_secure_give_up(t);
        aioloop_transport_unref(t);
    }
    aiol_future_release(f);
    aiol_connector_free_if_over(c);
}

static bool aiol_connector_cancel(aioloop_future *future, void *owner) {
    (void)future;
    if (owner != NULL)
        aiol_connector_settle((aiol_connector *)owner);
    return true;
}

/* The call fails as a whole, with the message stored. */
static void aiol_connector_fail(aiol_connector *c, int code) {
    if (code == AIOLOOP_ECANCELED)
        aiol_future_end_cancelled(c->future, NULL);
    else
        aiol_future_fail(c->future, code, aiol_detail(c->resource.loop, code));
    aiol_connector_settle(c);
}

static void aiol_connector_timed_out(aioloop *loop, void *arg) {
    aiol_connector *c = (aiol_connector *)arg;
    char name[AIOL_ADDRESS_TEXT];
    if (c->tls != NULL) {
        (void)aiol_secure_timed_out(c->tls, AIOLOOP_ETIMEDOUT, c->timeout);
    } else if (c->next != 0) {
        aioloop_address_format(&c->attempts[c->next - 1].address, name, sizeof(name));
        aiol_fail(loop, AIOLOOP_ETIMEDOUT, "connect to %s: %s", name, aioloop_strerror(AIOLOOP_ETIMEDOUT));
    } else {
        aiol_fail(loop, AIOLOOP_ETIMEDOUT, c->lookups == 0 ? NULL : "looking up the host: the time-out passed");
    }
    aiol_connector_fail(c, AIOLOOP_ETIMEDOUT);
}

/* ---- errors ---- */

/* Remembers why an attempt failed; what: "connect to", "bind to". */
static void aiol_attempt_failed(aiol_attempt *a, int code, const char *what, const aioloop_address *address) {
    char text[AIOL_ERROR_TEXT_SIZE];
    char name[AIOL_ADDRESS_TEXT];
    aioloop_address_format(address, name, sizeof(name));
    snprintf(text, sizeof(text), "%s %s: %s", what, name, aioloop_strerror(code));
    a->failure = code;
    a->error = aiol_error_new(&a->connector->resource.loop->allocator, code, text, 0);
    a->connector->failed++;
}

/* The texts of all errors in one; NULL when there is no memory. */
static struct aioloop_error *aiol_connector_error(const aiol_connector *c, int code) {
    const aioloop_allocator *a = &c->resource.loop->allocator;
    struct aioloop_error *error = NULL;
    size_t size = 1;
    size_t length = 0;
    size_t i;
    char *text;
    for (i = 0; i < c->count; i++)
        size += c->attempts[i].error == NULL ? 0 : strlen(c->attempts[i].error->text) + 2;
    text = (char *)aiol_alloc(a, size);
    if (text == NULL)
        return NULL;
    text[0] = '\0';
    for (i = 0; i < c->count; i++)
        if (c->attempts[i].error != NULL)
            length += (size_t)snprintf(text + length, size - length, "%s%s", length == 0 ? "" : ", ", c->attempts[i].error->text);
    error = aiol_error_new(a, code, text, c->all_errors ? c->count : 0);
    aiol_free(a, text, size);
    return error;
}

/* Every address failed: one error, or all of them in one; the code of the first, also when there was no memory for
 * texts. */
static void aiol_connector_give_up(aiol_connector *c) {
    struct aioloop_error *error = NULL;
    struct aioloop_error *first = c->attempts[0].error;
    bool same = true;
    size_t i;
    for (i = 1; i < c->count; i++) {
        struct aioloop_error *other = c->attempts[i].error;
        same = same && first != NULL && other != NULL && strcmp(first->text, other->text) == 0;
    }
    if (same && !c->all_errors)
        error = aiol_error_ref(first);
    else
        error = aiol_connector_error(c, c->attempts[0].failure);
    for (i = 0; i < c->count && error != NULL && c->all_errors; i++)
        if (c->attempts[i].error != NULL)
            error->list[error->count++] = aiol_error_ref(c->attempts[i].error);
    aiol_future_fail_with(c->future, c->attempts[0].failure, error);
    aiol_connector_settle(c);
}

/* ---- attempts ---- */

/* Binds to the first local address of the family that can be bound. */
static int aiol_attempt_bind(aiol_attempt *a) {
    const aiol_host *local = &a->connector->local;
    aiol_engine *e = a->connector->resource.loop->engine;
    const aioloop_address *tried = NULL;
    int err = AIOLOOP_EAFNOSUPPORT;
    size_t i;
    for (i = 0; i < local->count; i++) {
        const aioloop_address *address = aiol_host_at(local, i);
        if (address->family != a->address.family)
            continue;
        tried = address;
        err = e->sockets->bind(e, a->op.fd, address);
        if (err == 0)
            return 0;
    }
    if (tried != NULL)
        aiol_attempt_failed(a, err, "bind to", tried);
    else
        aiol_attempt_failed(a, err, "no local address has the family of", &a->address);
    return err;
}

/* 0: connected; AIOL_PENDING; or its error, remembered. */
static int64_t aiol_attempt_start(aiol_attempt *a) {
    aiol_engine *e = a->connector->resource.loop->engine;
    int64_t n = e->sockets->open(e, a->address.family, AIOLOOP_SOCK_STREAM, 0, &a->op.fd);
    if (n < 0) {
        a->op.fd = AIOL_NO_SOCKET;
        aiol_attempt_failed(a, (int)n, "socket for", &a->address);
        return n;
    }
    if (a->connector->local.count != 0) {
        n = aiol_attempt_bind(a);
        if (n < 0)
            return n;
    }
    n = e->calls->attach(e, a->op.fd, AIOL_OWNER_TRANSPORT);
    if (n == 0) {
        a->attached = true;
        a->op.u.connect.address = &a->address;
        n = aiol_op_submit(e, &a->op);
    }
    if (n < 0 && n != AIOL_PENDING)
        aiol_attempt_failed(a, (int)n, "connect to", &a->address);
    return n;
}

static void aiol_connector_next_is_due(aioloop *loop, void *arg);

/* Goes on with the next address, until one is pending or connected. Calls no user code. */
static void aiol_connector_advance(aiol_connector *c) {
    aioloop *loop = c->resource.loop;
    while (c->next < c->count) {
        aiol_attempt *a = &c->attempts[c->next++];
        int64_t n = aiol_attempt_start(a);
        if (n == AIOL_PENDING) {
            if (c->delay < 0 || c->next == c->count)
                return;
            c->stagger = (aioloop_call_later)(loop, c->delay, aiol_connector_next_is_due, c);
            if (aioloop_handle_is_null(&c->stagger.handle))
                aiol_connector_fail(c, AIOLOOP_ENOMEM);
            return;
        }
        if (n == 0) { /* not from inside the call: the protocol is told by the loop */
            c->winner = a;
            aiol_connector_end_attempts(c, a);
            c->queued = true;
            aiol_queue_push(&loop->ready, &c->node);
            return;
        }
        aiol_attempt_close(a);
    }
    if (c->failed == c->count)
        aiol_connector_give_up(c);
}

static void aiol_connector_next_is_due(aioloop *loop, void *arg) {
    (void)loop;
    aiol_connector_advance((aiol_connector *)arg);
}

/* The handshake is done, and connection_made has returned; or not. */
static void aiol_connector_secured(void *owner, aioloop_transport *t, int err) {
    aiol_connector *c = (aiol_connector *)owner;
    aioloop_transport *held = c->tls;
    c->tls = NULL;
    if (err < 0) {
        aiol_connector_fail(c, err);
    } else {
        aiol_future_finish(c->future, 0, aioloop_transport_ref(t), aiol_transport_dispose);
        aiol_connector_settle(c);
    }
    aioloop_transport_unref(held);
}

/* The socket becomes a connection with TLS on it, whose handshake is waited for. */
static void aiol_connector_secure(aiol_connector *c, const aiol_stream_setup *lower) {
    aioloop *loop = c->resource.loop;
    aiol_attempt *a = c->winner;
    aioloop_transport *t = NULL;
    aiol_secure_setup setup;
    int err;
    memset(&setup, 0, sizeof(setup));
    setup.ssl = &c->ssl;
    setup.loop = loop;
    setup.protocol = c->protocol;
    setup.arg = c->arg;
    setup.context = c->resource.context;
    setup.site = c->resource.site;
    setup.settled = aiol_connector_secured;
    setup.owner = c;
    a->op.fd = AIOL_NO_SOCKET; /* the connection's, if there is one */
    c->queued = true;          /* keeps the connector: it may be over before this returns */
    err = aiol_secure_connect(&setup, lower, &t);
    c->queued = false;
    if (err < 0) {
        a->op.fd = lower->socket;
        aiol_connector_fail(c, err);
    } else if (c->over) {
        aiol_connector_free_if_over(c);
    } else {
        c->tls = aioloop_transport_ref(t);
    }
    aiol_callback_end(loop);
}

/* The socket of the winner is connected: it becomes a transport. */
static void aiol_connector_made(aiol_connector *c) {
    aioloop *loop = c->resource.loop;
    aiol_engine *e = loop->engine;
    aiol_attempt *a = c->winner;
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
    setup.socket = a->op.fd;
    setup.site = c->resource.site;
    if (e->sockets->name(e, a->op.fd, &local, &local_room) == 0)
        setup.local = &local;
    if (e->sockets->peer(e, a->op.fd, &peer, &peer_room) == 0)
        setup.peer = &peer;
    if (setup.peer != NULL && peer.family != AIOLOOP_UNIX)
        e->sockets->set(e, a->op.fd, AIOL_OPTION_NO_DELAY, 1);
    setup.attached = a->attached;
    if (c->ssl.context != NULL) {
        aiol_connector_secure(c, &setup);
        return;
    }
    err = aiol_stream_new(&setup, &t);
    if (err < 0) {
        aiol_future_fail(f, err, NULL);
        aiol_connector_settle(c);
        return;
    }
    a->op.fd = AIOL_NO_SOCKET; /* the transport's now */
    a->attached = false;
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

static size_t aiol_attempt_done(aiol_op *op, int64_t n, const void *data) {
    aiol_attempt *a = AIOL_CONTAINER(op, aiol_attempt, op);
    aiol_connector *c = a->connector;
    (void)data;
    if (c->over || c->winner != NULL) {
        aiol_connector_free_if_over(c);
    } else if (n == 0) {
        c->winner = a;
        aiol_connector_end_attempts(c, a); /* before anybody hears of it */
        aiol_connector_made(c);
    } else {
        aiol_attempt_failed(a, (int)n, "connect to", &a->address);
        aiol_attempt_close(a);
        if (a == &c->attempts[c->next - 1])
            aioloop_timer_handle_cancel(&c->stagger);
        else if (c->failed != c->count)
            return 0; /* the next one waits for the last one, or its time */
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

/* ---- addresses ---- */

/* Room for that many attempts. */
static int aiol_connector_reserve(aiol_connector *c, size_t count) {
    size_t i;
    c->attempts = (aiol_attempt *)aiol_alloc_zero(&c->resource.loop->allocator, count * sizeof(c->attempts[0]));
    if (c->attempts == NULL)
        return aiol_fail(c->resource.loop, AIOLOOP_ENOMEM, NULL);
    c->count = count;
    for (i = 0; i < count; i++) {
        aiol_attempt *a = &c->attempts[i];
        a->connector = c;
        a->op.kind = AIOL_OP_CONNECT;
        a->op.fd = AIOL_NO_SOCKET;
        a->op.done = aiol_attempt_done;
    }
    return 0;
}

/* The next address, from *at on, that is (or is not) of the family; count: there is none. */
static size_t aiol_host_next(const aiol_host *l, size_t at, int family, bool same) {
    while (at < l->count && (aiol_host_at(l, at)->family == family) != same)
        at++;
    return at;
}

/* Makes the attempts in their order: that of the resolver, or first_count addresses of the first family, and then the
 * families in turn. */
static void aiol_connector_order(aiol_connector *c) {
    const aiol_host *l = &c->remote;
    int family = aiol_host_at(l, 0)->family;
    int first = c->first_count;
    size_t same = 0;
    size_t other = aiol_host_next(l, 0, family, false);
    size_t i;
    for (i = 0; i < c->count; i++) {
        bool take_same = same < l->count && (first > 0 || other == l->count);
        size_t at = c->first_count == 0 ? i : take_same ? same : other;
        c->attempts[i].address = *aiol_host_at(l, at);
        if (take_same) {
            same = aiol_host_next(l, same + 1, family, true);
            first--;
        } else {
            if (other < l->count)
                other = aiol_host_next(l, other + 1, family, false);
            first = 1;
        }
    }
}

/* All is known that was looked up: begins. */
static void aiol_connector_begin(aiol_connector *c) {
    if (aiol_connector_reserve(c, c->remote.count) < 0) {
        aiol_connector_fail(c, AIOLOOP_ENOMEM);
        return;
    }
    aiol_connector_order(c);
    aiol_connector_advance(c);
}

static void aiol_connector_looked_up(aiol_host *l, int err) {
    aiol_connector *c = (aiol_connector *)l->owner;
    c->lookups--;
    if (c->over)
        aiol_connector_free_if_over(c);
    else if (err < 0)
        aiol_connector_fail(c, err);
    else if (c->lookups == 0)
        aiol_connector_begin(c);
}

/* ---- with the loop ---- */

static void aiol_connector_loop_closed(aiol_resource *resource) {
    aiol_connector *c = AIOL_CONTAINER(resource, aiol_connector, resource);
    aiol_engine *e = resource->loop->engine;
    bool ours = resource->loop->process == aiol_process_id();
    size_t i;
    c->over = true;
    c->queued = false;
    for (i = 0; i < c->next; i++) {
        aiol_attempt *a = &c->attempts[i];
        if (ours)
            aiol_op_cancel(e, &a->op);
        else
            a->attached = false; /* what is shared with the parent is left alone */
        aiol_attempt_close(a);
        a->op.state = AIOL_OP_IDLE;
    }
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

/* For one that has not begun: it goes, with its future. */
static aioloop_future *aiol_connector_discard(aiol_connector *c) {
    aioloop_future *f = c->future;
    aiol_connector_settle(c);
    f->end.cancel = NULL;
    aioloop_future_unref(f);
    return aiol_future_failed(AIOLOOP_ENOMEM);
}

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
    c->delay = -1;
    c->timeout = timeout;
    c->resource.context = aiol_map_ref(aiol_thread.map);
    c->node.run = aiol_connector_run;
    c->remote.done = aiol_connector_looked_up;
    c->remote.owner = c;
    c->local.done = aiol_connector_looked_up;
    c->local.owner = c;
    c->resource.site = c->future->site;
    aiol_resource_add(loop, &c->resource, &aiol_connector_resource);
    if (timeout > 0) {
        c->timer = (aioloop_call_later)(loop, timeout, aiol_connector_timed_out, c);
        if (aioloop_handle_is_null(&c->timer.handle)) {
            (void)aiol_connector_discard(c);
            return NULL;
        }
    }
    return c;
}

/* The same with one attempt, to be filled in. */
static aiol_connector *aiol_connector_new_single(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_time timeout) {
    aiol_connector *c = aiol_connector_new(loop, protocol, arg, timeout);
    if (c == NULL || aiol_connector_reserve(c, 1) == 0)
        return c;
    (void)aiol_connector_discard(c);
    return NULL;
}

/* ---- the calls ---- */

/* Makes a connection of a socket that is connected already. */
static aioloop_future *aiol_connect_given(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket s,
                                          aioloop_time timeout, bool unix_only, aiol_ssl_plan *ssl) {
    aiol_connector *c;
    int err = aiol_given_socket(loop, s, AIOLOOP_SOCK_STREAM, unix_only);
    if (err < 0) {
        aiol_ssl_plan_end(loop, ssl);
        return aiol_future_failed_now(loop, err);
    }
    c = aiol_connector_new_single(loop, protocol, arg, timeout);
    if (c == NULL) {
        aiol_ssl_plan_end(loop, ssl);
        aiol_given_socket_close(loop, s); /* it was taken over */
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    c->ssl = *ssl;
    c->next = 1;
    c->winner = &c->attempts[0];
    c->winner->op.fd = s;
    c->winner->attached = true;
    c->queued = true;
    aiol_queue_push(&loop->ready, &c->node);
    return c->future;
}

static int aiol_connection_check(aioloop *loop, const char *host, int port, const aioloop_connection_options *o) {
    if (o->ssl != NULL && o->sock != NULL && o->server_hostname == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "ssl with a socket needs a server_hostname, which may be empty");
    if (o->timeout < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (o->happy_eyeballs_delay == AIOLOOP_NOT_A_TIME || o->interleave < -1)
        return aiol_fail(loop, AIOLOOP_EINVAL, "not a delay, or not a number to interleave by");
    if (o->sock == NULL && host == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "host and port, or a socket, are needed");
    if (o->service != NULL && port != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a service excludes a port");
    if (o->sock == NULL)
        return 0;
    if (host != NULL || port != 0 || o->service != NULL || o->local_host != NULL || o->local_port != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "host, port and local address exclude a socket");
    if (o->family != AIOLOOP_UNSPEC || o->protocol != 0 || o->flags != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "family, protocol and flags exclude a socket");
    if (o->happy_eyeballs_delay != 0 || o->interleave != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "happy_eyeballs_delay and interleave exclude a socket");
    return 0;
}

/* Looks up what has to be, and begins if nothing is pending. */
static void aiol_connector_look_up(aiol_connector *c, const char *host, int port, const aioloop_connection_options *o) {
    aioloop *loop = c->resource.loop;
    aioloop_getaddrinfo_options hints;
    int err;
    memset(&hints, 0, sizeof(hints));
    hints.family = o->family;
    hints.type = AIOLOOP_SOCK_STREAM;
    hints.protocol = o->protocol;
    hints.flags = o->flags;
    err = aiol_host_look_up(loop, &c->remote, host, o->service, port, &hints, false);
    c->lookups = err == AIOL_PENDING;
    if (err >= 0 || err == AIOL_PENDING) {
        /* A local port alone: of every address, in the family that is needed. */
        if (o->local_host != NULL || o->local_port != 0) {
            err = aiol_host_look_up(loop, &c->local, o->local_host, NULL, o->local_port, &hints, o->local_host == NULL);
            c->lookups += err == AIOL_PENDING;
        }
    }
    if (err < 0 && err != AIOL_PENDING)
        aiol_connector_fail(c, err);
    else if (c->lookups == 0)
        aiol_connector_begin(c);
}

AIOLOOP_API aioloop_future *(aioloop_create_connection)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                        const char *host, int port,
                                                        const aioloop_connection_options *options) {
    static const aioloop_connection_options defaults = AIOLOOP_ZERO;
    const aioloop_connection_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aiol_ssl_plan ssl = aiol_ssl_plan_of(false, o->ssl, o->ssl_handshake_timeout, o->ssl_shutdown_timeout,
                                         o->ssl_handshake_in_executor);
    aioloop_future *f;
    aiol_connector *c;
    int err;
    if (refused != NULL)
        return refused;
    ssl.hostname = o->server_hostname;
    ssl.session = o->ssl_session;
    err = aiol_ssl_plan_check(loop, &ssl);
    if (err == 0)
        err = aiol_connection_check(loop, host, port, o);
    if (ssl.hostname == NULL)
        ssl.hostname = host;
    if (err == 0)
        err = aiol_ssl_plan_keep(loop, &ssl);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    if (o->sock != NULL)
        return aiol_connect_given(loop, protocol, arg, *o->sock, o->timeout, false, &ssl);
    c = aiol_connector_new(loop, protocol, arg, o->timeout);
    if (c == NULL) {
        aiol_ssl_plan_end(loop, &ssl);
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    c->ssl = ssl;
    c->all_errors = o->all_errors;
    c->delay = o->happy_eyeballs_delay == 0 ? -1 : o->happy_eyeballs_delay < 0 ? 0 : o->happy_eyeballs_delay;
    c->first_count = o->interleave != 0 ? o->interleave : c->delay >= 0;
    if (c->first_count < 0)
        c->first_count = 0;
    f = c->future; /* the connector may be gone after this */
    aiol_connector_look_up(c, host, port, o);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_create_unix_connection)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                             const char *path,
                                                             const aioloop_unix_connection_options *options) {
    static const aioloop_unix_connection_options defaults = AIOLOOP_ZERO;
    const aioloop_unix_connection_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aiol_ssl_plan ssl = aiol_ssl_plan_of(false, o->ssl, o->ssl_handshake_timeout, o->ssl_shutdown_timeout,
                                         o->ssl_handshake_in_executor);
    aioloop_address address;
    aioloop_future *f;
    aiol_connector *c;
    int err;
    if (refused != NULL)
        return refused;
    memset(&address, 0, sizeof(address));
    ssl.hostname = o->server_hostname;
    ssl.session = o->ssl_session;
    err = aiol_ssl_plan_check(loop, &ssl);
    if (err == 0 && o->timeout < 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (err == 0 && o->sock != NULL && (path != NULL || o->path_size != 0))
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path excludes a socket");
    if (err == 0 && o->sock == NULL && path == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path or a socket is needed");
    if (err == 0 && o->ssl != NULL && o->server_hostname == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "ssl needs a server_hostname, which may be empty");
    if (err == 0 && o->sock == NULL && (err = aioloop_address_unix(&address, path, o->path_size)) < 0)
        aiol_fail(loop, err, "not a path of a Unix socket");
    if (err == 0)
        err = aiol_ssl_plan_keep(loop, &ssl);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    if (o->sock != NULL)
        return aiol_connect_given(loop, protocol, arg, *o->sock, o->timeout, true, &ssl);
    c = aiol_connector_new_single(loop, protocol, arg, o->timeout);
    if (c == NULL) {
        aiol_ssl_plan_end(loop, &ssl);
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    c->ssl = ssl;
    memcpy(c->path, address.u.path, address.path_size);
    address.u.path = c->path;
    c->attempts[0].address = address;
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
    aiol_ssl_plan ssl = aiol_ssl_plan_of(true, o->ssl, o->ssl_handshake_timeout, o->ssl_shutdown_timeout,
                                         o->ssl_handshake_in_executor);
    int err;
    if (refused != NULL)
        return refused;
    err = aiol_ssl_plan_check(loop, &ssl);
    if (err == 0 && o->timeout < 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (err == 0)
        err = aiol_ssl_plan_keep(loop, &ssl);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    return aiol_connect_given(loop, protocol, arg, sock, o->timeout, false, &ssl);
}

#endif
