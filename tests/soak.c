/*
 * soak.c - many connections at once, and many one after the other, on the system's own sockets.
 *
 *     soak [--connections N] [--rounds R] [--cycles M] [SECONDS]
 *
 * First N connections (10,000) are held at the same time and echo for a few rounds; every byte is checked. Each costs
 * two descriptors where both ends are in one process, so if the limit is too low for that the clients get a process
 * of their own, and if it is still too low there are as many connections as fit. Then M connections (100,000) are
 * opened and ended one after the other, a few at a time, in several ways: TCP and Unix, in order, reset by the
 * server, aborted, cancelled while connecting. Memory must be flat after the first thousand, and at the end every
 * byte and every descriptor must be back. With SECONDS the cycles go on for that long, shared among the back ends,
 * however many they are.
 *
 * It runs on the back end of AIOLOOP_BACKEND, or on all real ones, one after the other. select counts to 1,024 only.
 * Prints figures; what is wrong ends it with 1.
 *
 * About ports: the TCP connections of the cycles come from many local addresses, since each leaves one of its ports
 * waiting for a minute; those that the server resets leave none, since it has not read everything.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOAK_SPARE_FDS 40 /* for the program, the loop and its listeners */
#define SOAK_SELECT_LIMIT 1024
#define SOAK_OPENING 200  /* connects under way when many are opened */
#define SOAK_WINDOW 64    /* cycles under way */
#define SOAK_BATCH 1000   /* cycles between two looks at the memory */
#define SOAK_MESSAGE 4000 /* the longest */
#define SOAK_CYCLE_MESSAGE 64
#define SOAK_ADDRESSES 200 /* 127.0.0.2 and up */

#if defined(__GNUC__) || defined(__clang__)
#define SOAK_NORETURN __attribute__((noreturn))
#define SOAK_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define SOAK_NORETURN
#define SOAK_PRINTF(text, first)
#endif

static struct {
    uint32_t connections;
    uint32_t rounds;
    uint32_t cycles;
    double seconds; /* for the cycles of one back end; 0: as many as asked for */
    const char *backend;
    aioloop *loop;
    size_t in_use; /* bytes of the library's memory */
    size_t peak;
} soak;

static SOAK_NORETURN void soak_die(const char *format, ...) SOAK_PRINTF(1, 2);

static SOAK_NORETURN void soak_die(const char *format, ...) {
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "soak: %s: ", soak.backend != NULL ? soak.backend : "");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    exit(1);
}

static void *soak_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    void *block = NULL;
    (void)context;
    if (new_size == 0) {
        free(pointer);
    } else {
        block = realloc(pointer, new_size);
        if (block == NULL)
            return NULL;
    }
    soak.in_use += new_size - old_size;
    if (soak.in_use > soak.peak)
        soak.peak = soak.in_use;
    return block;
}

static double soak_seconds(aioloop_time since) {
    return (double)(aioloop_now(soak.loop) - since) / 1e9;
}

static void soak_open_loop(void) {
    static const aioloop_allocator allocator = {soak_allocate, NULL};
    aioloop_config config = AIOLOOP_ZERO;
    config.backend = soak.backend;
    config.allocator = &allocator;
    soak.in_use = 0;
    soak.peak = 0;
    soak.loop = aioloop_new_event_loop(&config);
    if (soak.loop == NULL)
        soak_die("no loop: %s", aioloop_error_message(aioloop_last_error(NULL)));
}

static void soak_run(void) {
    int err = aioloop_run_forever(soak.loop);
    if (err < 0)
        soak_die("the run ends with %s", aioloop_strerror(err));
    aioloop_verify(soak.loop);
}

static void soak_close_loop(void) {
    int err = aioloop_free(soak.loop);
    soak.loop = NULL;
    if (err < 0)
        soak_die("freeing the loop: %s", aioloop_strerror(err));
    if (soak.in_use != 0)
        soak_die("%lu bytes of memory are left", (unsigned long)soak.in_use);
}

