/*
 * net.h - addresses.
 */
#ifndef AIOLOOP_API_NET_H
#define AIOLOOP_API_NET_H

#include "api/base.h"

typedef enum aioloop_family {
    AIOLOOP_UNSPEC = 0,
    AIOLOOP_INET = 4,
    AIOLOOP_INET6 = 6,
    AIOLOOP_UNIX = 1
} aioloop_family;

/* The address of a socket: a plain value, the same on every system. */
typedef struct aioloop_address {
    uint16_t family;      /* aioloop_family; AIOLOOP_UNSPEC: none */
    uint16_t port;        /* in the machine's byte order */
    uint32_t scope_id;    /* IPv6: the interface; else 0 */
    uint32_t path_size;   /* Unix: bytes of the path, 0 for a socket without a name */
    uint32_t reserved;
    union {
        uint8_t ip[16];   /* network byte order; IPv4 uses the first four */
        const char *path; /* Unix: not ended by a zero; starts with a zero byte in the abstract name space. Borrowed. */
    } u;
} aioloop_address;

/* Makes an address of a numeric host ("127.0.0.1", "::1"; no zone) and a port (0 to 65535). 0, or AIOLOOP_EINVAL and
 * *address as it was: not numeric, or the port out of range. Any thread. */
AIOLOOP_API int aioloop_address_parse(aioloop_address *address, const char *host, int port);

/* Makes the address of a Unix socket; size 0: path ends with a zero. Keeps the pointer. AIOLOOP_ENAMETOOLONG above 107
 * bytes, in the abstract name space above 108; AIOLOOP_EINVAL for NULL or an empty path. Any thread. */
AIOLOOP_API int aioloop_address_unix(aioloop_address *address, const char *path, size_t size);

/* Writes an address as people do ("127.0.0.1:80", "[::1]:80", "/run/x", "@abstract") to text, always ended by a zero,
 * cut if it does not fit. Returns the length it needs, without the zero. Any thread. */
AIOLOOP_API size_t aioloop_address_format(const aioloop_address *address, char *text, size_t size);

/* Writes the numeric host alone. Returns as aioloop_address_format does. Any thread. */
AIOLOOP_API size_t aioloop_address_host(const aioloop_address *address, char *text, size_t size);

/* True if both name the same address. Any thread. */
AIOLOOP_API bool aioloop_address_equal(const aioloop_address *a, const aioloop_address *b);

#endif
