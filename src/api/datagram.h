/*
 * datagram.h - datagrams: UDP, and Unix sockets of that kind.
 *                      (asyncio: base_events.create_datagram_endpoint, transports.DatagramTransport, DatagramProtocol)
 *
 * An endpoint is an aioloop_transport; its aioloop_protocol has datagram_received and error_received, which that of a
 * connection does not need, and no data_received, eof_received or get_buffer. Closing, flow control, pausing, references
 * and extra info are those of transport.h; what writes bytes there (write and its kin, sendfile, start_tls) is
 * AIOLOOP_EMISUSE here.
 */
#ifndef AIOLOOP_API_DATAGRAM_H
#define AIOLOOP_API_DATAGRAM_H

#include "api/transport.h"

/* Options of aioloop_create_datagram_endpoint. Something is needed: a local or a remote address, a family, or a
 * socket. */
typedef struct aioloop_datagram_endpoint_options {
    const char *local_host;     /* bind to an address of this host; "": every interface; NULL: no, or, with local_port,
                                 * every interface */
    int local_port;             /* 0: any */
    const char *remote_host;    /* connect to an address of this host: datagrams come from there and go there only */
    int remote_port;
    const char *remote_service; /* instead of remote_port: a name such as "ntp", or a number */
    const char *local_path;     /* instead of hosts: Unix sockets. A socket file that is in the way is removed; the */
    size_t local_path_size;     /*   one that is made stays. Sizes: 0: the path ends with a zero; needed for the */
    const char *remote_path;    /*   abstract name space */
    size_t remote_path_size;
    int family;                 /* aioloop_family: only addresses of this one; alone: a socket without an address */
    int protocol;               /* for looking up names, and of the socket; 0: UDP */
    unsigned flags;             /* for looking up names: a sum of AIOLOOP_AI_... */
    bool reuse_port;            /* SO_REUSEPORT; AIOLOOP_EINVAL on systems without */
    bool allow_broadcast;       /* SO_BROADCAST. With a remote address, that is the only destination, but datagrams come
                                 * from everywhere. */
    const aioloop_socket *sock; /* a datagram socket, instead of all the above; the loop's from then on, also if the call
                                 * fails after it was accepted as valid. If it is connected, its peer is the remote
                                 * address. */
    aioloop_time timeout;       /* past it the call fails with AIOLOOP_ETIMEDOUT; 0: none */
} aioloop_datagram_endpoint_options;

/* loop.create_datagram_endpoint(): the addresses of both sides are looked up and paired by family and protocol; the
 * first pair for which a socket can be made, bound and connected becomes the endpoint. The future's pointer is the
 * aioloop_transport, its number 0; connection_made has returned when it is done, and was the first call. "peername" is
 * the address it is connected to. SO_REUSEADDR is never set. Options such as multicast's are yours to set on "socket".
 *
 * Fails with AIOLOOP_EINVAL (arguments that contradict each other, no pair, a socket that is not of datagrams),
 * AIOLOOP_EMISUSE (a sock that a transport or a watcher has), what a look-up failed with, the error of the first pair,
 * the factory's, AIOLOOP_ETIMEDOUT, AIOLOOP_ENOMEM. protocol is kept, arg passed on, the rest copied. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *
aioloop_create_datagram_endpoint(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                 const aioloop_datagram_endpoint_options *options);

/* DatagramTransport.sendto(): sends a datagram of size bytes, which may be 0, to an address; to NULL: the remote one.
 * Tried at once; if the system has no room it is copied, and goes in its order. 0: it was sent, kept, or dropped because
 * the transport is closing or lost (the fifth such is logged). What the system says against it goes to error_received,
 * by the loop; that nobody is there may be told once for several. AIOLOOP_EINVAL: NULL data with a size, an address that is none, no address where there is no remote one, another one
 * where there is; AIOLOOP_EMISUSE: a transport of bytes; AIOLOOP_ENOMEM: nothing was taken. For flow control each that
 * is kept counts its size and 8 bytes. */
AIOLOOP_API int aioloop_transport_sendto(aioloop_transport *transport, const void *data, size_t size,
                                         const aioloop_address *to);

#endif
