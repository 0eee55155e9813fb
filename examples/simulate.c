/*
 * simulate.c - testing a protocol on the simulated back end: virtual time, a network in memory, a partition.
 *
 *     cc examples/simulate.c -o simulate && ./simulate
 *
 * The protocol under test is a heartbeat: a ping every 10 seconds, and the connection is given up when no answer came for 30.
 * On a real network this test would take minutes and depend on the weather; here it takes microseconds, and a seed replays it.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- the program: nothing in it knows about the simulation ---- */

#define PING_EVERY AIOLOOP_SECONDS(10)
#define GIVE_UP AIOLOOP_SECONDS(30)

struct heart {
    aioloop_transport *transport;
    aioloop_timer_handle ping;
    aioloop_timer_handle silence;
    int answers;
    int lost; /* 0: alive; else the code */
};

static void heart_ping(aioloop *loop, void *arg) {
    struct heart *heart = (struct heart *)arg;
    aioloop_transport_write(heart->transport, "?", 1);
    heart->ping = aioloop_call_later(loop, PING_EVERY, heart_ping, heart);
}

static void heart_silent(aioloop *loop, void *arg) {
    struct heart *heart = (struct heart *)arg;
    (void)loop;
    heart->lost = AIOLOOP_ETIMEDOUT;
    aioloop_transport_abort(heart->transport);
}

static void heart_made(aioloop_transport *transport, void *self) {
    struct heart *heart = (struct heart *)self;
    aioloop *loop = aioloop_transport_get_loop(transport);
    heart->transport = transport;
    heart->silence = aioloop_call_later(loop, GIVE_UP, heart_silent, heart);
    heart_ping(loop, heart);
}

static void heart_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    struct heart *heart = (struct heart *)self;
    (void)data;
    heart->answers += (int)size;
    aioloop_timer_handle_reschedule(&heart->silence, aioloop_now(aioloop_transport_get_loop(transport)) + GIVE_UP);
}

static void heart_lost(aioloop_transport *transport, void *self, int error) {
    struct heart *heart = (struct heart *)self;
    (void)transport;
    if (heart->lost == 0)
        heart->lost = error < 0 ? error : AIOLOOP_ECONNABORTED;
    aioloop_timer_handle_cancel(&heart->ping);
    aioloop_timer_handle_cancel(&heart->silence);
}

static const aioloop_protocol heart_protocol = {
    .connection_made = heart_made,
    .data_received = heart_received,
    .connection_lost = heart_lost,
};

static void peer_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)self;
    aioloop_transport_write(transport, data, size);
}

static const aioloop_protocol peer_protocol = {.data_received = peer_received};

/* ---- the test ---- */

static void expect(bool fact, const char *what) {
    printf("%s: %s\n", fact ? "ok" : "FAIL", what);
    if (!fact)
        exit(1);
}

static void time_is_up(aioloop *loop, void *arg) {
    (void)arg;
    aioloop_stop(loop);
}

/* Lets virtual time pass. */
static void pass(aioloop *loop, aioloop_time duration) {
    aioloop_call_later(loop, duration, time_is_up, NULL);
    expect(aioloop_run_forever(loop) == 0, "the loop runs");
}

int main(void) {
    struct heart heart = AIOLOOP_ZERO;
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_address address;
    aioloop_server *server = NULL;
    aioloop *loop;
    aioloop_time begun;
    clock_t cpu = clock();
    config.backend = "sim,seed=7"; /* "sim,delayed,seed=7" is a harder one */
    loop = aioloop_new_event_loop(&config);
    expect(loop != NULL, "there is a loop");
    begun = aioloop_now(loop);

    aioloop_sim_set_delay(loop, AIOLOOP_MS(20), AIOLOOP_MS(80)); /* a far network */
    expect(aioloop_run_until_complete(
               loop, aioloop_create_server(loop, &peer_protocol, NULL, "127.0.0.1", 0, NULL), &server) >= 0,
           "the peer listens");
    aioloop_server_socket(server, 0, NULL, &address);
    expect(aioloop_run_until_complete(
               loop, aioloop_create_connection(loop, &heart_protocol, &heart, "127.0.0.1", address.port, NULL), NULL) >= 0,
           "the heart connects");

    pass(loop, AIOLOOP_SECONDS(3600));
    expect(heart.lost == 0 && heart.answers >= 360, "an hour of answers");

    aioloop_sim_set_partition(loop, true);
    pass(loop, AIOLOOP_SECONDS(15));
    expect(heart.lost == 0, "a cut of 15 seconds is borne");
    aioloop_sim_set_partition(loop, false);
    pass(loop, AIOLOOP_SECONDS(60));
    expect(heart.lost == 0, "and after it goes on");

    aioloop_sim_set_partition(loop, true);
    pass(loop, AIOLOOP_SECONDS(31));
    expect(heart.lost == AIOLOOP_ETIMEDOUT, "a longer one ends the connection");

    printf("%.0f simulated seconds in %.3f real ones\n", (double)(aioloop_now(loop) - begun) / 1e9,
           (double)(clock() - cpu) / CLOCKS_PER_SEC);
    aioloop_sim_set_partition(loop, false);
    aioloop_server_close(server);
    expect(aioloop_run_until_complete(loop, aioloop_server_wait_closed(server), NULL) >= 0, "and all is cleaned up");
    aioloop_server_unref(server);
    aioloop_free(loop);
    return 0;
}