/* ---- descriptors ---- */

static long soak_fd_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 256;
    if (limit.rlim_cur != limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            getrlimit(RLIMIT_NOFILE, &limit);
    }
    return limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > 4000000 ? 4000000 : (long)limit.rlim_cur;
}

static int soak_count_fds(long limit) {
    int count = 0;
    int fd;
    for (fd = 0; fd < limit; fd++)
        if (fcntl(fd, F_GETFD) != -1)
            count++;
    return count;
}

/* ---- holding many: what both sides know ---- */

static struct {
    uint32_t wanted;
    bool serving;    /* this process has the server */
    bool connecting; /* this process has the clients */
    aioloop_server *server;
    int port;
    uint32_t accepted;
    uint32_t server_lost;
    bool clients_gone; /* the process with the clients is */

    struct soak_client **clients;
    uint32_t started;
    uint32_t opening;
    uint32_t made;
    uint32_t lost;
    uint32_t round;
    uint32_t answered; /* in this round */
    uint64_t bytes;
    aioloop_time began;
    double opened;
    double echoed;
    size_t held; /* memory with everything open */
} hold;

typedef struct soak_client {
    aioloop_transport *transport;
    uint32_t index;
    uint32_t got; /* of this round's message */
} soak_client;

static void hold_stop_if_over(void) {
    if (hold.connecting && hold.lost < hold.wanted)
        return;
    if (hold.serving &&
        (hold.server_lost < hold.accepted || (hold.connecting ? hold.accepted < hold.wanted : !hold.clients_gone)))
        return;
    aioloop_stop(soak.loop);
}

/* ---- holding many: the server ---- */

static void hold_accepted(aioloop_transport *transport, void *self) {
    (void)transport;
    (void)self;
    if (++hold.accepted == hold.wanted && !hold.connecting)
        hold.held = soak.in_use;
}

static void hold_echo(aioloop_transport *transport, void *self, const void *data, size_t size) {
    int err = aioloop_transport_write(transport, data, size);
    (void)self;
    if (err < 0)
        soak_die("an echo is refused: %s", aioloop_strerror(err));
}

static void hold_pause(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_pause_reading(transport);
}

static void hold_resume(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_resume_reading(transport);
}

static void hold_server_lost(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)self;
    if (error != 0)
        soak_die("the server lost a connection: %s", aioloop_strerror(error));
    hold.server_lost++;
    hold_stop_if_over();
}

static const aioloop_protocol hold_server_protocol = {
    0, NULL, hold_accepted, hold_echo, NULL, hold_server_lost, hold_pause, hold_resume, NULL, NULL, NULL, NULL};

static int soak_listen(const aioloop_protocol *protocol, aioloop_server **server) {
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_address address;
    int64_t n;
    int err;
    options.backlog = 1024;
    n = aioloop_run_until_complete(soak.loop,
                                   aioloop_create_server(soak.loop, protocol, NULL, "127.0.0.1", 0, &options), server);
    if (n < 0)
        soak_die("listening: %s", aioloop_strerror((int)n));
    err = aioloop_server_socket(*server, 0, NULL, &address);
    if (err < 0)
        soak_die("the server has no socket");
    return address.port;
}

/* ---- holding many: the clients ---- */

/* Each message differs from every other, so a byte in a wrong place is seen. */
static unsigned char hold_byte(uint32_t index, uint32_t round, uint32_t at) {
    return (unsigned char)((index * 131 + round * 57 + at * 17) ^ (index >> 7) ^ (at >> 6));
}

static uint32_t hold_size(uint32_t round) {
    static const uint32_t sizes[] = {100, 1, SOAK_MESSAGE, 1000};
    return sizes[round % 4];
}

