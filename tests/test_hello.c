/*
 * test_hello.c - the examples of asyncio's event loop page, as tests.
 */
#include "support.h"

static int hello_runs;

static void hello(aioloop *loop, void *arg) {
    (void)arg;
    hello_runs++;
    aioloop_stop(loop);
}

TEST(hello_world_runs_once_and_stops, "EX-01") {
    aioloop *loop = test_loop();
    aioloop_handle h = aioloop_call_soon(loop, hello, NULL);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(hello_runs, 1);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(aioloop_is_closed(loop));
    test_end(loop);
}

TEST(bytes_come_back_from_an_echo_server, "SRV-11 CONN-01") {
    aioloop *loop = test_loop();
    test_peer server_side = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_transport *t;
    int port = 0;
    server_side.echo = true;
    server = test_serve(loop, &test_protocol, &server_side, &port);
    t = test_dial(loop, &test_protocol, &client, port);
    CHECK_PTR(t, client.transport);
    CHECK_EQ(aioloop_transport_write(t, "hello", 5), 0);
    test_run_until(loop, &client.datas, 1, "the echo");
    CHECK_MEM(client.data, "hello", 5);
    aioloop_transport_close(t);
    test_run_until(loop, &client.lost, 1, "the loss");
    test_run_until(loop, &server_side.lost, 1, "the server's loss");
    CHECK_STR(client.calls, "mdl");
    CHECK_STR(server_side.calls, "mdel");
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    test_peer_drop(&server_side);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end(loop);
}
