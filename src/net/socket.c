/*
 * socket.c - what connecting and listening share: addresses of a host, given sockets, options that exclude each other.
 */
#ifndef AIOL_NET_SOCKET_C
#define AIOL_NET_SOCKET_C

#include "net/stream.c"

#define AIOL_ADDRESS_TEXT 160

/* The addresses of a host that need no look-up: a numeric one has itself, "localhost" both loopbacks, and, with
 * wildcard, NULL and "" every interface of both families. Appends at most two to found, of the family wanted
 * (AIOLOOP_UNSPEC: any). How many, or a code with its message stored. */
static int aiol_host_addresses(aioloop *loop, const char *host, int port, int family, bool wildcard, aioloop_address *found) {
    static const char *const local[] = {"::1", "127.0.0.1"};
    static const char *const any[] = {"0.0.0.0", "::"};
    const char *const *hosts = NULL;
    size_t count = 2;
    size_t i;
    int n = 0;
    if (port < 0 || port > 65535)
        return aiol_fail(loop, AIOLOOP_EINVAL, "port %d is out of range", port);
    if (family != AIOLOOP_UNSPEC && family != AIOLOOP_INET && family != AIOLOOP_INET6)
        return aiol_fail(loop, AIOLOOP_EINVAL, "family %d is not of the internet", family);
    if (wildcard && (host == NULL || host[0] == '\0')) {
        hosts = any;
    } else if (strcmp(host, "localhost") == 0) {
        hosts = local;
    } else {
        hosts = &host;
        count = 1;
    }
    for (i = 0; i < count; i++) {
        aioloop_address address;
        if (aioloop_address_parse(&address, hosts[i], port) < 0)
            return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "looking up \"%.100s\" needs the resolver, which is not in this version",
                             host);
        if (family == AIOLOOP_UNSPEC || family == address.family)
            found[n++] = address;
    }
    return n != 0 ? n : aiol_fail(loop, AIOLOOP_ELOOKUP, "\"%.100s\" has no address of this family", host);
}

/* Refuses TLS, which this build does not have, and its options without it. */
static int aiol_ssl_options_check(aioloop *loop, const aioloop_ssl_context *ssl, const char *server_hostname,
                                  aioloop_time handshake_timeout, aioloop_time shutdown_timeout) {
    if (handshake_timeout < 0 || shutdown_timeout < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (ssl != NULL)
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "TLS is not in this build");
    if (server_hostname != NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "server_hostname is only meaningful with ssl");
    if (handshake_timeout != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "ssl_handshake_timeout is only meaningful with ssl");
    if (shutdown_timeout != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "ssl_shutdown_timeout is only meaningful with ssl");
    return 0;
}

/* Checks a socket given by the user, attaches it and makes it ready: from now on it is nobody else's. unix_only: it
 * must be of that family. Until this succeeds nothing is changed and the socket stays the user's. */
static int aiol_given_socket(aioloop *loop, aioloop_socket s, bool unix_only) {
    aiol_engine *e = loop->engine;
    int family = AIOLOOP_UNSPEC;
    int err = e->sockets->inspect(e, s, &family);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EINVAL ? "a stream socket is needed: %ld" : "socket %ld", (long)s);
    if (unix_only && family != AIOLOOP_UNIX)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a Unix stream socket is needed: %ld", (long)s);
    if (e->calls->owned(e, s))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "socket %ld belongs to a transport", (long)s);
    err = e->calls->attach(e, s, AIOL_OWNER_TRANSPORT);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EMISUSE ? "socket %ld is watched" : "socket %ld", (long)s);
    err = e->sockets->adopt(e, s);
    if (err < 0) {
        e->calls->quiesce(e, s);
        return aiol_fail(loop, err, "socket %ld", (long)s);
    }
    if (family != AIOLOOP_UNIX)
        e->sockets->set(e, s, AIOL_OPTION_NO_DELAY, 1); /* a courtesy; a socket without it works */
    return 0;
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