static void hold_write(soak_client *c) {
    unsigned char message[SOAK_MESSAGE];
    uint32_t size = hold_size(hold.round);
    uint32_t i;
    int err;
    for (i = 0; i < size; i++)
        message[i] = hold_byte(c->index, hold.round, i);
    c->got = 0;
    err = aioloop_transport_write(c->transport, message, size);
    if (err < 0)
        soak_die("a write is refused: %s", aioloop_strerror(err));
}

/* The next round, or the end. */
static void hold_next(aioloop *loop, void *arg) {
    uint32_t i;
    (void)loop;
    (void)arg;
    hold.answered = 0;
    for (i = 0; i < hold.wanted; i++) {
        if (hold.round < soak.rounds)
            hold_write(hold.clients[i]);
        else
            aioloop_transport_close(hold.clients[i]->transport);
    }
}

static void hold_next_soon(void) {
    aioloop_handle h = aioloop_call_soon(soak.loop, hold_next, NULL);
    if (aioloop_handle_is_null(&h))
        soak_die("no memory for a callback");
}

static void hold_connect_more(void);

static int hold_factory(void *self, void *arg) {
    soak_client *c = (soak_client *)self;
    (void)arg;
    c->index = hold.made++;
    hold.clients[c->index] = c;
    return 0;
}

static void hold_made(aioloop_transport *transport, void *self) {
    ((soak_client *)self)->transport = transport;
}

static void hold_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    soak_client *c = (soak_client *)self;
    const unsigned char *bytes = (const unsigned char *)data;
    size_t i;
    (void)transport;
    if (size > hold_size(hold.round) - c->got)
        soak_die("connection %u got more than it sent", (unsigned)c->index);
    for (i = 0; i < size; i++)
        if (bytes[i] != hold_byte(c->index, hold.round, c->got + (uint32_t)i))
            soak_die("connection %u: byte %u of round %u is wrong", (unsigned)c->index, (unsigned)(c->got + i),
                     (unsigned)hold.round);
    c->got += (uint32_t)size;
    hold.bytes += size;
    if (c->got == hold_size(hold.round) && ++hold.answered == hold.wanted) {
        if (++hold.round == soak.rounds)
            hold.echoed = soak_seconds(hold.began);
        hold_next_soon();
    }
}

static void hold_lost(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    if (error != 0 || hold.round < soak.rounds)
        soak_die("connection %u is lost: %s", (unsigned)((soak_client *)self)->index, aioloop_strerror(error));
    hold.lost++;
    hold_stop_if_over();
}

static const aioloop_protocol hold_client_protocol = {sizeof(soak_client), hold_factory, hold_made, hold_data, NULL,
                                                      hold_lost,           NULL,         NULL,      NULL,      NULL,
                                                      NULL, NULL};

static void hold_connected(aioloop_future *future, void *arg) {
    int64_t n = aioloop_future_result(future, NULL);
    (void)arg;
    if (n < 0)
        soak_die("connection %u: %s", (unsigned)hold.made, aioloop_error_message(aioloop_future_error(future)));
    if (--hold.opening == 0 && hold.started == hold.wanted) {
        hold.opened = soak_seconds(hold.began);
        hold.held = soak.in_use;
        hold.began = aioloop_now(soak.loop);
        hold_next_soon();
        return;
    }
    hold_connect_more();
}

static void hold_connect_more(void) {
    while (hold.opening < SOAK_OPENING && hold.started < hold.wanted) {
        int err = aioloop_future_then(
            aioloop_create_connection(soak.loop, &hold_client_protocol, NULL, "127.0.0.1", hold.port, NULL),
            hold_connected, NULL);
        if (err < 0)
            soak_die("connecting: %s", aioloop_strerror(err));
        hold.opening++;
        hold.started++;
    }
}

/* ---- holding many: the processes ---- */

static void hold_clients_gone(aioloop *loop, void *arg) {
    int *fd = (int *)arg;
    aioloop_remove_reader(loop, *fd);
    hold.clients_gone = true;
    hold_stop_if_over();
}

