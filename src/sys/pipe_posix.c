/*
 * pipe_posix.c - what is read and written, not received and sent: pipes, FIFOs, terminals and other devices.
 *
 *   a) A write to a pipe that nobody reads raises SIGPIPE, in the thread that writes. Linux can leave that out since 6.18
 *      (RWF_NOSIGNAL); elsewhere the signal is held back, and taken away if the write has caused it. One that was
 *      waiting before stays.
 *   b) Whether a call waits is said of the open file, which other processes share: of a terminal all that the shell has
 *      started. So a terminal is opened anew, and the number is the new one's. The master of a pseudo-terminal would
 *      open another one, and some terminals may not be opened: those, like all the rest, are put back in the end.
 *   c) Not every system has sigtimedwait.
 */
#ifndef AIOL_SYS_PIPE_POSIX_C
#define AIOL_SYS_PIPE_POSIX_C

#include "sys/socket_posix.c"

/* ---- a) ---- */

typedef struct aiol_held_signal {
    sigset_t before;
    bool waiting;
} aiol_held_signal;

static void aiol_signal_set_pipe(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGPIPE);
}

static int aiol_signal_mask(int how, const sigset_t *set, sigset_t *before) {
#if AIOL_HAVE_PTHREAD
    return pthread_sigmask(how, set, before);
#else
    return sigprocmask(how, set, before);
#endif
}

static void aiol_signal_hold(aiol_held_signal *held) {
    sigset_t pipe_signal;
    sigset_t pending;
    aiol_signal_set_pipe(&pipe_signal);
    aiol_signal_mask(SIG_BLOCK, &pipe_signal, &held->before);
    held->waiting = false;
    if (sigismember(&held->before, SIGPIPE) == 1) {
        sigpending(&pending);
        held->waiting = sigismember(&pending, SIGPIPE) == 1;
    }
}

static void aiol_signal_release(const aiol_held_signal *held, bool caused) {
    sigset_t pipe_signal;
    aiol_signal_set_pipe(&pipe_signal);
    if (caused && !held->waiting) {
#if AIOL_OS_LINUX || defined(__FreeBSD__) || defined(__NetBSD__)
        static const struct timespec now = {0, 0};
        while (sigtimedwait(&pipe_signal, NULL, &now) == -1 && errno == EINTR)
            ;
#else
        sigset_t pending; /* c) */
        int number;
        sigpending(&pending);
        if (sigismember(&pending, SIGPIPE) == 1)
            sigwait(&pipe_signal, &number);
#endif
    }
    aiol_signal_mask(SIG_SETMASK, &held->before, NULL);
}

static int64_t aiol_pipe_write_held(aioloop_socket s, const struct iovec *pieces, int count) {
    aiol_held_signal held;
    ssize_t n;
    int error = 0;
    aiol_signal_hold(&held);
    do
        n = AIOL_SYS(writev, writev(s, pieces, count));
    while (n == -1 && errno == EINTR);
    if (n == -1)
        error = errno;
    aiol_signal_release(&held, error == EPIPE);
    return n == -1 ? aiol_error_from_errno(error) : (int64_t)n;
}

AIOLOOP_INTERNAL int64_t aiol_pipe_write(aioloop_socket s, const aioloop_buf *pieces, int count, unsigned *without) {
    struct iovec vector[AIOL_IOV_MAX];
    struct msghdr message;
    aiol_socket_message(&message, vector, pieces, count);
    count = (int)message.msg_iovlen;
#if AIOL_HAVE_NOSIGNAL
    if ((*without & AIOL_WITHOUT_NOSIGNAL) == 0) {
        ssize_t n;
        do
            n = AIOL_SYS(pwritev2, (ssize_t)syscall(SYS_pwritev2, s, vector, (long)count, -1L, -1L, AIOL_RWF_NOSIGNAL));
        while (n == -1 && errno == EINTR);
        if (n != -1)
            return (int64_t)n;
        if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
            return aiol_error_from_errno(errno);
        *without |= AIOL_WITHOUT_NOSIGNAL;
    }
#else
    (void)without;
#endif
    return aiol_pipe_write_held(s, vector, count);
}

