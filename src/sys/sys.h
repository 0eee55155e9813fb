/*
 * sys.h - the system's calls as the library uses them: one call, one function.
 *
 * Each returns 0 or above, or an AIOLOOP_E code; out-parameters are untouched on failure. EINTR is retried where the
 * call can be. Nothing here knows a loop. Sockets are made non-blocking and close-on-exec from birth. `without` is a
 * sum of AIOL_WITHOUT_..., the features to do without, for tests.
 */
#ifndef AIOL_SYS_SYS_H
#define AIOL_SYS_SYS_H

#include "api/net.h"
#include "api/resolve.h"
#include "base/error.c"

enum {
    AIOL_WITHOUT_ACCEPT4 = 1,
    AIOL_WITHOUT_EPOLL_PWAIT2 = 2,
    AIOL_WITHOUT_EVENTFD = 4,
    AIOL_WITHOUT_PIPE2 = 8,
    AIOL_WITHOUT_DEFER_TASKRUN = 16,
    AIOL_WITHOUT_COOP_TASKRUN = 32,
    AIOL_WITHOUT_BUFFER_RING = 64,
    AIOL_WITHOUT_INCREMENTAL = 128,
    AIOL_WITHOUT_MULTISHOT = 256,
    AIOL_WITHOUT_SENDFILE = 512,
    AIOL_WITHOUT_NOSIGNAL = 1024,
    AIOL_WITHOUT_MMSG = 2048,
    AIOL_WITHOUT_PIDFD = 4096,
    AIOL_WITHOUT_VFORK = 8192,
    AIOL_WITHOUT_CLOSE_RANGE = 16384
};

#define AIOL_NO_SOCKET ((aioloop_socket)-1)
#define AIOL_IOV_MAX 64 /* pieces of one send */

typedef enum aiol_socket_option {
    AIOL_OPTION_REUSE_ADDRESS,
    AIOL_OPTION_REUSE_PORT,
    AIOL_OPTION_KEEP_ALIVE,
    AIOL_OPTION_NO_DELAY,
    AIOL_OPTION_V6_ONLY,
    AIOL_OPTION_BROADCAST
} aiol_socket_option;

/* What a socket file is, to know it again. */
typedef struct aiol_path_identity {
    uint64_t device;
    uint64_t inode;
    bool is_socket;
} aiol_path_identity;

/* What is given to be read or written. */
typedef struct aiol_pipe_kind {
    bool socket;
    bool device;
    bool one_way; /* a pipe or FIFO that is open for one of the two: its other end can go */
} aiol_pipe_kind;

/* Room for the path that an address of a Unix socket points to. */
typedef struct aiol_path_room {
    char bytes[108];
} aiol_path_room;

/* One datagram to send; to NULL: where the socket is connected to. */
typedef struct aiol_datagram {
    struct aiol_datagram *next;
    const void *data;
    size_t size;
    const aioloop_address *to;
} aiol_datagram;

#define AIOL_DATAGRAM_MAX 65535u /* bytes of one of the internet */

#if AIOL_OS_POSIX
AIOLOOP_INTERNAL aioloop_time aiol_clock_now(void);
AIOLOOP_INTERNAL int aiol_process_id(void);
AIOLOOP_INTERNAL size_t aiol_address_path_max(const char *path); /* how long this name of a Unix socket may be */

/* type: an aioloop_socket_type, STREAM or DGRAM; protocol 0: the usual one. */
AIOLOOP_INTERNAL int aiol_socket_open(int family, int type, int protocol, aioloop_socket *out);
AIOLOOP_INTERNAL int aiol_socket_close(aioloop_socket s);
AIOLOOP_INTERNAL int aiol_socket_bind(aioloop_socket s, const aioloop_address *address);
AIOLOOP_INTERNAL int aiol_socket_listen(aioloop_socket s, int backlog);
AIOLOOP_INTERNAL int aiol_socket_accept(aioloop_socket s, unsigned without, aioloop_socket *out,
                                        aioloop_address *peer, aiol_path_room *room);
/* 0: connected; AIOLOOP_EINPROGRESS: ask aiol_socket_connected once it is writable. */
AIOLOOP_INTERNAL int aiol_socket_connect(aioloop_socket s, const aioloop_address *address);
AIOLOOP_INTERNAL int aiol_socket_connected(aioloop_socket s);
/* 0 is the end of the stream; AIOLOOP_EAGAIN: nothing there. */
AIOL_INLINE int64_t aiol_socket_recv(aioloop_socket s, void *buffer, size_t size);
AIOL_INLINE int64_t aiol_socket_send(aioloop_socket s, const aioloop_buf *pieces, int count);
/* Of sockets that others made. An address that is not told (as of a stream's sender) has the family AIOLOOP_UNSPEC. */
AIOLOOP_INTERNAL int64_t aiol_socket_recvfrom(aioloop_socket s, void *buffer, size_t size, aioloop_address *from,
                                              aiol_path_room *room);