/* Runs this process's part. gone: a descriptor that is readable when the process with the clients has ended, or -1. */
static void hold_run(long limit, int fds, int gone) {
    int err = 0;
    hold.began = aioloop_now(soak.loop);
    if (hold.connecting) {
        hold.clients = (soak_client **)calloc(hold.wanted, sizeof(hold.clients[0]));
        if (hold.clients == NULL)
            soak_die("out of memory");
        hold_connect_more();
    }
    if (gone >= 0)
        err = aioloop_add_reader(soak.loop, gone, hold_clients_gone, &gone);
    if (err < 0)
        soak_die("watching the clients: %s", aioloop_strerror(err));
    soak_run();
    free(hold.clients);
    if (hold.serving) {
        if (hold.accepted != hold.wanted)
            soak_die("%u connections were accepted of %u", (unsigned)hold.accepted, (unsigned)hold.wanted);
        aioloop_server_close(hold.server);
        aioloop_server_unref(hold.server);
    }
    if (soak_count_fds(limit) > fds + 6) /* the loop's own */
        soak_die("%d descriptors are open where %d were", soak_count_fds(limit), fds);
    printf("%s: %u connections held by %s, %lu bytes of memory each", soak.backend, (unsigned)hold.wanted,
           hold.serving && hold.connecting ? "one process"
           : hold.serving                  ? "the server's process"
                                           : "the clients' process",
           (unsigned long)(hold.held / hold.wanted));
    if (hold.connecting)
        printf("; opened in %.2f s, %u rounds of echoes in %.2f s, %.1f MB checked", hold.opened, (unsigned)soak.rounds,
               hold.echoed, (double)hold.bytes / 1e6);
    printf("; peak %.1f MB\n", (double)soak.peak / 1e6);
    fflush(stdout);
    soak_close_loop();
}

/* The clients in a process of their own; returns there only to end it. */
static void hold_client_process(long limit, int from_server) {
    ssize_t n = read(from_server, &hold.port, sizeof(hold.port));
    int fds = soak_count_fds(limit);
    if (n != (ssize_t)sizeof(hold.port))
        exit(1); /* the server has said why */
    hold.connecting = true;
    soak_open_loop();
    hold_run(limit, fds, -1);
    if (soak_count_fds(limit) != fds)
        soak_die("the clients leave %d descriptors where %d were", soak_count_fds(limit), fds);
}

static void hold_server_process(long limit, int fds, const int to_client[2], const int from_client[2], pid_t client) {
    int status = 0;
    close(to_client[0]);
    close(from_client[1]);
    hold.serving = true;
    soak_open_loop();
    hold.port = soak_listen(&hold_server_protocol, &hold.server);
    if (write(to_client[1], &hold.port, sizeof(hold.port)) != (ssize_t)sizeof(hold.port))
        soak_die("the clients cannot be told");
    hold_run(limit, fds + 2, from_client[0]);
    close(to_client[1]);
    close(from_client[0]);
    if (waitpid(client, &status, 0) != client || status != 0)
        soak_die("the clients failed");
}