AIOLOOP_INTERNAL int64_t aiol_pipe_read(aioloop_socket s, void *buffer, size_t size) {
    ssize_t n;
    do
        n = AIOL_SYS(read, read(s, buffer, size));
    while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : (int64_t)n;
}

/* ---- descriptors of others ---- */

AIOLOOP_INTERNAL int aiol_pipe_inspect(aioloop_socket s, bool writes, aiol_pipe_kind *kind) {
    struct stat st;
    int family;
    int mode;
    int err;
    if (s < 0)
        return AIOLOOP_EBADF;
    if (AIOL_SYS(fstat, fstat(s, &st)) == -1)
        return aiol_error_from_errno(errno);
    if (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode) && !S_ISCHR(st.st_mode))
        return AIOLOOP_EINVAL;
    if (S_ISSOCK(st.st_mode) && (err = aiol_socket_inspect(s, AIOLOOP_SOCK_STREAM, &family)) < 0)
        return err;
    mode = AIOL_SYS(fcntl, fcntl(s, F_GETFL, 0));
    if (mode == -1)
        return aiol_error_from_errno(errno);
    mode &= O_ACCMODE;
    if (mode == (writes ? O_RDONLY : O_WRONLY))
        return AIOLOOP_EBADF;
    kind->socket = S_ISSOCK(st.st_mode) != 0;
    kind->device = S_ISCHR(st.st_mode) != 0;
    kind->one_way = mode != O_RDWR && S_ISFIFO(st.st_mode);
    return 0;
}

/* b) Whether s is now a terminal of its own that does not wait. */
static bool aiol_terminal_reopen(aioloop_socket s, int mode) {
    struct stat before;
    struct stat after;
    char path[64];
    int fd;
#if AIOL_OS_LINUX
    int number;
    if (ioctl(s, TIOCGPTN, &number) == 0) /* a master */
        return false;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", s);
#else
    if (ttyname_r(s, path, sizeof(path)) != 0)
        return false;
#endif
    fd = AIOL_SYS(open, open(path, (mode & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (fd == -1)
        return false;
    if (fstat(s, &before) == 0 && fstat(fd, &after) == 0 && S_ISCHR(after.st_mode) && before.st_rdev == after.st_rdev &&
        isatty(fd) && AIOL_SYS(dup2, dup2(fd, s)) != -1) {
        close(fd);
        return true;
    }
    close(fd);
    return false;
}

AIOLOOP_INTERNAL int aiol_pipe_adopt(aioloop_socket s, bool *restore) {
    int flags = AIOL_SYS(fcntl, fcntl(s, F_GETFL, 0));
    int own = AIOL_SYS(fcntl, fcntl(s, F_GETFD, 0));
    if (flags == -1 || own == -1)
        return aiol_error_from_errno(errno);
    *restore = false;
    if ((flags & O_NONBLOCK) == 0 && !(isatty(s) && aiol_terminal_reopen(s, flags))) {
        if (AIOL_SYS(fcntl, fcntl(s, F_SETFL, flags | O_NONBLOCK)) == -1)
            return aiol_error_from_errno(errno);
        *restore = true;
    }
    /* The standard ones are there to be inherited. */
    if (s > STDERR_FILENO && AIOL_SYS(fcntl, fcntl(s, F_SETFD, own | FD_CLOEXEC)) == -1) {
        int error = errno;
        if (*restore)
            aiol_pipe_restore(s);
        return aiol_error_from_errno(error);
    }
    return 0;
}

AIOLOOP_INTERNAL void aiol_pipe_restore(aioloop_socket s) {
    int flags = fcntl(s, F_GETFL, 0);
    if (flags != -1)
        (void)fcntl(s, F_SETFL, flags & ~O_NONBLOCK);
}

#endif
