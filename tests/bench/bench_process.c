/*
 * bench_process.c - starting programs, and pipes: the library, by hand, and libuv (with -DBENCH_UV -luv).
 *
 *     bench_process aioloop.spawn --count N [--ballast MiB]   start /bin/true and reap it, one after the other
 *     bench_process hand.spawn, posix_spawn.spawn, uv.spawn
 *     bench_process aioloop.pipe --count N                    N pieces of 64 KiB through a pipe, both ends in one loop
 *     bench_process hand.pipe, uv.pipe
 *
 * By hand: vfork, pidfd_open, epoll, waitpid; and epoll, write and read without an allocation. --ballast: so much memory
 * the parent has touched. Each prints one JSON object: processor time of all but the children, and wall time, per piece.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../../aioloop.h"

#define BENCH_NO_MAIN
#include "bench.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#ifdef BENCH_UV
#include <uv.h>
#endif

#define PIECE 65536

static long count = 1000;
static long left;
static int64_t wall_start;
static int64_t cpu_start;
static char piece[PIECE];

static void begin(void) {
    left = count;
    wall_start = bench_now();
    cpu_start = bench_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static void show(void) {
    int64_t cpu = bench_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu_start;
    int64_t wall = bench_now() - wall_start;
    printf("{\"ns\": %.1f, \"wall_ns\": %.1f, \"count\": %ld}\n", (double)cpu / (double)count, (double)wall / (double)count, count);
}

/* ---- the library ---- */

static aioloop *loop;
static const char *const arguments[] = {"/bin/true", NULL};

static void spawn_next(void);

static void spawn_lost(aioloop_subprocess *transport, void *self, int error) {
    (void)transport;
    (void)self;
    (void)error;
    if (--left > 0)
        spawn_next();
    else
        aioloop_stop(loop);
}

static void spawn_next(void) {
    static const aioloop_subprocess_protocol protocol = {.connection_lost = spawn_lost};
    aioloop_subprocess_options options = {.std_in = AIOLOOP_STDIO_INHERIT, .std_out = AIOLOOP_STDIO_INHERIT,
                                          .std_err = AIOLOOP_STDIO_INHERIT};
    aioloop_future *f = aioloop_subprocess_exec(loop, &protocol, NULL, arguments, &options);
    bench_check(!aioloop_future_done(f), "spawn");
    aioloop_future_unref(f);
}

static void aioloop_spawn(void) {
    loop = aioloop_new_event_loop(NULL);
    begin();
    spawn_next();
    aioloop_run_forever(loop);
    show();
    aioloop_free(loop);
}

static aioloop_transport *pipe_writer;
static size_t pipe_got;

static void pipe_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)transport;
    (void)self;
    (void)data;
    pipe_got += size;
    if (pipe_got < PIECE)
        return;
    pipe_got -= PIECE;
    if (--left > 0)
        aioloop_transport_write(pipe_writer, piece, PIECE);
    else
        aioloop_stop(loop);
}

static void aioloop_pipe(void) {
    static const aioloop_protocol reader = {.data_received = pipe_data};
    static const aioloop_protocol writer = {0};
    int ends[2];
    bench_check(pipe(ends) == 0, "pipe");
    loop = aioloop_new_event_loop(NULL);
    bench_check(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &reader, NULL, ends[0]), NULL) == 0, "read pipe");
    bench_check(aioloop_run_until_complete(loop, aioloop_connect_write_pipe(loop, &writer, NULL, ends[1]), &pipe_writer) == 0, "write pipe");
    begin();
    aioloop_transport_write(pipe_writer, piece, PIECE);
    aioloop_run_forever(loop);
    show();
    aioloop_transport_unref(pipe_writer);
    aioloop_free(loop);
}

/* ---- by hand ---- */

extern char **environ;

static void hand_spawn(bool posix) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    char *args[] = {(char *)"/bin/true", NULL};
    begin();
    while (left-- > 0) {
        struct epoll_event event = {.events = EPOLLIN};
        pid_t pid;
        int status;
        int fd;
        if (posix) {
            bench_check(posix_spawn(&pid, args[0], NULL, NULL, args, environ) == 0, "posix_spawn");
        } else {
            pid = vfork();
            if (pid == 0) {
                execve(args[0], args, environ);
                _exit(127);
            }
            bench_check(pid > 0, "vfork");
        }
        fd = (int)syscall(SYS_pidfd_open, pid, 0);
        bench_check(fd >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "pidfd");
        bench_check(epoll_wait(epoll, &event, 1, -1) == 1, "epoll_wait");
        bench_check(waitpid(pid, &status, WNOHANG) == pid && status == 0, "waitpid");
        close(fd);
    }
    show();
}