static void soak_hold(long limit) {
    long usable = limit - SOAK_SPARE_FDS;
    int fds = soak_count_fds(limit);
    memset(&hold, 0, sizeof(hold));
    hold.wanted = soak.connections;
    if (strncmp(soak.backend, "select", 6) == 0 && usable > SOAK_SELECT_LIMIT - SOAK_SPARE_FDS)
        usable = SOAK_SELECT_LIMIT - SOAK_SPARE_FDS;
    if (usable < 1)
        soak_die("a limit of %ld descriptors is too low", limit);
    if (hold.wanted > (unsigned long)usable) {
        printf("%s: a process has room for only %ld connections, not %u (limit: %ld descriptors)\n", soak.backend,
               usable, (unsigned)hold.wanted, usable + SOAK_SPARE_FDS);
        hold.wanted = (uint32_t)usable;
    }
    if (2 * (unsigned long)hold.wanted <= (unsigned long)usable) {
        hold.serving = true;
        hold.connecting = true;
        soak_open_loop();
        hold.port = soak_listen(&hold_server_protocol, &hold.server);
        hold_run(limit, fds, -1);
    } else {
        int to_client[2];
        int from_client[2];
        pid_t client;
        if (pipe(to_client) != 0 || pipe(from_client) != 0)
            soak_die("pipe: %s", strerror(errno));
        fflush(stdout);
        client = fork();
        if (client < 0)
            soak_die("fork: %s", strerror(errno));
        if (client == 0) { /* from_client[1] stays open until this process ends */
            close(to_client[1]);
            close(from_client[0]);
            hold_client_process(limit, to_client[0]);
            exit(0);
        }
        hold_server_process(limit, fds, to_client, from_client, client);
    }
    if (soak_count_fds(limit) != fds)
        soak_die("%d descriptors are left where %d were", soak_count_fds(limit), fds);
}

/* ---- one after the other ---- */

typedef enum cycle_kind {
    CYCLE_TCP,        /* an echo, then the client closes */
    CYCLE_UNIX,       /* the same */
    CYCLE_RESET,      /* TCP; the server aborts before it has read everything */
    CYCLE_ABORT,      /* Unix; the client aborts at once */
    CYCLE_CANCEL,     /* Unix; cancelled while connecting */
    CYCLE_TCP_CANCEL, /* the same; the server may have it or not */
    CYCLE_KINDS
} cycle_kind;

typedef struct soak_cycle {
    cycle_kind kind;
    uint32_t index;
    size_t got;
} soak_cycle;

static struct {
    aioloop_server *tcp_server;
    aioloop_server *rude_server;
    aioloop_server *unix_server;
    int port;
    int rude_port;
    char path[40];
    size_t path_size;
    uint32_t started;
    uint32_t under_way;
    uint32_t ended;
    uint32_t target; /* of this batch */
    uint32_t accepted;
    uint32_t lost;     /* by the servers */
    uint32_t expected; /* connections the servers must see; those cancelled on TCP may come too */
    uint32_t of_kind[CYCLE_KINDS];
    uint64_t bytes;
} cycle;

static void cycle_start_more(void);

static void cycle_stop_if_over(void) {
    if (cycle.ended == cycle.target && cycle.accepted >= cycle.expected && cycle.lost == cycle.accepted)
        aioloop_stop(soak.loop);
}

static void cycle_accepted(aioloop_transport *transport, void *self) {
    (void)transport;
    (void)self;
    cycle.accepted++;
}

static void cycle_server_lost(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)self;
    if (error != 0 && error != AIOLOOP_ECONNRESET && error != AIOLOOP_EPIPE)
        soak_die("the server lost a connection: %s", aioloop_strerror(error));
    cycle.lost++;
    cycle_stop_if_over();
}

static size_t cycle_one_byte(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    static char byte;
    (void)transport;
    (void)self;
    (void)hint;
    *buffer = &byte;
    return 1;
}

/* The rest of the message is never read: the client hears of a reset, and no port has to wait. */
static void cycle_be_rude(aioloop_transport *transport, void *self, size_t size) {
    (void)self;
    (void)size;
    aioloop_transport_abort(transport);
}

static const aioloop_protocol cycle_server_protocol = {0,    NULL, cycle_accepted, hold_echo, NULL, cycle_server_lost,
                                                       NULL, NULL, NULL,           NULL, NULL, NULL};
static const aioloop_protocol cycle_rude_protocol = {0,    NULL, cycle_accepted, NULL,         NULL, cycle_server_lost,
                                                     NULL, NULL, cycle_one_byte, cycle_be_rude, NULL, NULL};

static void cycle_over(soak_cycle *c) {
    free(c);
    cycle.ended++;
    cycle.under_way--;
    cycle_start_more();
    cycle_stop_if_over();
}

