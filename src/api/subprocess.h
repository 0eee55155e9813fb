/*
 * subprocess.h - programs as children.                  (asyncio: loop.subprocess_exec, asyncio.create_subprocess_exec)
 *
 * Two levels, as in asyncio. A subprocess is a transport with a protocol that is told what the child writes and how it
 * ends. A process has streams for coroutines. Every function here is for the loop's own thread, which may be any.
 */
#ifndef AIOLOOP_API_SUBPROCESS_H
#define AIOLOOP_API_SUBPROCESS_H

#include "api/stream.h"

typedef struct aioloop_subprocess aioloop_subprocess;
typedef struct aioloop_process aioloop_process;

/* What a child's standard stream is. */
#define AIOLOOP_STDIO_PIPE 0      /* a pipe to the loop */
#define AIOLOOP_STDIO_INHERIT (-1) /* the parent's own */
#define AIOLOOP_STDIO_STDOUT (-2)  /* std_err only: where the output goes */
#define AIOLOOP_STDIO_DEVNULL (-3) /* nothing */
#define AIOLOOP_STDIO_FD(fd) ((fd) < 0 ? -0x7fffffff : (fd) + 1) /* this descriptor, which stays the caller's; never the bare number */

/* The result of waiting for a child that a signal has ended, 256 and more; others give their exit status, 0 to 255. */
#define AIOLOOP_SIGNALLED(signal) (256 + (signal))

/* subprocess.Popen's options; all zero: asyncio's defaults. Everything is read by the call. */
typedef struct aioloop_subprocess_options {
    int std_in;  /* one of AIOLOOP_STDIO_... */
    int std_out;
    int std_err;
    const char *executable;    /* run instead of args[0], or instead of /bin/sh; NULL: that */
    const char *cwd;           /* the child's working directory, from which a relative program is found; NULL: the parent's */
    const char *const *env;    /* "NAME=value", and a NULL at the end; NULL: the parent's. Its PATH is
                                * searched; without one /bin and /usr/bin. */
    const int *pass_fds;       /* descriptors that the child keeps, under the same numbers, 3 and above; all others are */
    size_t pass_fds_count;     /*   closed in it, inheritable or not */
    bool start_new_session;    /* setsid() */
    int process_group;         /* 0: the parent's; -1: one of its own; above: that one */
    bool set_user;             /* the child runs as user, */
    bool set_group;            /*   group, */
    uint32_t user;
    uint32_t group;
    const uint32_t *extra_groups; /* and in these groups; NULL: the parent's */
    size_t extra_groups_count;
    bool set_umask;
    unsigned umask;
    bool keep_signals;         /* restore_signals false: SIGPIPE and SIGXFSZ stay ignored if the parent ignores them. (Other
                                * ignored ones do always; handlers and the mask are never inherited.) */
    int (*preexec)(void *arg); /* called in the child just before the program starts; not 0: an errno with which that fails.
                                * DANGEROUS in a program of several threads: the child has one, and whatever lock another
                                * held, malloc's for instance, is held for ever. Only what a signal handler may do is
                                * safe. */
    void *preexec_arg;
} aioloop_subprocess_options;

/* A protocol for a child: asyncio's SubprocessProtocol, each method may be NULL. As aioloop_protocol: instance_size bytes
 * of its own, or the arg of the call; a factory that may refuse (then the child is killed). connection_made comes first,
 * connection_lost once, last, when the child has ended and all its pipes are lost; process_exited once, in no order with
 * the pipes'. What they fail with (aioloop_raise) is reported to the exception handler; the child and its pipes go on. */
typedef struct aioloop_subprocess_protocol {
    size_t instance_size;
    int (*factory)(void *self, void *arg);
    void (*connection_made)(aioloop_subprocess *transport, void *self);
    /* fd: 1 output, 2 errors. data is the library's, valid during the call. */
    void (*pipe_data_received)(aioloop_subprocess *transport, void *self, int fd, const void *data, size_t size);
    /* fd: 0, 1 or 2. error: 0, or the code that the pipe was lost with. */
    void (*pipe_connection_lost)(aioloop_subprocess *transport, void *self, int fd, int error);
    void (*process_exited)(aioloop_subprocess *transport, void *self);
    void (*connection_lost)(aioloop_subprocess *transport, void *self, int error);
    /* Of the child's input. */
    void (*pause_writing)(aioloop_subprocess *transport, void *self);
    void (*resume_writing)(aioloop_subprocess *transport, void *self);
} aioloop_subprocess_protocol;

