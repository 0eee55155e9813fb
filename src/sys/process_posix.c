/*
 * process_posix.c - processes: making and ending them, what they inherit, and how they are talked to.
 *
 *   a) Not every system can make a descriptor close-on-exec from birth.
 *   b) In a thread of many, sigprocmask changes the thread's own mask, on every system there is, whatever POSIX says.
 *   c) A limit of descriptors may be a billion; who closes all of them asks which are open.
 *   d) A signal that comes before it is waited for must not be lost: it is blocked but in pselect.
 *
 * A channel is one end of a pair of stream sockets, which block; what goes over it is a record of known size.
 */
#ifndef AIOL_SYS_PROCESS_POSIX_C
#define AIOL_SYS_PROCESS_POSIX_C

#include "sys/socket_posix.c"

#define AIOL_PROCESS_CHANNEL 3 /* the first after the standard ones */

/* ---- processes ---- */

/* 0 in the child, where all signals are blocked, so that no handler of the parent's runs there; its number in the
 * parent. */
AIOLOOP_INTERNAL int aiol_process_fork(void) {
    sigset_t all;
    sigset_t before;
    pid_t pid;
    int number;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* b) */
    pid = AIOL_SYS(fork, fork());
    number = errno;
    if (pid != 0)
        sigprocmask(SIG_SETMASK, &before, NULL);
    return pid == -1 ? aiol_error_from_errno(number) : (int)pid;
}

/* Waits for a child; pid -1: any. The number of the one that has ended; 0: none has, and patient is false. *status: of
 * its exit, or minus the signal that has killed it. */
AIOLOOP_INTERNAL int aiol_process_wait(int pid, bool patient, int *status) {
    int raw = 0;
    pid_t got;
    do
        got = AIOL_SYS(waitpid, waitpid((pid_t)pid, &raw, patient ? 0 : WNOHANG));
    while (got == -1 && errno == EINTR);
    if (got == -1)
        return aiol_error_from_errno(errno);
    if (got != 0)
        *status = WIFSIGNALED(raw) ? -WTERMSIG(raw) : WEXITSTATUS(raw);
    return (int)got;
}

AIOLOOP_INTERNAL void aiol_process_kill(int pid) {
    (void)kill((pid_t)pid, SIGKILL);
}

/* Ends this process, without what the program has to do at its end. */
AIOLOOP_INTERNAL void aiol_process_exit(int status) {
    _exit(status);
}

/* ---- what a forked child keeps ---- */

/* Closes descriptors from first on. */
static void aiol_process_close_from(int first) {
#if defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)
    closefrom(first);
#else
    DIR *list;
    int i;
#if defined(SYS_close_range)
    if (AIOL_SYS(close_range, syscall(SYS_close_range, (unsigned)first, UINT_MAX, 0u)) == 0)
        return;
#endif
    list = opendir("/dev/fd"); /* c) */
    if (list == NULL) {
        long limit = sysconf(_SC_OPEN_MAX);
        for (i = first; i < (limit < 0 || limit > 65536 ? 65536 : (int)limit); i++)
            close(i);
    } else {
        struct dirent *entry;
        while ((entry = readdir(list)) != NULL) {
            i = atoi(entry->d_name);
            if (i >= first && i != dirfd(list))
                close(i);
        }
        closedir(list);
    }
#endif
}

/* Standard input becomes a pipe that has ended, which needs no file: a changed root may lack them. So do output and
 * error, if they were closed: else what is opened next would be taken for them. */
static int aiol_process_empty_input(void) {
    int ends[2];
    int err = 0;
    int i;
    if (AIOL_SYS(pipe, pipe(ends)) == -1)
        return aiol_error_from_errno(errno);
    close(ends[1]);
    for (i = STDIN_FILENO; i <= STDERR_FILENO && err == 0; i++)
        if ((i == STDIN_FILENO || fcntl(i, F_GETFD) == -1) && i != ends[0] && AIOL_SYS(dup2, dup2(ends[0], i)) == -1)
            err = aiol_error_from_errno(errno);
    if (ends[0] > STDERR_FILENO)
        close(ends[0]);
    return err;
}

/* Of the parent's descriptors the child keeps the standard ones, with nothing to read, and one more, which becomes
 * AIOL_PROCESS_CHANNEL. */