AIOLOOP_INTERNAL int64_t aiol_socket_sendto(aioloop_socket s, const void *data, size_t size, const aioloop_address *to);
/* The next datagram, whole. AIOLOOP_EMSGSIZE: it was larger than that, and is lost. */
AIOLOOP_INTERNAL int64_t aiol_socket_recv_datagram(aioloop_socket s, void *buffer, size_t size, aioloop_address *from,
                                                   aiol_path_room *room);
/* Sends the first of a list, in order, that the system takes now: how many, or what it says of the first. */
AIOLOOP_INTERNAL int64_t aiol_socket_send_datagrams(aioloop_socket s, unsigned without, const aiol_datagram *first);
AIOLOOP_INTERNAL int aiol_socket_blocks(aioloop_socket s);
AIOLOOP_INTERNAL int aiol_socket_shutdown(aioloop_socket s);
AIOLOOP_INTERNAL int aiol_socket_set(aioloop_socket s, aiol_socket_option option, int value);
/* Checks that s is a socket of that type, STREAM or DGRAM (with which RAW counts), and tells its *family.
 * AIOLOOP_EINVAL for another kind. */
AIOLOOP_INTERNAL int aiol_socket_inspect(aioloop_socket s, int type, int *family);
AIOLOOP_INTERNAL int aiol_socket_adopt(aioloop_socket s); /* non-blocking and close-on-exec */
AIOLOOP_INTERNAL int aiol_socket_name(aioloop_socket s, aioloop_address *address, aiol_path_room *room);
AIOLOOP_INTERNAL int aiol_socket_peer(aioloop_socket s, aioloop_address *address, aiol_path_room *room);
#if AIOL_HAVE_URING
/* Whether it is readable (events 1) or writable (2) now. */
AIOLOOP_INTERNAL bool aiol_descriptor_is_ready(aioloop_socket s, unsigned events);
#endif
/* 0 if s is a descriptor of any kind. */
AIOLOOP_INTERNAL int aiol_descriptor_check(aioloop_socket s);

/* Of what can be read, or written; AIOLOOP_EINVAL: a file, a folder; AIOLOOP_EBADF: open for the other. */
AIOLOOP_INTERNAL int aiol_pipe_inspect(aioloop_socket s, bool writes, aiol_pipe_kind *kind);
/* Non-blocking. *restore: aiol_pipe_restore is to be called before it is closed. */
AIOLOOP_INTERNAL int aiol_pipe_adopt(aioloop_socket s, bool *restore);
AIOLOOP_INTERNAL void aiol_pipe_restore(aioloop_socket s);
/* As those of sockets. */
AIOLOOP_INTERNAL int64_t aiol_pipe_read(aioloop_socket s, void *buffer, size_t size);
AIOLOOP_INTERNAL int64_t aiol_pipe_write(aioloop_socket s, const aioloop_buf *pieces, int count, unsigned *without);

AIOLOOP_INTERNAL int aiol_path_identify(const char *path, size_t size, aiol_path_identity *identity);
AIOLOOP_INTERNAL int aiol_path_remove(const char *path, size_t size);

/* What the system takes of a file's bytes; 0: it has none there; AIOLOOP_EAGAIN: nothing now; AIOLOOP_ENOTAVAILABLE: not
 * of this file, or not on this system. */
AIOLOOP_INTERNAL int64_t aiol_socket_sendfile(aioloop_socket s, aioloop_file file, int64_t offset, size_t count);
#endif

/* ---- signal_posix.c ---- */

#if AIOLOOP_USE_SUBPROCESS
#define AIOL_SIGNAL_COUNT NSIG /* they have numbers below that */
AIOLOOP_INTERNAL bool aiol_signal_exists(int number);
AIOLOOP_INTERNAL int aiol_signal_catch(int number, void (*handler)(int number));
AIOLOOP_INTERNAL bool aiol_signal_calls(int number, void (*handler)(int number));
AIOLOOP_INTERNAL void aiol_signal_restore(int number);
AIOLOOP_INTERNAL void aiol_signal_obey(int number);
AIOLOOP_INTERNAL bool aiol_thread_is_main(bool first);
#endif

/* ---- spawn_posix.c ---- */

#define AIOL_SPAWN_STACK 32768u /* bytes that starting a program needs */

/* What a standard stream of a child is, if not a descriptor. */
enum { AIOL_SPAWN_INHERIT = -1, AIOL_SPAWN_STDOUT = -2, AIOL_SPAWN_DEVNULL = -3, AIOL_SPAWN_PIPE = -4 };

/* On which step to the program something went wrong; 0: on none. */
typedef enum aiol_spawn_step {
    AIOL_SPAWN_NONE,
    AIOL_SPAWN_STDIO,
    AIOL_SPAWN_CHDIR,
    AIOL_SPAWN_SESSION,
    AIOL_SPAWN_PROCESS_GROUP,
    AIOL_SPAWN_GROUPS,
    AIOL_SPAWN_GROUP,
    AIOL_SPAWN_USER,
    AIOL_SPAWN_PASS,
    AIOL_SPAWN_PREEXEC,
    AIOL_SPAWN_EXEC
} aiol_spawn_step;

