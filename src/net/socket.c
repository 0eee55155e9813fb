/*
 * socket.c - what connecting and listening share: addresses of a host, given sockets, options that exclude each other.
 */
#ifndef AIOL_NET_SOCKET_C
#define AIOL_NET_SOCKET_C

#include "api/resolve.h"
#include "api/ssl.h"
#include "net/stream.c"

#define AIOL_ADDRESS_TEXT 160

/* ---- the addresses of a host ---- */

/* A look-up inside of what connects or listens, which lives until `future` is NULL again. */
typedef struct aiol_host {
    aioloop_future *future; /* the resolver's, while it is pending or its callback queued; in use */
    void (*done)(struct aiol_host *host, int err); /* 0, or a code with its message stored; may free it */
    void *owner;
    aioloop_addrinfo *list; /* the resolver's; owned */
    size_t count;           /* of addresses */
    uint16_t port;          /* that was asked for; 0: none, or by name */
    aioloop_addrinfo found[2]; /* those that needed no look-up */
} aiol_host;

AIOL_INLINE const aioloop_address *aiol_host_at(const aiol_host *l, size_t i) {
    return l->list != NULL ? &l->list[i].address : &l->found[i].address;
}

/* The port that a service is, if it is a number; -1: a name. */
static int aiol_service_port(const char *service) {
    int port = 0;
    size_t i;
    for (i = 0; service[i] >= '0' && service[i] <= '9' && port <= 65535; i++)
        port = port * 10 + (service[i] - '0');
    return i == 0 || (service[i] != '\0' && port <= 65535) ? -1 : port;
}

/* The addresses that need no look-up: a numeric host has itself, "localhost" both loopbacks (RFC 6761), and, with
 * wildcard, NULL and "" every interface of both families. False: ask the resolver. */
static bool aiol_host_at_once(aiol_host *l, const char *host, int port, int family, bool wildcard, bool plain) {
    static const char *const local[] = {"::1", "127.0.0.1"};
    static const char *const any[] = {"0.0.0.0", "::"};
    const char *const *hosts = &host;
    size_t count = 1;
    size_t i;
    if (wildcard && (host == NULL || host[0] == '\0')) {
        hosts = any;
        count = 2;
    } else if (plain && strcmp(host, "localhost") == 0) {
        hosts = local;
        count = 2;
    }
    for (i = 0; i < count; i++) {
        aioloop_address *address = &l->found[l->count].address;
        if (aioloop_address_parse(address, hosts[i], port) < 0)
            return false;
        if (family == AIOLOOP_UNSPEC || family == address->family)
            l->count++;
    }
    return true;
}

/* The resolver has answered. 0, or the code, with its message stored. */
static int aiol_host_take(aioloop *loop, aiol_host *l, aioloop_future *answer) {
    bool taken = (aiol_future_source(answer)->flags & AIOL_FUTURE_TAKEN) != 0;
    int64_t n = aioloop_future_result(answer, taken ? NULL : &l->list);
    size_t i;
    if (n >= 0 && taken)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the resolver gave a list that somebody else has");
    if (n < 0)
        return aiol_fail(loop, (int)n, "%s", aioloop_error_message(aioloop_future_error(answer)));
    l->count = l->list == NULL ? 0 : (size_t)n;
    for (i = 0; i < l->count; i++) {
        aioloop_address *address = &l->list[i].address;
        if (address->family != AIOLOOP_INET && address->family != AIOLOOP_INET6)
            return aiol_fail(loop, AIOLOOP_EINVAL, "the resolver gave an address of family %d", address->family);
        if (address->port == 0)
            address->port = l->port; /* one of the user's need not know it */
    }
    return l->count != 0 ? 0 : aiol_fail(loop, AIOLOOP_ELOOKUP, "the resolver has no address for the host");
}

static void aiol_host_looked_up(aioloop_future *answer, void *arg) {
    aiol_host *l = (aiol_host *)arg;
    l->future = NULL;
    l->done(l, aiol_host_take(answer->loop, l, answer));
    aiol_future_release(answer);
}

/* Looks for the addresses of a host and a port or service, of the family, protocol and flags that hints has. 0: found,
 * one at least; AIOL_PENDING: `done` will be called; or a code with its message stored. */