/* loop.subprocess_exec(): starts a program. args are its arguments, the first one its name, a NULL at the end; a name
 * without a slash is looked for in PATH. The program has started, or the call has failed, when this returns; the future,
 * whose pointer is the aioloop_subprocess and whose number the process id, is done when connection_made has returned.
 * Cancelling it kills the child.
 *
 * Fails with the system's error of what went wrong on the way to the program, and a message that names it: AIOLOOP_ENOENT,
 * AIOLOOP_EACCES (no such program or folder, or not allowed), AIOLOOP_E2BIG, AIOLOOP_EPERM, AIOLOOP_EBADF (a descriptor),
 * AIOLOOP_EAGAIN (too many processes), AIOLOOP_EMFILE; AIOLOOP_EINVAL (arguments), the factory's error, AIOLOOP_ENOMEM,
 * AIOLOOP_ECLOSED; AIOLOOP_ENOTAVAILABLE on the simulated back end, and when built with AIOLOOP_USE_SUBPROCESS 0.
 *
 * The child is started without copying the parent's memory, however large; but with preexec, set_user, set_group or
 * extra_groups by fork. The loop waits for its children alone, one by one, and never takes another's; a program that
 * ignores SIGCHLD, or waits for every child itself, gets them first, and then the result is 255. (Where there is no pidfd,
 * before Linux 5.4 and elsewhere, such a program must not signal or close a child that may have ended: its number may be
 * another's by then.) Closing the loop kills a child, and leaves one alone that may not be killed. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_subprocess_exec(aioloop *loop,
                                                                     const aioloop_subprocess_protocol *protocol, void *arg,
                                                                     const char *const *args,
                                                                     const aioloop_subprocess_options *options);

/* loop.subprocess_shell(): has /bin/sh run a command line. What comes from elsewhere is to be quoted
 * (aioloop_shell_quote). */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_subprocess_shell(aioloop *loop,
                                                                      const aioloop_subprocess_protocol *protocol,
                                                                      void *arg, const char *command,
                                                                      const aioloop_subprocess_options *options);

/* shlex.quote(): writes text as one word of a shell's command line into buffer, if size is enough, with a zero behind it.
 * How many bytes that takes, the zero not counted, as snprintf. AIOLOOP_EINVAL for NULL. Any thread. */
AIOLOOP_API int64_t aioloop_shell_quote(const char *text, char *buffer, size_t size);

/* One owner more, and one less. NULL is ignored. The loop holds one reference until connection_lost has returned. */
AIOLOOP_API aioloop_subprocess *aioloop_subprocess_ref(aioloop_subprocess *transport);
AIOLOOP_API void aioloop_subprocess_unref(aioloop_subprocess *transport);

AIOLOOP_API aioloop *aioloop_subprocess_get_loop(const aioloop_subprocess *transport);

/* SubprocessTransport.get_pid(): stays after the end. */
AIOLOOP_API int aioloop_subprocess_get_pid(const aioloop_subprocess *transport);

/* SubprocessTransport.get_returncode(): false while the child runs; then true, and stores at code (may be NULL) the exit
 * status, or minus the signal that has killed it. */
AIOLOOP_API bool aioloop_subprocess_get_returncode(const aioloop_subprocess *transport, int *code);

/* SubprocessTransport.get_pipe_transport(): that of the child's stream fd (0: to write to; 1, 2: which reads), borrowed, as
 * long as this one. NULL if that is no pipe. Its protocol is the library's, and stays. */
AIOLOOP_API aioloop_transport *aioloop_subprocess_get_pipe_transport(const aioloop_subprocess *transport, int fd);