static void hand_pipe(void) {
    static char buffer[262144];
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    size_t got = 0;
    int ends[2];
    bench_check(pipe2(ends, O_NONBLOCK) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event) == 0, "pipe");
    begin();
    bench_check(write(ends[1], piece, PIECE) == PIECE, "write");
    for (;;) {
        bench_check(epoll_wait(epoll, &event, 1, -1) == 1, "epoll_wait");
        got += (size_t)read(ends[0], buffer, sizeof(buffer));
        if (got < PIECE)
            continue;
        got -= PIECE;
        if (--left == 0)
            break;
        bench_check(write(ends[1], piece, PIECE) == PIECE, "write");
    }
    show();
}

/* ---- libuv ---- */

#ifdef BENCH_UV
static uv_process_t uv_child;
static void uv_next(void);

static void uv_closed(uv_handle_t *handle) {
    (void)handle;
    if (--left > 0)
        uv_next();
}

static void uv_exited(uv_process_t *process, int64_t status, int signal) {
    (void)status;
    (void)signal;
    uv_close((uv_handle_t *)process, uv_closed);
}

static void uv_next(void) {
    static char *args[] = {(char *)"/bin/true", NULL};
    uv_stdio_container_t stdio[3] = {{.flags = UV_INHERIT_FD, .data.fd = 0}, {.flags = UV_INHERIT_FD, .data.fd = 1},
                                     {.flags = UV_INHERIT_FD, .data.fd = 2}};
    uv_process_options_t options = {.exit_cb = uv_exited, .file = args[0], .args = args, .stdio_count = 3, .stdio = stdio};
    bench_check(uv_spawn(uv_default_loop(), &uv_child, &options) == 0, "uv_spawn");
}

static uv_pipe_t uv_reader;
static uv_pipe_t uv_writer;
static uv_write_t uv_request;

static void uv_send(void) {
    uv_buf_t buffer = uv_buf_init(piece, PIECE);
    bench_check(uv_write(&uv_request, (uv_stream_t *)&uv_writer, &buffer, 1, NULL) == 0, "uv_write");
}

static void uv_room(uv_handle_t *handle, size_t size, uv_buf_t *buffer) {
    static char room[262144];
    (void)handle;
    (void)size;
    *buffer = uv_buf_init(room, sizeof(room));
}

static void uv_got(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    (void)buffer;
    if (n <= 0)
        return;
    pipe_got += (size_t)n;
    if (pipe_got < PIECE)
        return;
    pipe_got -= PIECE;
    if (--left > 0)
        uv_send();
    else
        uv_stop(stream->loop);
}

static void uv_pipes(void) {
    int ends[2];
    bench_check(pipe(ends) == 0, "pipe");
    uv_pipe_init(uv_default_loop(), &uv_reader, 0);
    uv_pipe_init(uv_default_loop(), &uv_writer, 0);
    uv_pipe_open(&uv_reader, ends[0]);
    uv_pipe_open(&uv_writer, ends[1]);
    uv_read_start((uv_stream_t *)&uv_reader, uv_room, uv_got);
    begin();
    uv_send();
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    show();
}
#endif

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    int i;
    signal(SIGPIPE, SIG_IGN);
    for (i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--count") == 0) {
            count = atol(argv[i + 1]);
        } else if (strcmp(argv[i], "--ballast") == 0) {
            size_t size = (size_t)atol(argv[i + 1]) << 20;
            char *ballast = (char *)malloc(size);
            bench_check(ballast != NULL, "malloc");
            memset(ballast, 1, size);
        }
    }
    if (strcmp(what, "aioloop.spawn") == 0) {
        aioloop_spawn();
    } else if (strcmp(what, "aioloop.pipe") == 0) {
        aioloop_pipe();
    } else if (strcmp(what, "hand.spawn") == 0) {
        hand_spawn(false);
    } else if (strcmp(what, "posix_spawn.spawn") == 0) {
        hand_spawn(true);
    } else if (strcmp(what, "hand.pipe") == 0) {
        hand_pipe();
#ifdef BENCH_UV
    } else if (strcmp(what, "uv.spawn") == 0) {
        begin();
        uv_next();
        uv_run(uv_default_loop(), UV_RUN_DEFAULT);
        show();
    } else if (strcmp(what, "uv.pipe") == 0) {
        uv_pipes();
#endif
    } else {
        fprintf(stderr, "bench_process: what? see the head of bench_process.c\n");
        return 2;
    }
    return 0;
}