static int aiol_host_look_up(aioloop *loop, aiol_host *l, const char *host, const char *service, int port,
                             const aioloop_getaddrinfo_options *hints, bool wildcard) {
    /* Who wants something special of the resolver is to have it for "localhost" too. */
    bool plain = loop->resolver == NULL && (hints->flags & ~(unsigned)AIOLOOP_AI_PASSIVE) == 0;
    aioloop_future *answer;
    char number[12];
    int err;
    if (service == NULL && port < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "port %d is out of range", port);
    if (service != NULL && service[0] == '\0')
        return aiol_fail(loop, AIOLOOP_EINVAL, "a service is needed, not an empty name");
    if (service != NULL)
        port = aiol_service_port(service);
    if (port > 65535)
        return aiol_fail(loop, AIOLOOP_EINVAL, "port %d is out of range", port);
    err = aiol_resolve_check(loop, host, service != NULL ? service : "0", hints);
    if (err < 0)
        return err;
    l->port = (uint16_t)(port < 0 ? 0 : port);
    if (port >= 0 && aiol_host_at_once(l, host, port, hints->family, wildcard, plain)) {
        if (l->count != 0)
            return 0;
        return aiol_fail(loop, AIOLOOP_ELOOKUP, "\"%.100s\" has no address of this family", host);
    }
    l->count = 0;
    snprintf(number, sizeof(number), "%d", port);
    if (wildcard && host != NULL && host[0] == '\0')
        host = NULL;
    answer = (aioloop_getaddrinfo)(loop, host, port < 0 ? service : number, hints);
    if (!aiol_future_is_static(answer) && answer->loop != loop)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the resolver gave a future of another loop");
    err = aiol_future_use(answer);
    if (err < 0)
        return aiol_fail(loop, err, "\"%.100s\" cannot be looked up: %s", host == NULL ? "" : host,
                         aiol_detail(loop, err) != NULL ? aiol_detail(loop, err) : aioloop_strerror(err));
    if (answer->state != AIOL_FUTURE_PENDING) {
        err = aiol_host_take(loop, l, answer);
    } else {
        err = aiol_future_callback(answer, aiol_host_looked_up, l, NULL, 0);
        if (err == 0) {
            l->future = answer;
            return AIOL_PENDING;
        }
        aioloop_future_cancel(answer, NULL);
    }
    aiol_future_release(answer);
    return err;
}

/* Gives it up: it is over now (future is NULL), unless the resolver has just answered; then done will be called. */
static void aiol_host_cancel(aiol_host *l) {
    aioloop_future *answer = l->future;
    if (answer == NULL || aioloop_future_remove_done_callback(answer, aiol_host_looked_up, l) == 0)
        return;
    l->future = NULL;
    aioloop_future_cancel(answer, NULL);
    aiol_future_release(answer);
}

/* ---- TLS ---- */

/* Of options, borrowed. A client's hostname and session are still to be set. */
static aiol_ssl_plan aiol_ssl_plan_of(bool server_side, aioloop_ssl_context *ssl, aioloop_time handshake_timeout,
                                      aioloop_time shutdown_timeout, bool in_executor) {
    aiol_ssl_plan plan;
    memset(&plan, 0, sizeof(plan));
    plan.context = ssl;
    plan.handshake_timeout = handshake_timeout;
    plan.shutdown_timeout = shutdown_timeout;
    plan.server_side = server_side;
    plan.in_executor = in_executor;
    return plan;
}

/* Options that mean nothing without a context. */
static int aiol_ssl_plan_check_none(aioloop *loop, const aiol_ssl_plan *plan) {
    const char *name = plan->in_executor              ? "ssl_handshake_in_executor"
                       : plan->hostname != NULL       ? "server_hostname"
                       : plan->handshake_timeout != 0 ? "ssl_handshake_timeout"
                       : plan->shutdown_timeout != 0  ? "ssl_shutdown_timeout"
                                                      : NULL;
    return name == NULL ? 0 : aiol_fail(loop, AIOLOOP_EINVAL, "%s is only meaningful with ssl", name);
}

/* 0, or the code with its message stored. */
static int aiol_ssl_plan_check(aioloop *loop, const aiol_ssl_plan *plan) {
    int err;
    if (plan->handshake_timeout < 0 || plan->shutdown_timeout < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (plan->context == NULL)
        return aiol_ssl_plan_check_none(loop, plan);
    err = aiol_tls_check_side(plan->context, plan->server_side);
    if (err < 0)
        return aiol_fail(loop, err, "%s", aioloop_message(NULL, err));
    if (plan->in_executor && !aiol_tls_in_threads())
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "handshakes in the executor need threads, and an mbedTLS with "
                                                      "MBEDTLS_THREADING_C");
    return 0;
}