static unsigned char cycle_byte(const soak_cycle *c, size_t at) {
    return (unsigned char)(c->index * 31 + at * 7);
}

static void cycle_made(aioloop_transport *transport, void *self) {
    soak_cycle *c = (soak_cycle *)self;
    unsigned char message[SOAK_CYCLE_MESSAGE];
    size_t i;
    if (c->kind == CYCLE_ABORT) {
        aioloop_transport_abort(transport);
        return;
    }
    for (i = 0; i < sizeof(message); i++)
        message[i] = cycle_byte(c, i);
    if (aioloop_transport_write(transport, message, sizeof(message)) < 0)
        soak_die("a write is refused");
}

static void cycle_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    soak_cycle *c = (soak_cycle *)self;
    const unsigned char *bytes = (const unsigned char *)data;
    size_t i;
    if (size > SOAK_CYCLE_MESSAGE - c->got)
        soak_die("cycle %u got more than it sent", (unsigned)c->index);
    for (i = 0; i < size; i++)
        if (bytes[i] != cycle_byte(c, c->got + i))
            soak_die("cycle %u: a wrong byte", (unsigned)c->index);
    c->got += size;
    cycle.bytes += size;
    if (c->got == SOAK_CYCLE_MESSAGE)
        aioloop_transport_close(transport);
}

/* io_uring has taken what the protocol did not want: nothing is left unread in the socket that could reset it. */
static bool soak_reads_ahead(void) {
    return strcmp(aioloop_backend_name(soak.loop), "io_uring") == 0;
}

static void cycle_lost(aioloop_transport *transport, void *self, int error) {
    soak_cycle *c = (soak_cycle *)self;
    (void)transport;
    if (c->kind == CYCLE_RESET ? error != AIOLOOP_ECONNRESET && error != AIOLOOP_EPIPE && (error != 0 || !soak_reads_ahead())
                               : error != 0)
        soak_die("cycle %u of kind %d is lost: %s", (unsigned)c->index, (int)c->kind, aioloop_strerror(error));
    if ((c->kind == CYCLE_TCP || c->kind == CYCLE_UNIX) && c->got != SOAK_CYCLE_MESSAGE)
        soak_die("cycle %u is lost early", (unsigned)c->index);
    cycle_over(c);
}

static const aioloop_protocol cycle_protocol = {0,          NULL, cycle_made, cycle_data, NULL,
                                                cycle_lost, NULL, NULL,       NULL,       NULL, NULL, NULL};

static void cycle_connected(aioloop_future *future, void *arg) {
    int64_t n = aioloop_future_result(future, NULL);
    if (n == AIOLOOP_ECANCELED)
        cycle_over((soak_cycle *)arg);
    else if (n < 0)
        soak_die("connecting: %s", aioloop_error_message(aioloop_future_error(future)));
}

static void cycle_start(void) {
    soak_cycle *c = (soak_cycle *)calloc(1, sizeof(*c));
    aioloop_future *f;
    int err;
    if (c == NULL)
        soak_die("out of memory");
    c->index = cycle.started++;
    c->kind = (cycle_kind)(c->index % CYCLE_KINDS);
    cycle.of_kind[c->kind]++;
    cycle.under_way++;
    if (c->kind != CYCLE_TCP_CANCEL)
        cycle.expected++;
    if (c->kind == CYCLE_TCP || c->kind == CYCLE_RESET || c->kind == CYCLE_TCP_CANCEL) {
        aioloop_connection_options o = AIOLOOP_ZERO;
        char local[24];
        snprintf(local, sizeof(local), "127.0.0.%u", 2 + (unsigned)(c->index / CYCLE_KINDS % SOAK_ADDRESSES));
        o.local_host = local;
        f = aioloop_create_connection(soak.loop, &cycle_protocol, c, "127.0.0.1",
                                      c->kind == CYCLE_RESET ? cycle.rude_port : cycle.port, &o);
    } else {
        aioloop_unix_connection_options o = AIOLOOP_ZERO;
        o.path_size = cycle.path_size;
        f = aioloop_create_unix_connection(soak.loop, &cycle_protocol, c, cycle.path, &o);
    }
    err = aioloop_future_then(f, cycle_connected, c);
    if (err < 0)
        soak_die("connecting: %s", aioloop_strerror(err));
    if ((c->kind == CYCLE_CANCEL || c->kind == CYCLE_TCP_CANCEL) && !aioloop_future_cancel(f, NULL))
        soak_die("cycle %u cannot be cancelled", (unsigned)c->index);
}

