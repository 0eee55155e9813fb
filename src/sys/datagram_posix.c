/*
 * datagram_posix.c - datagrams, one or many in a call.
 *
 *   a) Linux tells the whole size of a datagram that was cut if recvfrom asks (MSG_TRUNC); elsewhere it is a flag that
 *      recvmsg brings.
 *   b) sendmmsg tells an error only of the first datagram; what stops it at a later one, the next call meets again. But
 *      what the socket had heard of earlier ones (nobody is there) is lost with that: several become one.
 *   c) recvmmsg looks once more for a datagram that is not there: of one alone, recvfrom is cheaper.
 */
#ifndef AIOL_SYS_DATAGRAM_POSIX_C
#define AIOL_SYS_DATAGRAM_POSIX_C

#include "sys/socket_posix.c"

AIOLOOP_INTERNAL int64_t aiol_socket_recv_datagram(aioloop_socket s, void *buffer, size_t size, aioloop_address *from,
                                                   aiol_path_room *room) {
    aiol_sockaddr name;
    ssize_t n;
#if AIOL_OS_LINUX
    socklen_t name_size;
    do {
        name_size = (socklen_t)sizeof(name);
        n = AIOL_SYS(recvfrom, recvfrom(s, buffer, size, MSG_DONTWAIT | MSG_TRUNC, &name.any, &name_size)); /* a) */
    } while (n == -1 && errno == EINTR);
    if (n == -1)
        return aiol_error_from_errno(errno);
    if ((size_t)n > size)
        return AIOLOOP_EMSGSIZE;
    aiol_sockaddr_read(&name, name_size, from, room);
#else
    struct msghdr message;
    struct iovec piece;
    do {
        memset(&message, 0, sizeof(message));
        piece.iov_base = buffer;
        piece.iov_len = size;
        message.msg_name = &name;
        message.msg_namelen = (socklen_t)sizeof(name);
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        n = AIOL_SYS(recvmsg, recvmsg(s, &message, AIOL_MSG_DONTWAIT));
    } while (n == -1 && errno == EINTR);
    if (n == -1)
        return aiol_error_from_errno(errno);
    if ((message.msg_flags & MSG_TRUNC) != 0)
        return AIOLOOP_EMSGSIZE;
    aiol_sockaddr_read(&name, message.msg_namelen, from, room);
#endif
    return (int64_t)n;
}

#if AIOL_HAVE_MMSG

#define AIOL_BATCH 16 /* datagrams in a call */

/* Room for so many received ones of the internet. A little more than they need, or all would begin in the same lines of
 * the processor's cache. */
#define AIOL_BATCH_ROOM (AIOL_DATAGRAM_MAX + 1 + 192)

typedef struct aiol_batch {
    int used; /* of those below: what the system has changed has to be put right */
    struct mmsghdr messages[AIOL_BATCH];
    struct iovec pieces[AIOL_BATCH];
    aiol_sockaddr names[AIOL_BATCH];
    unsigned char room[AIOL_BATCH * AIOL_BATCH_ROOM];
} aiol_batch;

AIOLOOP_INTERNAL aiol_batch *aiol_batch_new(const aioloop_allocator *a) {
    aiol_batch *b = (aiol_batch *)aiol_alloc(a, sizeof(*b));
    int i;
    if (b == NULL)
        return NULL;
    memset(b->messages, 0, sizeof(b->messages));
    b->used = AIOL_BATCH;
    for (i = 0; i < AIOL_BATCH; i++) {
        struct msghdr *message = &b->messages[i].msg_hdr;
        b->pieces[i].iov_base = b->room + (size_t)i * AIOL_BATCH_ROOM;
        b->pieces[i].iov_len = AIOL_DATAGRAM_MAX + 1;
        message->msg_name = &b->names[i];
        message->msg_iov = &b->pieces[i];
        message->msg_iovlen = 1;
    }
    return b;
}

AIOLOOP_INTERNAL void aiol_batch_free(const aioloop_allocator *a, aiol_batch *b) {
    aiol_free(a, b, sizeof(*b));
}

/* Receives what is there: how many datagrams, or a code. */
AIOLOOP_INTERNAL int aiol_batch_recv(aiol_batch *b, aioloop_socket s) {
    int n;
    while (b->used > 0)
        b->messages[--b->used].msg_hdr.msg_namelen = (socklen_t)sizeof(b->names[0]);
    do {
        n = AIOL_SYS(recvmmsg, recvmmsg(s, b->messages, AIOL_BATCH, MSG_DONTWAIT, NULL));
    } while (n == -1 && errno == EINTR);
    if (n == -1)
        return aiol_error_from_errno(errno);
    b->used = n;
    return n;
}

/* The i-th of them: its size and where it is, or AIOLOOP_EMSGSIZE. */
AIOLOOP_INTERNAL int64_t aiol_batch_at(const aiol_batch *b, int i, const void **data, aioloop_address *from,
                                       aiol_path_room *room) {
    const struct mmsghdr *message = &b->messages[i];
    aiol_sockaddr_read(&b->names[i], message->msg_hdr.msg_namelen, from, room);
    *data = b->pieces[i].iov_base;
    return (message->msg_hdr.msg_flags & MSG_TRUNC) != 0 ? (int64_t)AIOLOOP_EMSGSIZE : (int64_t)message->msg_len;
}

/* b) */
static AIOL_NOINLINE int64_t aiol_socket_send_batch(aioloop_socket s, const aiol_datagram *first) {
    struct mmsghdr messages[AIOL_BATCH];
    struct iovec pieces[AIOL_BATCH];
    aiol_sockaddr names[AIOL_BATCH];
    unsigned count = 0;
    int n;
    memset(messages, 0, sizeof(messages));
    for (; first != NULL && count < AIOL_BATCH; first = first->next) {
        struct msghdr *message = &messages[count].msg_hdr;
        /* The system only reads from here, but its struct says void *. */
        memcpy(&pieces[count].iov_base, &first->data, sizeof(void *));
        pieces[count].iov_len = first->size;
        message->msg_iov = &pieces[count];
        message->msg_iovlen = 1;
        if (first->to != NULL) {
            message->msg_name = &names[count];
            message->msg_namelen = aiol_sockaddr_make(&names[count], first->to);
        }
        count++;
    }
    do {
        n = AIOL_SYS(sendmmsg, sendmmsg(s, messages, count, MSG_NOSIGNAL | MSG_DONTWAIT));
    } while (n == -1 && errno == EINTR);
    return n == -1 ? (int64_t)aiol_error_from_errno(errno) : (int64_t)n;
}

#endif

AIOLOOP_INTERNAL int64_t aiol_socket_send_datagrams(aioloop_socket s, unsigned without, const aiol_datagram *first) {
    int64_t n;
#if AIOL_HAVE_MMSG
    if (first->next != NULL && (without & AIOL_WITHOUT_MMSG) == 0)
        return aiol_socket_send_batch(s, first);
#endif
    (void)without;
    n = aiol_socket_sendto(s, first->data, first->size, first->to);
    return n < 0 ? n : 1;
}

#endif
