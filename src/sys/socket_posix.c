/*
 * socket_posix.c - sockets.
 *
 *   a) Linux closes the descriptor even when close() answers EINTR; closing it again would hit another thread's new
 *      one.
 *   b) connect() that was interrupted goes on by itself; asking again gives EALREADY.
 *   c) A connected Unix socket without a name has an address of two bytes, or of zero bytes on other systems.
 *   d) macOS has no MSG_NOSIGNAL; there the socket gets SO_NOSIGPIPE.
 *   e) accept() on Linux passes on errors of the new connection (ENETDOWN, EPROTO, ...), which are to be treated as if
 *      nobody had come.
 */
#ifndef AIOL_SYS_SOCKET_POSIX_C
#define AIOL_SYS_SOCKET_POSIX_C

#include "sys/sys.h"

#ifndef MSG_NOSIGNAL
#define AIOL_MSG_NOSIGNAL 0 /* d) */
#else
#define AIOL_MSG_NOSIGNAL MSG_NOSIGNAL
#endif

#ifndef MSG_DONTWAIT
#define AIOL_MSG_DONTWAIT 0
#else
#define AIOL_MSG_DONTWAIT MSG_DONTWAIT
#endif

typedef union aiol_sockaddr {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
    struct sockaddr_storage room;
} aiol_sockaddr;

static int aiol_sockaddr_family(int family) {
    return family == AIOLOOP_INET ? AF_INET : family == AIOLOOP_INET6 ? AF_INET6 : AF_UNIX;
}

static socklen_t aiol_sockaddr_make(aiol_sockaddr *to, const aioloop_address *from) {
    switch (from->family) {
    case AIOLOOP_INET:
        memset(&to->v4, 0, sizeof(to->v4));
        to->v4.sin_family = AF_INET;
        to->v4.sin_port = htons(from->port);
        memcpy(&to->v4.sin_addr, from->u.ip, 4);
        return (socklen_t)sizeof(to->v4);
    case AIOLOOP_INET6:
        memset(&to->v6, 0, sizeof(to->v6));
        to->v6.sin6_family = AF_INET6;
        to->v6.sin6_port = htons(from->port);
        to->v6.sin6_scope_id = from->scope_id;
        memcpy(&to->v6.sin6_addr, from->u.ip, 16);
        return (socklen_t)sizeof(to->v6);
    default:
        memset(&to->room, 0, sizeof(to->room)); /* there may be a zero behind sun_path */
        to->local.sun_family = AF_UNIX;
        memcpy(to->local.sun_path, from->u.path, aiol_min_size(from->path_size, sizeof(to->local.sun_path)));
        /* An abstract name has no zero at its end, a path has one. */
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + from->path_size +
                           (from->u.path[0] == '\0' ? 0 : 1));
    }
}

static void aiol_sockaddr_read(const aiol_sockaddr *from, socklen_t size, aioloop_address *to, aiol_path_room *room) {
    memset(to, 0, sizeof(*to));
    if (size < (socklen_t)sizeof(from->any.sa_family) || from->any.sa_family == AF_UNIX) { /* c) */
        size_t start = offsetof(struct sockaddr_un, sun_path);
        size_t length = (size_t)size > start ? aiol_min_size((size_t)size - start, sizeof(room->bytes)) : 0;
        to->family = AIOLOOP_UNIX;
        to->u.path = room->bytes;
        memcpy(room->bytes, from->local.sun_path, length);
        if (length != 0 && room->bytes[0] != '\0') { /* a path: up to its zero */
            const void *zero = memchr(room->bytes, '\0', length);
            if (zero != NULL)
                length = (size_t)((const char *)zero - room->bytes);
        }
        to->path_size = (uint32_t)length;
    } else if (from->any.sa_family == AF_INET) {
        to->family = AIOLOOP_INET;
        to->port = ntohs(from->v4.sin_port);
        memcpy(to->u.ip, &from->v4.sin_addr, 4);
    } else if (from->any.sa_family == AF_INET6) {
        to->family = AIOLOOP_INET6;
        to->port = ntohs(from->v6.sin6_port);
        to->scope_id = from->v6.sin6_scope_id;
        memcpy(to->u.ip, &from->v6.sin6_addr, 16);
    }
}