static int aiol_process_keep(int channel) {
    if (channel != AIOL_PROCESS_CHANNEL) {
        if (AIOL_SYS(dup2, dup2(channel, AIOL_PROCESS_CHANNEL)) == -1)
            return aiol_error_from_errno(errno);
        close(channel);
    }
    if (AIOL_SYS(fcntl, fcntl(AIOL_PROCESS_CHANNEL, F_SETFD, FD_CLOEXEC)) == -1)
        return aiol_error_from_errno(errno);
    aiol_process_close_from(AIOL_PROCESS_CHANNEL + 1);
    return aiol_process_empty_input();
}

static void aiol_process_on_signal(int number, void (*handler)(int number)) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    sigemptyset(&action.sa_mask);
    action.sa_handler = handler;
    (void)sigaction(number, &action, NULL);
}

/* Signals do again what the system has them do. */
static void aiol_process_forget_handlers(void) {
    struct sigaction action;
    int number;
    for (number = 1; number < NSIG; number++)
        if (sigaction(number, NULL, &action) == 0 &&
            ((action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler != SIG_DFL))
            aiol_process_on_signal(number, SIG_DFL);
}

static void aiol_process_noticed(int number) {
    (void)number;
}

/* In a forked child that will have children itself: no signal reaches it, but aiol_process_await notices the end of
 * one. */
AIOLOOP_INTERNAL int aiol_process_become_server(int channel) {
    aiol_process_forget_handlers();
    aiol_process_on_signal(SIGCHLD, aiol_process_noticed);
    return aiol_process_keep(channel);
}

/* In a forked child of such a one, which it does not outlive where the system can see to that. It ignores what a
 * terminal or a supervisor sends to all processes of a program. */
AIOLOOP_INTERNAL int aiol_process_become_worker(int channel, int parent) {
    static const int ignored[] = {SIGINT, SIGQUIT, SIGHUP, SIGTERM, SIGPIPE};
    sigset_t none;
    size_t i;
    int err;
    aiol_process_forget_handlers();
    for (i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
        aiol_process_on_signal(ignored[i], SIG_IGN);
    err = aiol_process_keep(channel);
#if AIOL_OS_LINUX
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    if (getppid() != (pid_t)parent)
        return AIOLOOP_ECHILD;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    return err;
}

/* A descriptor that is readable when the parent has ended; -1 where there is none. */
AIOLOOP_INTERNAL int aiol_process_watch_parent(void) {
#if defined(SYS_pidfd_open)
    return (int)AIOL_SYS(pidfd_open, syscall(SYS_pidfd_open, getppid(), 0u));
#else
    return -1;
#endif
}

/* In a server: 0 when there is something to read, or the end of the channel; AIOLOOP_EINTR when a child has ended;
 * AIOLOOP_EPIPE when the parent has (-1: it is not watched). */
AIOLOOP_INTERNAL int aiol_process_await(int channel, int parent) {
    sigset_t mask;
    fd_set set;
    FD_ZERO(&set);
    FD_SET(channel, &set);
    if (parent != -1)
        FD_SET(parent, &set);
    sigfillset(&mask);
    sigdelset(&mask, SIGCHLD);
    if (AIOL_SYS(pselect, pselect((parent > channel ? parent : channel) + 1, &set, NULL, NULL, NULL, &mask)) == -1)
        return aiol_error_from_errno(errno); /* d) */
    return parent != -1 && FD_ISSET(parent, &set) ? AIOLOOP_EPIPE : 0;
}

/* ---- channels ---- */

#if !defined(SOCK_CLOEXEC) || !defined(MSG_CMSG_CLOEXEC)
static int aiol_channel_adopt(int s) { /* a) */
    if (AIOL_SYS(fcntl, fcntl(s, F_SETFD, FD_CLOEXEC)) == -1)
        return aiol_error_from_errno(errno);
#ifdef SO_NOSIGPIPE
    {
        int on = 1;
        setsockopt(s, SOL_SOCKET, SO_NOSIGPIPE, &on, (socklen_t)sizeof(on));
    }
#endif
    return 0;
}
#endif

AIOLOOP_INTERNAL int aiol_channel_pair(int ends[2]) {
#ifdef SOCK_CLOEXEC
    if (AIOL_SYS(socketpair, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
#else
    int err;
    if (AIOL_SYS(socketpair, socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) == -1)
        return aiol_error_from_errno(errno);
    err = aiol_channel_adopt(ends[0]);
    if (err == 0)
        err = aiol_channel_adopt(ends[1]);
    if (err < 0) {
        close(ends[0]);
        close(ends[1]);
    }
    return err;
#endif
}

AIOLOOP_INTERNAL void aiol_channel_close(int channel) {
    close(channel);
}

/* The end of it for both sides, whoever else has a copy. */
AIOLOOP_INTERNAL void aiol_channel_shut(int channel) {
    (void)shutdown(channel, SHUT_RDWR);
}

/* Sends count pieces; what they are is changed meanwhile. descriptor, unless -1, goes with them. */
AIOLOOP_INTERNAL int aiol_channel_send(int channel, aioloop_buf *pieces, int count, int descriptor) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector[4];
    struct msghdr message;
    memset(&control, 0, sizeof(control));
    memset(&message, 0, sizeof(message));
    if (descriptor != -1) {
        message.msg_control = &control;
        message.msg_controllen = (socklen_t)sizeof(control.room);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = (socklen_t)CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &descriptor, sizeof(int));
    }
    for (;;) {
        ssize_t n;
        int i;
        while (count > 0 && pieces->size == 0) {
            pieces++;
            count--;
        }
        if (count == 0)
            return 0;
        for (i = 0; i < count; i++) {
            vector[i].iov_base = (void *)(uintptr_t)pieces[i].data;
            vector[i].iov_len = pieces[i].size;
        }
        message.msg_iov = vector;
        message.msg_iovlen = (unsigned)count;
        n = AIOL_SYS(sendmsg, sendmsg(channel, &message, AIOL_MSG_NOSIGNAL));
        if (n == -1 && errno != EINTR)
            return aiol_error_from_errno(errno);
        if (n == -1)
            continue;
        message.msg_control = NULL;
        message.msg_controllen = 0;
        for (i = 0; i < count; i++) {
            size_t sent = aiol_min_size((size_t)n, pieces[i].size);
            pieces[i].data = (const char *)pieces[i].data + sent;
            pieces[i].size -= sent;
            n -= (ssize_t)sent;
        }
    }
}

/* 0 when there is something to receive, or the end; AIOLOOP_ETIMEDOUT after that many milliseconds, or earlier. */
AIOLOOP_INTERNAL int aiol_channel_await(int channel, int milliseconds) {
    struct pollfd one;
    one.fd = channel;
    one.events = POLLIN;
    one.revents = 0;
    return AIOL_SYS(poll, poll(&one, 1, milliseconds)) > 0 ? 0 : AIOLOOP_ETIMEDOUT;
}

/* Receives that many bytes. AIOLOOP_EPIPE: the other side has gone. */
AIOLOOP_INTERNAL int aiol_channel_recv(int channel, void *data, size_t size) {
    char *to = (char *)data;
    while (size != 0) {
        ssize_t n = AIOL_SYS(recv, recv(channel, to, size, MSG_WAITALL));
        if (n == 0)
            return AIOLOOP_EPIPE;
        if (n == -1 && errno != EINTR)
            return aiol_error_from_errno(errno);
        if (n == -1)
            continue;
        to += n;
        size -= (size_t)n;
    }
    return 0;
}

/* The same with a descriptor, which is close-on-exec. AIOLOOP_EMFILE: the bytes are there, but none came with them. */
AIOLOOP_INTERNAL int aiol_channel_recv_descriptor(int channel, void *data, size_t size, int *descriptor) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector;
    struct msghdr message;
    ssize_t n;
    int flags = 0;
    int err;
#ifdef MSG_CMSG_CLOEXEC
    flags = MSG_CMSG_CLOEXEC;
#endif
    memset(&control, 0, sizeof(control));
    memset(&message, 0, sizeof(message));
    vector.iov_base = data;
    vector.iov_len = size;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = (socklen_t)sizeof(control.room);
    do
        n = AIOL_SYS(recvmsg, recvmsg(channel, &message, flags));
    while (n == -1 && errno == EINTR);
    if (n <= 0)
        return n == 0 ? AIOLOOP_EPIPE : aiol_error_from_errno(errno);
    *descriptor = -1;
    if (CMSG_FIRSTHDR(&message) != NULL && control.header.cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(descriptor, CMSG_DATA(&control.header), sizeof(int));
    err = aiol_channel_recv(channel, (char *)data + n, size - (size_t)n);
#ifndef MSG_CMSG_CLOEXEC
    if (err == 0 && *descriptor != -1)
        err = aiol_channel_adopt(*descriptor);
#endif
    if (err < 0 && *descriptor != -1)
        close(*descriptor);
    return err == 0 && *descriptor == -1 ? AIOLOOP_EMFILE + 0 : err;
}

#endif
