/*
 * spawn_posix.c - programs as children.                                     (Python: _posixsubprocess.fork_exec)
 *
 *   a) On Linux the child begins in the parent's memory, on a stack of its own, and only the thread that starts it waits
 *      until it has become the program: so it costs the same whatever the parent has in memory. In there nothing may
 *      take memory or a lock, and no function may be called with which the C library tells all threads something
 *      (setuid and its kin); nor is it a place for a hook of the user's. With any of these it is a fork, as on other
 *      systems. So it is under sanitizers and valgrind, which do not follow.
 *   b) A handler must not run there: signals are blocked before, and all that have a handler are set back before the mask
 *      is.
 *   c) What goes wrong on the way the child leaves in the parent's memory; a forked one tells it over a pipe that the
 *      program's start closes.
 *   d) All descriptors are marked to be closed by the start, then those named are not. So none slips through, whatever
 *      other threads open meanwhile; and those made here are marked from birth, since others start programs too.
 *   e) Given numbers 0 to 2 may be in each other's way: they are moved first.
 *   f) A child is signalled and reaped by its pidfd. Without one a thread waits for it, which leaves it to be reaped by the
 *      loop, and shows the end by that of a pipe; the number is nobody else's until then, unless the program has the
 *      system reap all children.
 */
#ifndef AIOL_SYS_SPAWN_POSIX_C
#define AIOL_SYS_SPAWN_POSIX_C

#include "base/util.h"
#include "sys/thread.c"

#if AIOLOOP_USE_SUBPROCESS

/* A child that runs, until it was reaped. */
typedef struct aiol_child {
    int pid;
    aioloop_socket watch; /* readable once it has ended */
    aiol_worker worker;   /* f) */
    bool waits;
    int waker;
} aiol_child;

AIOL_STATIC_ASSERT(sizeof(gid_t) == sizeof(uint32_t) && sizeof(uid_t) == sizeof(uint32_t), ids_have_32_bits);

#define AIOL_SPAWN_PATH 4096

/* ---- in the child: calls of the system alone ---- */

static int aiol_spawn_identity(const aiol_spawn *s) {
    if (s->set_groups && setgroups(s->groups_count, (const gid_t *)s->groups) == -1)
        return AIOL_SPAWN_GROUPS;
    if (s->set_group && setregid((gid_t)s->group, (gid_t)s->group) == -1)
        return AIOL_SPAWN_GROUP;
    if (s->set_user && setreuid((uid_t)s->user, (uid_t)s->user) == -1)
        return AIOL_SPAWN_USER;
    return 0;
}

/* e) */
static int aiol_spawn_standard(aiol_spawn *s) {
    int from[3];
    int i;
    for (i = 0; i < 3; i++) {
        s->which = i;
        from[i] = s->stdio[i];
        if (from[i] < 0 || from[i] > 2 || from[i] == i)
            continue;
        from[i] = fcntl(from[i], F_DUPFD, 3);
        if (from[i] == -1)
            return AIOL_SPAWN_STDIO;
    }
    for (i = 0; i < 3; i++) {
        s->which = i;
        if (from[i] == AIOL_SPAWN_INHERIT)
            (void)fcntl(i, F_SETFD, 0);
        else if (from[i] == i ? fcntl(i, F_SETFD, 0) == -1 : dup2(from[i] == AIOL_SPAWN_STDOUT ? 1 : from[i], i) == -1)
            return AIOL_SPAWN_STDIO;
    }
    return 0;
}

#if AIOL_OS_LINUX
/* Without readdir, which takes memory. False: the folder is not there. */
static bool aiol_spawn_mark_listed(void) {
    uint64_t room[512]; /* of struct linux_dirent64: 8 bytes, 8 bytes, 2 bytes its size, 1 byte, the name */
    const char *at = (const char *)room;
    long size;
    int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder == -1)
        return false;
    while ((size = syscall(SYS_getdents64, folder, room, sizeof(room))) > 0) {
        long i;
        uint16_t step = 0;
        for (i = 0; i < size; i += step) {
            const char *name = at + i + 19;
            int fd = 0;
            memcpy(&step, at + i + 16, sizeof(step));
            for (; *name >= '0' && *name <= '9'; name++)
                fd = fd * 10 + (*name - '0');
            if (fd > STDERR_FILENO)
                (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
        }
    }
    close(folder);
    return size == 0;
}
#endif

