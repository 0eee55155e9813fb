/*
 * sendfile.c - files, as far as sending them needs.
 *
 *   a) sendfile() has no MSG_NOSIGNAL: the signal is held back, as for pipes.
 *   b) What it says of a file that it cannot read in this way (a pipe, a directory), and of a socket that it cannot
 *      write to, differs; all of it means that the bytes have to be copied.
 *   c) On 32-bit systems off_t may be too small for the place.
 *   d) macOS and FreeBSD tell how much was sent also when the rest would block. They have SO_NOSIGPIPE.
 */
#ifndef AIOL_SYS_SENDFILE_C
#define AIOL_SYS_SENDFILE_C

#include "sys/sys.h"

#if AIOL_OS_POSIX

#include "sys/pipe_posix.c"

AIOLOOP_INTERNAL int aiol_file_inspect(aioloop_file file, aiol_file_kind *kind) {
    struct stat st;
    if (file < 0)
        return AIOLOOP_EBADF;
    if (AIOL_SYS(fstat, fstat(file, &st)) == -1)
        return aiol_error_from_errno(errno);
    kind->regular = S_ISREG(st.st_mode) != 0;
    kind->has_places = kind->regular || lseek(file, 0, SEEK_CUR) != -1;
    kind->size = kind->regular ? (int64_t)st.st_size : 0;
    return 0;
}

/* c) */
static int aiol_file_place(int64_t offset, off_t *place) {
    *place = (off_t)offset;
    return (int64_t)*place == offset ? 0 : AIOLOOP_EOVERFLOW;
}

AIOLOOP_INTERNAL int64_t aiol_file_pread(aioloop_file file, void *buffer, size_t size, int64_t offset) {
    off_t place = 0;
    ssize_t n;
    if (offset >= 0 && aiol_file_place(offset, &place) < 0)
        return AIOLOOP_EOVERFLOW;
    do
        n = offset < 0 ? AIOL_SYS(read, read(file, buffer, size)) : AIOL_SYS(pread, pread(file, buffer, size, place));
    while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : n;
}

AIOLOOP_INTERNAL void aiol_file_seek(aioloop_file file, int64_t offset) {
    off_t place;
    if (aiol_file_place(offset, &place) == 0)
        (void)lseek(file, place, SEEK_SET);
}

AIOLOOP_INTERNAL int aiol_file_duplicate(aioloop_file file, aioloop_file *out) {
    int fd = AIOL_SYS(fcntl, fcntl(file, F_DUPFD_CLOEXEC, 0));
    if (fd == -1)
        return aiol_error_from_errno(errno);
    *out = fd;
    return 0;
}

AIOLOOP_INTERNAL void aiol_file_release(aioloop_file file) {
    close(file);
}

/* ---- sendfile ---- */

#if AIOL_HAVE_SENDFILE
/* b) */
static int64_t aiol_sendfile_error(int error) {
    switch (error) {
    case EINVAL:
    case ENOSYS:
    case ESPIPE:
    case EOPNOTSUPP:
#if ENOTSUP != EOPNOTSUPP
    case ENOTSUP:
#endif
    case ENOTSOCK:
        return AIOLOOP_ENOTAVAILABLE;
    default:
        return aiol_error_from_errno(error);
    }
}
#endif

#if AIOL_HAVE_SENDFILE && AIOL_OS_LINUX
/* a) */
AIOLOOP_INTERNAL int64_t aiol_socket_sendfile(aioloop_socket s, aioloop_file file, int64_t offset, size_t count) {
    aiol_held_signal held;
    off_t place;
    ssize_t n;
    int error = 0;
    if (aiol_file_place(offset, &place) < 0)
        return AIOLOOP_EOVERFLOW;
    aiol_signal_hold(&held);
    do
        n = AIOL_SYS(sendfile, sendfile(s, file, &place, count));
    while (n == -1 && errno == EINTR);
    if (n == -1)
        error = errno;
    aiol_signal_release(&held, error == EPIPE);
    return n == -1 ? aiol_sendfile_error(error) : n;
}
#elif AIOL_HAVE_SENDFILE
AIOLOOP_INTERNAL int64_t aiol_socket_sendfile(aioloop_socket s, aioloop_file file, int64_t offset, size_t count) {
    off_t place;
    off_t sent = 0;
    int result;
    if (aiol_file_place(offset, &place) < 0)
        return AIOLOOP_EOVERFLOW;
    aiol_socket_no_signal(s);
#if defined(__APPLE__)
    sent = (off_t)count;
    result = AIOL_SYS(sendfile, sendfile(file, s, place, &sent, NULL, 0));
#else
    result = AIOL_SYS(sendfile, sendfile(file, s, place, count, NULL, &sent, 0));
#endif
    if (result == 0 || (sent > 0 && (errno == EAGAIN || errno == EINTR))) /* d) */
        return sent;
    return errno == EINTR ? AIOLOOP_EAGAIN : aiol_sendfile_error(errno);
}
#else
AIOLOOP_INTERNAL int64_t aiol_socket_sendfile(aioloop_socket s, aioloop_file file, int64_t offset, size_t count) {
    (void)s;
    (void)file;
    (void)offset;
    (void)count;
    return AIOLOOP_ENOTAVAILABLE;
}
#endif

#else /* no operating system, so no files */

AIOLOOP_INTERNAL int aiol_file_inspect(aioloop_file file, aiol_file_kind *kind) {
    (void)file;
    (void)kind;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL int64_t aiol_file_pread(aioloop_file file, void *buffer, size_t size, int64_t offset) {
    (void)file;
    (void)buffer;
    (void)size;
    (void)offset;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_file_seek(aioloop_file file, int64_t offset) {
    (void)file;
    (void)offset;
}

AIOLOOP_INTERNAL int aiol_file_duplicate(aioloop_file file, aioloop_file *out) {
    (void)file;
    (void)out;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_file_release(aioloop_file file) {
    (void)file;
}

#endif

#endif