/* d) */
AIOL_INLINE void aiol_socket_no_signal(aioloop_socket s) {
#ifdef SO_NOSIGPIPE
    int on = 1;
    setsockopt(s, SOL_SOCKET, SO_NOSIGPIPE, &on, (socklen_t)sizeof(on));
#else
    (void)s;
#endif
}

static int aiol_socket_flags(aioloop_socket s) {
    int flags = AIOL_SYS(fcntl, fcntl(s, F_GETFL, 0));
    if (flags == -1)
        return aiol_error_from_errno(errno);
    if ((flags & O_NONBLOCK) == 0 && AIOL_SYS(fcntl, fcntl(s, F_SETFL, flags | O_NONBLOCK)) == -1)
        return aiol_error_from_errno(errno);
    flags = AIOL_SYS(fcntl, fcntl(s, F_GETFD, 0));
    if (flags == -1)
        return aiol_error_from_errno(errno);
    if ((flags & FD_CLOEXEC) == 0 && AIOL_SYS(fcntl, fcntl(s, F_SETFD, flags | FD_CLOEXEC)) == -1)
        return aiol_error_from_errno(errno);
    aiol_socket_no_signal(s);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_open(int family, int type, int protocol, aioloop_socket *out) {
    int kind = type == AIOLOOP_SOCK_STREAM ? SOCK_STREAM : SOCK_DGRAM;
    int s;
#ifdef SOCK_CLOEXEC
    s = AIOL_SYS(socket, socket(aiol_sockaddr_family(family), kind | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
    if (s == -1)
        return aiol_error_from_errno(errno);
#else
    s = AIOL_SYS(socket, socket(aiol_sockaddr_family(family), kind, protocol));
    if (s == -1)
        return aiol_error_from_errno(errno);
    {
        int err = aiol_socket_flags(s);
        if (err < 0) {
            close(s);
            return err;
        }
    }
#endif
    *out = s;
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_adopt(aioloop_socket s) {
    return aiol_socket_flags(s);
}

AIOLOOP_INTERNAL int aiol_socket_close(aioloop_socket s) {
    if (close(s) == -1 && errno != EINTR) /* a) */
        return aiol_error_from_errno(errno);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_bind(aioloop_socket s, const aioloop_address *address) {
    aiol_sockaddr name;
    socklen_t size = aiol_sockaddr_make(&name, address);
    if (AIOL_SYS(bind, bind(s, &name.any, size)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_listen(aioloop_socket s, int backlog) {
    if (AIOL_SYS(listen, listen(s, backlog)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

/* True for errors of the connection that was to be accepted, not of accepting. */
static bool aiol_accept_try_again(int number) {
    switch (number) {
    case EINTR:
    case ECONNABORTED:
#ifdef EPROTO
    case EPROTO:
#endif
    case ENOPROTOOPT: /* e) from here on */
    case ENETDOWN:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return true;
    default:
        return false;
    }
}

AIOLOOP_INTERNAL int aiol_socket_accept(aioloop_socket s, unsigned without, aioloop_socket *out,
                                        aioloop_address *peer, aiol_path_room *room) {
    aiol_sockaddr name;
    socklen_t size;
    int tries = 0;
    int n = -1;
    do {
        size = (socklen_t)sizeof(name);
#if AIOL_HAVE_ACCEPT4
        if ((without & AIOL_WITHOUT_ACCEPT4) == 0)
            n = AIOL_SYS(accept4, accept4(s, &name.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
        else
#endif
            n = AIOL_SYS(accept, accept(s, &name.any, &size));
    } while (n == -1 && aiol_accept_try_again(errno) && ++tries < 16);
    if (n == -1)
        return aiol_accept_try_again(errno) ? AIOLOOP_EAGAIN : aiol_error_from_errno(errno);
    if (!AIOL_HAVE_ACCEPT4 || (without & AIOL_WITHOUT_ACCEPT4) != 0) {
        int err = aiol_socket_flags(n);
        if (err < 0) {
            close(n);
            return err;
        }
    }
    aiol_sockaddr_read(&name, size, peer, room);
    *out = n;
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_connect(aioloop_socket s, const aioloop_address *address) {
    aiol_sockaddr name;
    socklen_t size = aiol_sockaddr_make(&name, address);
    if (AIOL_SYS(connect, connect(s, &name.any, size)) == 0)
        return 0;
    if (errno == EINTR) /* b) */
        return AIOLOOP_EINPROGRESS;
    return aiol_error_from_errno(errno);
}

AIOLOOP_INTERNAL int aiol_socket_connected(aioloop_socket s) {
    int error = 0;
    socklen_t size = (socklen_t)sizeof(error);
    if (AIOL_SYS(getsockopt, getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size)) == -1)
        return aiol_error_from_errno(errno);
    return error == 0 ? 0 : aiol_error_from_errno(error);
}

AIOL_INLINE int64_t aiol_socket_recv(aioloop_socket s, void *buffer, size_t size) {
    ssize_t n;
    do {
        n = AIOL_SYS(recv, recv(s, buffer, size, 0));
    } while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : (int64_t)n;
}

/* Fills a message of count pieces, for which there is room at iov. */
AIOLOOP_INTERNAL void aiol_socket_message(struct msghdr *message, struct iovec *iov, const aioloop_buf *pieces, int count) {
    int i;
    for (i = 0; i < count && i < AIOL_IOV_MAX; i++) {
        /* The system only reads from here, but its struct says void *. */
        memcpy(&iov[i].iov_base, &pieces[i].data, sizeof(void *));
        iov[i].iov_len = pieces[i].size;
    }
    memset(message, 0, sizeof(*message));
    message->msg_iov = iov;
#if defined(__GLIBC__) /* size_t here, int elsewhere */
    message->msg_iovlen = (size_t)i;
#else
    message->msg_iovlen = i;
#endif
}

static AIOL_NOINLINE int64_t aiol_socket_send_pieces(aioloop_socket s, const aioloop_buf *pieces, int count) {
    struct iovec iov[AIOL_IOV_MAX];
    struct msghdr message;
    ssize_t n;
    aiol_socket_message(&message, iov, pieces, count);
    do {
        n = AIOL_SYS(sendmsg, sendmsg(s, &message, AIOL_MSG_NOSIGNAL));
    } while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : (int64_t)n;
}

AIOL_INLINE int64_t aiol_socket_send(aioloop_socket s, const aioloop_buf *pieces, int count) {
    ssize_t n;
    if (AIOL_UNLIKELY(count != 1))
        return aiol_socket_send_pieces(s, pieces, count);
    do {
        n = AIOL_SYS(send, send(s, pieces->data, pieces->size, AIOL_MSG_NOSIGNAL));
    } while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : (int64_t)n;
}

AIOLOOP_INTERNAL int64_t aiol_socket_recvfrom(aioloop_socket s, void *buffer, size_t size, aioloop_address *from,
                                              aiol_path_room *room) {
    aiol_sockaddr name;
    socklen_t name_size;
    ssize_t n;
    do {
        name_size = (socklen_t)sizeof(name);
        n = AIOL_SYS(recvfrom, recvfrom(s, buffer, size, AIOL_MSG_DONTWAIT, from == NULL ? NULL : &name.any,
                                        from == NULL ? NULL : &name_size));
    } while (n == -1 && errno == EINTR);
    if (n == -1)
        return aiol_error_from_errno(errno);
    if (from != NULL && name_size == 0)
        memset(from, 0, sizeof(*from));
    else if (from != NULL)
        aiol_sockaddr_read(&name, name_size, from, room);
    return (int64_t)n;
}

AIOLOOP_INTERNAL int64_t aiol_socket_sendto(aioloop_socket s, const void *data, size_t size,
                                            const aioloop_address *to) {
    aiol_sockaddr name;
    socklen_t name_size = to == NULL ? 0 : aiol_sockaddr_make(&name, to);
    ssize_t n;
    aiol_socket_no_signal(s);
    do {
        n = AIOL_SYS(sendto, sendto(s, data, size, AIOL_MSG_NOSIGNAL | AIOL_MSG_DONTWAIT, to == NULL ? NULL : &name.any,
                                    name_size));
    } while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : (int64_t)n;
}

AIOLOOP_INTERNAL int aiol_socket_blocks(aioloop_socket s) {
    int flags = AIOL_SYS(fcntl, fcntl(s, F_GETFL, 0));
    if (flags == -1)
        return aiol_error_from_errno(errno);
    return (flags & O_NONBLOCK) == 0;
}

AIOLOOP_INTERNAL int aiol_socket_shutdown(aioloop_socket s) {
    if (AIOL_SYS(shutdown, shutdown(s, SHUT_WR)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_set(aioloop_socket s, aiol_socket_option option, int value) {
    int level = SOL_SOCKET;
    int name = 0;
    switch (option) {
    case AIOL_OPTION_REUSE_ADDRESS:
        name = SO_REUSEADDR;
        break;
    case AIOL_OPTION_REUSE_PORT:
#ifdef SO_REUSEPORT
        name = SO_REUSEPORT;
        break;
#else
        return AIOLOOP_ENOTAVAILABLE;
#endif
    case AIOL_OPTION_KEEP_ALIVE:
        name = SO_KEEPALIVE;
        break;
    case AIOL_OPTION_NO_DELAY:
        level = IPPROTO_TCP;
        name = TCP_NODELAY;
        break;
    case AIOL_OPTION_V6_ONLY:
        level = IPPROTO_IPV6;
        name = IPV6_V6ONLY;
        break;
    case AIOL_OPTION_BROADCAST:
        name = SO_BROADCAST;
        break;
    }
    if (AIOL_SYS(setsockopt, setsockopt(s, level, name, &value, (socklen_t)sizeof(value))) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_name(aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    aiol_sockaddr name;
    socklen_t size = (socklen_t)sizeof(name);
    if (AIOL_SYS(getsockname, getsockname(s, &name.any, &size)) == -1)
        return aiol_error_from_errno(errno);
    aiol_sockaddr_read(&name, size, address, room);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_peer(aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    aiol_sockaddr name;
    socklen_t size = (socklen_t)sizeof(name);
    if (AIOL_SYS(getpeername, getpeername(s, &name.any, &size)) == -1)
        return aiol_error_from_errno(errno);
    aiol_sockaddr_read(&name, size, address, room);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_inspect(aioloop_socket s, int wanted, int *family) {
    aiol_sockaddr name;
    socklen_t size = (socklen_t)sizeof(name);
    int type = 0;
    socklen_t type_size = (socklen_t)sizeof(type);
    if (s < 0)
        return AIOLOOP_EBADF;
    if (AIOL_SYS(getsockopt, getsockopt(s, SOL_SOCKET, SO_TYPE, &type, &type_size)) == -1)
        return aiol_error_from_errno(errno);
    if (wanted == AIOLOOP_SOCK_STREAM ? type != SOCK_STREAM : type != SOCK_DGRAM && type != SOCK_RAW)
        return AIOLOOP_EINVAL;
    if (AIOL_SYS(getsockname, getsockname(s, &name.any, &size)) == -1)
        return aiol_error_from_errno(errno);
    switch (name.any.sa_family) {
    case AF_INET:
        *family = AIOLOOP_INET;
        return 0;
    case AF_INET6:
        *family = AIOLOOP_INET6;
        return 0;
    case AF_UNIX:
        *family = AIOLOOP_UNIX;
        return 0;
    default:
        return AIOLOOP_EINVAL;
    }
}

#if AIOL_HAVE_URING
AIOLOOP_INTERNAL bool aiol_descriptor_is_ready(aioloop_socket s, unsigned events) {
    struct pollfd one;
    one.fd = s;
    one.events = (short)(((events & 1) != 0 ? POLLIN : 0) | ((events & 2) != 0 ? POLLOUT : 0));
    one.revents = 0;
    return AIOL_SYS(poll, poll(&one, 1, 0)) > 0;
}
#endif

AIOLOOP_INTERNAL int aiol_descriptor_check(aioloop_socket s) {
    if (s < 0)
        return AIOLOOP_EINVAL;
    if (AIOL_SYS(fcntl, fcntl(s, F_GETFD, 0)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

#endif