typedef struct aiol_spawn {
    const char *file; /* with a slash in it; or it is looked for in path */
    const char *path;
    char *const *args;
    char *const *env;
    const char *cwd;
    int stdio[3];
    const int *keep;
    size_t keep_count;
    bool new_session;
    int process_group;
    bool set_user;
    bool set_group;
    bool set_groups;
    bool set_umask;
    bool keep_signals;
    uint32_t user;
    uint32_t group;
    const uint32_t *groups;
    size_t groups_count;
    unsigned umask;
    int (*preexec)(void *arg);
    void *preexec_arg;
    unsigned without;
    char *stack; /* AIOL_SPAWN_STACK bytes, at a multiple of 16 */
    /* what comes of it */
    int parent[3]; /* the loop's ends of pipes, non-blocking; -1: none */
    int pidfd;     /* -1: none */
    volatile int step;   /* the child's, in memory of both */
    volatile int number; /* errno */
    volatile int which;  /* the standard stream, or the descriptor that was to be passed on */
    bool lacks_interpreter; /* the program is there, what is to interpret it is not */
    /* its own */
    int report; /* -1: none is needed */
    long limit;
} aiol_spawn;

#if AIOL_OS_POSIX
/* The number of the child, which runs the program, or a code and the step. */
AIOLOOP_INTERNAL int aiol_spawn_program(aiol_spawn *s);
#endif

/* ---- file.c: everywhere; without an operating system AIOLOOP_ENOTAVAILABLE ---- */

typedef struct aiol_file_kind {
    bool regular;
    bool has_places; /* where one can begin to read */
    int64_t size;    /* of a regular one */
} aiol_file_kind;

AIOLOOP_INTERNAL int aiol_file_inspect(aioloop_file file, aiol_file_kind *kind);
/* Reads there, wherever the file stands; offset below 0: where it stands. May wait. 0 is the end. */
AIOLOOP_INTERNAL int64_t aiol_file_pread(aioloop_file file, void *buffer, size_t size, int64_t offset);
AIOLOOP_INTERNAL void aiol_file_seek(aioloop_file file, int64_t offset);
AIOLOOP_INTERNAL int aiol_file_duplicate(aioloop_file file, aioloop_file *out);
AIOLOOP_INTERNAL void aiol_file_release(aioloop_file file);

/* ---- stack.c ---- */

#if AIOLOOP_USE_COROUTINES
#if AIOL_STACK_SWITCH == AIOL_SWITCH_UCONTEXT
typedef struct aiol_stack_pointer {
    ucontext_t inner;
    ucontext_t outer;
    bool inside;
} aiol_stack_pointer;
#else
typedef void *aiol_stack_pointer;
#endif

/* A stack and what is remembered of the side that does not run. */
typedef struct aiol_fiber {
    aiol_stack_pointer sp;
    char *base; /* its lowest byte */
    size_t size;
#if AIOL_KNOWS_VALGRIND
    uint64_t valgrind; /* its number for the stack */
#endif
#if AIOL_ASAN
    void *fake; /* AddressSanitizer's, of this stack */
    const void *outer_base;
    size_t outer_size;
#endif
#if AIOL_TSAN
    void *inner; /* ThreadSanitizer's */
    void *outer;
#endif
} aiol_fiber;

/* entry begins on the stack with the first aiol_fiber_enter. It never returns; it calls aiol_fiber_arrive first. After
 * renew it begins again, or goes on where it left. */
AIOLOOP_INTERNAL void aiol_fiber_begin(aiol_fiber *fiber, char *base, size_t size, void (*entry)(void));
AIOL_INLINE void aiol_fiber_renew(aiol_fiber *fiber, void (*entry)(void));
AIOL_INLINE void aiol_fiber_enter(aiol_fiber *fiber);
AIOL_INLINE void aiol_fiber_leave(aiol_fiber *fiber);
AIOL_INLINE void aiol_fiber_arrive(aiol_fiber *fiber);
AIOLOOP_INTERNAL void aiol_fiber_end(aiol_fiber *fiber);

AIOLOOP_INTERNAL size_t aiol_page_size(void);
AIOLOOP_INTERNAL void *aiol_stack_map(const aioloop_allocator *a, size_t size);
AIOLOOP_INTERNAL void aiol_stack_unmap(const aioloop_allocator *a, void *p, size_t size);
AIOLOOP_INTERNAL int aiol_stack_guard(void *p, size_t size, bool by_mapping);
AIOLOOP_INTERNAL void aiol_stack_discard(void *p, size_t size);
/* Debug mode: fn is asked when a thread touches memory that it may not, and what it says (or NULL) is written to
 * standard error before things go on as they would have. memory is the stack that this thread does so on until
 * unwatch, of AIOL_STACK_WATCH_SIZE bytes; not used if the thread has such a stack already. */
#define AIOL_STACK_WATCH_SIZE 65536u
AIOLOOP_INTERNAL void aiol_stack_watch(void *memory, const char *(*fn)(const char *address));
AIOLOOP_INTERNAL void aiol_stack_unwatch(void *memory);
#endif

#endif