static void cycle_start_more(void) {
    while (cycle.under_way < SOAK_WINDOW && cycle.started < cycle.target)
        cycle_start();
}

static void cycle_listen_unix(void) {
    aioloop_unix_server_options o = AIOLOOP_ZERO;
    int64_t n;
#if defined(__linux__) /* a name that leaves no file */
    snprintf(cycle.path + 1, sizeof(cycle.path) - 1, "aioloop-soak-%ld", (long)getpid());
    cycle.path_size = 1 + strlen(cycle.path + 1);
#else
    snprintf(cycle.path, sizeof(cycle.path), "/tmp/aioloop-soak-%ld", (long)getpid());
    cycle.path_size = strlen(cycle.path);
#endif
    o.path_size = cycle.path_size;
    o.backlog = 1024;
    n = aioloop_run_until_complete(soak.loop,
                                   aioloop_create_unix_server(soak.loop, &cycle_server_protocol, NULL, cycle.path, &o),
                                   &cycle.unix_server);
    if (n < 0)
        soak_die("listening: %s", aioloop_strerror((int)n));
}

static void cycle_end_server(aioloop_server *server) {
    aioloop_server_close(server);
    aioloop_server_unref(server);
}

static void soak_cycle_all(long limit) {
    int fds = soak_count_fds(limit);
    int fds_idle = 0;
    size_t idle = 0;
    size_t peak = 0;
    aioloop_time began;
    double seconds;
    memset(&cycle, 0, sizeof(cycle));
    soak_open_loop();
    began = aioloop_now(soak.loop);
    cycle.port = soak_listen(&cycle_server_protocol, &cycle.tcp_server);
    cycle.rude_port = soak_listen(&cycle_rude_protocol, &cycle.rude_server);
    cycle_listen_unix();
    while (soak.seconds > 0 ? soak_seconds(began) < soak.seconds : cycle.started < soak.cycles) {
        bool last = soak.seconds <= 0 && soak.cycles - cycle.target < SOAK_BATCH;
        cycle.target += last ? soak.cycles - cycle.target : SOAK_BATCH;
        cycle_start_more();
        soak_run();
        if (cycle.target <= SOAK_BATCH) {
            idle = soak.in_use;
            peak = soak.peak;
            fds_idle = soak_count_fds(limit);
        }
        /* How many are open at once is up to the system: a queue may grow a little later; a leak grows every time. */
        if (soak.in_use > idle + 8192)
            soak_die("after %u cycles %lu bytes are in use, after the first thousand %lu were", (unsigned)cycle.ended,
                     (unsigned long)soak.in_use, (unsigned long)idle);
        if (soak.peak > peak + peak / 4 + 16384)
            soak_die("after %u cycles the peak is %lu bytes, after the first thousand it was %lu",
                     (unsigned)cycle.ended, (unsigned long)soak.peak, (unsigned long)peak);
    }
    seconds = soak_seconds(began);
    /* A connection that was cancelled may still come. */
    if (soak_count_fds(limit) > fds_idle + SOAK_WINDOW)
        soak_die("%d descriptors are open, after the first thousand cycles %d were", soak_count_fds(limit), fds_idle);
    printf("%s: %u cycles in %.2f s (%.0f a second; %u TCP, %u Unix, %u reset, %u aborted, %u and %u cancelled), %.1f "
           "MB checked; "
           "memory idle %lu bytes, after the first thousand %lu; peak %lu, then %lu\n",
           soak.backend, (unsigned)cycle.ended, seconds, cycle.ended / seconds, (unsigned)cycle.of_kind[CYCLE_TCP],
           (unsigned)cycle.of_kind[CYCLE_UNIX], (unsigned)cycle.of_kind[CYCLE_RESET],
           (unsigned)cycle.of_kind[CYCLE_ABORT], (unsigned)cycle.of_kind[CYCLE_CANCEL],
           (unsigned)cycle.of_kind[CYCLE_TCP_CANCEL], (double)cycle.bytes / 1e6, (unsigned long)soak.in_use,
           (unsigned long)idle, (unsigned long)soak.peak, (unsigned long)peak);
    fflush(stdout);
    cycle_end_server(cycle.tcp_server);
    cycle_end_server(cycle.rude_server);
    cycle_end_server(cycle.unix_server);
    soak_close_loop();
    if (soak_count_fds(limit) != fds)
        soak_die("%d descriptors are left where %d were", soak_count_fds(limit), fds);
}