/* Keeps what was borrowed, if there is a context. 0 or AIOLOOP_ENOMEM. */
static int aiol_ssl_plan_keep(aioloop *loop, aiol_ssl_plan *plan) {
    if (plan->context == NULL) {
        memset(plan, 0, sizeof(*plan));
        return 0;
    }
    if (plan->hostname != NULL) {
        size_t size = strlen(plan->hostname) + 1;
        char *copy = (char *)aiol_alloc(&loop->allocator, size);
        if (copy == NULL)
            return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        memcpy(copy, plan->hostname, size);
        plan->hostname = copy;
    }
    aioloop_ssl_context_ref(plan->context);
    aioloop_ssl_session_ref(plan->session);
    return 0;
}

/* Of one that was kept. */
static void aiol_ssl_plan_end(aioloop *loop, aiol_ssl_plan *plan) {
    if (plan->hostname != NULL)
        aiol_free(&loop->allocator, (char *)plan->hostname, strlen(plan->hostname) + 1);
    aioloop_ssl_session_unref(plan->session);
    aioloop_ssl_context_unref(plan->context);
    memset(plan, 0, sizeof(*plan));
}

/* ---- given sockets, and what all calls share ---- */

/* Checks a socket given by the user, attaches it and makes it ready: from now on it is nobody else's. type: STREAM or
 * DGRAM; unix_only: it must be of that family. Until this succeeds nothing is changed and the socket stays the user's. */
static int aiol_given_socket(aioloop *loop, aioloop_socket s, int type, bool unix_only) {
    aiol_engine *e = loop->engine;
    int family = AIOLOOP_UNSPEC;
    const char *kind = type == AIOLOOP_SOCK_STREAM ? "stream" : "datagram";
    int err = e->sockets->inspect(e, s, type, &family);
    if (err == AIOLOOP_EINVAL)
        return aiol_fail(loop, err, "socket %ld is not a %s socket", (long)s, kind);
    if (err < 0)
        return aiol_fail(loop, err, "socket %ld: %s", (long)s, aioloop_strerror(err));
    if (unix_only && family != AIOLOOP_UNIX)
        return aiol_fail(loop, AIOLOOP_EINVAL, "socket %ld is not a Unix stream socket", (long)s);
    if (e->calls->owned(e, s))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "socket %ld belongs to a transport", (long)s);
    err = e->calls->attach(e, s, AIOL_OWNER_TRANSPORT);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EMISUSE ? "socket %ld is watched, or an operation waits on it" : "socket %ld: %s",
                         (long)s, aioloop_strerror(err));
    err = e->sockets->adopt(e, s);
    if (err < 0) {
        e->calls->quiesce(e, s);
        return aiol_fail(loop, err, "socket %ld: %s", (long)s, aioloop_strerror(err));
    }
    if (family != AIOLOOP_UNIX && type == AIOLOOP_SOCK_STREAM)
        e->sockets->set(e, s, AIOL_OPTION_NO_DELAY, 1); /* a courtesy; a socket without it works */
    return 0;
}

/* Removes a socket file that is in the way of a bind; if that fails, so does the bind. Other addresses have none. */
static void aiol_path_clear(aiol_engine *e, const aioloop_address *address) {
    aiol_path_identity identity;
    if (address->family == AIOLOOP_UNIX && address->u.path[0] != '\0' &&
        e->sockets->path_identify(e, address->u.path, address->path_size, &identity) == 0 && identity.is_socket)
        e->sockets->path_remove(e, address->u.path, address->path_size);
}

/* Closes a given socket that was made ready in vain. */
static void aiol_given_socket_close(aioloop *loop, aioloop_socket s) {
    loop->engine->calls->quiesce(loop->engine, s);
    loop->engine->sockets->close(loop->engine, s);
}

/* A future that has failed already, with the loop's last message. */
static aioloop_future *aiol_future_failed_now(aioloop *loop, int code) {
    aioloop_future *f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    aiol_future_fail(f, code, aiol_detail(loop, code));
    aiol_future_release(f);
    return f;
}

/* The arguments every call that makes connections has. NULL, or the future that refuses them. */
static aioloop_future *aiol_refuse(aioloop *loop, const aioloop_protocol *protocol) {
    int err;
    if (loop == NULL || protocol == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    err = loop->careful ? aiol_check(loop) : 0;
    if (err < 0)
        return aiol_future_failed(err);
    aiol_error_clear(&loop->error); /* so that what is stored when the call fails is of this call */
    return NULL;
}

#endif