/* SubprocessTransport.send_signal(), terminate() (SIGTERM), kill() (SIGKILL). 0, also when the child has just ended;
 * AIOLOOP_ESRCH once connection_lost was called; AIOLOOP_EINVAL for no signal; AIOLOOP_EPERM. */
AIOLOOP_API int aioloop_subprocess_send_signal(aioloop_subprocess *transport, int signal);
AIOLOOP_API int aioloop_subprocess_terminate(aioloop_subprocess *transport);
AIOLOOP_API int aioloop_subprocess_kill(aioloop_subprocess *transport);

/* BaseTransport.close(): closes the pipes, and kills the child if it still runs; the protocol is told as usual. Closing the
 * loop does the same without telling anybody. May be repeated. */
AIOLOOP_API void aioloop_subprocess_close(aioloop_subprocess *transport);
AIOLOOP_API bool aioloop_subprocess_is_closing(const aioloop_subprocess *transport);

/* ---- with streams ---- */

typedef struct aioloop_process_options {
    aioloop_subprocess_options subprocess;
    int64_t limit; /* of the streams, as in aioloop_stream_options */
} aioloop_process_options;

/* asyncio.create_subprocess_exec(), create_subprocess_shell(): the same, and the future's pointer is an aioloop_process, its
 * number the process id. (In asyncio the three streams are inherited unless asked for; here they are pipes, as in the
 * calls above, so an unread one holds the child up once it is full.) */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_create_subprocess_exec(aioloop *loop, const char *const *args,
                                                                            const aioloop_process_options *options);
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_create_subprocess_shell(aioloop *loop, const char *command,
                                                                             const aioloop_process_options *options);

/* One owner more, and one less. NULL is ignored. With the last owner the pipes are closed, and a child that still runs is
 * killed; what waits for its end still gets it. (A communicate that waits is an owner too.) */
AIOLOOP_API aioloop_process *aioloop_process_ref(aioloop_process *process);
AIOLOOP_API void aioloop_process_unref(aioloop_process *process);

/* Process.stdin, stdout, stderr: borrowed, as long as the process; NULL if that is no pipe. The first is only written to,
 * the others are only read. */
AIOLOOP_API aioloop_stream *aioloop_process_stdin(const aioloop_process *process);
AIOLOOP_API aioloop_stream *aioloop_process_stdout(const aioloop_process *process);
AIOLOOP_API aioloop_stream *aioloop_process_stderr(const aioloop_process *process);

/* Process.pid, returncode, send_signal(), terminate(), kill(): as of the subprocess. */
AIOLOOP_API int aioloop_process_pid(const aioloop_process *process);
AIOLOOP_API bool aioloop_process_returncode(const aioloop_process *process, int *code);
AIOLOOP_API int aioloop_process_send_signal(aioloop_process *process, int signal);
AIOLOOP_API int aioloop_process_terminate(aioloop_process *process);
AIOLOOP_API int aioloop_process_kill(aioloop_process *process);

/* Process.wait(): done when the child has ended, with its exit status, or AIOLOOP_SIGNALLED(signal). Any number may wait, and
 * again afterwards. A child that fills a pipe nobody reads does not end: use communicate. Cancelling it leaves the child
 * alone. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_process_wait(aioloop_process *process);

/* What a child has written; each may be NULL with 0 bytes, and has a zero behind it that is not counted. */
typedef struct aioloop_communication {
    const char *std_out;
    size_t std_out_size;
    const char *std_err;
    size_t std_err_size;
} aioloop_communication;

/* Process.communicate(): writes input (copied; NULL: nothing) to the child, closes its input, reads both outputs to their
 * ends, and waits for the child. The number is as of wait, the pointer a const aioloop_communication *, which belongs to
 * the process and is valid as long as that, or until the next communicate or reading of its streams. A child that does not read all its input is no error.
 * AIOLOOP_EMISUSE for input without a pipe, and while another one waits. As long as it waits it is an owner of the process.
 * Cancelling it leaves the child alone. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_process_communicate(aioloop_process *process, const void *input,
                                                                         size_t size);

#endif