/* ---- main ---- */

static void soak_on_alarm(int number) {
    static const char text[] = "soak: it hangs\n";
    ssize_t n = write(2, text, sizeof(text) - 1);
    (void)n;
    (void)number;
    _exit(1);
}

/* False if this build or system does not have it. */
static bool soak_has_backend(const char *name) {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    bool real;
    config.backend = name;
    loop = aioloop_new_event_loop(&config);
    if (loop == NULL)
        return false;
    real = strcmp(aioloop_backend_name(loop), "sim") != 0;
    aioloop_free(loop);
    return real;
}

static void soak_backend(const char *name, long limit) {
    soak.backend = name;
    signal(SIGALRM, soak_on_alarm);
    alarm(600 + (unsigned)soak.seconds);
    if (soak.connections != 0)
        soak_hold(limit);
    if (soak.cycles != 0)
        soak_cycle_all(limit);
}

int main(int argc, char **argv) {
    static const char *const real[] = {"io_uring", "kqueue", "epoll", "poll", "select"};
    const char *wanted = getenv("AIOLOOP_BACKEND");
    long limit = soak_fd_limit();
    unsigned count = 0;
    size_t i;
    int k;
    soak.connections = 10000;
    soak.rounds = 5;
    soak.cycles = 100000;
    for (k = 1; k < argc; k++) {
        uint32_t *number = strcmp(argv[k], "--connections") == 0 ? &soak.connections
                           : strcmp(argv[k], "--rounds") == 0    ? &soak.rounds
                           : strcmp(argv[k], "--cycles") == 0    ? &soak.cycles
                                                                 : NULL;
        if (number == NULL && argv[k][0] >= '0' && argv[k][0] <= '9') {
            soak.seconds = strtod(argv[k], NULL);
            continue;
        }
        if (number == NULL || k + 1 == argc) {
            fprintf(stderr, "usage: %s [--connections N] [--rounds R] [--cycles M] [SECONDS]\n", argv[0]);
            return 2;
        }
        *number = (uint32_t)strtoul(argv[++k], NULL, 10);
    }
    if (soak.rounds == 0)
        soak.rounds = 1;
    if (wanted != NULL && wanted[0] != '\0') {
        if (!soak_has_backend(wanted)) {
            fprintf(stderr, "soak: %s is not here or has no sockets of the system\n", wanted);
            return 1;
        }
        soak_backend(wanted, limit);
        return 0;
    }
    for (i = 0; i < sizeof(real) / sizeof(real[0]); i++)
        count += soak_has_backend(real[i]);
    soak.seconds /= count != 0 ? count : 1;
    for (i = 0; i < sizeof(real) / sizeof(real[0]); i++)
        if (soak_has_backend(real[i]))
            soak_backend(real[i], limit);
    return 0;
}
