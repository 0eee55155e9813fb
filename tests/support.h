/*
 * support.h - what the tests share: loops, connected pairs, protocols that remember, errors that were reported.
 *
 * A test runs on whichever back end AIOLOOP_BACKEND names; `make test` runs all of them on each. What it makes through these functions
 * is freed when it gives up under an injected fault; a test that returns ends everything itself, with test_end.
 */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include "aioloop.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A loop on the back end of this run. Errors that it reports are recorded (test_reports). test_loop_with: any config. */
aioloop *test_loop(void);
aioloop *test_loop_with(const aioloop_config *config);

/* Checks the loop's insides and frees it; nothing may be reported that the test did not look at (test_reports_clear). */
void test_end(aioloop *loop);

/* True if the loop's sockets are simulated ones. */
bool test_simulated(aioloop *loop);
/* Ends the test as skipped if they are. */
void test_needs_real_descriptors(aioloop *loop);

/* Two connected stream sockets, simulated ones on the simulated back end. The caller's, or a transport's. Unix ones, or
 * with TEST_PAIRS=internet in the environment such of the loopback; the second ends the test as skipped then. */
void test_socketpair(aioloop *loop, aioloop_socket sockets[2]);
void test_needs_unix_pairs(aioloop *loop);
void test_close_socket(aioloop *loop, aioloop_socket s);

/* A non-blocking socket of a family and aioloop_socket_type, of the system or simulated. test_bind, test_listen and
 * test_name are as the system's calls, and FAIL where those do. test_listener listens at a free port of 127.0.0.1, and
 * stores the address. */
aioloop_socket test_socket(aioloop *loop, int family, int type);
void test_bind(aioloop *loop, aioloop_socket s, const aioloop_address *address);
void test_listen(aioloop *loop, aioloop_socket s, int backlog);
void test_name(aioloop *loop, aioloop_socket s, aioloop_peer *name);
aioloop_socket test_listener(aioloop *loop, int backlog, aioloop_address *address);

/* True if the loop's sockets are simulated ones that do things late and by halves ("sim,delayed"). */
bool test_delayed(aioloop *loop);

/* Runs the loop until *count >= wanted, at most 10 seconds on the loop's clock, then FAILs naming what. */
void test_run_until(aioloop *loop, const int *count, int wanted, const char *what);
/* Runs n iterations without waiting. */
void test_spin(aioloop *loop, int n);
/* Runs the loop for a time on its clock (which is virtual on the simulated back end). */
void test_run_for(aioloop *loop, aioloop_time time);

/* True while what a test has left behind is freed, when it has given up: what lay on its stack is gone. */
bool test_has_given_up(void);

/* Ends the test as skipped if the library was built without threads. */
void test_needs_threads(aioloop *loop);

/* ---- what was reported ---- */

typedef struct test_report {
    aioloop_exception_context context; /* pointers are as they were; message and detail are copied */
    char message[256];
    char detail[256];
} test_report;

int test_reports(void);                  /* how many there were since the last clear */
const test_report *test_report_at(int i); /* the i-th of the first 16 */
void test_reports_clear(void);

int test_log_lines(void);          /* texts logged, warnings too */
const char *test_log_text(void);   /* all of them, joined by newlines */
void test_log_clear(void);

/* ---- a protocol that remembers ---- */

/* What happened on a connection, one letter a call: m connection_made, d data_received, b buffer_updated, p pause_writing, r
 * resume_writing, e eof_received, l connection_lost. Give one as `arg` with instance_size 0. */
typedef struct test_peer {
    aioloop_transport *transport; /* from connection_made on; a reference until test_peer_drop */
    char calls[256];
    char data[4096]; /* the first bytes received */
    size_t received; /* all of them */
    int made, lost, eof, paused, resumed, datas;
    int error;       /* connection_lost's */
    bool keep_open;  /* eof_received's answer */
    bool echo;       /* writes back what comes */
    /* Called at the end of the method of the same name, when set. */
    void (*on_made)(struct test_peer *peer);
    void (*on_data)(struct test_peer *peer, const void *data, size_t size);
    void (*on_eof)(struct test_peer *peer);
    void (*on_lost)(struct test_peer *peer);
    void (*on_pause)(struct test_peer *peer);
    void (*on_resume)(struct test_peer *peer);
    void *user;
} test_peer;

extern const aioloop_protocol test_protocol;          /* data_received */
extern const aioloop_protocol test_buffered_protocol; /* get_buffer: into a place of 64 bytes, then as data */

/* Drops the reference that connection_made took. */
void test_peer_drop(test_peer *peer);

/* A connected pair of transports with recording protocols, over a socket pair. Both have had connection_made. */
void test_connect_pair(aioloop *loop, test_peer *a, test_peer *b);

/* A server on a free port of 127.0.0.1 (owned by the caller), its port, and a client connected to it. */
aioloop_server *test_serve(aioloop *loop, const aioloop_protocol *protocol, void *arg, int *port);
aioloop_transport *test_dial(aioloop *loop, const aioloop_protocol *protocol, void *arg, int port);

/* A descriptor of the system that the test itself opened: closed when the test gives up, until it is closed with
 * test_close_socket or forgotten, because it is the library's now. The first returns s, and FAILs below 0. */
int test_keep_socket(int s);
void test_forget_socket(aioloop_socket s);

/* True if ::1 can be used. */
bool test_has_ipv6(aioloop *loop);

/* Makes a connection of one socket of test_socketpair. */
void test_adopt(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket s);

/* Runs the loop until the peer has received size bytes, as test_run_until. */
void test_run_until_received(aioloop *loop, const test_peer *peer, size_t size);

/* The end of a test with two connections: aborts what is not lost yet, waits for both losses and drops the references;
 * nothing may come after connection_lost. The loop lives on. */
void test_end_pair(aioloop *loop, test_peer *a, test_peer *b);

/* A socket for watchers that is readable for ever, or soon will be: its other end is a transport that has written. */
aioloop_socket test_feed(aioloop *loop, test_peer *far);
void test_feed_end(aioloop *loop, aioloop_socket s, test_peer *far);

#ifdef __cplusplus
}
#endif

#endif
