/*
 * signal_posix.c - signals: what the system does when one comes.
 *
 *   a) C libraries keep some numbers to themselves; a full set does not have them.
 *   b) SIGKILL and SIGSTOP cannot be caught, and a system may have more of that kind: asking is the only way to know.
 *   c) Without SA_RESTART each call that waits would have to be prepared for EINTR, also in code of others.
 *   d) A coroutine's stack may be small: a thread that has a stack for signals gets them there.
 */
#ifndef AIOL_SYS_SIGNAL_POSIX_C
#define AIOL_SYS_SIGNAL_POSIX_C

#include "sys/sys.h"

/* Whether there is a signal of this number. */
AIOLOOP_INTERNAL bool aiol_signal_exists(int number) {
    sigset_t all;
    sigfillset(&all);
    return number > 0 && number < AIOL_SIGNAL_COUNT && sigismember(&all, number) == 1; /* a) */
}

/* From now on handler is called when it comes, in whatever thread that is. AIOLOOP_EMISUSE: it cannot be caught. */
AIOLOOP_INTERNAL int aiol_signal_catch(int number, void (*handler)(int number)) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    sigfillset(&action.sa_mask);
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART | SA_ONSTACK; /* c) d) */
    if (AIOL_SYS(sigaction, sigaction(number, &action, NULL)) == 0)
        return 0;
    return errno == EINVAL ? AIOLOOP_EMISUSE : aiol_error_from_errno(errno); /* b) */
}

/* Whether that is what is called; SIG_DFL: whether it has its default action. */
AIOLOOP_INTERNAL bool aiol_signal_calls(int number, void (*handler)(int number)) {
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == handler;
}

/* It has its default action again. Cannot fail for one that was caught. */
AIOLOOP_INTERNAL void aiol_signal_restore(int number) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    sigemptyset(&action.sa_mask);
    action.sa_handler = SIG_DFL;
    (void)sigaction(number, &action, NULL);
}

/* In what is called when it has come: it does what it would have done by default, as soon as that returns. */
AIOLOOP_INTERNAL void aiol_signal_obey(int number) {
    int saved = errno;
    aiol_signal_restore(number);
    raise(number);
    errno = saved;
}

/* Whether this is the process's main thread. Where the system does not tell, first says so. */
AIOLOOP_INTERNAL bool aiol_thread_is_main(bool first) {
#if AIOL_OS_LINUX
    (void)first;
    return syscall(SYS_gettid) == (long)getpid();
#elif AIOL_HAVE_PTHREAD && defined(__APPLE__)
    (void)first;
    return pthread_main_np() != 0;
#else
    return first;
#endif
}

#endif
