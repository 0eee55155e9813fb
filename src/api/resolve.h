/*
 * resolve.h - names to addresses, and back.               (asyncio: base_events.getaddrinfo, getnameinfo; socket)
 *
 * A look-up blocks, so it runs in threads of the loop's own that do nothing else, 16 at a time: slow ones hold up neither
 * the executors nor, up to that number, each other. One that is cancelled is given up at once, whatever the system
 * is waiting for; what it answers later is dropped, and neither aioloop_close nor the end of the program waits for it.
 *
 * Built with AIOLOOP_USE_THREADS 0, or without an operating system, the futures say AIOLOOP_ENOTAVAILABLE, unless
 * aioloop_set_resolver brings a resolver.
 */
#ifndef AIOLOOP_API_RESOLVE_H
#define AIOLOOP_API_RESOLVE_H

#include "api/future.h"
#include "api/net.h"

/* socket.SOCK_...: the same numbers on every system. */
typedef enum aioloop_socket_type {
    AIOLOOP_SOCK_ANY = 0,
    AIOLOOP_SOCK_STREAM = 1,
    AIOLOOP_SOCK_DGRAM = 2,
    AIOLOOP_SOCK_RAW = 3,
    AIOLOOP_SOCK_SEQPACKET = 5
} aioloop_socket_type;

/* socket.AI_..., for aioloop_getaddrinfo. */
enum {
    AIOLOOP_AI_PASSIVE = 1,     /* without a host: every interface, for a server; else the loopback */
    AIOLOOP_AI_CANONNAME = 2,
    AIOLOOP_AI_NUMERICHOST = 4, /* look nothing up: AIOLOOP_EAI_NONAME for a name */
    AIOLOOP_AI_NUMERICSERV = 8,
    AIOLOOP_AI_V4MAPPED = 16,
    AIOLOOP_AI_ALL = 32,
    AIOLOOP_AI_ADDRCONFIG = 64  /* only families that an interface has */
};

/* socket.NI_..., for aioloop_getnameinfo. */
enum {
    AIOLOOP_NI_NUMERICHOST = 1,
    AIOLOOP_NI_NUMERICSERV = 2,
    AIOLOOP_NI_NOFQDN = 4,   /* a local host's name without the domain */
    AIOLOOP_NI_NAMEREQD = 8, /* AIOLOOP_EAI_NONAME instead of a number */
    AIOLOOP_NI_DGRAM = 16    /* the service of UDP, where it differs */
};

/* One way to reach a host. */
typedef struct aioloop_addrinfo {
    aioloop_address address;
    int type;              /* aioloop_socket_type */
    int protocol;          /* 6: TCP, 17: UDP; 0: the usual one */
    const char *canonname; /* with AIOLOOP_AI_CANONNAME in the first; else NULL */
} aioloop_addrinfo;

/* What is looked for; all zero: everything. */
typedef struct aioloop_getaddrinfo_options {
    int family;     /* aioloop_family: AIOLOOP_UNSPEC, AIOLOOP_INET or AIOLOOP_INET6 */
    int type;       /* aioloop_socket_type; AIOLOOP_SOCK_ANY: an entry for each */
    int protocol;   /* 0: any */
    unsigned flags; /* a sum of AIOLOOP_AI_... */
} aioloop_getaddrinfo_options;

/* loop.getaddrinfo(): the addresses of a host and a service ("http", "80"), either of which may be NULL, as the
 * system's getaddrinfo finds and orders them. Both are copied, options may be NULL. The future's number is how many
 * there are, its pointer the array, an aioloop_addrinfo *; who takes it frees it with aioloop_freeaddrinfo. In the
 * loop's thread. Cancelling gives the look-up up at once.
 *
 * It fails with AIOLOOP_EAI_... and the resolver's text, or the system's error; AIOLOOP_EINVAL for a host or service of
 * more than 255 bytes and unknown families, types or flags; AIOLOOP_EAI_NONAME when both are NULL; the error of
 * starting a thread. Static failed futures: AIOLOOP_ECLOSED, AIOLOOP_ENOMEM, AIOLOOP_EINVAL (no loop),
 * AIOLOOP_ENOTAVAILABLE. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_getaddrinfo(aioloop *loop, const char *host, const char *service,
                                                                 const aioloop_getaddrinfo_options *options);

/* On the simulated back end the clock does not wait for threads: a look-up's time-out comes first. Use a resolver of your
 * own there. */

/* Frees what aioloop_getaddrinfo or aioloop_addrinfo_copy gave. NULL is ignored. Any thread. */
AIOLOOP_API void aioloop_freeaddrinfo(void *list);

/* An array such as aioloop_getaddrinfo gives, for resolvers of your own: items and their names are copied, into memory
 * that aioloop_freeaddrinfo frees. NULL when there is none. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_addrinfo *aioloop_addrinfo_copy(const aioloop_addrinfo *items, size_t count);

/* Host and service of an address, in one block. */
typedef struct aioloop_nameinfo {
    const char *host;
    const char *service;
} aioloop_nameinfo;

/* loop.getnameinfo(): the names of an address of the internet, flags a sum of AIOLOOP_NI_.... The future's pointer is an
 * aioloop_nameinfo *, its number 0; who takes it frees it with aioloop_freenameinfo. As aioloop_getaddrinfo;
 * AIOLOOP_EAI_FAMILY for other addresses. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_getnameinfo(aioloop *loop, const aioloop_address *address, unsigned flags);

/* Frees what aioloop_getnameinfo gave. NULL is ignored. Any thread. */
AIOLOOP_API void aioloop_freenameinfo(void *names);

/* A resolver of your own: called in the loop's thread for each look-up of addresses. Host or service may be NULL, not
 * both; a port is a service in decimals; options is not NULL; what it needs later it must copy. Returns a future as
 * aioloop_getaddrinfo does (aioloop_create_operation makes one), which it completes with aioloop_future_set_result(future,
 * count, list, aioloop_freeaddrinfo), list being made by aioloop_addrinfo_copy; never NULL. Each call needs a future and a
 * list of its own. It cannot await, nor run or close the loop. Of each item the family
 * (AIOLOOP_INET or AIOLOOP_INET6), the numeric address, port and scope count, and for datagrams the protocol (0: the usual
 * one); where it is for connecting or listening, port 0 becomes the one asked for. From within it
 * aioloop_getaddrinfo asks the system: so it may answer for some names
 * alone, and return that future for all others. */
typedef aioloop_future *(*aioloop_resolver)(aioloop *loop, void *arg, const char *host, const char *service,
                                            const aioloop_getaddrinfo_options *options);

/* What this loop's aioloop_getaddrinfo, and all that connects or listens by name, asks from now on instead of the
 * system; NULL: the system again. (asyncio: a loop of one's own with another getaddrinfo.) 0, AIOLOOP_EINVAL,
 * AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_set_resolver(aioloop *loop, aioloop_resolver resolver, void *arg);

#endif