/* d) */
static int aiol_spawn_mark(aiol_spawn *s) {
    bool marked = false;
    size_t i;
#if AIOL_OS_LINUX
#if defined(SYS_close_range)
    if ((s->without & AIOL_WITHOUT_CLOSE_RANGE) == 0)
        marked = syscall(SYS_close_range, 3u, UINT_MAX, 4u /* CLOSE_RANGE_CLOEXEC */) == 0;
#endif
    marked = marked || aiol_spawn_mark_listed();
#endif
    if (!marked) {
        int fd;
        for (fd = 3; fd < s->limit; fd++)
            (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    for (i = 0; i < s->keep_count; i++) {
        s->which = s->keep[i];
        if (fcntl(s->keep[i], F_SETFD, 0) == -1)
            return AIOL_SPAWN_PASS;
    }
    return 0;
}

/* b) */
static void aiol_spawn_signals(const aiol_spawn *s) {
    struct sigaction action;
    sigset_t none;
    int number;
    for (number = 1; number < NSIG; number++) {
        bool restore = !s->keep_signals && (number == SIGPIPE || number == SIGXFSZ);
        if (sigaction(number, NULL, &action) == -1 || action.sa_handler == SIG_DFL || (action.sa_handler == SIG_IGN && !restore))
            continue;
        memset(&action, 0, sizeof(action));
        action.sa_handler = SIG_DFL;
        (void)sigaction(number, &action, NULL);
    }
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Becomes the program; or errno, of the first thing found that could not be run. */
static int aiol_spawn_run(const aiol_spawn *s) {
    char path[AIOL_SPAWN_PATH];
    const char *at = s->path;
    size_t length = strlen(s->file);
    int number = 0;
    if (strchr(s->file, '/') != NULL || length == 0) {
        execve(s->file, s->args, s->env);
        return errno;
    }
    for (;;) {
        size_t folder = strcspn(at, ":");
        if (folder + length + 2 <= sizeof(path)) {
            memcpy(path, at, folder);
            path[folder] = '/';
            memcpy(path + (folder == 0 ? 0 : folder + 1), s->file, length + 1); /* an empty one: here */
            execve(path, s->args, s->env);
            if (errno != ENOENT && errno != ENOTDIR && number == 0)
                number = errno;
        }
        if (at[folder] == '\0')
            return number == 0 ? ENOENT : number;
        at += folder + 1;
    }
}

/* All that comes before the program. 0, or the step that failed. */
static int aiol_spawn_prepare(aiol_spawn *s) {
    int step = aiol_spawn_standard(s);
    if (step == 0 && s->cwd != NULL && chdir(s->cwd) == -1)
        step = AIOL_SPAWN_CHDIR;
    if (s->set_umask)
        (void)umask((mode_t)s->umask);
    if (step == 0 && s->new_session && setsid() == -1)
        step = AIOL_SPAWN_SESSION;
    if (step == 0 && s->process_group != 0 && setpgid(0, s->process_group < 0 ? 0 : s->process_group) == -1)
        step = AIOL_SPAWN_PROCESS_GROUP;
    if (step == 0)
        step = aiol_spawn_identity(s);
    if (step == 0)
        step = aiol_spawn_mark(s);
    if (step == 0 && s->preexec != NULL && (errno = s->preexec(s->preexec_arg)) != 0)
        step = AIOL_SPAWN_PREEXEC;
    return step;
}

static int aiol_spawn_child(void *arg) {
    aiol_spawn *s = (aiol_spawn *)arg;
    int report[3]; /* c) */
    report[0] = aiol_spawn_prepare(s);
    report[1] = errno;
    if (report[0] == 0) {
        aiol_spawn_signals(s);
        report[1] = aiol_spawn_run(s);
        report[0] = AIOL_SPAWN_EXEC;
    }
    report[2] = s->which;
    s->step = report[0];
    s->number = report[1];
    while (s->report != -1 && write(s->report, report, sizeof(report)) == -1 && errno == EINTR)
        ;
    _exit(127);
    return 0;
}

/* ---- in the parent ---- */

/* A pipe whose ends are close-on-exec and none of the standard descriptors. */
static int aiol_spawn_pipe(unsigned without, int ends[2]) {
    int i;
#if AIOL_HAVE_PIPE2
    if ((without & AIOL_WITHOUT_PIPE2) == 0) {
        if (AIOL_SYS(pipe2, pipe2(ends, O_CLOEXEC)) == -1)
            return aiol_error_from_errno(errno);
    } else
#endif
    {
        (void)without;
        if (AIOL_SYS(pipe, pipe(ends)) == -1)
            return aiol_error_from_errno(errno);
        (void)fcntl(ends[0], F_SETFD, FD_CLOEXEC);
        (void)fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    }
    for (i = 0; i < 2; i++) {
        int moved;
        if (ends[i] > STDERR_FILENO)
            continue;
        moved = AIOL_SYS(fcntl, fcntl(ends[i], F_DUPFD_CLOEXEC, 3));
        if (moved == -1) {
            int err = aiol_error_from_errno(errno);
            close(ends[0]);
            close(ends[1]);
            return err;
        }
        close(ends[i]);
        ends[i] = moved;
    }
    return 0;
}

static bool aiol_spawn_must_fork(const aiol_spawn *s) {
    return !AIOL_HAVE_VFORK || (s->without & AIOL_WITHOUT_VFORK) != 0 || s->preexec != NULL || s->set_user || s->set_group ||
           s->set_groups || aiol_on_valgrind();
}

/* The number of the child, or a code. */
static int aiol_spawn_process(aiol_spawn *s, bool forks) {
    sigset_t all;
    sigset_t before;
    int number;
    pid_t pid;
    sigfillset(&all);
    aiol_signal_mask(SIG_SETMASK, &all, &before);
    if (forks) {
        pid = AIOL_SYS(fork, fork());
        if (pid == 0)
            (void)aiol_spawn_child(s);
    } else {
#if AIOL_HAVE_VFORK
        int flags = CLONE_VM | CLONE_VFORK | SIGCHLD;
#if defined(CLONE_PIDFD)
        if ((s->without & AIOL_WITHOUT_PIDFD) == 0)
            flags |= CLONE_PIDFD;
#endif
        pid = AIOL_SYS(clone, clone(aiol_spawn_child, s->stack + AIOL_SPAWN_STACK, flags, s, &s->pidfd));
#else
        pid = -1;
        errno = ENOSYS;
#endif
    }
    number = errno;
    aiol_signal_mask(SIG_SETMASK, &before, NULL);
    return pid == -1 ? aiol_error_from_errno(number) : (int)pid;
}

static void aiol_spawn_close(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* By the process's number, or by its pidfd if that is not -1. 1: it has ended, with *status; 0: it has not; or a code. */
static int aiol_spawn_reap(int pid, int pidfd, bool patient, int *status) {
    siginfo_t info;
    int options = WEXITED | (patient ? 0 : WNOHANG);
    int rc;
    memset(&info, 0, sizeof(info));
    do {
        rc = -1;
        errno = EINVAL;
        if (pidfd != -1)
            rc = AIOL_SYS(waitid, waitid((idtype_t)3 /* P_PIDFD, Linux 5.4 */, (id_t)pidfd, &info, options));
        if (rc == -1 && errno == EINVAL)
            rc = AIOL_SYS(waitid, waitid(P_PID, (id_t)pid, &info, options));
    } while (rc == -1 && errno == EINTR);
    if (rc == -1)
        return aiol_error_from_errno(errno);
    if (info.si_pid == 0)
        return 0;
    *status = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
    return 1;
}

/* A forked child, of which it is waited whether it has become the program. */
static int aiol_spawn_fork(aiol_spawn *s) {
    int report[3];
    ssize_t n;
    int ends[2];
    int pid = aiol_spawn_pipe(s->without, ends);
    if (pid < 0)
        return pid;
    s->report = ends[1];
    pid = aiol_spawn_process(s, true);
    close(ends[1]);
    do
        n = pid > 0 ? read(ends[0], report, sizeof(report)) : 0;
    while (n == -1 && errno == EINTR);
    if (n == (ssize_t)sizeof(report)) {
        s->step = report[0];
        s->number = report[1];
        s->which = report[2];
    }
    close(ends[0]);
    return pid;
}

/* Starts the child and hears whether it has become the program. */
static int aiol_spawn_start(aiol_spawn *s) {
    int status;
    int pid;
    s->limit = sysconf(_SC_OPEN_MAX);
    s->report = -1;
    s->step = 0;
    s->pidfd = -1;
    pid = aiol_spawn_must_fork(s) ? aiol_spawn_fork(s) : aiol_spawn_process(s, false);
    if (pid > 0 && s->step != 0) {
        (void)aiol_spawn_reap(pid, s->pidfd, true, &status);
        aiol_spawn_close(&s->pidfd);
        s->lacks_interpreter = s->step == AIOL_SPAWN_EXEC && s->number == ENOENT && s->cwd == NULL && strchr(s->file, '/') != NULL &&
                               access(s->file, F_OK) == 0;
        return aiol_error_from_errno(s->number);
    }
    return pid;
}

/* Opens what a standard stream is: the child's end at *opened unless it is given, the parent's at s->parent. */
static int aiol_spawn_open(aiol_spawn *s, int i, int *opened) {
    int ends[2];
    int err;
    if (s->stdio[i] == AIOL_SPAWN_DEVNULL) {
        *opened = AIOL_SYS(open, open("/dev/null", O_RDWR | O_CLOEXEC));
        s->stdio[i] = *opened;
        return *opened == -1 ? aiol_error_from_errno(errno) : 0;
    }
    if (s->stdio[i] != AIOL_SPAWN_PIPE)
        return 0;
    err = aiol_spawn_pipe(s->without, ends);
    if (err < 0)
        return err;
    s->parent[i] = ends[i == 0 ? 1 : 0];
    *opened = ends[i == 0 ? 0 : 1];
    s->stdio[i] = *opened;
    if (AIOL_SYS(fcntl, fcntl(s->parent[i], F_SETFL, O_NONBLOCK | (i == 0 ? O_WRONLY : O_RDONLY))) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

/* Given descriptors have to be open before there are new ones, which could get their numbers. */
static int aiol_spawn_check_given(aiol_spawn *s) {
    size_t i;
    for (i = 0; i < 3 + s->keep_count; i++) {
        int fd = i < 3 ? s->stdio[i] : s->keep[i - 3];
        if (fd < 0 || fcntl(fd, F_GETFD) != -1)
            continue;
        s->step = i < 3 ? AIOL_SPAWN_STDIO : AIOL_SPAWN_PASS;
        s->which = i < 3 ? (int)i : fd;
        return AIOLOOP_EBADF;
    }
    return 0;
}

AIOLOOP_INTERNAL int aiol_spawn_program(aiol_spawn *s) {
    int opened[3] = {-1, -1, -1};
    int pid = aiol_spawn_check_given(s);
    int i;
    for (i = 0; i < 3; i++)
        s->parent[i] = -1;
    for (i = 0; i < 3 && pid == 0; i++)
        pid = aiol_spawn_open(s, i, &opened[i]);
    if (pid == 0)
        pid = aiol_spawn_start(s);
    for (i = 0; i < 3; i++) {
        aiol_spawn_close(&opened[i]);
        if (pid < 0)
            aiol_spawn_close(&s->parent[i]);
    }
    return pid;
}

AIOLOOP_INTERNAL char *const *aiol_spawn_environment(void) {
    return environ;
}

/* ---- a child that runs ---- */

/* f) */
static void aiol_child_wait(void *arg) {
    aiol_child *c = (aiol_child *)arg;
    siginfo_t info;
    while (waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOWAIT) == -1 && errno == EINTR)
        ;
    close(c->waker);
}

/* Sees that there is something to watch; the child's pidfd may be there already. */
AIOLOOP_INTERNAL int aiol_child_watch(aiol_child *c, unsigned without) {
    int ends[2];
    int err;
    c->waits = false;
    if (c->watch != -1)
        return 0;
#if defined(SYS_pidfd_open)
    if ((without & AIOL_WITHOUT_PIDFD) == 0) {
        c->watch = (int)AIOL_SYS(pidfd_open, syscall(SYS_pidfd_open, c->pid, 0u));
        if (c->watch != -1)
            return 0;
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
            return aiol_error_from_errno(errno);
    }
#endif
    err = aiol_spawn_pipe(without, ends);
    if (err < 0)
        return err;
    c->waker = ends[1];
    err = aiol_worker_start(&c->worker, aiol_child_wait, c, 65536);
    if (err < 0) {
        close(ends[0]);
        close(ends[1]);
        return err;
    }
    c->watch = ends[0];
    c->waits = true;
    return 0;
}

AIOLOOP_INTERNAL void aiol_child_unwatch(aiol_child *c, bool ours) {
    if (c->waits && ours)
        aiol_worker_join(&c->worker);
    else if (c->waits)
        close(c->waker);
    c->waits = false;
    aiol_spawn_close(&c->watch);
}

/* f) */
static int aiol_child_pidfd(const aiol_child *c) {
    return c->waits ? -1 : c->watch;
}

AIOLOOP_INTERNAL int aiol_child_signal(const aiol_child *c, int signal) {
    int rc = -1;
    errno = ENOSYS;
#if defined(SYS_pidfd_send_signal)
    if (aiol_child_pidfd(c) != -1)
        rc = (int)syscall(SYS_pidfd_send_signal, c->watch, signal, NULL, 0u);
#endif
    if (rc == -1 && errno == ENOSYS)
        rc = kill((pid_t)c->pid, signal);
    return rc == -1 ? aiol_error_from_errno(errno) : 0;
}

/* 1: the child has ended, with *status: its exit status, or minus the signal that has killed it; 0: it runs; or a code, as
 * of a child that somebody else has reaped. patient: waits for its end. */
AIOLOOP_INTERNAL int aiol_child_reap(const aiol_child *c, bool patient, int *status) {
    return aiol_spawn_reap(c->pid, aiol_child_pidfd(c), patient, status);
}

/* Kills the child and reaps it. False: it may not be killed, and goes on. */
AIOLOOP_INTERNAL bool aiol_child_end(const aiol_child *c) {
    int status = 0;
    int err = aiol_child_signal(c, SIGKILL);
    return aiol_child_reap(c, err == 0 || err == AIOLOOP_ESRCH, &status) != 0;
}

#else

AIOLOOP_INTERNAL int aiol_spawn_program(aiol_spawn *s) {
    (void)s;
    return AIOLOOP_ENOTAVAILABLE;
}

#endif

#endif
