/*
 * port.c - the smallest engine: a clock and a wait, and no descriptors.
 *
 * On a board without an operating system, over the functions of api/port.h. Callbacks, timers and futures need no more.
 */
#ifndef AIOL_IO_PORT_C
#define AIOL_IO_PORT_C

#include "api/port.h"
#include "io/op.h"

static void aiol_port_close(aiol_engine *e) {
    aiol_free(e->allocator, e, sizeof(*e));
}

static int64_t aiol_port_submit(aiol_engine *e, aiol_op *op) {
    (void)e;
    (void)op;
    return AIOLOOP_ENOTAVAILABLE;
}

static int64_t aiol_port_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now) {
    (void)now;
    (void)e;
    (void)fd;
    (void)pieces;
    (void)count;
    return AIOLOOP_ENOTAVAILABLE;
}

static int64_t aiol_port_attempt_to(aiol_engine *e, aioloop_socket fd, const aiol_datagram *first) {
    (void)e;
    (void)fd;
    (void)first;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_cancel(aiol_engine *e, aiol_op *op) {
    (void)e;
    (void)op;
    return 0;
}

static void aiol_port_ignore(aiol_engine *e, aiol_op *op) {
    (void)e;
    (void)op;
}

static size_t aiol_port_take(aiol_engine *e, aiol_op *op, void *to, size_t size) {
    (void)e;
    (void)op;
    (void)to;
    (void)size;
    return 0;
}

static aiol_op *aiol_port_watching(aiol_engine *e, aioloop_socket fd, unsigned event) {
    (void)e;
    (void)fd;
    (void)event;
    return NULL;
}

static bool aiol_port_owned(aiol_engine *e, aioloop_socket fd) {
    (void)e;
    (void)fd;
    return false;
}

static int aiol_port_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    (void)e;
    (void)fd;
    (void)owner;
    return AIOLOOP_ENOTAVAILABLE;
}

static void aiol_port_quiesce(aiol_engine *e, aioloop_socket fd) {
    (void)e;
    (void)fd;
}

static aioloop_time aiol_port_engine_now(aiol_engine *e) {
    (void)e;
    return aioloop_port_now();
}

static int aiol_port_wait(aiol_engine *e, aioloop_time deadline) {
    (void)e;
    if (deadline > 0)
        aioloop_port_sleep_until(deadline);
    return 0;
}

static int aiol_port_dispatch(aiol_engine *e, const aiol_budget *budget) {
    (void)e;
    (void)budget;
    return 0;
}

static int aiol_port_flush(aiol_engine *e) {
    (void)e;
    return 0;
}

static int aiol_port_descriptor(aiol_engine *e) {
    (void)e;
    return AIOLOOP_ENOTAVAILABLE;
}

static void aiol_port_engine_wake(aiol_engine *e) {
    (void)e;
    aioloop_port_wake();
}

static void aiol_port_verify(aiol_engine *e) {
    (void)e;
}

static const aiol_engine_calls aiol_port_calls = {
    aiol_port_close,      aiol_port_submit, aiol_port_attempt,    aiol_port_attempt_to, aiol_port_cancel,   aiol_port_ignore,
    aiol_port_ignore,     aiol_port_take,   aiol_port_watching,   aiol_port_owned,    aiol_port_attach,
    aiol_port_quiesce,    aiol_port_wait,   aiol_port_dispatch,   aiol_port_flush,    aiol_port_descriptor,
    aiol_port_engine_wake, aiol_port_close, aiol_port_engine_now, aiol_port_verify,
};

