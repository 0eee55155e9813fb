/*
 * simulate.c - the public face of the simulated engine (api/sim.h). The only place above io/ that asks for one engine
 * by name, because it is that engine's own.
 */
#ifndef AIOL_NET_SIMULATE_C
#define AIOL_NET_SIMULATE_C

#include "api/sim.h"
#include "net/server.c"

/* 0 if the loop runs on the simulated engine. */
static int aiol_simulated(const aioloop *loop) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return AIOLOOP_ECLOSED;
    return aiol_sim_is(loop->engine) ? 0 : AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_API int aioloop_sim_socketpair(aioloop *loop, aioloop_socket sockets[2]) {
    int err = aiol_simulated(loop);
    if (err == 0 && sockets == NULL)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_pair(loop->engine, sockets);
}

AIOLOOP_API int aioloop_sim_pipe(aioloop *loop, aioloop_socket ends[2]) {
    int err = aiol_simulated(loop);
    if (err == 0 && ends == NULL)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_pipe(loop->engine, ends);
}

AIOLOOP_API int aioloop_sim_socket(aioloop *loop, int family, int type, aioloop_socket *out) {
    int err = aiol_simulated(loop);
    if (err == 0 && out == NULL)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_socket_make(loop->engine, family, type, out);
}

/* The same for a socket that is the caller's. */
static int aiol_simulated_socket(const aioloop *loop, aioloop_socket socket) {
    int err = aiol_simulated(loop);
    if (err == 0 && loop->engine->calls->owned(loop->engine, socket))
        err = AIOLOOP_EMISUSE;
    return err;
}

AIOLOOP_API int aioloop_sim_bind(aioloop *loop, aioloop_socket socket, const aioloop_address *address) {
    int err = aiol_simulated_socket(loop, socket);
    if (err == 0)
        err = aiol_sock_address_check(loop, address);
    return err < 0 ? err : loop->engine->sockets->bind(loop->engine, socket, address);
}

AIOLOOP_API int aioloop_sim_listen(aioloop *loop, aioloop_socket socket, int backlog) {
    int err = aiol_simulated_socket(loop, socket);
    return err < 0 ? err : loop->engine->sockets->listen(loop->engine, socket, backlog);
}

AIOLOOP_API int aioloop_sim_name(aioloop *loop, aioloop_socket socket, aioloop_address *address) {
    int err = aiol_simulated(loop);
    if (err == 0 && address == NULL)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_name_at(loop->engine, socket, address);
}

AIOLOOP_API int aioloop_sim_close(aioloop *loop, aioloop_socket socket) {
    int err = aiol_simulated_socket(loop, socket);
    return err < 0 ? err : loop->engine->sockets->close(loop->engine, socket);
}

AIOLOOP_API int aioloop_sim_set_delay(aioloop *loop, aioloop_time minimum, aioloop_time maximum) {
    int err = aiol_simulated(loop);
    return err < 0 ? err : aiol_sim_set_delay(loop->engine, minimum, maximum);
}

AIOLOOP_API int aioloop_sim_set_buffer(aioloop *loop, size_t bytes) {
    int err = aiol_simulated(loop);
    return err < 0 ? err : aiol_sim_set_buffer(loop->engine, bytes);
}

AIOLOOP_API int aioloop_sim_set_datagrams(aioloop *loop, unsigned lost, bool reordered) {
    int err = aiol_simulated(loop);
    return err < 0 ? err : aiol_sim_set_datagrams(loop->engine, lost, reordered);
}

AIOLOOP_API int aioloop_sim_set_partition(aioloop *loop, bool on) {
    int err = aiol_simulated(loop);
    return err < 0 ? err : aiol_sim_set_partition(loop->engine, on);
}

AIOLOOP_API int aioloop_sim_break(aioloop_transport *transport, int error) {
    int err = transport == NULL ? AIOLOOP_EINVAL : aiol_simulated(transport->resource.loop);
    if (err == 0 && (transport->recv.fd == AIOL_NO_SOCKET || error >= 0))
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_break(transport->resource.loop->engine, transport->recv.fd, error);
}

AIOLOOP_API int aioloop_sim_fail_accepts(aioloop *loop, int error, unsigned count) {
    int err = aiol_simulated(loop);
    if (err == 0 && error >= 0)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_fail_accepts(loop->engine, error, count);
}

AIOLOOP_API uint32_t aioloop_sim_random(aioloop *loop, uint32_t bound) {
    return aiol_simulated(loop) < 0 || bound == 0 ? 0 : aiol_sim_random(loop->engine, bound);
}

#endif