static int aiol_port_open_socket(aiol_engine *e, int family, int type, int protocol, aioloop_socket *out) {
    (void)e;
    (void)family;
    (void)type;
    (void)protocol;
    (void)out;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_of_socket(aiol_engine *e, aioloop_socket s) {
    (void)e;
    (void)s;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_bind(aiol_engine *e, aioloop_socket s, const aioloop_address *address) {
    (void)e;
    (void)s;
    (void)address;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_listen(aiol_engine *e, aioloop_socket s, int backlog) {
    (void)e;
    (void)s;
    (void)backlog;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_set(aiol_engine *e, aioloop_socket s, aiol_socket_option option, int value) {
    (void)e;
    (void)s;
    (void)option;
    (void)value;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_inspect(aiol_engine *e, aioloop_socket s, int type, int *family) {
    (void)e;
    (void)s;
    (void)type;
    (void)family;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_name(aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    (void)e;
    (void)s;
    (void)address;
    (void)room;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_path_identify(aiol_engine *e, const char *path, size_t size, aiol_path_identity *identity) {
    (void)e;
    (void)path;
    (void)size;
    (void)identity;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_path_remove(aiol_engine *e, const char *path, size_t size) {
    (void)e;
    (void)path;
    (void)size;
    return AIOLOOP_ENOTAVAILABLE;
}

static int64_t aiol_port_recv(aiol_engine *e, aioloop_socket s, void *buffer, size_t size, aioloop_address *from,
                              aiol_path_room *room) {
    (void)e;
    (void)s;
    (void)buffer;
    (void)size;
    (void)from;
    (void)room;
    return AIOLOOP_ENOTAVAILABLE;
}

static int64_t aiol_port_send(aiol_engine *e, aioloop_socket s, const void *data, size_t size,
                              const aioloop_address *to) {
    (void)e;
    (void)s;
    (void)data;
    (void)size;
    (void)to;
    return AIOLOOP_ENOTAVAILABLE;
}

static int64_t aiol_port_sendfile(aiol_engine *e, aioloop_socket s, aioloop_file file, int64_t offset, size_t count) {
    (void)e;
    (void)s;
    (void)file;
    (void)offset;
    (void)count;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_accept(aiol_engine *e, aioloop_socket s, aioloop_socket *out, aioloop_address *peer,
                            aiol_path_room *room) {
    (void)out;
    return aiol_port_name(e, s, peer, room);
}

static int aiol_port_pipe_inspect(aiol_engine *e, aioloop_socket s, bool writes, aiol_pipe_kind *kind) {
    (void)writes;
    (void)kind;
    return aiol_port_of_socket(e, s);
}

static int aiol_port_pipe_adopt(aiol_engine *e, aioloop_socket s, bool *restore) {
    (void)restore;
    return aiol_port_of_socket(e, s);
}

static void aiol_port_pipe_restore(aiol_engine *e, aioloop_socket s) {
    (void)aiol_port_of_socket(e, s);
}

static int aiol_port_spawn(aiol_engine *e, aiol_spawn *s) {
    (void)e;
    (void)s;
    return AIOLOOP_ENOTAVAILABLE;
}

static const aiol_socket_calls aiol_port_sockets = {
    aiol_port_open_socket, aiol_port_of_socket, aiol_port_bind, aiol_port_listen, aiol_port_of_socket,     aiol_port_set,
    aiol_port_inspect,     aiol_port_of_socket, aiol_port_name, aiol_port_name,   aiol_port_path_identify, aiol_port_path_remove,
    aiol_port_recv,        aiol_port_send,      aiol_port_sendfile, aiol_port_accept, aiol_port_bind,       aiol_port_of_socket,
    aiol_port_of_socket,   aiol_port_pipe_inspect, aiol_port_pipe_adopt, aiol_port_pipe_restore,
    aiol_port_spawn,
};

static int aiol_port_open(const aiol_engine_setup *setup, aiol_engine **out) {
    aiol_engine *e = (aiol_engine *)aiol_alloc_zero(setup->allocator, sizeof(*e));
    if (e == NULL)
        return AIOLOOP_ENOMEM;
    e->name = "port";
    e->calls = &aiol_port_calls;
    e->sockets = &aiol_port_sockets;
    e->allocator = setup->allocator;
    *out = e;
    return 0;
}

AIOLOOP_INTERNAL int aiol_process_id(void) {
    return 1;
}

#endif
